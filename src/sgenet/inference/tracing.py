"""What a tracer of networks sees as one step."""

from __future__ import annotations

import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import FrozenBatchNorm2d

from sgenet.attention import Attention
from sgenet.inference.layers import is_hooked, is_norm
from sgenet.inference.modules import InferenceOnly

__all__ = ["trace"]

_OPERATORS = {operator.add, operator.iadd, operator.mul, torch.add, torch.relu, F.relu}


def trace(module: nn.Module) -> fx.Graph:
    """Record the forward pass of a module. What raises in it is raised here."""
    with _NothingRandom():  # type: ignore[no-untyped-call]
        return _tracer_for(module).trace(module)


class _NothingRandom(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses to draw random numbers, which would be constants of the recorded forward pass."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise RuntimeError("it draws random numbers")
        return func(*args, **(kwargs or {}))


class _Value(fx.Proxy):
    """What stands for a value while a module is traced; torch's own takes `x += y` for `x = x + y`."""

    tracer: _Tracer
    _is_param = _is_buffer = False  # by these, parameters and buffers are told from other tensors

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # isinstance asks for it, and so does torch.is_tensor. An input may be a tensor, a list of some, or a number.
        if not self.tracer.is_tensor(self.node):
            raise TypeError("it asks for the type of its input, or of something else that may have several")
        return Tensor


def _recorded(change: Callable[[Any, Any], Any]) -> Callable[[_Value, Any], Any]:
    return lambda value, other: value.tracer.create_proxy("call_function", change, (value, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(_Value, f"__{_name}__", _recorded(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    """Sees layers, attention and what someone watches as single steps."""

    def is_tensor(self, node: Any) -> bool:  # noqa: ANN401  # a node or what else stands among arguments
        """Whether a step certainly returns a tensor."""
        if not isinstance(node, fx.Node):
            return False
        if node.op == "call_module":
            module = self.root.get_submodule(str(node.target))
            activation = type(module).__module__ == nn.ReLU.__module__ and not isinstance(module, nn.MultiheadAttention)
            return _is_layer(module) or activation
        return node.target in _OPERATORS and any(self.is_tensor(operand) for operand in node.args)

    def proxy(self, node: fx.Node) -> _Value:
        return _Value(node, self)

    def create_arg(self, a: Any) -> Any:  # noqa: ANN401  # whatever a network passes on
        if isinstance(a, fx.Proxy):
            return a.node  # torch's own asks for its type before
        if type(a) is OrderedDict:
            return self.create_node("call_function", OrderedDict, (self.create_arg(list(a.items())),), {})
        if isinstance(a, dict) and type(a) is not dict:
            raise TypeError(f"it passes on a {type(a).__name__}")  # of which torch's own makes a dict
        return super().create_arg(a)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401
        first = next(iter(inspect.signature(m.forward).parameters.values()), None)
        by_name = first is not None and first.kind is first.POSITIONAL_OR_KEYWORD and list(kwargs) == [first.name]
        if by_name and not args and not is_hooked(m):
            args, kwargs = tuple(kwargs.values()), {}  # so that a layer's call has one form
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = _is_layer(m) or isinstance(m, InferenceOnly) or is_hooked(m) or _is_opaque(m)
        return leaf or super().is_leaf_module(m, module_qualified_name)


def _is_layer(module: nn.Module) -> bool:
    norms = FrozenBatchNorm2d | nn.modules.batchnorm._NormBase
    return isinstance(module, Attention | norms | nn.modules.conv._ConvNd) or is_norm(module)


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
