"""Errors a user can cause, and the words that help out of them.

Every message names the value, the rule it broke and what to do. The command line prints the message of an
`SgenetError` on one line and exits with status 2; a library user catches the class.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "RunError",
    "SgenetError",
    "UnknownNameError",
    "did_you_mean",
]


class SgenetError(Exception):
    """Base class of every error that comes from what the user gave."""


class ConfigError(SgenetError, ValueError):
    """A setting has a value that cannot be used."""


class UnknownNameError(ConfigError):
    """A name (of a model, an attention module, a recipe) that nobody knows."""


class DataError(SgenetError):
    """A data set cannot be used as it is."""


class CheckpointError(SgenetError):
    """A file is not a checkpoint that can be loaded, or is damaged."""


class RunError(SgenetError):
    """A run folder cannot be written, read or resumed."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Suggest what `name` may have been meant to be.

    Args:
        name: What the user wrote.
        choices: The names that exist.

    Returns:
        A sentence that begins with a space, or an empty string where nothing is near.

    Examples:
        >>> did_you_mean("sge_resnet5O", ["se_resnet50", "sge_resnet50", "vgg16"])
        " Did you mean 'sge_resnet50' or 'se_resnet50'?"
        >>> did_you_mean("vit", ["resnet18"])
        ''
    """
    near = difflib.get_close_matches(name, list(choices), n=3, cutoff=0.7)
    if not near:
        return ""
    return " Did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
