"""The narrow hidden layer between the two layers with which many attention modules mix channels."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from sgenet.errors import ConfigError

__all__ = ["fit_reduction", "hidden_units"]

_LEAST_HIDDEN = 4  # units that surgery leaves the hidden layer of a narrow place: one would gate all channels alike


def hidden_units(channels: int, reduction: int) -> int:
    """The width of the hidden layer: C // r, and at least 1.

    Raises:
        ConfigError: If `reduction` is below 1.

    Examples:
        >>> hidden_units(256, 16), hidden_units(8, 16)
        (16, 1)
    """
    if reduction < 1:
        raise ConfigError(f"reduction={reduction} is not possible; give 1 or more, 16 in the paper")
    return max(1, channels // reduction)


def fit_reduction(channels: int, options: dict[str, Any]) -> dict[str, Any]:
    """The options with `reduction` lowered where it would leave fewer than 4 hidden units (at most to 1).

    Examples:
        >>> fit_reduction(256, {}), fit_reduction(32, {"reduction": 16})
        ({'reduction': 16}, {'reduction': 8})
    """
    asked = options.get("reduction", 16)
    if not isinstance(asked, Integral) or asked < 1:
        return options  # for the constructor to refuse
    return {**options, "reduction": min(asked, max(1, channels // _LEAST_HIDDEN))}
