"""Making functions of tensors operators of torch, with gradients, autocast and shapes for compilers.

Every operator that has gradients comes as three: NAME, which users call, and what a compiled training step consists of:
NAME_forward, which also returns what the backward pass needs, and NAME_backward.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch._C import _is_tracing
from torch.compiler import is_compiling, is_exporting

from sgenet.errors import ConfigError
from sgenet.ops.backends import backend_for
from sgenet.ops.reference import Norm
from sgenet.ops.watchers import is_unwatched, more_than_gradients

__all__ = [
    "NORM",
    "differentiable",
    "kept_format",
    "norm_of",
    "note_overwritten",
    "operator",
    "or_empty",
    "plain_forms",
    "promoted",
    "through_relu",
    "traced_plainly",
]

NORM = (
    "Tensor? norm_mean=None, Tensor? norm_variance=None, Tensor? norm_weight=None, Tensor? norm_bias=None, "
    "float norm_eps=0.0"
)
"""A `Norm`, or none, among the arguments of an operator, as torch writes them."""

_plain_forms: dict[str, Callable[..., Any]] = {}
_library = torch.library.Library("sgenet", "DEF")  # type: ignore[no-untyped-call]  # lives as its operators do
_AUTOCAST_KEYS = ("AutocastCPU", "AutocastCUDA")


def operator(
    name: str,
    schema: str,
    compute: Callable[..., Any],
    shapes: Callable[..., Any],
    *,
    gradient: type[torch.autograd.Function] | None = None,
    overwrites: bool = False,
    residual_at: int | None = None,
    plain: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Register `sgenet::name`.

    Args:
        name: Of the operator.
        schema: Its arguments and results, as torch writes them.
        compute: What it does, on every device.
        shapes: The same for tensors without contents.
        gradient: What it does where a gradient is wanted; it has the arguments of `compute`.
        overwrites: Whether it writes to its first argument; such an operator refuses tensors that want gradients.
        residual_at: Position of the residual among the arguments; it gives the operator its autocast rule.
        plain: What it computes, in plain torch, for operators that a program may hold; one that overwrites returns what
            it would write.

    Returns:
        What does what `torch.ops.sgenet.NAME.default` does, sooner. It is called without keywords.
    """
    if plain is not None:
        _plain_forms[name] = _overwriting(plain) if overwrites else plain
    _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    computing = _counted(compute) if overwrites else compute
    _library.impl(name, computing, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"sgenet::{name}", shapes, lib=_library)
    if gradient is not None:
        _library.impl(name, _with_gradient(name, gradient, plain), "Autograd")  # type: ignore[no-untyped-call]
    if overwrites:
        _library.impl(name, _without_gradient(name), "Autograd")  # type: ignore[no-untyped-call]
    if residual_at is not None:
        for key in _AUTOCAST_KEYS:
            _library.impl(name, _with_autocast(name, key, residual_at), key)  # type: ignore[no-untyped-call]
    return _directly(_overload(name), computing, residual_at)


def plain_forms() -> dict[str, Callable[..., Any]]:
    """The operators by name, each with a function of plain torch that does the same."""
    return dict(_plain_forms)


def traced_plainly(x: Tensor, *, compilers_fuse: bool = False) -> bool:
    """Whether something is at work that must see plain torch in an operator's place.

    A compiler, where no kernel beats what it makes of plain torch. Exporters: what they write needs no sgenet where it
    is loaded, and what converts it further knows no operator of ours. And what carries more than gradients through a
    network: the transforms of `torch.func`, and forward-mode differentiation.

    Args:
        x: The input.
        compilers_fuse: Whether the operator is such that a compiler fuses it with its neighbours, better than kernels.

    Returns:
        Whether to compute by `reference`, without the operator.
    """
    if is_compiling():
        by_kernel = not compilers_fuse and not _is_exported()
        return not by_kernel or backend_for(x.device.type, x.dtype, x.dim()) == "reference"
    # torch.onnx exports by torch.export, and its older way by torch.jit.
    return more_than_gradients() or _is_tracing()


def _is_exported() -> bool:
    """Whether what is traced becomes a program of `torch.export`.

    Dynamo, when it traces the question, answers it with yes whatever it is (up to torch 2.11). So it is not traced but
    asked while dynamo traces what is around it: of `torch.export`, and of dynamo itself, which may begin sooner.
    """
    tracing = sys.modules.get("torch._dynamo.symbolic_convert")
    try:
        by_dynamo = tracing is not None and tracing.InstructionTranslator.current_tx().export
    except AttributeError:  # it traces nothing
        by_dynamo = False
    return is_exporting() or bool(by_dynamo)


_is_exported._dynamo_marked_constant = True  # type: ignore[attr-defined]  # see `backend_for`


