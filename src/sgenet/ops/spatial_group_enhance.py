"""Spatial Group-wise Enhance (SGE), arXiv 1905.09646, section 3, in the exact form of the paper's experiments.

For every sample and every group of d = C / G neighbouring channels, with x_i the d values at position i of m:

    g     = mean_i x_i                      what the group looks for: its semantic vector
    c_i   = g . x_i                         how much of it position i holds
    ĉ_i   = (c_i - mean(c)) / (std(c) + ε)  unbiased standard deviation, ε outside the root
    y_i   = x_i * sigmoid(γ ĉ_i + β)        one γ and one β a group
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, get_num_threads
from torch.compiler import is_dynamo_compiling

from sgenet.ops import reference
from sgenet.ops.backends import at_once, kernels_for, may_go_at_once
from sgenet.ops.checks import check_input, check_norm, check_overwritten
from sgenet.ops.reference import NO_NORM, Norm
from sgenet.ops.registration import (
    NORM,
    differentiable,
    kept_format,
    norm_of,
    note_overwritten,
    operator,
    or_empty,
    promoted,
    through_relu,
    traced_plainly,
)

__all__ = [
    "spatial_group_enhance",
    "spatial_group_enhance_",
    "spatial_group_enhance_backward",
    "spatial_group_enhance_forward",
    "spatial_group_gate",
]


def spatial_group_enhance(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
    *,
    normalize: bool = True,
) -> Tensor:
    """Multiply each position of each channel group by how well it matches the group's mean vector.

    Sums run in float32 for float16 and bfloat16 input, in the input's own precision otherwise. A map of a single
    position has no spread: its normalised similarity is 0 and its gate is `sigmoid(bias)`, as for a constant map.

    This is the operator `torch.ops.sgenet.spatial_group_enhance`; `sgenet.ops.backends` says what computes it where.

    Args:
        x: Input of shape (B, C, *spatial) with 1, 2 or 3 spatial axes, any memory format, any floating dtype; B may
            be 0.
        weight: γ, `groups` values of any shape, zeros in the paper at the start.
        bias: β, `groups` values of any shape, ones in the paper at the start.
        groups: G, a divisor of C. Group k holds the channels k*C/G up to (k+1)*C/G - 1.
        eps: ε, added to the standard deviation.
        scale: A constant factor on the gate, for modules that must start as the identity.
        residual: What is added to the result, of the shape and dtype of `x`; the sum is rounded once.
        relu: Whether negative results become 0, after the sum.
        normalize: Whether c is normalised over the positions. Without it, which is the paper's ablation, the gate is
            sigmoid(γ c + β), and `eps` has no effect.

    Returns:
        A tensor of the shape, dtype and memory format of `x`.

    Raises:
        ConfigError: If C is not divisible by `groups`, if `weight` or `bias` do not hold `groups` values, if `eps` is
            not positive, if `x` has no or more than three spatial axes, if `residual` is of another shape or (without
            autocast) dtype, or if SGENET_BACKEND asks for a backend that cannot compute it. It is a ValueError.

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
    if normalize and may_go_at_once(x):
        y = torch.empty_like(x)
        if not at_once.enhance_forward(
            x, groups, weight, bias, eps, scale, residual, relu, *NO_NORM, y, None, None, get_num_threads()
        ):
            return y
    check_input(x, weight, bias, groups, eps, residual)
    if not normalize or traced_plainly(x):
        return _plain(x, weight, bias, groups, eps, scale, residual, relu, normalize=normalize)
    enhanced: Tensor = _ENHANCE(x, weight, bias, groups, eps, scale, residual, relu)
    return enhanced


