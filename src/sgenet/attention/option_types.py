"""Whether the options of a module are of the types that its class declares, seen before they are used."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal

import torch

from sgenet.errors import ConfigError

__all__ = ["check_types"]

# What may stand for a declared type, and its words. A type that is not here is for the class itself to check.
_KINDS: dict[object, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    types.NoneType: (types.NoneType, "None"),
    torch.device: (torch.device, "a torch.device"),
    torch.dtype: (torch.dtype, "a torch.dtype"),
}


def check_types(cls: type[object], values: Mapping[str, Any], owner: str) -> None:
    """Refuse values of other types than the constructor of a class declares.

    Args:
        cls: The class.
        values: Arguments of its constructor, by name. A list may stand for a tuple, as JSON and YAML have no tuples.
        owner: What errors call the class.

    Raises:
        ConfigError: If a value is of another type.

    Examples:
        >>> class Narrow:
        ...     def __init__(self, width: int | None = None): ...
        >>> check_types(Narrow, {"width": 8}, "'narrow'")
        >>> check_types(Narrow, {"width": "8"}, "'narrow'")
        Traceback (most recent call last):
        ...
        sgenet.errors.ConfigError: width='8' of 'narrow' must be a whole number or None
    """
    hints = _declared(cls)
    for name, value in values.items():
        if name in hints and not _fits(value, hints[name]):
            raise ConfigError(f"{name}={value!r} of {owner} must be {_words(hints[name])}")


def _declared(cls: type[object]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(cls, eval_str=True).parameters
    except NameError:  # a class of one's own may name types that it imports for type checkers alone
        return {}
    return {name: parameter.annotation for name, parameter in parameters.items()}


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401  # whatever stands in an annotation
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) for part in parts)  # which of them, the class says
    if origin is tuple and Ellipsis not in parts:
        alike = isinstance(value, list | tuple) and len(value) == len(parts)
        return alike and all(_fits(v, part) for v, part in zip(value, parts, strict=True))  # type: ignore[call-overload]
    if hint not in _KINDS:
        return True
    return isinstance(value, _KINDS[hint][0]) and (hint is bool or not isinstance(value, bool))


def _words(hint: Any) -> str:  # noqa: ANN401
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_words(part) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        return f"({', '.join(_words(part) for part in parts)})"
    return _KINDS[hint][1]
