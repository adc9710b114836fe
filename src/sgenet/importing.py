"""Names of a package that are imported when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping

__all__ = ["names_on_use"]


def names_on_use(
    package: str, homes: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """What a package takes as its `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: Its name.
        homes: Of each name, the package's module that has it.
        modules: Modules of the package that are names too.

    Returns:
        Both functions.

    Examples:
        >>> find, names = names_on_use("sgenet", {"ConfigError": "errors"}, ["errors"])
        >>> find("ConfigError"), "ConfigError" in names()
        (<class 'sgenet.errors.ConfigError'>, True)
        >>> find("ConfigErrors")
        Traceback (most recent call last):
        AttributeError: module 'sgenet' has no attribute 'ConfigErrors'
    """

    def find(name: str) -> object:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name not in homes:
            msg = f"module '{package}' has no attribute '{name}'"
            raise AttributeError(msg)
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    def names() -> list[str]:
        own = {name for name in vars(sys.modules[package]) if name.startswith("__")}
        return sorted({*homes, *modules, *own})

    return find, names
