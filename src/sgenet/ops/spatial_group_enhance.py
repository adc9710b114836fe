"""Spatial Group-wise Enhance (SGE), arXiv 1905.09646, section 3, in the exact form of the paper's experiments.

For every sample and every group of d = C / G neighbouring channels, with x_i the d values at position i of m:

    g     = mean_i x_i                      what the group looks for: its semantic vector
    c_i   = g . x_i                         how much of it position i holds
    ĉ_i   = (c_i - mean(c)) / (std(c) + ε)  unbiased standard deviation, ε outside the root
    y_i   = x_i * sigmoid(γ ĉ_i + β)        one γ and one β a group
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sgenet.errors import ConfigError
from sgenet.ops.backends import chosen_backend, enhance_by_triton

__all__ = ["check_groups", "spatial_group_enhance", "spatial_group_gate"]


def spatial_group_enhance(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: float = 1.0,
    normalize: bool = True,
) -> Tensor:
    """Multiply each position of each channel group by how well it matches the group's mean vector.

    Sums run in float32 for float16 and bfloat16 input, in the input's own precision otherwise. A map of a single
    position has no spread: its normalised similarity is 0 and its gate is `sigmoid(bias)`, as for a constant map.

    Args:
        x: Input of shape (B, C, *spatial) with 1, 2 or 3 spatial axes, any memory format, any floating dtype; B may
            be 0.
        weight: γ, `groups` values of any shape, zeros in the paper at the start.
        bias: β, `groups` values of any shape, ones in the paper at the start.
        groups: G, a divisor of C. Group k holds the channels k*C/G up to (k+1)*C/G - 1.
        eps: ε, added to the standard deviation.
        scale: A constant factor on the gate, for modules that must start as the identity.
        normalize: Whether c is normalised over the positions. Without it, which is the paper's ablation, the gate is
            sigmoid(γ c + β), and `eps` has no effect.

    Returns:
        A tensor of the shape, dtype and memory format of `x`.

    Raises:
        ConfigError: If C is not divisible by `groups`, if `weight` or `bias` do not hold `groups` values, if `x` has no
            or more than three spatial axes, or if SGENET_BACKEND asks for a backend that cannot compute it. It is a
            ValueError.

    Source:
        papers: arXiv 1905.09646, section 3; unbiased deviation and the place of ε follow the authors' code.

    Examples:
        >>> x = torch.arange(8.0).reshape(1, 4, 2)
        >>> spatial_group_enhance(x, torch.zeros(2), torch.zeros(2), groups=2)
        tensor([[[0.0000, 0.5000],
                 [1.0000, 1.5000],
                 [2.0000, 2.5000],
                 [3.0000, 3.5000]]])
    """
    _check(x, weight, bias, groups)
    if normalize and chosen_backend(x) == "triton":
        return enhance_by_triton(x, weight, bias, groups, eps, scale)
    view = _GroupedView.of(x, groups)
    gate = _gate(view, weight, bias, eps, scale, normalize)
    enhanced = (view.values * gate).to(x.dtype)
    return enhanced.flatten(view.groups, view.groups + 1).movedim(view.groups, 1)


def spatial_group_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: float = 1.0,
    normalize: bool = True,
) -> Tensor:
    """The gate of `spatial_group_enhance`: one value for each sample, group and position.

    Args:
        x: Input of shape (B, C, *spatial).
        weight: γ, `groups` values.
        bias: β, `groups` values.
        groups: G, a divisor of C.
        eps: ε, added to the standard deviation.
        scale: A constant factor on the gate.
        normalize: Whether the similarities are normalised over the positions.

    Returns:
        A tensor of shape (B, G, *spatial) in (0, scale); float64 for float64 input, float32 otherwise.

    Raises:
        ConfigError: As `spatial_group_enhance`.

    Examples:
        >>> spatial_group_gate(torch.randn(2, 8, 5, 5), torch.zeros(4), torch.ones(4), groups=4).unique()
        tensor([0.7311])
    """
    _check(x, weight, bias, groups)
    view = _GroupedView.of(x, groups)
    return _gate(view, weight, bias, eps, scale, normalize).squeeze(view.groups + 1).movedim(view.groups, 1)


class _GroupedView(NamedTuple):
    """The input with its channels split: (B, G, d, *spatial), or (B, *spatial, G, d) where channels are innermost.

    Kernels read memory in the order of the axes they are given, and a reduction returns its result in that order too:
    with the axes in another order than the memory, each following step would mix two layouts, at half the speed.
    """

    values: Tensor
    groups: int  # the axis of the groups; their channels are the axis behind it

    @classmethod
    def of(cls, x: Tensor, groups: int) -> _GroupedView:
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        axis = x.dim() - 1 if _channels_innermost(x) else 1
        values: Tensor = x.movedim(1, axis).unflatten(axis, (groups, -1))  # type: ignore[no-untyped-call]
        return cls(values, axis)

    @property
    def positions(self) -> list[int]:
        """The spatial axes."""
        return [axis for axis in range(1, self.values.dim()) if axis not in (self.groups, self.groups + 1)]

    def per_group(self, parameter: Tensor) -> Tensor:
        """One value a group, shaped to broadcast against `values`."""
        shape = [1] * self.values.dim()
        shape[self.groups] = -1
        return parameter.to(self.values.dtype).reshape(shape)


def _channels_innermost(x: Tensor) -> bool:
    # A compiler arranges memory by itself, and a question about strides would tie an exported program to one size.
    return not torch.compiler.is_compiling() and x.stride(1) == 1 and x.stride(-1) == x.shape[1]


def _gate(view: _GroupedView, weight: Tensor, bias: Tensor, eps: float, scale: float, normalize: bool) -> Tensor:
    """The gate, shaped to broadcast against the view's values."""
    semantic = view.values.mean(view.positions, keepdim=True)
    similarity = (view.values * semantic).sum(view.groups + 1, keepdim=True)
    if normalize:
        similarity = _normalised(similarity, view, semantic, eps)
    return torch.sigmoid(view.per_group(weight) * similarity + view.per_group(bias)) * scale


