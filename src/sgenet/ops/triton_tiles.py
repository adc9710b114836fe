"""What the Triton kernels share: a tile of a sample, where it lies in memory, and how it is read and written.

A tile has a row a position and a column a channel, in both memory layouts. Importing this module needs Triton.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from sgenet.ops.reference import Norm, norm_affine

__all__ = [
    "Forms",
    "affine_layer",
    "affine_tensors",
    "columns_of",
    "destination",
    "jit",
    "layout_of",
    "map_size",
    "place",
    "read",
    "read_map",
    "write",
]

# Triton is untyped: what it makes of a function has no type here.
jit: Callable[[Callable[..., Any]], Any] = triton.jit


@jit
def columns_of(
    block: tl.tensor, channels: tl.constexpr, depth: tl.constexpr, padded: tl.constexpr, columns: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """The channel of each column, and whether the column has one.

    The channels come in groups of `depth`, and each group takes `padded` columns.
    """
    column = tl.arange(0, columns)
    if depth == padded:
        # Without the division the compiler sees that neighbouring columns are neighbours in memory.
        channel = block * columns + column
        held = channel < channels
    else:
        inside = column % padded
        channel = (block * (columns // padded) + column // padded) * depth + inside
        held = (inside < depth) & (channel < channels)
    return channel, held


@jit
def place(
    start: tl.tensor,
    channel: tl.tensor,
    held: tl.tensor,
    m: tl.tensor,
    positions: tl.constexpr,
    channels: tl.constexpr,
    channels_last: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Where the tile that begins at position `start` lies within its sample, and which of it there is."""
    position = start + tl.arange(0, positions)
    if channels_last:
        offset = position[:, None] * channels + channel[None, :]
    else:
        offset = channel[None, :] * m + position[:, None]
    return offset, (position < m)[:, None] & held[None, :]


@jit
def affine_layer(
    a: tl.tensor, b: tl.tensor, channel: tl.tensor, held: tl.tensor, affine: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """The factor and the shift of each column; without an affine layer 1 and 0, which nothing reads."""
    if affine:
        factor = tl.load(a + channel, mask=held, other=1.0)
        shift = tl.load(b + channel, mask=held, other=0.0)
    else:
        factor = tl.full(channel.shape, 1.0, tl.float32)
        shift = tl.zeros(channel.shape, tl.float32)
    return factor, shift


@jit
def read(pointer: tl.tensor, offset: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """A tile in float32; 0 where it has no element."""
    return tl.load(pointer + offset, mask=inside, other=0.0).to(tl.float32)


@jit
def read_map(
    x: tl.tensor,
    offset: tl.tensor,
    inside: tl.tensor,
    factor: tl.tensor,
    shift: tl.tensor,
    affine: tl.constexpr,
) -> tl.tensor:
    """A tile of x behind the affine layer, in float32; 0 where it has no element."""
    tile = read(x, offset, inside)
    if affine:
        # Named, because the compiler is free to fuse a product and a sum in one kernel and not in another: forward and
        # backward pass must see the same map to the last bit.
        tile = tl.where(inside, tl.fma(tile, factor[None, :], shift[None, :]), 0.0)
    return tile


@jit
def write(pointer: tl.tensor, offset: tl.tensor, inside: tl.tensor, tile: tl.tensor) -> tl.tensor:
    """Write a tile, rounded once to the tensor's dtype."""
    tl.store(pointer + offset, tile.to(pointer.dtype.element_ty), mask=inside)


class Forms(NamedTuple):
    """What stands before and behind the gate; a kernel is compiled for each."""

    affine: bool
    add: bool
    relu: bool


def affine_tensors(norm: Norm | None, unread: Tensor) -> tuple[Tensor, Tensor]:
    """What a kernel is given for a and b: without a norm it reads neither."""
    if norm is None:
        return unread, unread
    factor, summand = norm_affine(*norm)
    return factor.contiguous(), summand.contiguous()


def map_size(x: Tensor) -> dict[str, int]:
    """The number of positions, as `map_units` times the constant `map_step`.

    The compiler knows what divides a constant, but not what divides an argument, beyond 16 of it; and a kernel for each
    size of map would be too many.

    Args:
        x: (B, C, H, W), not empty.

    Returns:
        Both as arguments of a kernel.

    Examples:
        >>> map_size(torch.empty(1, 3, 28, 28)), map_size(torch.empty(1, 3, 7, 7))
        ({'map_units': 49, 'map_step': 16}, {'map_units': 49, 'map_step': 1})
    """
    m = x.shape[2] * x.shape[3]
    step = math.gcd(m, 16)
    return {"map_units": m // step, "map_step": step}


def layout_of(x: Tensor) -> torch.memory_format:
    """The memory format in which the kernels take `x`: channels_last where x is dense in that and in no other.

    Args:
        x: (B, C, H, W).

    Returns:
        `torch.channels_last` or `torch.contiguous_format`.

    Examples:
        >>> layout_of(torch.empty(2, 3, 4, 5).contiguous(memory_format=torch.channels_last))
        torch.channels_last
        >>> layout_of(torch.empty(2, 3, 4, 5)[..., ::2])
        torch.contiguous_format
    """
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def destination(x: Tensor, out: Tensor | None) -> Tensor:
    """Where a kernel writes what belongs into `out`: there, or in new memory where `out` is not laid out like `x`.

    Args:
        x: The kernel's input, dense in `layout_of(x)`.
        out: None, or the tensor that the caller wants written.

    Returns:
        A tensor with the shape, dtype and strides of `x`.

    Examples:
        >>> x = torch.empty(2, 3, 4, 5)
        >>> destination(x, x) is x, destination(x, None) is x
        (True, False)
    """
    return out if out is not None and out.is_contiguous(memory_format=layout_of(x)) else torch.empty_like(x)
