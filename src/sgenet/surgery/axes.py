"""Which axis of a result holds the channels, by the operation that made it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["channels_axis"]

_SECOND = frozenset({"convolution", "native_batch_norm", "_native_batch_norm_legit",
                     "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "native_group_norm"})  # fmt: skip
_LAST = frozenset({"mm", "addmm"})
_TURNING = frozenset({"permute", "transpose"})
_VIEWS = frozenset({"view", "_unsafe_view", "_reshape_alias"})
_MIXING = frozenset({"bmm", "baddbmm", "as_strided", "_native_multi_head_attention"})

Held = tuple[tuple[int, ...], int | None]
"""A shape, and which of its axes holds the channels."""


def channels_axis(operation: str, args: Sequence[Any], shape: tuple[int, ...], reads: Sequence[Held]) -> int | None:
    """The axis of a result that holds the channels.

    Args:
        operation: PyTorch's name for it, without namespace.
        args: What it was called with.
        shape: Of its result.
        reads: What it read, at least one.

    Returns:
        The axis, counted from 0, or None where it cannot be told.

    Examples:
        >>> channels_axis("convolution", (), (2, 8, 32, 32), [((2, 3, 32, 32), 1)])
        1
        >>> channels_axis("permute", (None, [0, 2, 3, 1]), (2, 32, 32, 8), [((2, 8, 32, 32), 1)])
        3
        >>> channels_axis("view", (), (2, 8, 1024), [((2, 8, 32, 32), 1)])
        1
    """
    if operation in _SECOND:
        return 1
    if operation in _LAST or (operation == "native_layer_norm" and len(args[1]) == 1):
        return len(shape) - 1
    if operation in _TURNING:
        return _turned(args[1:], *reads[0])
    if operation in _VIEWS:
        return _viewed(shape, *reads[0])
    if operation in _MIXING or "scaled_dot_product" in operation:
        return None
    axes = {axis for read, axis in reads if axis is not None and len(read) == len(shape)}
    return axes.pop() if len(axes) == 1 else None


def _turned(args: Sequence[Any], shape: tuple[int, ...], axis: int | None) -> int | None:
    """Where an axis goes: `args` is the order of all, or the two that change places."""
    if axis is None:
        return None
    if len(args) == 1:
        order: list[int] = [each % len(shape) for each in args[0]]
        return order.index(axis)
    one, other = (int(each) % len(shape) for each in args)
    return {one: other, other: one}.get(axis, axis)


def _viewed(shape: tuple[int, ...], old: tuple[int, ...], axis: int | None) -> int | None:
    """Where an axis is in another view: it stays with all that was before it, or with all that was behind it."""
    if axis is None:
        return None
    if shape[: axis + 1] == old[: axis + 1]:
        return axis
    behind = len(old) - 1 - axis
    tail = behind or 1  # of the last axis itself, nothing is behind it to stay with
    return len(shape) - 1 - behind if len(shape) > behind and shape[-tail:] == old[-tail:] else None
