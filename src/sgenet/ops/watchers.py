"""Whether anyone stands between the call of an operator and what computes it.

Torch's dispatcher is where gradients, compilers, profilers and other kinds of tensors come in. For an operator in
Python it takes a tenth of a millisecond where the caches have just been streamed through, which is as long as the
kernel itself takes for a small map. Where none of those is at work, it would do nothing, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, is_grad_enabled, nn
from torch._C import (
    _are_functorch_transforms_active,
    _is_tracing,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch.autograd import forward_ad, profiler
from torch.compiler import is_dynamo_compiling

__all__ = ["WATCHERS", "is_unwatched", "more_than_gradients"]

_PLAIN_TYPES = (Tensor, nn.Parameter, int, float, bool, type(None))  # all others have rules of their own
_QUESTIONS: tuple[Callable[[], Any], ...] = (
    is_grad_enabled,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
    _are_functorch_transforms_active,
    _is_tracing,
)
_STATES = ((profiler, "_is_profiler_enabled", False), (forward_ad, "_current_level", -1))

WATCHERS = (_PLAIN_TYPES, _QUESTIONS, _STATES)
"""The same questions as `cpu/watchers.h` asks them."""


def is_unwatched(args: Iterable[Any]) -> bool:
    """Whether an operator may be computed where it is called, because the dispatcher would do nothing else.

    Args:
        args: The operator's arguments.

    Returns:
        False while gradients are recorded, where someone wants to know of every operator (a compiler, a mode, a
        profiler, a transform), and for tensors with rules of their own.
    """
    if is_dynamo_compiling():
        return False
    for ask in _QUESTIONS:
        if ask():
            return False
    for module, name, idle in _STATES:
        if getattr(module, name) != idle:
            return False
    return all(type(a) in _PLAIN_TYPES for a in args)


def more_than_gradients() -> bool:
    """Whether a transform of `torch.func` or forward-mode differentiation carries something through a network."""
    return _are_functorch_transforms_active() or forward_ad._current_level >= 0
