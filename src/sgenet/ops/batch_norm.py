"""The end of a residual block in training, as one operator: batch norm, SGE, sum with the shortcut, ReLU.

A batch norm keeps its input for the backward pass, and the ReLU keeps its output. Attention between the two would keep
the norm's output as well: a third map, in every block. This operator forms it again in the backward pass, by one
multiplication and one addition an element, so that training needs no more memory than without attention. That holds
for norms that learn their statistics and for those that keep them, as in detectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sgenet.errors import ConfigError
from sgenet.ops import reference
from sgenet.ops.backends import kernels_for
from sgenet.ops.checks import check_input, check_norm
from sgenet.ops.reference import Norm
from sgenet.ops.registration import (
    differentiable,
    kept_format,
    operator,
    or_empty,
    promoted,
    through_relu,
    traced_plainly,
)

__all__ = ["batch_norm_spatial_group_enhance"]


def batch_norm_spatial_group_enhance(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`spatial_group_enhance` of what a batch norm makes of `x`.

    The norm's output is never rounded to half precision: it exists in float32 alone, an element at a time.

    Args:
        x: The norm's input, (B, C, *spatial).
        norm_weight: The norm's factor, C values, or None.
        norm_bias: The norm's summand, C values, or None.
        norm_eps: What the norm adds to the variance.
        weight: As `spatial_group_enhance`.
        bias: As `spatial_group_enhance`.
        groups: As `spatial_group_enhance`.
        eps: As `spatial_group_enhance`.
        scale: As `spatial_group_enhance`.
        residual: As `spatial_group_enhance`.
        relu: As `spatial_group_enhance`.
        mean: What the norm subtracts where it keeps its statistics, as in eval mode; C values in float32, or in float64
            for float64 input. None for the mean of `x`, as in training.
        variance: By whose root it divides there, C values of the same dtype, biased; None for that of `x`.

    Returns:
        The result, in the shape, dtype and memory format of `x`; and the mean and the biased variance of each channel,
        C values each, for the norm's running statistics, or copies of those that were given. They carry no gradient.

    Raises:
        ConfigError: As `spatial_group_enhance`; or if only one of `mean` and `variance` is given.

    Examples:
        >>> x = torch.randn(4, 8, 5, 5)
        >>> y, mean, variance = batch_norm_spatial_group_enhance(
        ...     x, None, None, 1e-5, torch.ones(2), torch.zeros(2), groups=2
        ... )
        >>> torch.allclose(mean, x.mean((0, 2, 3)), atol=1e-6)
        True
    """
    check_input(x, weight, bias, groups, eps, residual)
    check_norm(x, norm_weight, norm_bias, mean, variance)
    if (mean is None) != (variance is None):
        raise ConfigError("a norm keeps both its mean and its variance, or neither; only one of them is given")
    parameters = (norm_weight, norm_bias, norm_eps, weight, bias, groups, eps, scale)
    if traced_plainly(x):
        y, its_mean, its_variance = _plain(x, *parameters, residual, relu, mean, variance)
        return y, its_mean.detach(), its_variance.detach()
    results: tuple[Tensor, Tensor, Tensor] = _ENHANCE(x, *parameters, residual, relu, mean, variance)
    return results


