"""Triton kernels for Spatial Group-wise Enhance: forward and backward, in both memory layouts.

Importing this module needs Triton. Its functions know nothing of autograd; all sums run in float32.

For one group with d channels at m positions, γ, β, ε and the gate's factor f given:

    g   = mean_i x_i
    t_i = g . (x_i - g) - left        left: the mean of g . (x_i - g), which is 0 but for g's rounding
    s   = sqrt(sum_i t_i^2 / (m - 1))
    n_i = t_i r                       r = 1 / (s + ε); n_i is 0 where s = 0: on a constant map, or where m is 1
    a_i = f σ(γ n_i + β)
    y_i = relu(a_i x_i + residual_i)  the residual and the ReLU only where asked for

With a batch norm in front, x stands for factor_c x_i + shift_c throughout: formed wherever x is read, never stored.

g . (x_i - g) is c_i - mean(c) with c_i = g . x_i, because mean(c) = g . g. It is formed from differences: c_i and g . g
each carry a rounding of their own size, which may be another one in the backward pass, and on a map that is all but
constant ε is too small to hide it.

Backward, with dy already zero where the ReLU was, and κ = 1 / ((m - 1) s), or 0 where s = 0:

    u_i  = f σ'(γ n_i + β) (dy_i . x_i)                dβ = sum_i u_i,  dγ = sum_i u_i n_i
    dc_i = γ (r (u_i - dβ / m) - κ dγ n_i)             what reaches c_i through the normalisation; sums to 0
    dg   = γ (r sum_i u_i (x_i - g) - κ dγ sum_i n_i (x_i - g)) = sum_i dc_i x_i
    dx_i = a_i dy_i + dc_i g + dg / m

dc and dg are linear in sums that need no other sum first, so the backward pass has two passes and not three.

A program has one sample and a block of whole groups. Its tile has a row a position and a column a channel; d is padded
to a power of two, because tiles must be such (d = 3 here, two groups in a block):

                      group 0        group 1
                   ch0 ch1 ch2  -  ch3 ch4 ch5  -
    position 0      x   x   x   .   x   x   x   .      channels_last: a row is one run of memory
    position 1      x   x   x   .   x   x   x   .      contiguous: a column is
    ...
    position m-1    x   x   x   .   x   x   x   .
        -           .   .   .   .   .   .   .   .

A sum over a group's channels is a sum over the last axis of the tile seen as (positions, groups, channels of a group).
Where all positions fit, the tile is read once and stays in registers. Where they do not, the program walks over the
positions as often as it has passes, and all passes but the first should find its part of x in the cache.
`_tile` chooses.

y may take the place of x or of the residual: a program alone reads and writes its block of groups, each pass but the
last is behind it when it writes, and the last reads all of a tile before it writes it.

γ's and β's gradients leave the kernel as one value a sample and group, and are summed over the samples in a fixed
order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from sgenet.ops.reference import Norm, channel_means, norm_backward
from sgenet.ops.triton_scaling import scale_channels, scale_channels_backward
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

__all__ = [
    "LARGEST_TILE_BACKWARD",
    "LARGEST_TILE_FORWARD",
    "backward",
    "channel_means",
    "forward",
    "moments",
    "norm_backward",
    "scale_channels",
    "scale_channels_backward",
]

LARGEST_TILE_FORWARD = 32_768
"""Elements that a forward program keeps in registers: 64 for each of 512 threads, half of what a thread may have."""

_LEAST_VARIANCE = 1e-7  # torch's statistics come as 1 / sqrt(variance + this)

LARGEST_TILE_BACKWARD = 16_384
"""The same for a backward program, which keeps x and dy."""


class _Tile(NamedTuple):
    """How a program covers its block of groups."""

    positions: int
    groups: int
    whole: bool  # all positions at once
    warps: int


def _tile(x: Tensor, groups: int, channels_last: bool, largest: int) -> _Tile:
    """The tile for `x`: as narrow as memory is read well, all positions high where that fits.

    Memory is fetched in sectors of 32 bytes. With channels_last a row must be that wide, or parts of a sector are
    fetched for nothing. It is made no wider where the positions are walked over: the parts of x that the running
    programs hold are then small enough, together, for the cache to keep them between the passes. That is also why such
    programs have many threads: fewer of them run at once. Small maps take more groups, so that a program has work.

    Args:
        x: The input, (B, C, H, W).
        groups: G.
        channels_last: Whether x is dense in that format.
        largest: The most elements that stay on the chip.

    Returns:
        The tile.
    """
    depth = triton.next_power_of_2(x.shape[1] // groups)
    rows = triton.next_power_of_2(x.shape[2] * x.shape[3])
    most = triton.next_power_of_2(groups)
    sector, line = 32 // x.element_size(), 128 // x.element_size()
    block = min(most, max(1, sector // depth)) if channels_last else 1
    whole = rows * block * depth <= largest
    if whole:
        widest = line if channels_last else max(depth, 1024 // rows)
        while block < most and 2 * block * depth <= widest and 2 * rows * block * depth <= min(largest, 8192):
            block *= 2
        positions = rows
    else:
        positions = max(1, min(largest, 8192) // (block * depth))
    warps = min(16, max(1, positions * block * depth // 512))
    return _Tile(positions, block, whole, warps if whole else max(warps, 4))


@jit
def _over_channels(
    tile: tl.tensor, positions: tl.constexpr, group_block: tl.constexpr, padded: tl.constexpr
) -> tl.tensor:
    """The sum over the channels of each group: (positions, columns) to (positions, groups)."""
    return tl.sum(tl.reshape(tile, (positions, group_block, padded)), 2)


@jit
def _to_columns(
    values: tl.tensor, positions: tl.constexpr, group_block: tl.constexpr, padded: tl.constexpr
) -> tl.tensor:
    """Each group's value for each of its channels: (positions, groups) to (positions, columns)."""
    spread = tl.broadcast_to(values[:, :, None], (positions, group_block, padded))
    return tl.reshape(spread, (positions, group_block * padded))


