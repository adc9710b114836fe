"""Triton kernels for a gate of one value a channel, as in Squeeze-and-Excitation, in both memory layouts.

Importing this module needs Triton. Its functions know nothing of autograd; all sums run in float32.

For one sample and channel, with the gate's value e and the values x_i at m positions:

    y_i = relu(e x_i + residual_i)    the residual and the ReLU only where asked for

Backward, with dy already zero where the ReLU was:

    dx_i = e dy_i
    de   = sum_i dy_i x_i

With a batch norm in front, x stands for factor_c x_i + shift_c throughout: formed wherever x is read, never stored.

A forward program has one tile of a sample, some channels at some positions; memory is read once and written once.
A backward program has a run of such tiles, with the same channels one after the other:

                     channels 0-63   channels 64-127
    positions 0-31    program 0        program 1
    positions 32-63      "                "
    positions 64-95   program 2        program 3
    ...

It leaves one part of de for each of its channels. The parts are summed in a fixed order, so that the same input gives
the same bits. y may take the place of x or of the residual: each place is read by the program that writes it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from sgenet.ops.reference import Norm
from sgenet.ops.triton_tiles import (
    Forms,
    affine_layer,
    affine_tensors,
    columns_of,
    destination,
    jit,
    layout_of,
    map_size,
    place,
    read,
    read_map,
    write,
)

__all__ = ["TILE", "scale_channels", "scale_channels_backward"]

TILE = 2048
"""Elements of a tile: 8 for each of 256 threads, few enough registers for many programs to run at once."""

# Several times what a large GPU runs at once: with fewer, a part of it would stand idle towards the end.
_ENOUGH_PROGRAMS = 8192


class _Tile(NamedTuple):
    """What a program works on at a time."""

    positions: int
    columns: int


def _tile(x: Tensor, largest: int) -> _Tile:
    """The tile for `x`: wide along the innermost axis of memory, for reads of whole cache lines, and high as it fits.

    It takes 256 positions of a map where there are channels enough: with 1024, a quarter of the lanes would do nothing
    on 56 x 56.

    Args:
        x: The input, (B, C, H, W).
        largest: The most elements of a tile.

    Returns:
        The tile.
    """
    channels, m = (triton.next_power_of_2(max(1, size)) for size in (x.shape[1], _positions(x)))
    if layout_of(x) == torch.channels_last:
        columns = min(channels, largest, 128 // x.element_size())
        return _Tile(min(m, largest // columns), columns)
    positions = min(m, largest, max(256, largest // channels))
    return _Tile(positions, min(channels, largest // positions))


@jit
def _part(runs: tl.tensor, channels: tl.constexpr, columns: tl.constexpr) -> tuple[tl.tensor, ...]:
    """The program's sample, its run of positions, the channel of each column, and whether the column has one."""
    blocks: tl.constexpr = (channels + columns - 1) // columns
    row = tl.program_id(0) // blocks
    channel, held = columns_of(tl.program_id(0) % blocks, channels, 1, 1, columns)
    return (row // runs).to(tl.int64), row % runs, channel, held


@jit
def _forward_kernel(
    x: tl.tensor,
    residual: tl.tensor,
    y: tl.tensor,
    gate: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    map_units: tl.tensor,
    runs: tl.tensor,
    map_step: tl.constexpr,
    channels: tl.constexpr,
    channels_last: tl.constexpr,
    positions: tl.constexpr,
    columns: tl.constexpr,
    affine: tl.constexpr,
    add: tl.constexpr,
    relu: tl.constexpr,
) -> None:
    m = map_units * map_step
    sample, run, channel, held = _part(runs, channels, columns)
    first = sample * channels * m
    factor, shift = affine_layer(a, b, channel, held, affine)
    excitation = tl.load(gate + sample * channels + channel, mask=held, other=0.0).to(tl.float32)
    offset, inside = place(run * positions, channel, held, m, positions, channels, channels_last)
    scaled = read_map(x + first, offset, inside, factor, shift, affine) * excitation[None, :]
    if add:
        scaled += read(residual + first, offset, inside)
    if relu:
        scaled = tl.where(scaled < 0, 0.0, scaled)  # keeps NaN, which maximum need not
    write(y + first, offset, inside, scaled)


@jit
def _backward_kernel(
    x: tl.tensor,
    y: tl.tensor,
    grad: tl.tensor,
    dx: tl.tensor,
    dresidual: tl.tensor,
    gate: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    parts: tl.tensor,
    map_units: tl.tensor,
    runs: tl.tensor,
    span: tl.tensor,
    map_step: tl.constexpr,
    channels: tl.constexpr,
    channels_last: tl.constexpr,
    positions: tl.constexpr,
    columns: tl.constexpr,
    affine: tl.constexpr,
    add: tl.constexpr,
    relu: tl.constexpr,
) -> None:
    m = map_units * map_step
    sample, run, channel, held = _part(runs, channels, columns)
    first = sample * channels * m
    factor, shift = affine_layer(a, b, channel, held, affine)
    excitation = tl.load(gate + sample * channels + channel, mask=held, other=0.0).to(tl.float32)
    products = tl.zeros((positions, columns), tl.float32)
    for start in range(run * span, tl.minimum(m, (run + 1) * span), positions):
        offset, inside = place(start, channel, held, m, positions, channels, channels_last)
        upstream = read(grad + first, offset, inside)
        if relu:
            upstream = tl.where(read(y + first, offset, inside) <= 0, 0.0, upstream)
        if add and relu:
            write(dresidual + first, offset, inside, upstream)
        products += upstream * read_map(x + first, offset, inside, factor, shift, affine)
        write(dx + first, offset, inside, upstream * excitation[None, :])
    tl.store(parts + (sample * runs + run) * channels + channel, tl.sum(products, 0), mask=held)


def scale_channels(
    x: Tensor,
    gate: Tensor,
    residual: Tensor | None = None,
    relu: bool = False,
    norm: Norm | None = None,
    out: Tensor | None = None,
    *,
    largest_tile: int = TILE,
) -> Tensor:
    """`x` times one value a channel, plus `residual`, through a ReLU, in one kernel.

    The result is rounded once, at its end; what a norm makes of `x` is not rounded at all.

    Args:
        x: (B, C, H, W) in float32, float16 or bfloat16; copied where it is neither contiguous nor channels_last. A
            sample has fewer than 2**31 elements. B may be 0.
        gate: (B, C), of any floating dtype.
        residual: None, or a tensor of the shape and dtype of `x`.
        relu: Whether negative results become 0.
        norm: None, or a batch norm in front; what it returns is formed in float32 and never stored.
        out: None, or a tensor of the shape, dtype and memory format of `x` to write y to. It may be `x` or `residual`
            itself; else it shares no memory with them.
        largest_tile: Elements that a program works on at a time, a power of two.

    Returns:
        y in the dtype and memory format of `x`, which is `out` where that is given.
    """
    layout = layout_of(x)
    x = x.contiguous(memory_format=layout)
    residual = None if residual is None else residual.contiguous(memory_format=layout)
    gate = gate.contiguous()
    y = destination(x, out)
    tile = _tile(x, largest_tile)
    tensors = (x, x if residual is None else residual, y, gate, *affine_tensors(norm, gate))
    forms = Forms(norm is not None, residual is not None, relu)
    _launch(_forward_kernel, tensors, tile, forms, runs=triton.cdiv(_positions(x), tile.positions))
    return y if out is None or y is out else out.copy_(y)


def scale_channels_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    gate: Tensor,
    has_residual: bool,
    relu: bool,
    norm: Norm | None = None,
    *,
    largest_tile: int = TILE,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of `scale_channels`.

    Args:
        grad: The gradient of y, of the shape and dtype of `x`, in any memory format.
        x: As given to `scale_channels`, and not overwritten since.
        y: What `scale_channels` returned; needed, and read, only where `relu` is true.
        gate: As given to `scale_channels`.
        has_residual: Whether there was one.
        relu: As given to `scale_channels`.
        norm: As given to `scale_channels`.
        largest_tile: Elements that a program works on at a time, a power of two.

    Returns:
        The gradients of the map (of x, or of what the norm returned), of the gate ((B, C) in float32), and of
        the residual: None without one, and `grad` itself where nothing lies between the two.
    """
    layout = layout_of(x)
    x = x.contiguous(memory_format=layout)
    upstream = grad.contiguous(memory_format=layout)
    y = x if y is None else y.contiguous(memory_format=layout)
    gate = gate.contiguous()
    dx = torch.empty_like(x)
    masked = torch.empty_like(x) if has_residual and relu else None
    tile = _tile(x, largest_tile)
    tiles = triton.cdiv(_positions(x), tile.positions)
    # One tile after the other where enough programs are left, so that the parts of the gate's gradient are few.
    programs = x.shape[0] * triton.cdiv(x.shape[1], tile.columns) * tiles
    walk = max(1, min(tiles, programs // _ENOUGH_PROGRAMS))
    runs = triton.cdiv(tiles, walk)
    parts = torch.empty((x.shape[0], runs, x.shape[1]), dtype=torch.float32, device=x.device)
    tensors = (x, y, upstream, dx, dx if masked is None else masked, gate, *affine_tensors(norm, gate), parts)
    forms = Forms(norm is not None, has_residual, relu)
    _launch(_backward_kernel, tensors, tile, forms, runs=runs, span=walk * tile.positions)
    dgate = parts.squeeze(1) if runs == 1 else parts.sum(1)  # a sum over no run at all, of an empty map, is 0
    dresidual = masked if relu else grad
    return dx, dgate, dresidual if has_residual else None


def _positions(x: Tensor) -> int:
    return x.shape[2] * x.shape[3]


def _launch(
    kernel: Any,  # noqa: ANN401
    tensors: tuple[Tensor, ...],
    tile: _Tile,
    forms: Forms,
    runs: int,
    **counts: int,
) -> None:
    """Run `kernel` with a program for each sample, block of channels and run; nothing for an empty batch."""
    x = tensors[0]
    if x.numel() == 0:
        return
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        kernel[(x.shape[0] * runs * triton.cdiv(x.shape[1], tile.columns),)](
            *tensors,
            **map_size(x),
            runs=runs,
            **counts,
            channels=x.shape[1],
            channels_last=layout_of(x) == torch.channels_last,
            **tile._asdict(),
            **forms._asdict(),
            num_warps=min(8, max(1, tile.positions * tile.columns // 256)),
        )
