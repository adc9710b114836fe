"""ResNets for 32x32 images.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", arXiv 1512.03385, section 4.2: depth 6n + 2, three
stages of n basic blocks with 16, 32 and 64 channels, shortcuts without parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from sgenet.errors import ConfigError

__all__ = ["CifarResNet", "PadShortcut"]


class PadShortcut(nn.Module):
    """The identity for a block that halves the map and adds channels: every second position, zeros for new channels.

    Args:
        added: How many channels of zeros are appended.

    Shape:
        (B, C, H, W) to (B, C + added, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.added))

    def extra_repr(self) -> str:
        """The number of added channels."""
        return str(self.added)


class CifarResNet(nn.Module):
    """ResNet of section 4.2 of arXiv 1512.03385.

    Args:
        depth: 6n + 2, e.g. 8, 20, 32, 56, 110.
        num_classes: Outputs; 0 ends in the pooled features.
        stem_stride: Stride of the first convolution; 2 for images of 64 pixels.

    Shape:
        (B, 3, H, W) to (B, num_classes).

    Raises:
        ConfigError: If `depth` is not 6n + 2 or `stem_stride` not 1 or 2.

    Examples:
        >>> CifarResNet(20, num_classes=10)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, depth: int, num_classes: int = 10, *, stem_stride: int = 1) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ConfigError(f"depth={depth} is not 6n + 2; a CIFAR ResNet has 8, 14, 20, 32, 44, 56, 110 ... layers")
        if stem_stride not in (1, 2):
            raise ConfigError(f"stem_stride={stem_stride} is not possible; use 1 for 32 pixels, 2 for 64")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]


def _stage(channels_in: int, channels: int, blocks: int) -> nn.Sequential:
    narrow = channels_in != channels
    first = BasicBlock(
        channels_in,
        channels,
        stride=2 if narrow else 1,
        downsample=PadShortcut(channels - channels_in) if narrow else None,
    )
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))