def _normalised(similarity: Tensor, view: _GroupedView, semantic: Tensor, eps: float) -> Tensor:
    """The similarities with mean 0 and standard deviation 1 over the positions."""
    # The mean over positions of g . x_i is g . g; the second subtraction takes away what rounding left of it, which
    # would otherwise be blown up to ±1 by the division where a map is constant.
    similarity = similarity - semantic.square().sum(view.groups + 1, keepdim=True)
    similarity = similarity - similarity.mean(view.positions, keepdim=True)
    return similarity / (_unbiased_std(similarity, view.positions) + eps)


def _unbiased_std(centred: Tensor, dims: list[int]) -> Tensor:
    """Standard deviation of values whose mean over `dims` is 0; 0, with gradient 0, where there is no spread."""
    count = 1
    for dim in dims:
        count = count * centred.shape[dim]
    # sym_max keeps a symbolic size symbolic, so that an exported program takes 1x1 maps too.
    variance = centred.square().sum(dims, keepdim=True).div(torch.sym_max(count - 1, 1))  # type: ignore[arg-type]
    spread = variance > 0
    # The root's slope at 0 is infinite, and infinity times the zero behind it would make the gradient NaN.
    return variance.where(spread, variance.new_ones(())).sqrt().where(spread, variance.new_zeros(()))


def _check(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> None:
    if not 3 <= x.dim() <= 5:
        raise ConfigError(
            f"spatial_group_enhance takes (batch, channels, 1 to 3 spatial axes), not a tensor of {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise ConfigError(f"spatial_group_enhance takes floating-point input, not {x.dtype}; convert it with .float()")
    check_groups(x.shape[1], groups)
    for name, value in (("weight", weight), ("bias", bias)):
        if value.numel() != groups:
            raise ConfigError(f"{name} holds {value.numel()} values for {groups} groups; give one value a group")


def check_groups(channels: int, groups: int) -> None:
    """Check that `channels` can be split into `groups` equal groups.

    Args:
        channels: C.
        groups: G.

    Raises:
        ConfigError: If it cannot; the message offers divisors.

    Examples:
        >>> check_groups(96, 64)
        Traceback (most recent call last):
        sgenet.errors.ConfigError: 96 channels cannot be split into 64 groups; choose a divisor of 96, e.g. groups=48
    """
    if groups >= 1 and channels % groups == 0:
        return
    nearest = max(d for d in range(1, max(1, min(groups, channels)) + 1) if channels % d == 0)
    raise ConfigError(
        f"{channels} channels cannot be split into {groups} groups; "
        f"choose a divisor of {channels}, e.g. groups={nearest}"
    )