def norm_of(
    mean: Tensor | None, variance: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Norm | None:
    """The norm among an operator's arguments; None where there is none."""
    return None if mean is None or variance is None else Norm(mean, variance, weight, bias, eps)


def kept_format(x: Tensor, y: Tensor) -> Tensor:
    """`y` in the memory format of `x`, which compilers rely on; a backend may have found another one handier."""
    if y.stride() == x.stride():
        return y
    kept = torch.empty_like(x)
    return y if y.stride() == kept.stride() else kept.copy_(y)


def promoted(x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Both in the wider of their dtypes, as `torch.add` does it under autocast."""
    if residual is None or residual.dtype == x.dtype:
        return x, residual
    wide = torch.promote_types(x.dtype, residual.dtype)
    return x.to(wide), residual.to(wide)


def or_empty(gradient: Tensor | None, x: Tensor) -> Tensor:
    """A gradient that there may be none of, in the memory format of `x`: an operator returns tensors."""
    return x.new_empty(0) if gradient is None else kept_format(x, gradient)


def through_relu(grad: Tensor, y: Tensor | None) -> Tensor:
    """The gradient in front of a ReLU that returned `y`; `grad` itself where there is no ReLU and no `y`."""
    return grad if y is None else grad.masked_fill(y <= 0, 0)


def differentiable(y: Tensor, inputs: Sequence[Tensor | None], grad: Tensor) -> list[Tensor | None]:
    """Gradients that have gradients themselves.

    Args:
        y: What plain torch computed from `inputs`.
        inputs: Tensors, or None.
        grad: The gradient of `y`.

    Returns:
        The gradient of each input; None for those that want none.
    """
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    if not wanted:
        return [None] * len(inputs)
    grads = iter(torch.autograd.grad(y, wanted, grad, create_graph=True, allow_unused=True))
    return [next(grads) if t is not None and t.requires_grad else None for t in inputs]


def _overwriting(plain: Callable[..., Any]) -> Callable[..., Any]:
    def overwrite(x: Tensor, *args: Any) -> None:  # noqa: ANN401
        x.copy_(plain(x, *args))

    return overwrite


def _overload(name: str) -> Callable[..., Any]:
    overload: Callable[..., Any] = getattr(torch.ops.sgenet, name).default
    return overload


def _directly(overload: Callable[..., Any], compute: Callable[..., Any], residual_at: int | None) -> Callable[..., Any]:
    """What calls `compute` where the dispatcher would do nothing else, and the dispatcher otherwise."""

    def call(*args: Any) -> Any:  # noqa: ANN401
        if not is_unwatched(args):
            return overload(*args)
        if residual_at is not None and len(args) > residual_at:
            residual = args[residual_at]
            if residual is not None and residual.dtype is not args[0].dtype:  # it is autocast that permits this
                return overload(*args)
        return compute(*args)

    return call


def _wants_gradient(args: Sequence[Any]) -> bool:
    return is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)


def _with_gradient(
    name: str, gradient: type[torch.autograd.Function], plain: Callable[..., Any] | None
) -> Callable[..., Any]:
    compute = _overload(name)

    def differentiate(*args: Any) -> Any:  # noqa: ANN401  # the operator's arguments
        if plain is not None and more_than_gradients():
            return plain(*args)
        if _wants_gradient(args):
            return gradient.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return compute(*args)

    return differentiate


def _without_gradient(name: str) -> Callable[..., Any]:
    compute = _overload(name)

    def overwrite(*args: Any) -> None:  # noqa: ANN401
        if _wants_gradient(args):
            raise ConfigError(
                f"sgenet::{name} overwrites its input and leaves nothing for a gradient; call it inside "
                f"torch.no_grad(), or take sgenet::{name.removesuffix('_')}"
            )
        with torch._C._AutoDispatchBelowAutograd():
            compute(*args)

    return overwrite


def note_overwritten(x: Tensor) -> None:
    """Count that `x` was written to, because gradients ask for it.

    Torch's own operators do it at a step of their own in the dispatcher; one in Python would cost too much.
    """
    if not x.is_inference():  # those are never saved for a gradient, and count nothing
        torch.autograd.graph.increment_version(x)


def _counted(compute: Callable[..., Any]) -> Callable[..., Any]:
    def overwrite(x: Tensor, *args: Any) -> None:  # noqa: ANN401
        compute(x, *args)
        note_overwritten(x)

    return overwrite


def _with_autocast(name: str, key: str, residual_at: int) -> Callable[..., Any]:
    """The operator's rule under autocast: a map keeps its dtype, and a sum has the wider one.

    Sums over positions are in float32 whatever the map is, and parameters may have any dtype: nothing need be cast.
    """
    compute = _overload(name)
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def promote(*args: Any) -> Any:  # noqa: ANN401
        if len(args) > residual_at:
            x, residual = promoted(args[0], args[residual_at])
            args = (x, *args[1:residual_at], residual, *args[residual_at + 1 :])
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return compute(*args)

    return promote
