"""The end of a Squeeze-and-Excitation block in one pass: scale each channel, add the shortcut, apply the ReLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, get_num_threads
from torch.compiler import is_dynamo_compiling

from sgenet.errors import ConfigError
from sgenet.ops import reference
from sgenet.ops.backends import at_once, kernels_for, may_go_at_once
from sgenet.ops.checks import check_device, check_norm, check_overwritten, check_residual
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

__all__ = ["scale_channels", "scale_channels_"]


def scale_channels(x: Tensor, gate: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
    """Multiply each channel of each sample with its own factor, and what a residual block does next.

    This is the operator `torch.ops.sgenet.scale_channels`; `sgenet.ops.backends` says what computes it where.

    Args:
        x: Input of shape (B, C, *spatial), any memory format, any floating dtype.
        gate: (B, C), any floating dtype.
        residual: What is added to the result, of the shape and dtype of `x`.
        relu: Whether negative results become 0, after the sum.

    Returns:
        A tensor of the shape, dtype and memory format of `x`.

    Raises:
        ConfigError: If `gate` is not (B, C), or `residual` not of the shape and (without autocast) dtype of `x`.

    Source:
        arXiv 1709.01507, section 3, equation 4, and figure 3 for what follows it.

    Examples:
        >>> scale_channels(torch.ones(1, 2, 1, 2), torch.tensor([[2.0, -3.0]]), torch.ones(1, 2, 1, 2), relu=True)
        tensor([[[[3., 3.]],
        <BLANKLINE>
                 [[0., 0.]]]])
    """
    if may_go_at_once(x):
        y = torch.empty_like(x)
        if not at_once.scale_forward(x, gate, residual, relu, *NO_NORM, y, get_num_threads()):
            return y
    _check(x, gate, residual)
    if traced_plainly(x, compilers_fuse=True):
        return _plain(x, gate, residual, relu)
    scaled: Tensor = _SCALE(x, gate, residual, relu)
    return scaled


def scale_channels_(
    x: Tensor,
    gate: Tensor,
    residual: Tensor | None = None,
    relu: bool = False,
    norm: Norm | None = None,
) -> Tensor:
    """`scale_channels` written over `x`, where no gradient is wanted.

    Args:
        x: As `scale_channels`; it holds the result afterwards, unless a compiler finds a better place.
        gate: As `scale_channels`.
        residual: As `scale_channels`.
        relu: As `scale_channels`.
        norm: A batch norm in front, with its running statistics: what it returns is multiplied.

    Returns:
        The result.

    Raises:
        ConfigError: As `scale_channels`; where `residual` is of another dtype, with autocast too; and where a gradient
            would be wanted.

    Examples:
        >>> x = torch.ones(1, 2, 1)
        >>> y = scale_channels_(x, torch.tensor([[2.0, 3.0]]))
        >>> x.flatten()
        tensor([2., 3.])
    """
    if not is_dynamo_compiling() and not at_once.scale_forward(
        x, gate, residual, relu, *(norm or NO_NORM), x, get_num_threads()
    ):
        note_overwritten(x)
        return x
    _check(x, gate, residual)
    check_overwritten(x, residual)
    check_norm(x, *(norm or ())[:4])
    arguments = (x, gate, residual, relu, *(norm or ()))
    if traced_plainly(x, compilers_fuse=True):
        return _plain(*arguments)
    _SCALE_INTO(*arguments)
    return x


def _check(x: Tensor, gate: Tensor, residual: Tensor | None) -> None:
    if gate.shape != x.shape[:2]:
        raise ConfigError(
            f"the gate has the shape {tuple(gate.shape)}; a map of {tuple(x.shape)} takes one of {tuple(x.shape[:2])}"
        )
    if not x.is_floating_point():
        raise ConfigError(f"scale_channels takes floating-point input, not {x.dtype}; convert it with .float()")
    check_device(x, gate, "the gate")
    if residual is not None:
        check_residual(x, residual)


def _plain(
    x: Tensor,
    gate: Tensor,
    residual: Tensor | None = None,
    relu: bool = False,
    norm_mean: Tensor | None = None,
    norm_variance: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 0.0,
) -> Tensor:
    x, residual = promoted(x, residual)
    norm = norm_of(norm_mean, norm_variance, norm_weight, norm_bias, norm_eps)
    return reference.scale_channels(x, gate, residual, relu, norm)


# ---------------------------------------------------------------------------------------- the operators


def _scale(x: Tensor, gate: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
    y: Tensor = kernels_for(x).scale_channels(x, gate, residual, relu, None, torch.empty_like(x))
    return y


def _scale_into(
    x: Tensor,
    gate: Tensor,
    residual: Tensor | None = None,
    relu: bool = False,
    norm_mean: Tensor | None = None,
    norm_variance: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 0.0,
) -> None:
    norm = norm_of(norm_mean, norm_variance, norm_weight, norm_bias, norm_eps)
    kernels_for(x).scale_channels(x, gate, residual, relu, norm, x)


def _scale_backward(
    grad: Tensor, x: Tensor, y: Tensor | None, gate: Tensor, has_residual: bool, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dgate, dresidual = kernels_for(x).scale_channels_backward(grad, x, y, gate, has_residual and relu, relu)
    return kept_format(x, dx), dgate.to(gate.dtype), or_empty(dresidual, x)


def _shapes_backward(
    grad: Tensor, x: Tensor, y: Tensor | None, gate: Tensor, has_residual: bool, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    del grad, y
    dresidual = torch.empty_like(x) if has_residual and relu else x.new_empty(0)
    return torch.empty_like(x), gate.new_empty(gate.shape), dresidual


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch gives it no type
        x: Tensor,
        gate: Tensor,
        residual: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        y: Tensor = _SCALE(x, gate, residual, relu)
        ctx.save_for_backward(x, y if relu else None, gate)
        ctx.settings = (residual is not None, relu)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, y, gate = ctx.saved_tensors
        has_residual, relu = ctx.settings
        dx: Tensor | None
        dgate: Tensor | None
        if torch.is_grad_enabled():  # these gradients are to be differentiated
            dresidual = through_relu(grad, y)
            dx, dgate = differentiable(reference.scale_channels(x, gate), (x, gate), dresidual)
        else:
            dx, dgate, dresidual = _BACKWARD(grad, x, y, gate, has_residual, relu)
            dresidual = dresidual if relu else grad
        return dx, dgate, dresidual if has_residual else None, None


_JOIN = "Tensor? residual=None, bool relu=False"

_SCALE = operator(
    "scale_channels",
    f"(Tensor x, Tensor gate, {_JOIN}) -> Tensor",
    _scale,
    lambda x, *_: torch.empty_like(x),
    gradient=_Scale,
    residual_at=2,
    plain=_plain,
)
_SCALE_INTO = operator(
    "scale_channels_",
    f"(Tensor(a!) x, Tensor gate, {_JOIN}, {NORM}) -> ()",
    _scale_into,
    lambda *_: None,
    overwrites=True,
    plain=_plain,
)
_BACKWARD = operator(
    "scale_channels_backward",
    "(Tensor grad, Tensor x, Tensor? y, Tensor gate, bool has_residual, bool relu) "
    "-> (Tensor dx, Tensor dgate, Tensor dresidual)",
    _scale_backward,
    _shapes_backward,
)
