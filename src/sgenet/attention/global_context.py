"""Global context block (GC).

Cao, Xu, Lin, Wei, Hu: "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", arXiv 1904.11492.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgenet.attention.base import Attention
from sgenet.attention.reduction import fit_reduction, hidden_units
from sgenet.attention.registry import register_attention
from sgenet.errors import ConfigError, did_you_mean

__all__ = ["GlobalContext"]

_FUSIONS = ("add", "mul")


@register_attention("gc")
class GlobalContext(Attention):
    """Add to every position what the whole map says: W2 relu(LN(W1 c)), c being a weighted mean over the positions.

    The weights of the mean are a softmax of a linear score of each position. W2 starts at zero, so that the module
    starts as the identity.

    Args:
        channels: C, the number of input channels.
        reduction: r; the hidden layer has C // r units, at least 1. 16 in the paper, 4 in some of its detectors.
        fusion: "add", as in the paper's networks; or "mul", its ablation: the sigmoid of the same term is a gate of the
            channels, which starts at 1/2.
        device: Where the parameters are created.
        dtype: Of the parameters.

    Attributes:
        gate_range: None with "add": `gate` returns the weights of the positions. (0, 1) with "mul".

    Shape:
        - Input: (B, C, *spatial) with 1, 2 or 3 spatial axes of any size, any floating dtype, any memory format.
        - Output: the same shape, dtype and memory format.

    Raises:
        ConfigError: If `channels` or `reduction` is below 1, `fusion` is unknown, or the input does not have C
            channels.

    Source:
        arXiv 1904.11492, section 3.3. The score has no bias, since the softmax would not see it; W2 starts at zero as
        in the authors' code.

    Examples:
        >>> block = GlobalContext(256)
        >>> x = torch.randn(2, 256, 7, 7)
        >>> torch.equal(block(x), x)
        True
        >>> block.gate(x).shape
        torch.Size([2, 1, 7, 7])
    """

    gate_range: tuple[float, float] | None = None

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        fusion: Literal["add", "mul"] = "add",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        if fusion not in _FUSIONS:
            raise ConfigError(f"there is no fusion '{fusion}'.{did_you_mean(fusion, _FUSIONS)} Known: add, mul")
        hidden = hidden_units(channels, reduction)
        self.fusion = fusion
        if fusion == "mul":
            self.gate_range = (0.0, 1.0)
        self.score = nn.Conv1d(channels, 1, 1, bias=False, device=device, dtype=dtype)
        self.fc1 = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(hidden, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, channels, device=device, dtype=dtype)
        nn.init.kaiming_normal_(self.score.weight)
        self._start_last_layer_at_zero()

    def attend(self, x: Tensor) -> Tensor:
        """Add the context's term to `x`, or multiply `x` with its gate."""
        if self.fusion == "mul":
            return super().attend(x)
        self.check_input(x)
        return x + self._term(x).to(x.dtype)

    def gate(self, x: Tensor) -> Tensor:
        """With "add" the weight of each position, (B, 1, *spatial); with "mul" the channels' gate, (B, C, 1...)."""
        self.check_input(x)
        if self.fusion == "mul":
            return (torch.sigmoid(self._term(x)) * self.scale).to(x.dtype)
        return self._weights(x).reshape((x.shape[0], 1, *x.shape[2:])).to(x.dtype)

    def _weights(self, x: Tensor) -> Tensor:
        """The softmax over positions: (B, 1, N), in float32 or wider."""
        scores: Tensor = self.score(x.flatten(2))
        return scores.softmax(2, dtype=x.dtype if x.dtype == torch.float64 else torch.float32)

    def _term(self, x: Tensor) -> Tensor:
        """What the context gives each channel: (B, C, 1...)."""
        # Multiplied in float32: among a map's many positions a weight is too small for float16.
        context = (x.flatten(2) * self._weights(x)).sum(2).to(x.dtype)
        term: Tensor = self.fc2(F.relu(self.norm(self.fc1(context))))
        return term.reshape(term.shape + (1,) * (x.dim() - 2))

    def _start_last_layer_at_zero(self) -> None:
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def start_as_identity(self) -> None:
        """Start the last layer at zero; with "mul" the gate is then sigmoid(0) = 1/2, which a factor of 2 undoes."""
        self._start_last_layer_at_zero()
        if self.fusion == "mul":
            self.scale = 2.0

    @classmethod
    def fit_options(cls, channels: int, options: dict[str, Any], size: tuple[int, ...] | None = None) -> dict[str, Any]:
        """Lower `reduction` where it would leave fewer than 4 hidden units (at most to 1).

        The layer norm compares the units with each other: of one alone it leaves nothing.
        """
        del size
        return fit_reduction(channels, options)

    def extra_repr(self) -> str:
        """How the context comes in."""
        return f"fusion='{self.fusion}'"
