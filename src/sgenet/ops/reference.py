"""Spatial Group-wise Enhance and the scaling of channels in plain torch.

What every other backend is measured against, what runs where there is none, and what compilers and exporters see.
`forward` and `scale_channels` can be differentiated by torch as often as one likes; `backward` and
`scale_channels_backward` are the same gradients in closed form, with fewer passes over memory. The formulas of both
stand at the head of `triton_kernels`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "NO_NORM",
    "Norm",
    "backward",
    "channel_means",
    "forward",
    "gate",
    "moments",
    "norm_affine",
    "norm_backward",
    "scale_channels",
    "scale_channels_backward",
]


_ROUNDINGS = 32
"""Where deviations are below so many roundings of the mean they are from, they are rounding themselves."""


class Norm(NamedTuple):
    """A batch norm with given statistics, C values each.

    Attributes:
        mean: Of each channel.
        variance: The same, biased.
        weight: The norm's factor, or None.
        bias: The norm's summand, or None.
        eps: What it adds to the variance.
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


NO_NORM = (None, None, None, None, 0.0)
"""The five parts of a norm that is not there, as operators take them."""


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
    normalize: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spatial Group-wise Enhance of `x`, plus `residual`, through a ReLU.

    Args:
        x: (B, C, *spatial), any floating dtype and memory format.
        weight: γ, `groups` values.
        bias: β, `groups` values.
        groups: G, a divisor of C.
        eps: ε, added to the standard deviation.
        scale: A constant factor on the gate.
        residual: None, or a tensor of the shape and dtype of `x`.
        relu: Whether negative results become 0.
        norm: None, or a batch norm in front; what it returns is not rounded.
        out: Where to write the result; `x` and `residual` themselves are allowed.
        saves: Whether `backward` will follow; what it needs is returned in either case.
        normalize: Whether the similarities are normalised over the positions.

    Returns:
        y in the shape, dtype and memory format of `x`; and for `backward` the mean vectors g, (B, C), and `left` and s
        of each group, (B, G, 2), both in float64 for float64 input and in float32 otherwise.
    """
    del saves
    view = _GroupedView.of(x, groups, norm)
    masks = _masks(view, weight, bias, eps, scale, normalize)
    if out is None:
        y = _joined(view.restored(view.values * masks.gate), residual, relu).to(x.dtype)
    else:
        y = _enhanced_into(out, view, masks.gate, residual, relu)
    statistics = torch.stack([view.by_sample(masks.left), view.by_sample(masks.deviation)], -1)
    return y, view.by_sample(masks.semantic), statistics


def gate(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, scale: float, *, normalize: bool = True
) -> Tensor:
    """The gate of `forward`.

    Args:
        x: As `forward`.
        weight: As `forward`.
        bias: As `forward`.
        groups: As `forward`.
        eps: As `forward`.
        scale: As `forward`.
        normalize: As `forward`.

    Returns:
        (B, G, *spatial) in float64 for float64 input and in float32 otherwise.
    """
    view = _GroupedView.of(x, groups)
    masks = _masks(view, weight, bias, eps, scale, normalize)
    return masks.gate.squeeze(view.group_axis + 1).movedim(view.group_axis, 1)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of `forward`.

    Args:
        grad: The gradient of y, of the shape and dtype of `x`.
        x: As given to `forward`.
        y: What `forward` returned; needed only where `relu` is true.
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

    Returns:
        The gradients of x (with `norm`, of what the norm returned); of weight and of bias, `groups` values each in the
        dtypes of the parameters; and of the residual: None without one, and `grad` itself where nothing lies between.
    """
    upstream = grad if not relu or y is None else grad.masked_fill(y <= 0, 0)
    view = _GroupedView.of(x, groups, norm)
    up, g = view.alike(upstream), view.spread_channels(semantic)
    left, deviation = (view.spread_groups(values) for values in statistics.unbind(2))
    gamma, count = view.per_group(weight), max(view.size(), 1)

    inverse = 1 / (deviation + eps)
    normalised = (view.similarity(g) - left) * inverse
    sigmoid = torch.sigmoid(gamma * normalised + view.per_group(bias))
    slope = view.over_channels(up * view.values) * sigmoid * (1 - sigmoid) * scale
    dgamma, dbeta = view.over_positions(slope * normalised), view.over_positions(slope)

    # The root's slope is infinite at 0; it is taken as 0 there, for the gradient to be finite.
    steepness = torch.where(deviation > 0, dgamma / (deviation * max(count - 1, 1)), 0)
    similarity = gamma * (inverse * (slope - dbeta / count) - steepness * normalised)
    through_mean = view.over_positions(similarity * view.values) / count
    dx = view.restored((up * (sigmoid * scale) + (similarity * g + through_mean)).to(x.dtype))
    dweight, dbias = view.by_sample(dgamma).sum(0).to(weight.dtype), view.by_sample(dbeta).sum(0).to(bias.dtype)
    return dx, dweight, dbias, upstream if has_residual else None


