"""No attention, under a name like the others, for comparisons."""

from __future__ import annotations

from torch import Tensor

from sgenet.attention.base import Attention
from sgenet.attention.registry import register_attention

__all__ = ["NoAttention"]


@register_attention("none")
class NoAttention(Attention):
    """Return the input itself: a gate of 1.

    Args:
        channels: C, the number of input channels.
        device: Part of the signature of every module; there is nothing to put there.
        dtype: The same.

    Shape:
        - Input: (B, C, *spatial) with 1, 2 or 3 spatial axes of any size, any floating dtype, any memory format.
        - Output: the input.

    Raises:
        ConfigError: If `channels` is below 1, or the input does not have C channels.

    Examples:
        >>> import torch
        >>> x = torch.randn(2, 256, 7, 7)
        >>> NoAttention(256)(x) is x
        True
    """

    gate_range = (1.0, 1.0)

    def attend(self, x: Tensor) -> Tensor:
        """Return `x`."""
        self.check_input(x)
        return x

    def gate(self, x: Tensor) -> Tensor:
        """A one that broadcasts against `x`: (1, 1, 1...)."""
        self.check_input(x)
        return x.new_ones((1,) * x.dim())

    def start_as_identity(self) -> None:
        """Nothing to do: it is the identity."""

    def extra_repr(self) -> str:
        """Channels."""
        return str(self.channels)
