"""Convolutional Block Attention Module (CBAM).

Woo, Park, Lee, Kweon: "CBAM: Convolutional Block Attention Module", arXiv 1807.06521.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgenet.attention.base import Attention
from sgenet.attention.batch_norm import apply_layers
from sgenet.attention.reduction import fit_reduction, hidden_units
from sgenet.attention.registry import register_attention
from sgenet.errors import ConfigError
from sgenet.ops import channel_means

__all__ = ["ConvBlockAttention"]


@register_attention("cbam")
class ConvBlockAttention(Attention):
    """Weigh the channels by their means and maxima, then the positions by the mean and maximum over the channels.

    The channels' gate is sigmoid(M(mean(x)) + M(max(x))) with one perceptron M of two layers, as in SE. The positions'
    gate is sigmoid(BN(conv(s))), where s holds the maximum and the mean over the channels that were weighed already.
    The batch norm's weight starts at zero: at the start the positions' gate is 1/2 everywhere.

    Args:
        channels: C, the number of input channels.
        reduction: r; the perceptron's hidden layer has C // r units, at least 1. 16 in the paper.
        kernel_size: Of the convolution over positions, odd. 7 in the paper.
        bias: Whether the perceptron's layers have biases, as in the authors' code.
        device: Where the parameters are created.
        dtype: Of the parameters.

    Shape:
        - Input: (B, C, H, W) of any size, any floating dtype, any memory format.
        - Output: the same shape, dtype and memory format.

    Raises:
        ConfigError: If `channels` or `reduction` is below 1, `kernel_size` is even or below 1, or the input is not
            (B, C, H, W).

    Source:
        arXiv 1807.06521, section 3. The batch norm, its momentum of 0.01 and its initial weight are in the authors'
        code; the paper does not name them.

    Examples:
        >>> ConvBlockAttention(256)(torch.randn(2, 256, 7, 7)).shape
        torch.Size([2, 256, 7, 7])
    """

    gate_range: tuple[float, float] | None = (0.0, 1.0)
    spatial_axes: tuple[int, int] = (2, 2)

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        kernel_size: int = 7,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size={kernel_size} has no middle; give an odd number, 7 in the paper")
        hidden = hidden_units(channels, reduction)
        self.fc1 = nn.Linear(channels, hidden, bias=bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, channels, bias=bias, device=device, dtype=dtype)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(1, momentum=0.01, device=device, dtype=dtype)
        nn.init.zeros_(self.norm.weight)

    def attend(self, x: Tensor) -> Tensor:
        """Multiply `x` with the channels' gate, and the result with the positions'."""
        self.check_input(x)
        weighed = x * self._channel_gate(x)
        return weighed * self._position_gate(weighed)

    def gate(self, x: Tensor) -> Tensor:
        """The product of both gates: (B, C, H, W), in the dtype of `x`.

        Batch norms in train mode count the batch as in `forward`.
        """
        self.check_input(x)
        channels = self._channel_gate(x)
        return channels * self._position_gate(x * channels)

    def _channel_gate(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self._mixed(channel_means(x)) + self._mixed(x.amax((2, 3)))) * self._share_of_scale()
        return gate.to(x.dtype)[:, :, None, None]

    def _mixed(self, squeezed: Tensor) -> Tensor:
        mixed: Tensor = self.fc2(F.relu(self.fc1(squeezed)))
        return mixed

    def _position_gate(self, x: Tensor) -> Tensor:
        wide = x.dtype if x.dtype == torch.float64 else torch.float32  # sums in half precision overflow
        squeezed = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True, dtype=wide).to(x.dtype)), dim=1)
        gate = torch.sigmoid(apply_layers((self.conv, self.norm), squeezed)) * self._share_of_scale()
        return gate.to(x.dtype)

    def _share_of_scale(self) -> float:
        """Half of the factor for each gate: as the identity both are 1, and no bit is lost between them."""
        return math.sqrt(self.scale)

    def start_as_identity(self) -> None:
        """Start each gate's last layer at zero, where both are sigmoid(0) = 1/2, and undo that by a factor of 4."""
        nn.init.zeros_(self.fc2.weight)
        if self.fc2.bias is not None:
            nn.init.zeros_(self.fc2.bias)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)
        self.scale = 4.0

    @classmethod
    def fit_options(cls, channels: int, options: dict[str, Any], size: tuple[int, ...] | None = None) -> dict[str, Any]:
        """Lower `reduction` where it would leave fewer than 4 hidden units (at most to 1)."""
        del size
        return fit_reduction(channels, options)
