"""The mean of each channel of each sample: what Squeeze-and-Excitation and its kin look at."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, get_num_threads

from sgenet.errors import ConfigError
from sgenet.ops import reference
from sgenet.ops.backends import at_once, kernels_for, may_go_at_once
from sgenet.ops.checks import check_norm
from sgenet.ops.reference import NO_NORM, Norm
from sgenet.ops.registration import NORM, norm_of, operator, traced_plainly

__all__ = ["channel_means"]


def channel_means(x: Tensor, norm: Norm | None = None) -> Tensor:
    """The mean over all positions, summed in float32 (float64 for float64 input): float16 overflows at 65504.

    This is the operator `torch.ops.sgenet.channel_means`; `sgenet.ops.backends` says what computes it where.

    Args:
        x: Input of shape (B, C, *spatial), any memory format, any floating dtype.
        norm: A batch norm in front, with its running statistics: the means are those of what it returns, which is
            neither stored nor rounded. It gets no gradient itself.

    Returns:
        (B, C) in the dtype of `x`; nan where there is no position.

    Raises:
        ConfigError: If `x` has no spatial axis or is not floating, if the norm's tensors do not have C values each, or
            if one of them wants a gradient.

    Source:
        arXiv 1709.01507, section 3.1, equation 2.

    Examples:
        >>> channel_means(torch.arange(8.0).reshape(1, 2, 2, 2))
        tensor([[1.5000, 5.5000]])
    """
    if may_go_at_once(x):
        means = x.new_empty(x.shape[:2], dtype=torch.float32)
        if not at_once.channel_means(x, *(norm or NO_NORM), means, get_num_threads()):
            return means if x.dtype is torch.float32 else means.to(x.dtype)
    if len(x.shape) < 3:
        raise ConfigError(f"channel_means takes (batch, channels, *spatial), not a tensor of {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ConfigError(f"channel_means takes floating-point input, not {x.dtype}; convert it with .float()")
    check_norm(x, *(norm or ())[:4])
    if traced_plainly(x, compilers_fuse=True):
        return _plain(x, *(norm or ()))
    found: Tensor = _MEANS(x, *(norm or ()))
    return found


# ---------------------------------------------------------------------------------------- the operator


def _means(
    x: Tensor,
    norm_mean: Tensor | None = None,
    norm_variance: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 0.0,
    *,
    kernels: Any = None,  # noqa: ANN401  # a module
) -> Tensor:
    norm = norm_of(norm_mean, norm_variance, norm_weight, norm_bias, norm_eps)
    means: Tensor = (kernels or kernels_for(x)).channel_means(x, norm)
    return means


_plain = partial(_means, kernels=reference)


class _Means(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch gives it no type
        x: Tensor,
        norm_mean: Tensor | None = None,
        norm_variance: Tensor | None = None,
        norm_weight: Tensor | None = None,
        norm_bias: Tensor | None = None,
        norm_eps: float = 0.0,
    ) -> Tensor:
        if any(ctx.needs_input_grad[1:]):
            raise ConfigError(
                "the norm in front of channel_means wants a gradient, which is given to the map alone; "
                "apply the norm to the map first"
            )
        ctx.size = x.shape
        ctx.save_for_backward(norm_mean, norm_variance, norm_weight)
        ctx.eps = norm_eps
        means: Tensor = _MEANS(x, norm_mean, norm_variance, norm_weight, norm_bias, norm_eps)
        return means

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        mean, variance, weight = ctx.saved_tensors
        each = grad.to(torch.promote_types(grad.dtype, torch.float32)) / max(ctx.size[2:].numel(), 1)
        if mean is not None:
            each = each * reference.norm_affine(mean, variance, weight, None, ctx.eps)[0]
        spread = each.to(grad.dtype).reshape(*each.shape, *[1] * (len(ctx.size) - 2)).expand(ctx.size)
        return spread, None, None, None, None, None


_MEANS = operator(
    "channel_means",
    f"(Tensor x, {NORM}) -> Tensor",
    _means,
    lambda x, *_: x.new_empty(x.shape[:2]),
    gradient=_Means,
    plain=_plain,
)
