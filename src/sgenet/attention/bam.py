"""Bottleneck Attention Module (BAM).

Park, Woo, Lee, Kweon: "BAM: Bottleneck Attention Module", arXiv 1807.06514.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sgenet.attention.base import Attention
from sgenet.attention.batch_norm import apply_layers
from sgenet.attention.reduction import fit_reduction, hidden_units
from sgenet.attention.registry import register_attention
from sgenet.errors import ConfigError
from sgenet.ops import channel_means

__all__ = ["BottleneckAttention"]


@register_attention("bam")
class BottleneckAttention(Attention):
    """Strengthen by 1 + sigmoid(c(x) s(x)), where c looks at the channels' means and s at the neighbours of a position.

    c is two linear layers, with a batch norm and a ReLU between them, over the means of the channels. s takes the
    channels down to C // r, looks around with dilated 3x3 convolutions and ends in one channel; a batch norm and a ReLU
    follow each of its convolutions but the last. In train mode with a single image c is normalised with the running
    statistics, since a batch of one has none.

    Args:
        channels: C, the number of input channels.
        reduction: r; the hidden layers have C // r channels, at least 1. 16 in the paper.
        dilation: Of the 3x3 convolutions. 4 in the paper.
        convolutions: How many of them there are. 2 in the paper.
        device: Where the parameters are created.
        dtype: Of the parameters.

    Shape:
        - Input: (B, C, H, W) of any size, any floating dtype, any memory format.
        - Output: the same shape, dtype and memory format.

    Raises:
        ConfigError: If `channels`, `reduction` or `dilation` is below 1, `convolutions` below 0, or the input is not
            (B, C, H, W).

    Source:
        arXiv 1807.06514, section 3. The paper adds c(x) and s(x); the authors' code, with which its figures and those
        of arXiv 1905.09646 were measured, multiplies them. In the paper a module stands at each of a network's three
        bottlenecks, between two stages.

    Examples:
        >>> BottleneckAttention(256)(torch.randn(2, 256, 14, 9)).shape
        torch.Size([2, 256, 14, 9])
    """

    gate_range: tuple[float, float] | None = (1.0, 2.0)
    spatial_axes: tuple[int, int] = (2, 2)

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        dilation: int = 4,
        convolutions: int = 2,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        if dilation < 1:
            raise ConfigError(f"dilation={dilation} is not possible; give 1 or more, 4 in the paper")
        if convolutions < 0:
            raise ConfigError(f"convolutions={convolutions} is not possible; give 0 or more, 2 in the paper")
        hidden = hidden_units(channels, reduction)
        self.channel = nn.Sequential(
            nn.Linear(channels, hidden, device=device, dtype=dtype),
            nn.BatchNorm1d(hidden, device=device, dtype=dtype),
            nn.ReLU(),
            nn.Linear(hidden, channels, device=device, dtype=dtype),
        )
        # (input channels, kernel size, dilation) of each convolution that is normalised
        hidden_convolutions = [(channels, 1, 1)] + [(hidden, 3, dilation)] * convolutions
        layers: list[nn.Module] = []
        for width, size, spread in hidden_convolutions:
            padding = spread * (size // 2)  # keeps the map's size
            layers += [
                nn.Conv2d(width, hidden, size, padding=padding, dilation=spread, device=device, dtype=dtype),
                nn.BatchNorm2d(hidden, device=device, dtype=dtype),
                nn.ReLU(),
            ]
        self.spatial = nn.Sequential(*layers, nn.Conv2d(hidden, 1, 1, device=device, dtype=dtype))

    def gate(self, x: Tensor) -> Tensor:
        """The factor of each value: (B, C, H, W), in the dtype of `x`.

        Batch norms in train mode count the batch as in `forward`.
        """
        self.check_input(x)
        channel = apply_layers(self.channel, channel_means(x))[:, :, None, None]
        gate = (1 + torch.sigmoid(channel * apply_layers(self.spatial, x))) * self.scale
        return gate.to(x.dtype)

    def start_as_identity(self) -> None:
        """Start the channels' last layer at zero, where the gate is 1 + 1/2, and undo that by a factor.

        The other factor of the product keeps its values: were both zero, neither would learn.
        """
        last = self.channel[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.scale = 1 / 1.5  # times 1.5 it rounds to 1 in every dtype

    @classmethod
    def fit_options(cls, channels: int, options: dict[str, Any], size: tuple[int, ...] | None = None) -> dict[str, Any]:
        """Lower `reduction` where it would leave fewer than 4 hidden channels (at most to 1)."""
        del size
        return fit_reduction(channels, options)
