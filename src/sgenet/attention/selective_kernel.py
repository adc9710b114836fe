"""Selective Kernel convolution (SK).

Li, Wang, Hu, Yang: "Selective Kernel Networks", arXiv 1903.06586.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from sgenet.attention.batch_norm import apply_layers
from sgenet.errors import ConfigError, did_you_mean
from sgenet.ops.checks import check_groups

__all__ = ["SelectiveKernelConv"]

# What the two forms differ in: groups of the two convolutions, dilation of the second, least units of the hidden layer.
_FORMS = {"grouped": ((1, 32), 1, 1), "dilated": ((32, 32), 2, 32)}


class SelectiveKernelConv(nn.Module):
    """Two 3x3 convolutions side by side, mixed channel by channel with weights that depend on the image.

    It takes the place of a 3x3 convolution together with the batch norm and the ReLU behind it: each branch has its
    own. Pooled over the positions, the sum of the branches goes through two layers with BN and ReLU between them, and
    a softmax over the branches makes the weights.

    Args:
        in_channels: Number of input channels.
        out_channels: C, the number of output channels; None for as many as come in.
        stride: Of both convolutions.
        reduction: r; the hidden layer has C // r units.
        branches: "grouped", as in the experiments of arXiv 1905.09646: a plain convolution and one with 32 groups; or
            "dilated", as in SKNet: two with 32 groups, of which the second has dilation 2 and so spans 5x5 positions,
            and at least 32 hidden units.
        groups: Groups of the two convolutions, where they are to be others; e.g. (1, 4) for 16 channels.
        device: Where the parameters are created.
        dtype: Of the parameters.

    Shape:
        - Input: (B, in_channels, H, W) of any size, any floating dtype, any memory format.
        - Output: (B, C, ceil(H / stride), ceil(W / stride)), the same dtype and memory format.

    Raises:
        ConfigError: If a number is below 1, `branches` is unknown, the groups do not divide the channels, or the input
            does not have (B, in_channels, H, W).

    Source:
        arXiv 1903.06586, section 3.1, and the authors' model files. Its 27.5 M parameters of SKNet-50, and the
        26,154,496 of the SGE paper's SK-ResNet-50, are met with no biases but those of the batch norms.

    Examples:
        >>> conv = SelectiveKernelConv(64, 128, stride=2)
        >>> conv(torch.randn(2, 64, 14, 14)).shape, conv.attention(torch.randn(2, 64, 14, 14)).shape
        (torch.Size([2, 128, 7, 7]), torch.Size([2, 2, 128, 1, 1]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        stride: int = 1,
        *,
        reduction: int = 16,
        branches: Literal["grouped", "dilated"] = "grouped",
        groups: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "stride": stride, "reduction": reduction}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"{name}={value} is not possible; give 1 or more")
        if branches not in _FORMS:
            near = did_you_mean(branches, _FORMS)
            raise ConfigError(f"branches='{branches}' is not known.{near} Choose one of {', '.join(_FORMS)}")
        usual_groups, dilation, least = _FORMS[branches]
        first, second = usual_groups if groups is None else groups
        for count in (first, second):
            check_groups(in_channels, count)
            check_groups(out_channels, count)
        self.in_channels = in_channels
        self.out_channels = out_channels
        hidden = max(least, out_channels // reduction)

        def conv3x3(groups: int, dilation: int) -> nn.Conv2d:
            return nn.Conv2d(
                in_channels, out_channels, 3, stride, dilation, dilation, groups, bias=False, device=device, dtype=dtype
            )

        def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 1, bias=False, device=device, dtype=dtype)

        def norm(channels: int) -> nn.BatchNorm2d:
            return nn.BatchNorm2d(channels, device=device, dtype=dtype)

        self.conv1, self.bn1 = conv3x3(first, 1), norm(out_channels)
        self.conv2, self.bn2 = conv3x3(second, dilation), norm(out_channels)
        self.fc1, self.bn_fc1 = conv1x1(out_channels, hidden), norm(hidden)
        self.fc2 = conv1x1(hidden, 2 * out_channels)
        self.relu = nn.ReLU()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Give the convolutions He's normal initialisation, as in both papers, and the batch norms their own."""
        for module in self.children():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Mix the two branches."""
        first, second = self._branches(x)
        weights = self._weights(first + second)
        return first * weights[:, 0] + second * weights[:, 1]

    def attention(self, x: Tensor) -> Tensor:
        """The weights of the branches, which sum to one: (B, 2, C, 1, 1).

        Batch norms in train mode count the batch as in `forward`.
        """
        first, second = self._branches(x)
        return self._weights(first + second)

    def _branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(x, Proxy) and (x.dim() != 4 or x.shape[1] != self.in_channels):
            raise ConfigError(
                f"SelectiveKernelConv({self.in_channels}) takes (batch, {self.in_channels}, height, width), "
                f"not a tensor of shape {tuple(x.shape)}"
            )
        return (
            apply_layers([self.conv1, self.bn1, self.relu], x),
            apply_layers([self.conv2, self.bn2, self.relu], x),
        )

    def _weights(self, summed: Tensor) -> Tensor:
        wide = torch.promote_types(self.fc1.weight.dtype, torch.float32)  # half-precision maps overflow
        pooled = summed.mean((2, 3), keepdim=True, dtype=wide).to(summed.dtype)
        scores = apply_layers([self.fc1, self.bn_fc1, self.relu, self.fc2], pooled)
        by_branch = scores.reshape(scores.shape[0], 2, self.out_channels, 1, 1)
        return by_branch.softmax(1).to(summed.dtype)