def spatial_group_enhance_(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
    norm: Norm | None = None,
) -> Tensor:
    """`spatial_group_enhance` written over `x`, where no gradient is wanted.

    Args:
        x: As `spatial_group_enhance`; it holds the result afterwards, unless a compiler finds a better place.
        weight: As `spatial_group_enhance`.
        bias: As `spatial_group_enhance`.
        groups: As `spatial_group_enhance`.
        eps: As `spatial_group_enhance`.
        scale: As `spatial_group_enhance`.
        residual: As `spatial_group_enhance`.
        relu: As `spatial_group_enhance`.
        norm: A batch norm in front, with its running statistics: what it returns is enhanced, and costs no pass over
            memory of its own.

    Returns:
        The result.

    Raises:
        ConfigError: As `spatial_group_enhance`; where `residual` is of another dtype, with autocast too; and where a
            gradient would be wanted.

    Examples:
        >>> x = torch.ones(1, 2, 1, 2)
        >>> y = spatial_group_enhance_(x, torch.zeros(1), torch.zeros(1), groups=1)
        >>> x.flatten()
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    if not is_dynamo_compiling() and not at_once.enhance_forward(
        x, groups, weight, bias, eps, scale, residual, relu, *(norm or NO_NORM), x, None, None, get_num_threads()
    ):
        note_overwritten(x)
        return x
    check_input(x, weight, bias, groups, eps, residual)
    check_overwritten(x, residual)
    check_norm(x, *(norm or ())[:4])
    arguments = (x, weight, bias, groups, eps, scale, residual, relu, *(norm or ()))
    if traced_plainly(x):
        return _plain(*arguments)
    _ENHANCE_INTO(*arguments)
    return x


def spatial_group_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: float = 1.0,
    *,
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
    check_input(x, weight, bias, groups, eps, None)
    return reference.gate(x, weight, bias, groups, eps, scale, normalize=normalize)


def _plain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
    norm_mean: Tensor | None = None,
    norm_variance: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 0.0,
    *,
    normalize: bool = True,
) -> Tensor:
    x, residual = promoted(x, residual)
    norm = norm_of(norm_mean, norm_variance, norm_weight, norm_bias, norm_eps)
    return reference.forward(x, weight, bias, groups, eps, scale, residual, relu, norm, normalize=normalize)[0]


# ---------------------------------------------------------------------------------------- the operators


def _enhance(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    y = torch.empty_like(x)
    kernels_for(x).forward(x, weight, bias, groups, eps, scale, residual, relu, None, y, saves=False)
    return y


def _enhance_into(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
    norm_mean: Tensor | None = None,
    norm_variance: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 0.0,
) -> None:
    norm = norm_of(norm_mean, norm_variance, norm_weight, norm_bias, norm_eps)
    kernels_for(x).forward(x, weight, bias, groups, eps, scale, residual, relu, norm, x, saves=False)


def _enhance_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty_like(x)
    _, semantic, statistics = kernels_for(x).forward(x, weight, bias, groups, eps, scale, residual, relu, None, y)
    return y, semantic, statistics


def _enhance_backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dweight, dbias, dresidual = kernels_for(x).backward(
        grad, x, y, weight, bias, semantic, statistics, groups, eps, scale, has_residual and relu, relu
    )
    return kept_format(x, dx), dweight, dbias, or_empty(dresidual, x)


def _shapes_forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    semantic = x.new_empty((x.shape[0], x.shape[1]), dtype=wide)
    return torch.empty_like(x), semantic, x.new_empty((x.shape[0], groups, 2), dtype=wide)


def _shapes_backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del grad, y, semantic, statistics, eps, scale
    dresidual = torch.empty_like(x) if has_residual and relu else x.new_empty(0)
    return torch.empty_like(x), weight.new_empty(groups), bias.new_empty(groups), dresidual


class _Enhance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch gives it no type
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        scale: float = 1.0,
        residual: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        y, semantic, statistics = spatial_group_enhance_forward(x, weight, bias, groups, eps, scale, residual, relu)
        ctx.save_for_backward(x, y if relu else None, weight, bias, semantic, statistics)
        ctx.settings = (groups, eps, scale, residual is not None, relu)
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, y, weight, bias, semantic, statistics = ctx.saved_tensors
        groups, eps, scale, has_residual, relu = ctx.settings
        dx: Tensor | None
        dweight: Tensor | None
        dbias: Tensor | None
        if torch.is_grad_enabled():  # these gradients are to be differentiated
            dresidual = through_relu(grad, y)
            plain = reference.forward(x, weight, bias, groups, eps, scale)[0]
            dx, dweight, dbias = differentiable(plain, (x, weight, bias), dresidual)
        else:
            dx, dweight, dbias, dresidual = spatial_group_enhance_backward(
                grad, x, y, weight, bias, semantic, statistics, groups, eps, scale, has_residual, relu
            )
            dweight, dbias = dweight.view_as(weight), dbias.view_as(bias)
            dresidual = dresidual if relu else grad
        return dx, dweight, dbias, None, None, None, dresidual if has_residual else None, None


_PARAMETERS = "Tensor weight, Tensor bias, int groups, float eps"
_JOIN = "Tensor? residual=None, bool relu=False"

_ENHANCE = operator(
    "spatial_group_enhance",
    f"(Tensor x, {_PARAMETERS}, float scale=1.0, {_JOIN}) -> Tensor",
    _enhance,
    lambda x, *_: torch.empty_like(x),
    gradient=_Enhance,
    residual_at=6,
    plain=_plain,
)
_ENHANCE_INTO = operator(
    "spatial_group_enhance_",
    f"(Tensor(a!) x, {_PARAMETERS}, float scale=1.0, {_JOIN}, {NORM}) -> ()",
    _enhance_into,
    lambda *_: None,
    overwrites=True,
    plain=_plain,
)
spatial_group_enhance_forward = operator(
    "spatial_group_enhance_forward",
    f"(Tensor x, {_PARAMETERS}, float scale, {_JOIN}) -> (Tensor y, Tensor semantic, Tensor statistics)",
    _enhance_forward,
    _shapes_forward,
)
"""The forward pass that keeps what the backward pass needs: y, of the shape and dtype of x; g, (B, C); and of each
group the mean of its similarities and s, (B, G, 2). The last two are float32, or float64 for float64 input."""
spatial_group_enhance_backward = operator(
    "spatial_group_enhance_backward",
    "(Tensor grad, Tensor x, Tensor? y, Tensor weight, Tensor bias, Tensor semantic, Tensor statistics, int groups, "
    "float eps, float scale, bool has_residual, bool relu) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dresidual)",
    _enhance_backward,
    _shapes_backward,
)
"""The gradients of x, of weight and bias (`groups` values each), and of the residual: empty where there is none, or
where no ReLU makes it another than the gradient of y. `y` is needed only with the ReLU."""