@jit
def _row_to_columns(values: tl.tensor, group_block: tl.constexpr, padded: tl.constexpr) -> tl.tensor:
    """Each group's value for each of its channels: (groups,) to (columns,)."""
    return tl.reshape(tl.broadcast_to(values[:, None], (group_block, padded)), (group_block * padded,))


@jit
def _centred_similarity(
    tile: tl.tensor,
    inside: tl.tensor,
    semantic: tl.tensor,
    positions: tl.constexpr,
    group_block: tl.constexpr,
    padded: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """The differences x - g, and g . (x - g); both 0 where the tile has no element."""
    centred = tl.where(inside, tile - semantic[None, :], 0.0)
    return centred, _over_channels(centred * semantic[None, :], positions, group_block, padded)


@jit
def _spread(
    total: tl.tensor, squares: tl.tensor, inverse_count: tl.tensor, inverse_freedom: tl.tensor
) -> tuple[tl.tensor, ...]:
    """`left` and s of each group, from the sums of g . (x_i - g) and of its squares."""
    left = total * inverse_count
    deviations = squares - total * left
    # left is g's rounding. Where t spreads over less than 1/500 of that, x cannot differ from position to position, and
    # the deviations are the rounding of the squares.
    return left, tl.where(deviations > squares * 4e-6, tl.sqrt(deviations * inverse_freedom), 0.0)


@jit
def _normalised(similarity: tl.tensor, left: tl.tensor, spread: tl.tensor, eps: tl.tensor) -> tl.tensor:
    """The tile's n; 0 on a constant map, where only rounding would be divided by ε. NaN stays NaN."""
    inverse = tl.where(spread > 0, 1.0 / (spread + eps), 0.0)
    return (similarity - left[None, :]) * inverse[None, :]


@jit
def _enhanced(
    tile: tl.tensor,
    residual: tl.tensor,
    offset: tl.tensor,
    inside: tl.tensor,
    normalised: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    scale: tl.tensor,
    positions: tl.constexpr,
    group_block: tl.constexpr,
    padded: tl.constexpr,
    add: tl.constexpr,
    relu: tl.constexpr,
) -> tl.tensor:
    """The tile of y."""
    gate = tl.sigmoid(gamma[None, :] * normalised + beta[None, :]) * scale
    enhanced = tile * _to_columns(gate, positions, group_block, padded)
    if add:
        enhanced += read(residual, offset, inside)
    if relu:
        enhanced = tl.where(enhanced < 0, 0.0, enhanced)  # keeps NaN, which maximum need not
    return enhanced


@jit
def _forward_kernel(
    x: tl.tensor,
    residual: tl.tensor,
    y: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    semantic: tl.tensor,
    statistics: tl.tensor,
    map_units: tl.tensor,
    inverse_count: tl.tensor,
    inverse_freedom: tl.tensor,
    eps: tl.tensor,
    scale: tl.tensor,
    map_step: tl.constexpr,
    channels: tl.constexpr,
    depth: tl.constexpr,
    padded: tl.constexpr,
    channels_last: tl.constexpr,
    positions: tl.constexpr,
    group_block: tl.constexpr,
    whole: tl.constexpr,
    affine: tl.constexpr,
    add: tl.constexpr,
    relu: tl.constexpr,
) -> None:
    columns: tl.constexpr = group_block * padded
    groups: tl.constexpr = channels // depth
    blocks: tl.constexpr = (groups + group_block - 1) // group_block
    m = map_units * map_step
    sample = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    first = sample.to(tl.int64) * channels * m
    x += first
    residual += first
    y += first
    channel, held = columns_of(block, channels, depth, padded, columns)
    factor, shift = affine_layer(a, b, channel, held, affine)
    group = block * group_block + tl.arange(0, group_block)
    gamma = tl.load(weight + group, mask=group < groups, other=0.0).to(tl.float32)
    beta = tl.load(bias + group, mask=group < groups, other=0.0).to(tl.float32)

    if whole:
        offset, inside = place(0, channel, held, m, positions, channels, channels_last)
        tile = read_map(x, offset, inside, factor, shift, affine)
        g = tl.sum(tile, 0) * inverse_count
        _, similarity = _centred_similarity(tile, inside, g, positions, group_block, padded)
        total = tl.sum(similarity, 0)
        squares = tl.sum(similarity * similarity, 0)
    else:
        tiles = tl.zeros((positions, columns), tl.float32)
        for start in range(0, m, positions):
            offset, inside = place(start, channel, held, m, positions, channels, channels_last)
            tiles += read_map(x, offset, inside, factor, shift, affine)
        g = tl.sum(tiles, 0) * inverse_count
        totals = tl.zeros((positions, group_block), tl.float32)
        all_squares = tl.zeros((positions, group_block), tl.float32)
        for start in range(0, m, positions):
            offset, inside = place(start, channel, held, m, positions, channels, channels_last)
            tile = read_map(x, offset, inside, factor, shift, affine)
            _, similarity = _centred_similarity(tile, inside, g, positions, group_block, padded)
            totals += similarity
            all_squares += similarity * similarity
        total = tl.sum(totals, 0)
        squares = tl.sum(all_squares, 0)

    left, spread = _spread(total, squares, inverse_count, inverse_freedom)
    tl.store(semantic + sample.to(tl.int64) * channels + channel, g, mask=held)
    record = statistics + (sample.to(tl.int64) * groups + group) * 2
    tl.store(record, left, mask=group < groups)
    tl.store(record + 1, spread, mask=group < groups)

    if whole:
        normalised = _normalised(similarity, left, spread, eps)
        enhanced = _enhanced(
            tile, residual, offset, inside, normalised, gamma, beta, scale, positions, group_block, padded, add, relu
        )
        # y may lie where x or the residual lies, which other threads of the program may still be reading.
        tl.debug_barrier()
        write(y, offset, inside, enhanced)
    else:
        for start in range(0, m, positions):
            offset, inside = place(start, channel, held, m, positions, channels, channels_last)
            tile = read_map(x, offset, inside, factor, shift, affine)
            _, similarity = _centred_similarity(tile, inside, g, positions, group_block, padded)
            normalised = _normalised(similarity, left, spread, eps)
            enhanced = _enhanced(
                tile, residual, offset, inside, normalised, gamma, beta, scale,
                positions, group_block, padded, add, relu,
            )  # fmt: skip
            tl.debug_barrier()
            write(y, offset, inside, enhanced)


@jit
def _upstream(
    x: tl.tensor,
    y: tl.tensor,
    grad: tl.tensor,
    offset: tl.tensor,
    inside: tl.tensor,
    factor: tl.tensor,
    shift: tl.tensor,
    g: tl.tensor,
    left: tl.tensor,
    spread: tl.tensor,
    eps: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    scale: tl.tensor,
    positions: tl.constexpr,
    group_block: tl.constexpr,
    padded: tl.constexpr,
    affine: tl.constexpr,
    relu: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """The tile's dy behind the ReLU, x - g, the gate a, n and u."""
    tile = read_map(x, offset, inside, factor, shift, affine)
    upstream = read(grad, offset, inside)
    if relu:
        upstream = tl.where(read(y, offset, inside) <= 0, 0.0, upstream)
    centred, similarity = _centred_similarity(tile, inside, g, positions, group_block, padded)
    normalised = _normalised(similarity, left, spread, eps)
    sigmoid = tl.sigmoid(gamma[None, :] * normalised + beta[None, :])
    gate = sigmoid * scale
    slope = _over_channels(upstream * tile, positions, group_block, padded) * gate * (1.0 - sigmoid)
    return upstream, centred, gate, normalised, slope


@jit
def _write_gradient(
    dx: tl.tensor,
    offset: tl.tensor,
    inside: tl.tensor,
    upstream: tl.tensor,
    gate: tl.tensor,
    normalised: tl.tensor,
    slope: tl.tensor,
    g: tl.tensor,
    through_mean: tl.tensor,
    centre: tl.tensor,
    linear: tl.tensor,
    curved: tl.tensor,
    positions: tl.constexpr,
    group_block: tl.constexpr,
    padded: tl.constexpr,
) -> tl.tensor:
    """Write dx = dy a + dc g + dg / m."""
    similarity = linear[None, :] * (slope - centre[None, :]) - curved[None, :] * normalised
    gradient = upstream * _to_columns(gate, positions, group_block, padded)
    gradient += _to_columns(similarity, positions, group_block, padded) * g[None, :] + through_mean[None, :]
    write(dx, offset, inside, gradient)


@jit
def _backward_kernel(
    x: tl.tensor,
    y: tl.tensor,
    grad: tl.tensor,
    dx: tl.tensor,
    dresidual: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    semantic: tl.tensor,
    statistics: tl.tensor,
    parameters: tl.tensor,
    map_units: tl.tensor,
    inverse_count: tl.tensor,
    inverse_freedom: tl.tensor,
    eps: tl.tensor,
    scale: tl.tensor,
    map_step: tl.constexpr,
    channels: tl.constexpr,
    depth: tl.constexpr,
    padded: tl.constexpr,
    channels_last: tl.constexpr,
    positions: tl.constexpr,
    group_block: tl.constexpr,
    whole: tl.constexpr,
    affine: tl.constexpr,
    add: tl.constexpr,
    relu: tl.constexpr,
) -> None:
    columns: tl.constexpr = group_block * padded
    groups: tl.constexpr = channels // depth
    blocks: tl.constexpr = (groups + group_block - 1) // group_block
    m = map_units * map_step
    sample = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    first = sample.to(tl.int64) * channels * m
    x += first
    y += first
    grad += first
    dx += first
    dresidual += first
    channel, held = columns_of(block, channels, depth, padded, columns)
    factor, shift = affine_layer(a, b, channel, held, affine)
    group = block * group_block + tl.arange(0, group_block)
    gamma = tl.load(weight + group, mask=group < groups, other=0.0).to(tl.float32)
    beta = tl.load(bias + group, mask=group < groups, other=0.0).to(tl.float32)
    g = tl.load(semantic + sample.to(tl.int64) * channels + channel, mask=held, other=0.0)
    record = (sample.to(tl.int64) * groups + group) * 2
    left = tl.load(statistics + record, mask=group < groups, other=0.0)
    spread = tl.load(statistics + record + 1, mask=group < groups, other=0.0)

    if whole:
        offset, inside = place(0, channel, held, m, positions, channels, channels_last)
        upstream, centred, gate, normalised, slope = _upstream(
            x, y, grad, offset, inside, factor, shift, g, left, spread, eps, gamma, beta, scale,
            positions, group_block, padded, affine, relu,
        )  # fmt: skip
        if add and relu:
            write(dresidual, offset, inside, upstream)
        dbeta = tl.sum(slope, 0)
        dgamma = tl.sum(slope * normalised, 0)
        by_slope = tl.sum(_to_columns(slope, positions, group_block, padded) * centred, 0)
        by_similarity = tl.sum(_to_columns(normalised, positions, group_block, padded) * centred, 0)
    else:
        slopes = tl.zeros((positions, group_block), tl.float32)
        products = tl.zeros((positions, group_block), tl.float32)
        slope_tiles = tl.zeros((positions, columns), tl.float32)
        similarity_tiles = tl.zeros((positions, columns), tl.float32)
        for start in range(0, m, positions):
            offset, inside = place(start, channel, held, m, positions, channels, channels_last)
            upstream, centred, gate, normalised, slope = _upstream(
                x, y, grad, offset, inside, factor, shift, g, left, spread, eps, gamma, beta, scale,
                positions, group_block, padded, affine, relu,
            )  # fmt: skip
            if add and relu:
                write(dresidual, offset, inside, upstream)
            slopes += slope
            products += slope * normalised
            slope_tiles += _to_columns(slope, positions, group_block, padded) * centred
            similarity_tiles += _to_columns(normalised, positions, group_block, padded) * centred
        dbeta = tl.sum(slopes, 0)
        dgamma = tl.sum(products, 0)
        by_slope = tl.sum(slope_tiles, 0)
        by_similarity = tl.sum(similarity_tiles, 0)

    tl.store(parameters + record, dgamma, mask=group < groups)
    tl.store(parameters + record + 1, dbeta, mask=group < groups)
    # The root's slope is infinite at 0; it is taken as 0 there, for the gradient to be finite.
    flat = tl.where(spread > 0, inverse_freedom / tl.where(spread > 0, spread, 1.0), 0.0)
    centre = dbeta * inverse_count
    linear = gamma / (spread + eps)
    curved = gamma * flat * dgamma
    through_mean = _row_to_columns(linear, group_block, padded) * by_slope
    through_mean -= _row_to_columns(curved, group_block, padded) * by_similarity
    through_mean *= inverse_count

    if whole:
        _write_gradient(
            dx, offset, inside, upstream, gate, normalised, slope, g, through_mean, centre, linear, curved,
            positions, group_block, padded,
        )  # fmt: skip
    else:
        for start in range(0, m, positions):
            offset, inside = place(start, channel, held, m, positions, channels, channels_last)
            upstream, centred, gate, normalised, slope = _upstream(
                x, y, grad, offset, inside, factor, shift, g, left, spread, eps, gamma, beta, scale,
                positions, group_block, padded, affine, relu,
            )  # fmt: skip
            _write_gradient(
                dx, offset, inside, upstream, gate, normalised, slope, g, through_mean, centre, linear, curved,
                positions, group_block, padded,
            )  # fmt: skip


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float,
    residual: Tensor | None = None,
    relu: bool = False,
    norm: Norm | None = None,
    out: Tensor | None = None,
    *,
    saves: bool = True,
    largest_tile: int = LARGEST_TILE_FORWARD,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spatial Group-wise Enhance of `x`, plus `residual`, through a ReLU, in one kernel.

    The sum with the residual is rounded once, at its end; what a norm makes of `x` is not rounded at all.

    Args:
        x: (B, C, H, W) in float32, float16 or bfloat16; copied where it is neither contiguous nor channels_last. A
            sample has fewer than 2**31 elements. B may be 0.
        weight: γ, `groups` values of any floating dtype.
        bias: β, `groups` values.
        groups: G, a divisor of C.
        eps: ε, added to the standard deviation.
        scale: A constant factor on the gate.
        residual: None, or a tensor of the shape and dtype of `x`.
        relu: Whether negative results become 0.
        norm: None, or a batch norm in front; what it returns is formed in float32 and never stored.
        out: None, or a tensor of the shape, dtype and memory format of `x` to write y to. It may be `x` or `residual`
            itself; else it shares no memory with them.
        saves: Whether `backward` will follow; what it needs is returned in either case.
        largest_tile: Elements up to which a program keeps its whole map on the chip.

    Returns:
        y in the dtype and memory format of `x`, which is `out` where that is given; and for `backward` g, (B, C) in
        float32, and `left` and s of each group, (B, G, 2) in float32.
    """
    del saves
    layout = layout_of(x)
    x = x.contiguous(memory_format=layout)
    residual = None if residual is None else residual.contiguous(memory_format=layout)
    y = destination(x, out)
    semantic = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
    statistics = torch.empty((x.shape[0], groups, 2), dtype=torch.float32, device=x.device)
    tensors = (
        *(x, x if residual is None else residual, y),
        *(weight.contiguous(), bias.contiguous(), *affine_tensors(norm, semantic), semantic, statistics),
    )
    forms = Forms(norm is not None, residual is not None, relu)
    _launch(_forward_kernel, tensors, groups, eps, scale, forms, largest_tile)
    return y if out is None or y is out else out.copy_(y), semantic, statistics


def backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    semantic: Tensor,
    statistics: Tensor,
    groups: int,
    eps: float,
    scale: float,
    has_residual: bool,
    relu: bool,
    norm: Norm | None = None,
    *,
    largest_tile: int = LARGEST_TILE_BACKWARD,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of `forward`.

    Args:
        grad: The gradient of y, of the shape and dtype of `x`, in any memory format.
        x: As given to `forward`, and not overwritten since.
        y: What `forward` returned; needed, and read, only where `relu` is true.
        weight: As given to `forward`.
        bias: As given to `forward`.
        semantic: What `forward` returned.
        statistics: What `forward` returned.
        groups: As given to `forward`.
        eps: As given to `forward`.
        scale: As given to `forward`.
        has_residual: Whether there was one.
        relu: As given to `forward`.
        norm: As given to `forward`.
        largest_tile: Elements up to which a program keeps its whole map on the chip.

    Returns:
        The gradients of the map (of x, or of what the norm returned), of weight and of bias (`groups` values
        each, in the dtypes of the parameters), and of the residual: None without one, and `grad` itself where nothing
        lies between the two.
    """
    layout = layout_of(x)
    x = x.contiguous(memory_format=layout)
    upstream = grad.contiguous(memory_format=layout)
    y = x if y is None else y.contiguous(memory_format=layout)
    dx = torch.empty_like(x)
    masked = torch.empty_like(x) if has_residual and relu else None
    allocate = torch.empty if x.numel() else torch.zeros  # no kernel writes to it for a map without positions
    parameters = allocate((x.shape[0], groups, 2), dtype=torch.float32, device=x.device)
    tensors = (
        *(x, y, upstream, dx, dx if masked is None else masked),
        *(weight.contiguous(), bias.contiguous(), *affine_tensors(norm, semantic)),
        *(semantic, statistics, parameters),
    )
    _launch(_backward_kernel, tensors, groups, eps, scale, Forms(norm is not None, has_residual, relu), largest_tile)
    dweight, dbias = parameters.sum(0).unbind(1)
    dresidual = masked if relu else grad
    return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), dresidual if has_residual else None


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, over samples and positions, for a batch norm.

    Args:
        x: (B, C, H, W).

    Returns:
        The mean and the biased variance, C values of float32 each.
    """
    if not x.is_cuda:  # in the interpreter
        variance, mean = torch.var_mean(x.float(), [0, 2, 3], correction=0)
        return mean, variance
    mean, inverse = torch.batch_norm_stats(x, _LEAST_VARIANCE)
    return mean, (inverse.square().reciprocal() - _LEAST_VARIANCE).clamp_min(0)


def _launch(
    kernel: Any,  # noqa: ANN401
    tensors: tuple[Tensor, ...],
    groups: int,
    eps: float,
    scale: float,
    forms: Forms,
    largest_tile: int,
) -> None:
    """Run `kernel` with a program for each sample and block of groups of tensors[0]; nothing for an empty batch."""
    x = tensors[0]
    if x.numel() == 0:
        return
    channels, m = x.shape[1], x.shape[2] * x.shape[3]
    depth = channels // groups
    channels_last = layout_of(x) == torch.channels_last
    tile = _tile(x, groups, channels_last, largest_tile)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        kernel[(x.shape[0] * triton.cdiv(groups, tile.groups),)](
            *tensors,
            **map_size(x),
            inverse_count=1.0 / m,
            inverse_freedom=1.0 / max(m - 1, 1),
            eps=eps,
            scale=scale,
            channels=channels,
            depth=depth,
            padded=triton.next_power_of_2(depth),
            channels_last=channels_last,
            positions=tile.positions,
            group_block=tile.groups,
            whole=tile.whole,
            **forms._asdict(),
            num_warps=tile.warps,
        )
