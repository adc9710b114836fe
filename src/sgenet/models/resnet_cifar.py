"""ResNets for 32x32 images.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", arXiv 1512.03385, section 4.2: depth 6n + 2, three
stages of n basic blocks with 16, 32 and 64 channels, shortcuts without parameters. Of bottlenecks, which end in four
times as many channels, the depth is 9n + 2, as in arXiv 1603.05027, section 5; its shortcuts have parameters where the
width changes, ours have none here either.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from sgenet.errors import ConfigError

__all__ = ["CifarResNet", "PadShortcut"]


class PadShortcut(nn.Module):
    """The identity for a block that adds channels and may halve the map: zeros for new channels, every second position.

    Args:
        added: How many channels of zeros are appended.
        stride: 2 halves the map, 1 keeps it.

    Shape:
        (B, C, H, W) to (B, C + added, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, added: int, stride: int = 2) -> None:
        super().__init__()
        self.added, self.stride = added, stride

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))

    def extra_repr(self) -> str:
        """The number of added channels, and the stride."""
        return f"{self.added}, stride={self.stride}"


class CifarResNet(nn.Module):
    """ResNet of section 4.2 of arXiv 1512.03385.

    Args:
        depth: 6n + 2 of basic blocks, e.g. 8, 20, 32, 56, 110; 9n + 2 with an odd n of bottlenecks, e.g. 11, 29, 47.
        num_classes: Outputs; 0 ends in the pooled features.
        stem_stride: Stride of the first convolution; 2 for images of 64 pixels.

    Shape:
        (B, 3, H, W) to (B, num_classes).

    Attributes:
        widths: Channels at the end of each stage.

    Raises:
        ConfigError: If `depth` is neither 6n + 2 nor 9n + 2, or `stem_stride` not 1 or 2.

    Examples:
        >>> CifarResNet(20, num_classes=10)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, depth: int, num_classes: int = 10, *, stem_stride: int = 1) -> None:
        super().__init__()
        basic = depth % 6 == 2
        if depth < 8 or not (basic or depth % 9 == 2):
            raise ConfigError(
                f"depth={depth} is neither 6n + 2 nor 9n + 2; a CIFAR ResNet has 8, 14, 20, 32, 56, 110 ... layers, "
                "or 11, 29, 47 ... of bottlenecks"
            )
        if stem_stride not in (1, 2):
            raise ConfigError(f"stem_stride={stem_stride} is not possible; use 1 for 32 pixels, 2 for 64")
        block: type[BasicBlock | Bottleneck] = BasicBlock if basic else Bottleneck
        blocks = (depth - 2) // (6 if basic else 9)
        self.widths = tuple(channels * block.expansion for channels in (16, 32, 64))
        self.conv1 = nn.Conv2d(3, 16, 3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(block, 16, 16, blocks, stride=1)
        self.layer2 = _stage(block, self.widths[0], 32, blocks, stride=2)
        self.layer3 = _stage(block, self.widths[1], 64, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.widths[2], num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]


def _stage(
    block: type[BasicBlock | Bottleneck], channels_in: int, channels: int, blocks: int, stride: int
) -> nn.Sequential:
    width = channels * block.expansion
    shortcut = PadShortcut(width - channels_in, stride) if width != channels_in else None
    first = block(channels_in, channels, stride=stride, downsample=shortcut)
    return nn.Sequential(first, *(block(width, channels) for _ in range(blocks - 1)))
