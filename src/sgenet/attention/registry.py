"""Names of attention modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from sgenet.attention.base import Attention
from sgenet.attention.option_types import check_types
from sgenet.errors import ConfigError, UnknownNameError, did_you_mean

__all__ = ["attention_class", "create_attention", "list_attention", "register_attention"]

_CLASSES: dict[str, type[Attention]] = {}
_Class = TypeVar("_Class", bound=type[Attention])

# What is asked for like an attention module and is none, and what to use instead.
_NO_INSERTION = {
    "sk": "it replaces 3x3 convolutions, so a network has to be built with it, e.g. sgenet.create_model('sk_resnet50')"
}


def register_attention(name: str) -> Callable[[_Class], _Class]:
    """Register a subclass of `Attention` under a short name, as a class decorator.

    Args:
        name: The name for `create_attention`, `sgenet.add_attention` and `sgenet.create_model`.

    Returns:
        A decorator that returns the class unchanged. A class of the same module and name as the one registered takes
        its place: a notebook's cell may run again.

    Raises:
        ConfigError: If the name is taken by another class or kept for something else; if the class has not every method
            that a module must have, or a `forward` of its own.

    Examples:
        >>> @register_attention("halve")
        ... class Halve(Attention):
        ...     gate_range = (0.0, 1.0)
        ...     def gate(self, x):
        ...         return x.new_full((1,) * x.dim(), 0.5 * self.scale)
        ...     def start_as_identity(self):
        ...         self.scale = 2.0
        >>> "halve" in list_attention()
        True
        >>> _ = _CLASSES.pop("halve")  # only so that this example leaves no trace
    """

    def register(cls: _Class) -> _Class:
        if name in _NO_INSERTION:
            raise ConfigError(f"the attention name '{name}' is taken by sgenet itself; choose another name")
        taken = _CLASSES.get(name, cls)
        if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"the attention name '{name}' is taken by {taken.__qualname__}; choose another name")
        _check_class(cls)
        _CLASSES[name] = cls
        return cls

    return register


def _check_class(cls: type[Attention]) -> None:
    if lacking := sorted(cls.__abstractmethods__):
        raise ConfigError(f"{cls.__qualname__} has no {' and no '.join(lacking)}; define it as sgenet.Attention says")
    if cls.forward is not Attention.forward:
        raise ConfigError(
            f"{cls.__qualname__} has a forward of its own, which a residual block does not call: it calls attend; "
            "rename forward to attend, or leave it out where the module multiplies its input with its gate"
        )


def list_attention() -> list[str]:
    """The names that `create_attention` knows, sorted.

    Examples:
        >>> list_attention()
        ['bam', 'cbam', 'eca', 'gc', 'ge', 'none', 'se', 'sge', 'simam', 'srm']
    """
    return sorted(_CLASSES)


def attention_class(name: str) -> type[Attention]:
    """The class registered under `name`.

    Raises:
        UnknownNameError: If there is none.
        ConfigError: If the name is of something that cannot be put into a network, as "sk".
    """
    if name not in _CLASSES:
        if name in _NO_INSERTION:
            raise ConfigError(f"'{name}' cannot be put into a network as an attention module: {_NO_INSERTION[name]}")
        raise UnknownNameError(
            f"there is no attention module '{name}'.{did_you_mean(name, _CLASSES)} Known: {', '.join(list_attention())}"
        )
    return _CLASSES[name]


def create_attention(name: str, channels: int, **options: Any) -> Attention:  # noqa: ANN401  # each module has its own
    """Build an attention module by name.

    Args:
        name: One of `list_attention()`.
        channels: Number of input channels.
        **options: Keyword arguments of the module's class, e.g. `groups=64` for "sge".

    Returns:
        The module.

    Raises:
        UnknownNameError: If the name is unknown.
        ConfigError: If the name is of something that cannot be put into a network, as "sk"; if an option is
            unknown to the module, of another type than it declares, or has a value that it cannot use.

    Examples:
        >>> create_attention("sge", 256, groups=32)
        SpatialGroupEnhance(256, groups=32, eps=1e-05)
    """
    cls = attention_class(name)
    known = [p for p in inspect.signature(cls).parameters if p != "channels"]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"attention '{name}' has no option '{option}'.{did_you_mean(option, known)} Known: {', '.join(known)}"
            )
    check_types(cls, {"channels": channels, **options}, f"attention '{name}'")
    return cls(channels, **options)
