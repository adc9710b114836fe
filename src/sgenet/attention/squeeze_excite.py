"""Squeeze-and-Excitation (SE).

Hu, Shen, Albanie, Sun, Wu: "Squeeze-and-Excitation Networks", arXiv 1709.01507.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgenet.attention.base import Attention
from sgenet.attention.registry import register_attention
from sgenet.errors import ConfigError

__all__ = ["SqueezeExcite"]

_LEAST_HIDDEN = 4  # units that surgery leaves the hidden layer of a narrow place: one would gate all channels alike


@register_attention("se")
class SqueezeExcite(Attention):
    """Weigh each channel by what the means of all channels say: sigmoid(W2 relu(W1 mean(x))).

    Args:
        channels: C, the number of input channels.
        reduction: r; the hidden layer has C // r units, at least 1. 16 in the paper.
        bias: Whether the two layers have biases. The released networks have them, the ablations do not.
        device: Where the parameters are created.
        dtype: Of the parameters.

    Shape:
        - Input: (B, C, *spatial) with 1, 2 or 3 spatial axes of any size, any floating dtype, any memory format.
        - Output: the same shape, dtype and memory format.

    Raises:
        ConfigError: If `channels` or `reduction` is below 1, or the input does not have C channels.

    Source:
        arXiv 1709.01507, section 3; biases: section 6.

    Examples:
        >>> SqueezeExcite(256)(torch.randn(2, 256, 7, 7)).shape
        torch.Size([2, 256, 7, 7])
    """

    gate_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        if reduction < 1:
            raise ConfigError(f"reduction={reduction} is not possible; give 1 or more, 16 in the paper")
        self.reduction = reduction
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, hidden, bias=bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, channels, bias=bias, device=device, dtype=dtype)

    def gate(self, x: Tensor) -> Tensor:
        """The weight of each channel: (B, C, 1...), in the dtype of `x`."""
        self.check_input(x)
        # Half-precision maps are summed in float32: 112 x 112 values of 10 overflow float16.
        wide = x.dtype if x.dtype == torch.float64 else torch.float32
        squeezed = x.mean(list(range(2, x.dim())), dtype=wide).to(x.dtype)
        excited = torch.sigmoid(self.fc2(F.relu(self.fc1(squeezed)))) * self.scale
        return excited.to(x.dtype).reshape(excited.shape + (1,) * (x.dim() - 2))

    def start_as_identity(self) -> None:
        """Start the last layer at zero, where the gate is sigmoid(0) = 1/2, and undo that by a factor of 2."""
        nn.init.zeros_(self.fc2.weight)
        if self.fc2.bias is not None:
            nn.init.zeros_(self.fc2.bias)
        self.scale = 2.0

    @classmethod
    def fit_options(cls, channels: int, options: dict[str, Any]) -> dict[str, Any]:
        """Lower `reduction` where it would leave fewer than 4 hidden units (at most to 1)."""
        asked = options.get("reduction", 16)
        if asked < 1:
            return options  # for the constructor to refuse
        return {**options, "reduction": min(asked, max(1, channels // _LEAST_HIDDEN))}
