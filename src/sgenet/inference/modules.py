"""The modules that an optimized network is made of: they are for inference alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, Self

from torch import Tensor, fx, nn
from torch.nn import functional as F

from sgenet.attention import Attention
from sgenet.errors import ConfigError

__all__ = ["InferenceGraph", "Join", "Sum", "for_inference"]

# What a checkpoint is built again from; the weights of the copy would not fit that network.
_NOT_KEPT = {"training", "host_description"}


class _InferenceOnly(nn.Module):
    def train(self, mode: bool = True) -> Self:
        """Refuse train mode: what would have to be learned has become a part of something else.

        Raises:
            ConfigError: For train mode.
        """
        if mode:
            raise ConfigError("an optimized network is for inference alone; train the network that it was made from")
        return super().train(mode)


class InferenceGraph(_InferenceOnly, fx.GraphModule):
    """A traced program in the place of the module that it was traced from, with that one's settings as attributes.

    Args:
        source: The module.
        graph: The program.
        settings: Attributes; None for those of `source` that are plain values.
    """

    def __init__(self, source: nn.Module, graph: fx.Graph, settings: dict[str, Any] | None = None) -> None:
        super().__init__(source, graph, class_name=type(source).__name__)
        self.keep(_settings_of(source) if settings is None else settings)

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
    module.__class__ = _subclass(type(module))  # type: ignore[arg-type]  # a class has a hash
    return module


@cache
def _subclass(cls: type[nn.Module]) -> type[nn.Module]:
    return type(cls.__name__, (_InferenceOnly, cls), {"__reduce__": _reduced, "__module__": cls.__module__})


def _reduced(module: nn.Module) -> tuple[Any, ...]:
    # The subclass has no name by which pickle would find it.
    return _blank, (type(module).__mro__[2],), module.__getstate__()  # type: ignore[no-untyped-call]


def _blank(cls: type[nn.Module]) -> nn.Module:
    subclass = _subclass(cls)  # type: ignore[arg-type]
    return subclass.__new__(subclass)


def _restored(
    settings: dict[str, Any], rebuild: Callable[..., fx.GraphModule], args: tuple[Any, ...]
) -> InferenceGraph:
    program = rebuild(*args)
    return InferenceGraph(program, program.graph, settings)


def _settings_of(source: nn.Module) -> dict[str, Any]:
    return {
        name: copy.deepcopy(value)
        for name, value in vars(source).items()
        if _is_plain(value) and name not in _NOT_KEPT and not hasattr(fx.GraphModule, name) and name[0] != "_"
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)