def scale_channels(
    x: Tensor,
    gate: Tensor,
    residual: Tensor | None = None,
    relu: bool = False,
    norm: Norm | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`x` times a factor for each channel of each sample, plus `residual`, through a ReLU.

    Args:
        x: (B, C, *spatial), any floating dtype and memory format.
        gate: (B, C), any floating dtype.
        residual: None, or a tensor of the shape and dtype of `x`.
        relu: Whether negative results become 0.
        norm: None, or a batch norm in front; what it returns is not rounded.
        out: Where to write the result; `x` and `residual` themselves are allowed.

    Returns:
        y in the shape, dtype and memory format of `x`.
    """
    values = _normed(x, norm)
    factor = _per_channel(gate.to(values.dtype), x)
    if out is None:
        return _joined(values * factor, residual, relu).to(x.dtype)
    if residual is None:
        torch.mul(values, factor, out=out)
    else:
        torch.addcmul(residual.to(values.dtype), values, factor, out=out)
    return out.relu_() if relu else out


def scale_channels_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    gate: Tensor,
    has_residual: bool,
    relu: bool,
    norm: Norm | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of `scale_channels`.

    Args:
        grad: The gradient of y, of the shape and dtype of `x`.
        x: As given to `scale_channels`.
        y: What it returned; needed only where `relu` is true.
        gate: As given to `scale_channels`.
        has_residual: Whether there was one.
        relu: As given to `scale_channels`.
        norm: As given to `scale_channels`.

    Returns:
        The gradients of x (with `norm`, of what the norm returned); of the gate, (B, C), in float64 for float64 input
        and in float32 otherwise; and of the residual: None without one, and `grad` itself where nothing lies between.
    """
    upstream = grad if not relu or y is None else grad.masked_fill(y <= 0, 0)
    values = _normed(x, norm)
    wide = upstream.to(values.dtype)
    dgate = (wide * values).sum(list(range(2, x.dim())), dtype=_wide(x.dtype))
    dx = (wide * _per_channel(gate.to(values.dtype), x)).to(x.dtype)
    return dx, dgate, upstream if has_residual else None


def channel_means(x: Tensor, norm: Norm | None = None) -> Tensor:
    """The mean of each channel of each sample.

    Args:
        x: (B, C, *spatial), any floating dtype.
        norm: None, or a batch norm in front, whose output's means are taken; it is not rounded.

    Returns:
        (B, C) in the dtype of `x`, summed in float32 or float64: 112 x 112 values of 10 overflow float16.
    """
    means = x.mean(list(range(2, x.dim())), dtype=_wide(x.dtype))
    if norm is not None:
        factor, summand = norm_affine(*norm)
        means = torch.addcmul(summand, means, factor)
    return means.to(x.dtype)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, over samples and positions, for a batch norm.

    Args:
        x: (B, C, *spatial).

    Returns:
        The mean and the biased variance, C values each, in float64 for float64 input and in float32 otherwise.
    """
    variance, mean = torch.var_mean(x.to(_wide(x.dtype)), [0, *range(2, x.dim())], correction=0)
    return mean, variance


def norm_affine(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """What a batch norm with given statistics does to each channel.

    Args:
        mean: C values.
        variance: C values, biased.
        weight: The norm's factor, C values, or None.
        bias: The norm's summand, C values, or None.
        eps: What the norm adds to the variance.

    Returns:
        A factor and a summand for each channel, in float64 where the statistics are, in float32 otherwise.

    Examples:
        >>> norm_affine(torch.tensor([3.0]), torch.tensor([3.0]), torch.tensor([4.0]), torch.tensor([1.0]), 1.0)
        (tensor([2.]), tensor([-5.]))
    """
    wide = _wide(mean.dtype)
    factor = (variance.to(wide) + eps).rsqrt()
    factor = factor if weight is None else factor * weight.to(wide)
    summand = -mean.to(wide) * factor
    return factor, summand if bias is None else summand + bias.to(wide)


def norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, eps: float, kept: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a batch norm.

    Args:
        grad: The gradient of what the norm returned, of the shape and dtype of `x`. It may be overwritten.
        x: The norm's input, (B, C, *spatial).
        mean: What the norm subtracts from each channel, C values.
        variance: By whose root it divides, C values, biased.
        weight: The norm's factor, C values, or None.
        eps: What the norm adds to the variance.
        kept: Whether both are the norm's own, as in eval mode, and not those of `x`.

    Returns:
        The gradients of x, of the factor and of the summand.
    """
    factor = torch.ones_like(mean) if weight is None else weight.to(mean.dtype)
    inverse, all_three = (variance + eps).rsqrt(), [True, True, True]
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        grad, x, factor, mean, variance, mean, inverse, not kept, eps, all_three
    )
    return gradients


