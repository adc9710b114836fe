"""The modules that an optimized network is made of: they are for inference alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NoReturn, Self

from torch import Tensor, fx, nn
from torch.nn import functional as F

from sgenet.attention import Attention
from sgenet.errors import ConfigError

__all__ = ["InferenceGraph", "InferenceOnly", "Join", "Sum", "execute", "for_inference", "settings_of"]

# What a checkpoint is built again from; the weights of the copy would not fit that network.
_NOT_KEPT = {"training", "host_description"}


class InferenceOnly(nn.Module):
    """What is optimized, and cannot be trained."""

    def train(self, mode: bool = True) -> Self:
        """Refuse train mode: what would have to be learned has become a part of something else.

        Raises:
            ConfigError: For train mode.
        """
        if mode:
            raise ConfigError("an optimized network is for inference alone; train the network that it was made from")
        return super().train(mode)


class InferenceGraph(InferenceOnly, fx.GraphModule):
    """A traced program.

    Args:
        root: The modules and tensors that the program uses, by name; or a module that has them.
        graph: The program.
        class_name: The name of the class that it was traced from.
        settings: Attributes.
    """

    def __init__(
        self, root: nn.Module | dict[str, Any], graph: fx.Graph, class_name: str, settings: dict[str, Any]
    ) -> None:
        super().__init__(root, graph, class_name=class_name)
        self.keep(settings)

    def keep(self, settings: dict[str, Any]) -> None:
        """Set attributes that copies of the module have too: a GraphModule forgets what its graph does not read."""
        self.__dict__.setdefault("_settings", {}).update(settings)
        self.__dict__.update(settings)

    def __deepcopy__(self, memo: dict[int, Any]) -> InferenceGraph:
        copied: InferenceGraph = super().__deepcopy__(memo)  # type: ignore[assignment]
        copied.keep(copy.deepcopy(self._settings, memo))  # type: ignore[arg-type]
        return copied

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _restored, (self._settings, *super().__reduce__())


class _Part(InferenceOnly):
    """A module that executes a program when it is called; its own layers stay, for whoever calls them one by one."""

    _program: InferenceGraph  # no child of the module: those who go through its children expect its layers alone

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # the module's
        """What the program returns."""
        return self._program(*args, **kwargs)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._program._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ANN401
        raise ConfigError(
            "an optimized network takes no other weights; load them into the network that it was made from, and "
            "optimize that"
        )


class Join(nn.Module):
    """An attention module with the sum and the ReLU behind it; its first input may be written over."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """The ReLU of attention(x) + residual."""
        if x.shape == residual.shape and x.dtype == residual.dtype:
            return self.attention.join(x, residual)
        y: Tensor = self.attention(x)
        return F.relu(y + residual)


class Sum(nn.Module):
    """A sum, with or without a ReLU behind it, written over the first summand."""

    def __init__(self, *, relu: bool) -> None:
        super().__init__()
        self.relu = relu

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """The sum of both, rectified if that was asked for."""
        # What is added may be a number too, or a map that the first summand is spread over.
        alike = isinstance(residual, Tensor) and x.shape == residual.shape and x.dtype == residual.dtype
        y = x.add_(residual) if alike else x + residual
        return y.relu_() if self.relu else y

    def extra_repr(self) -> str:
        """Whether there is a ReLU."""
        return f"relu={self.relu}"


def for_inference(module: nn.Module, settings: dict[str, Any]) -> nn.Module:
    """A module that refuses train mode, and has some attributes that copies of it have too.

    Args:
        module: The module. One that was not traced gets a subclass of its own class; it may be of any.
        settings: The attributes.

    Returns:
        The same module.
    """
    if isinstance(module, InferenceGraph):
        module.keep(settings)
        return module
    for name in _NOT_KEPT - {"training"}:
        vars(module).pop(name, None)
    module.__dict__.update(settings)
    module.__class__ = _subclass(InferenceOnly, type(module))  # type: ignore[arg-type]  # a class has a hash
    return module


def execute(program: InferenceGraph, module: nn.Module) -> None:
    """Let a module execute a program in place of its own forward."""
    module.__dict__["_program"] = program.eval().requires_grad_(False)
    module.__class__ = _subclass(_Part, type(module))  # type: ignore[arg-type]


@cache
def _subclass(kind: type[InferenceOnly], cls: type[nn.Module]) -> type[nn.Module]:
    return type(cls.__name__, (kind, cls), {"__reduce__": _reduced, "__module__": cls.__module__})


def _reduced(module: nn.Module) -> tuple[Any, ...]:
    # The subclass has no name by which pickle would find it.
    return _blank, type(module).__bases__, module.__getstate__()  # type: ignore[no-untyped-call]


def _blank(kind: type[InferenceOnly], cls: type[nn.Module]) -> nn.Module:
    subclass = _subclass(kind, cls)  # type: ignore[arg-type]
    return subclass.__new__(subclass)


def _restored(
    settings: dict[str, Any], rebuild: Callable[..., fx.GraphModule], args: tuple[Any, ...]
) -> InferenceGraph:
    program = rebuild(*args)
    return InferenceGraph(program, program.graph, type(program).__name__, settings)


def settings_of(source: nn.Module) -> dict[str, Any]:
    """What a program in the place of a module has of it: attributes with plain values, and methods, which refuse."""
    values = {name: copy.deepcopy(value) for name, value in vars(source).items() if _is_plain(value)}
    methods = {name: partial(_refuse, name) for name in dir(type(source)) if callable(getattr(type(source), name))}
    return {
        name: value
        for name, value in {**methods, **values}.items()
        if name not in _NOT_KEPT and not hasattr(fx.GraphModule, name) and name[0] != "_"
    }


def _refuse(method: str, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ANN401  # the method's
    raise ConfigError(f"an optimized network is its forward alone; call {method} of the network that it was made from")


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)
