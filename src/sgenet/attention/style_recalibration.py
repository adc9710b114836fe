"""Style-based Recalibration Module (SRM).

Lee, Kim, Nam: "SRM: A Style-based Recalibration Module for Convolutional Neural Networks", arXiv 1903.10829.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sgenet.attention.base import Attention
from sgenet.attention.batch_norm import apply_layers
from sgenet.attention.registry import register_attention

__all__ = ["StyleRecalibration"]

_EPS = 1e-5  # added to the variance, inside the root, in the authors' code


@register_attention("srm")
class StyleRecalibration(Attention):
    """Weigh each channel by its own style, the mean and deviation of its map: sigmoid(BN(w · (mean, std))).

    Args:
        channels: C, the number of input channels.
        device: Where the parameters are created.
        dtype: Of the parameters.

    Attributes:
        cfc: w, the channel-wise fully connected layer, shape (C, 2), zeros at the start.
        bn: Batch normalisation of the C results, over the samples.

    Shape:
        - Input: (B, C, *spatial) with 1, 2 or 3 spatial axes of any size, any floating dtype, any memory format.
        - Output: the same shape, dtype and memory format.

    Raises:
        ConfigError: If `channels` is below 1, or the input does not have C channels.

    Source:
        arXiv 1903.10829, section 3. The unbiased variance, 1e-5 under its root and the start at zero are the authors'
        code's, and so are the names `cfc` and `bn`. A map of one position has the deviation of a constant map.

    Examples:
        >>> attention = StyleRecalibration(256)
        >>> attention(torch.randn(2, 256, 7, 7)).shape, sum(p.numel() for p in attention.parameters())
        (torch.Size([2, 256, 7, 7]), 1024)
    """

    gate_range = (0.0, 1.0)

    def __init__(
        self, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(channels)
        self.cfc = nn.Parameter(torch.zeros(channels, 2, device=device, dtype=dtype))
        self.bn = nn.BatchNorm2d(channels, device=device, dtype=dtype)

    def gate(self, x: Tensor) -> Tensor:
        """The weight of each channel: (B, C, 1...), in the dtype of `x`.

        Batch norms in train mode count the batch as in `forward`.
        """
        self.check_input(x)
        mean, deviation = _style(x)
        styles = mean * self.cfc[:, 0] + deviation * self.cfc[:, 1]
        # Under autocast the input's precision is less, and the normalisation over few samples magnifies rounding.
        normalised = apply_layers([self.bn], styles.to(self.cfc.dtype)[:, :, None, None])
        weights = torch.sigmoid(normalised) * self.scale
        return weights.to(x.dtype).reshape(x.shape[:2] + (1,) * (x.dim() - 2))

    def start_as_identity(self) -> None:
        """Start the normalisation's factor at zero, where the gate is sigmoid(0) = 1/2, and undo that by a factor of 2.

        `cfc` starts at ones, since behind a factor of zero a zero would stay one for ever.
        """
        nn.init.ones_(self.cfc)
        self.bn.reset_parameters()
        nn.init.zeros_(self.bn.weight)
        self.scale = 2.0

    def extra_repr(self) -> str:
        """Channels."""
        return str(self.channels)


def _style(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the positions, (B, C) each; float64 for float64 input, float32 otherwise."""
    positions = list(range(2, x.dim()))
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    variance, mean = torch.var_mean(wide, positions, correction=0)
    count = 1
    for axis in positions:
        count = count * x.shape[axis]
    # sym_max keeps a symbolic size symbolic; the unbiased variance of one position would be 0 / 0.
    unbiased = variance.mul(count).div(torch.sym_max(count - 1, 1))  # type: ignore[arg-type]
    return mean, (unbiased + _EPS).sqrt()