class _GroupedView(NamedTuple):
    """The input with its channels split: (B, G, d, *spatial), or (B, *spatial, G, d) where channels are innermost.

    Kernels read memory in the order of the axes they are given, and a reduction returns its result in that order too:
    with the axes in another order than the memory, each following step would mix two layouts, at half the speed.

    It has no properties: dynamo of torch 2.7 cannot trace those of a named tuple.
    """

    values: Tensor
    group_axis: int  # the channels of a group are the axis behind it
    positions: list[int]  # the spatial axes

    @classmethod
    def of(cls, x: Tensor, groups: int, norm: Norm | None = None) -> _GroupedView:
        innermost, axes = _channels_innermost(x), x.dim()
        axis, first = (axes - 1, 1) if innermost else (1, 3)
        values = _split(_normed(x.to(_wide(x.dtype)), norm), axis, groups)
        return cls(values, axis, list(range(first, first + axes - 2)))

    def size(self) -> int:
        """m, the number of positions."""
        count = 1
        for axis in self.positions:
            count = count * self.values.shape[axis]
        return count

    def alike(self, x: Tensor) -> Tensor:
        """Another map of the same shape, split in the same way."""
        return _split(x.to(self.values.dtype), self.group_axis, self.values.shape[self.group_axis])

    def restored(self, values: Tensor) -> Tensor:
        """A result that is split like the view, as a map with the input's axes."""
        return values.flatten(self.group_axis, self.group_axis + 1).movedim(self.group_axis, 1)

    def over_channels(self, values: Tensor) -> Tensor:
        """The sum over the channels of each group."""
        return values.sum(self.group_axis + 1, keepdim=True)

    def over_positions(self, values: Tensor) -> Tensor:
        """The sum over the positions."""
        return values.sum(self.positions, keepdim=True)

    def similarity(self, semantic: Tensor) -> Tensor:
        """G . (x_i - g). Not g . x_i - g . g, which is the same: beside a large mean both are rounded to nothing."""
        return self.over_channels((self.values - semantic) * semantic)

    def per_group(self, parameter: Tensor) -> Tensor:
        """One value a group, shaped to broadcast against `values`."""
        shape = [1] * self.values.dim()
        shape[self.group_axis] = -1
        return parameter.to(self.values.dtype).reshape(shape)

    def by_sample(self, values: Tensor) -> Tensor:
        """(B, ...) without axes, of what was summed over the positions."""
        columns = self.values.shape[self.group_axis] * values.shape[self.group_axis + 1]
        return values.reshape(values.shape[0], columns)

    def spread_groups(self, values: Tensor) -> Tensor:
        """(B, G), shaped to broadcast against `values`."""
        shape = [1] * self.values.dim()
        shape[0], shape[self.group_axis] = values.shape
        return values.reshape(shape)

    def spread_channels(self, values: Tensor) -> Tensor:
        """(B, C), shaped to broadcast against `values`."""
        shape = [1] * self.values.dim()
        for axis in (0, self.group_axis, self.group_axis + 1):
            shape[axis] = self.values.shape[axis]
        return values.reshape(shape)


