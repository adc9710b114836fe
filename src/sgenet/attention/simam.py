"""SimAM: an attention module without parameters.

Yang, Zhang, Li, Xie: "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks", ICML 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sgenet.attention.base import Attention
from sgenet.attention.registry import register_attention
from sgenet.errors import ConfigError

__all__ = ["SimAM"]


@register_attention("simam")
class SimAM(Attention):
    """Weigh each value by how far it stands out from the mean of its channel's map.

    With d = (x - mean(x))² over the n + 1 positions of a channel, the gate is
    sigmoid(d / (4 (sum(d) / n + e_lambda)) + 1/2).

    Args:
        channels: C, the number of input channels.
        e_lambda: λ, the weight of the energy's regulariser; 0.0001 in the paper.
        device: Part of the signature of every module; there is nothing to put there.
        dtype: The same.

    Shape:
        - Input: (B, C, *spatial) with 1, 2 or 3 spatial axes of any size, any floating dtype, any memory format.
        - Output: the same shape, dtype and memory format.

    Raises:
        ConfigError: If `channels` is below 1, `e_lambda` is not positive, or the input does not have C channels.

    Source:
        ICML 2021, proceedings.mlr.press/v139/yang21o.html, section 3.3; sum(d) is divided by n in every case, as in
        the authors' code.

    Examples:
        >>> SimAM(256)(torch.ones(2, 256, 7, 7)).unique()
        tensor([0.6225])
    """

    gate_range = (0.622, 1.0)  # from sigmoid(1/2), at the mean

    def __init__(
        self,
        channels: int,
        *,
        e_lambda: float = 1e-4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, device=device, dtype=dtype)
        if not e_lambda > 0:
            raise ConfigError(f"e_lambda={e_lambda} must be positive: it keeps the division by a zero variance finite")
        self.e_lambda = e_lambda

    def gate(self, x: Tensor) -> Tensor:
        """The gate of each value: (B, C, *spatial), in the dtype of `x`."""
        self.check_input(x)
        positions = list(range(2, x.dim()))
        # Squares of half-precision values overflow float16 from 256 on.
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        distance = (wide - wide.mean(positions, keepdim=True)).square()
        count = 1
        for axis in positions:
            count = count * x.shape[axis]
        # sym_max keeps a symbolic size symbolic; a map of one position has no variance to divide.
        variance = distance.sum(positions, keepdim=True).div(torch.sym_max(count - 1, 1))  # type: ignore[arg-type]
        energy = distance / (4 * (variance + self.e_lambda)) + 0.5
        return self.blended(torch.sigmoid(energy) * self.scale).to(x.dtype)

    def start_as_identity(self) -> None:
        """Let the gate come in by `blend`: there is no other parameter."""
        self.start_blended()

    def extra_repr(self) -> str:
        """Channels and λ."""
        return f"{self.channels}, e_lambda={self.e_lambda:g}"