def _plain(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    x, residual = promoted(x, residual)
    mean, variance = _statistics(x, mean, variance, reference.moments)
    norm = Norm(mean, variance, norm_weight, norm_bias, norm_eps)
    y = reference.forward(x, weight, bias, groups, eps, scale, residual, relu, norm)[0]
    return y, mean, variance


def _statistics(
    x: Tensor, mean: Tensor | None, variance: Tensor | None, moments: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Those of `x`, or copies of the given ones: an operator must not return its arguments."""
    if mean is None or variance is None:
        return moments(x)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return mean.detach().to(wide, copy=True), variance.detach().to(wide, copy=True)


def _normed(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    parameters = (norm_weight, norm_bias, norm_eps, weight, bias, groups, eps, scale)
    return _normed_forward(x, *parameters, residual, relu, mean, variance)[:3]


def _normed_forward(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernels = kernels_for(x)
    mean, variance = _statistics(x, mean, variance, kernels.moments)
    norm = Norm(mean, variance, norm_weight, norm_bias, norm_eps)
    y = torch.empty_like(x)
    _, semantic, statistics = kernels.forward(x, weight, bias, groups, eps, scale, residual, relu, norm, y)
    return y, mean, variance, semantic, statistics


def _normed_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor,
    bias: Tensor,
    semantic: Tensor,
    statistics: Tensor,
    groups: int,
    eps: float,
    scale: float,
    has_residual: bool,
    relu: bool,
    kept: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernels = kernels_for(x)
    norm = Norm(mean, variance, norm_weight, norm_bias, norm_eps)
    dnormed, dweight, dbias, dresidual = kernels.backward(
        grad, x, y, weight, bias, semantic, statistics, groups, eps, scale, has_residual and relu, relu, norm
    )
    dx, dnorm_weight, dnorm_bias = kernels.norm_backward(dnormed, x, mean, variance, norm_weight, norm_eps, kept)
    of_norm = (x.new_empty(0) if t is None else d for t, d in ((norm_weight, dnorm_weight), (norm_bias, dnorm_bias)))
    return kept_format(x, dx), *of_norm, dweight, dbias, or_empty(dresidual, x)


def _shapes(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    channels = x.shape[1]
    return torch.empty_like(x), x.new_empty(channels, dtype=wide), x.new_empty(channels, dtype=wide)


def _shapes_forward(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    del norm_weight, norm_bias, norm_eps, weight, bias
    y, mean, variance = _shapes(x)
    semantic = mean.new_empty((x.shape[0], x.shape[1]))
    return y, mean, variance, semantic, mean.new_empty((x.shape[0], groups, 2))


def _shapes_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor,
    bias: Tensor,
    semantic: Tensor,
    statistics: Tensor,
    groups: int,
    eps: float,
    scale: float,
    has_residual: bool,
    relu: bool,
    kept: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    del grad, y, norm_eps, mean, variance, semantic, statistics, eps, scale, kept
    of_norm = [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (norm_weight, norm_bias)]
    dresidual = torch.empty_like(x) if has_residual and relu else x.new_empty(0)
    of_gate = (weight.new_empty(groups), bias.new_empty(groups))
    return torch.empty_like(x), of_norm[0], of_norm[1], *of_gate, dresidual


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch gives it no type
        x: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        norm_eps: float,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        scale: float = 1.0,
        residual: Tensor | None = None,
        relu: bool = False,
        mean: Tensor | None = None,
        variance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, its_mean, its_variance, *saved = _FORWARD(
            x, norm_weight, norm_bias, norm_eps, weight, bias, groups, eps, scale, residual, relu, mean, variance
        )
        of_norm = (norm_weight, norm_bias, its_mean, its_variance)
        ctx.save_for_backward(x, y if relu else None, *of_norm, weight, bias, *saved)
        ctx.settings = (norm_eps, groups, eps, scale, residual is not None, relu, mean is not None)
        ctx.mark_non_differentiable(its_mean, its_variance)
        return y, its_mean, its_variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, y, norm_weight, norm_bias, mean, variance, weight, bias, *saved = ctx.saved_tensors
        norm_eps, groups, eps, scale, has_residual, relu, kept = ctx.settings
        of_norm = (norm_weight, norm_bias)
        if torch.is_grad_enabled():  # these gradients are to be differentiated
            dresidual = through_relu(grad, y)
            statistics = (mean, variance) if kept else (None, None)
            plain = _plain(x, *of_norm, norm_eps, weight, bias, groups, eps, scale, None, False, *statistics)[0]
            grads: Sequence[Tensor | None] = differentiable(plain, (x, *of_norm, weight, bias), dresidual)
        else:
            *grads, dresidual = _BACKWARD(
                *(grad, x, y, *of_norm, norm_eps, mean, variance, weight, bias, *saved),
                *(groups, eps, scale, has_residual, relu, kept),
            )
            shapes = (x, *of_norm, weight, bias)
            grads = [None if t is None or d is None else d.view_as(t) for d, t in zip(grads, shapes, strict=True)]
            dresidual = dresidual if relu else grad
        dx, dnorm_weight, dnorm_bias, dweight, dbias = grads
        through_join = (dresidual if has_residual else None, None, None, None)
        return dx, dnorm_weight, dnorm_bias, None, dweight, dbias, None, None, None, *through_join


_NORM = "Tensor? norm_weight, Tensor? norm_bias, float norm_eps"
_PARAMETERS = f"{_NORM}, Tensor weight, Tensor bias, int groups, float eps, float scale"
_JOIN = "Tensor? residual=None, bool relu=False, Tensor? mean=None, Tensor? variance=None"

_ENHANCE = operator(
    "batch_norm_spatial_group_enhance",
    f"(Tensor x, {_PARAMETERS}=1.0, {_JOIN}) -> (Tensor y, Tensor its_mean, Tensor its_variance)",
    _normed,
    _shapes,
    gradient=_Normed,
    residual_at=9,
    plain=_plain,
)
_FORWARD = operator(
    "batch_norm_spatial_group_enhance_forward",
    f"(Tensor x, {_PARAMETERS}, {_JOIN}) "
    "-> (Tensor y, Tensor its_mean, Tensor its_variance, Tensor semantic, Tensor statistics)",
    _normed_forward,
    _shapes_forward,
)
_BACKWARD = operator(
    "batch_norm_spatial_group_enhance_backward",
    f"(Tensor grad, Tensor x, Tensor? y, {_NORM}, Tensor mean, Tensor variance, Tensor weight, Tensor bias, "
    "Tensor semantic, Tensor statistics, int groups, float eps, float scale, bool has_residual, bool relu, bool kept) "
    "-> (Tensor dx, Tensor dnorm_weight, Tensor dnorm_bias, Tensor dweight, Tensor dbias, Tensor dresidual)",
    _normed_backward,
    _shapes_backward,
)