class _Masks(NamedTuple):
    """The gate, and what it was made of, shaped to broadcast against the view's values."""

    gate: Tensor
    semantic: Tensor
    left: Tensor
    deviation: Tensor


def _masks(view: _GroupedView, weight: Tensor, bias: Tensor, eps: float, scale: float, normalize: bool) -> _Masks:
    semantic = view.values.mean(view.positions, keepdim=True)
    if normalize:
        similarity = view.similarity(semantic)
        # What rounding left of the mean: divided by a small deviation, it would be blown up to ±1 on a constant map.
        left = similarity.mean(view.positions, keepdim=True)
        similarity = similarity - left
        deviation = _unbiased_deviation(similarity, left, view)
        similarity = similarity / (deviation + eps)
    else:
        similarity = view.over_channels(view.values * semantic)
        left = deviation = view.over_channels(torch.zeros_like(semantic))
    factor = torch.sigmoid(view.per_group(weight) * similarity + view.per_group(bias)) * scale
    return _Masks(factor, semantic, left, deviation)


def _unbiased_deviation(centred: Tensor, left: Tensor, view: _GroupedView) -> Tensor:
    """Standard deviation of values less their mean; 0, with gradient 0, where they differ by no more than rounding."""
    size = view.size()
    # sym_max keeps a symbolic size symbolic, so that an exported program takes 1x1 maps too. Of numbers dynamo of torch
    # 2.7 does not take it.
    freedom = torch.sym_max(size - 1, 1) if isinstance(size, torch.SymInt) else max(size - 1, 1)
    variance = view.over_positions(centred.square()).div(freedom)
    spread = variance > _ROUNDINGS * torch.finfo(left.dtype).eps * left.square()
    # The root's slope at 0 is infinite, and infinity times the zero behind it would make the gradient NaN.
    return variance.where(spread, variance.new_ones(())).sqrt().where(spread, variance.new_zeros(()))


def _channels_innermost(x: Tensor) -> bool:
    # A compiler arranges memory by itself, and a question about strides would tie an exported program to one size.
    return not torch.compiler.is_compiling() and x.stride(1) == 1 and x.stride(-1) == x.shape[1]


def _split(x: Tensor, axis: int, groups: int) -> Tensor:
    split: Tensor = x.movedim(1, axis).unflatten(axis, (groups, -1))  # type: ignore[no-untyped-call]
    return split


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _joined(y: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    # With the axes of the network, not of the groups: a compiler then makes one loop of this and what follows.
    y = y if residual is None else y + residual
    return y.relu() if relu else y


def _enhanced_into(out: Tensor, view: _GroupedView, gate: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    target = _split(out, view.group_axis, view.values.shape[view.group_axis])
    if residual is None:
        torch.mul(view.values, gate, out=target)
    else:
        torch.addcmul(view.alike(residual), view.values, gate, out=target)
    return out.relu_() if relu else out


def _normed(x: Tensor, norm: Norm | None) -> Tensor:
    if norm is None:
        return x
    factor, summand = (_per_channel(values.unsqueeze(0), x) for values in norm_affine(*norm))
    return torch.addcmul(summand, x.to(_wide(x.dtype)), factor)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(*values.shape, *[1] * (x.dim() - 2))
