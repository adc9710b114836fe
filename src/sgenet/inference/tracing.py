"""What a tracer of networks sees as one step."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torchvision.ops import FrozenBatchNorm2d

from sgenet.attention import Attention
from sgenet.inference.layers import is_hooked, is_norm

__all__ = ["trace"]


def trace(module: nn.Module) -> fx.Graph:
    """Record the forward pass of a module. What raises in it is raised here."""
    return _tracer_for(module).trace(module)


class _Value(fx.Proxy):
    """What stands for a value while a module is traced; torch's own takes `x += y` for `x = x + y`."""


def _recorded(change: Callable[[Any, Any], Any]) -> Callable[[_Value, Any], Any]:
    return lambda value, other: value.tracer.create_proxy("call_function", change, (value, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(_Value, f"__{_name}__", _recorded(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    """Sees layers, attention and what someone watches as single steps."""

    def proxy(self, node: fx.Node) -> _Value:
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layer = isinstance(m, Attention | FrozenBatchNorm2d | nn.modules.batchnorm._NormBase | nn.modules.conv._ConvNd)
        leaf = layer or is_hooked(m) or is_norm(m) or _is_opaque(m)
        return leaf or super().is_leaf_module(m, module_qualified_name)


def _is_opaque(module: nn.Module) -> bool:
    """Whether a module is one of those that timm does not want to be traced through."""
    if not type(module).__module__.startswith("timm."):
        return False  # timm is optional, and slow to import for a network that has nothing of it
    from timm.layers import is_notrace_module  # type: ignore[attr-defined]

    return bool(is_notrace_module(type(module)))


def _tracer_for(module: nn.Module) -> _Tracer:
    if not any(type(m).__module__.startswith("timm.") for m in module.modules()):
        return _Tracer()
    from timm.layers import get_notrace_functions  # type: ignore[attr-defined]

    return _Tracer(autowrap_functions=tuple(get_notrace_functions()))  # type: ignore[no-untyped-call]
