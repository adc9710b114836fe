"""Recipes of detectors: settings under a name, as YAML files of this folder or of the user. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from sgenet.named_files import NamedFiles

__all__ = ["RECIPES", "list_recipes"]

RECIPES = NamedFiles("recipe for detectors", Path(__file__).parent)


def list_recipes() -> list[str]:
    """Names of the detectors' recipes that come with the package.

    Returns:
        Sorted names.

    Examples:
        >>> list_recipes()
        ['2x', 'cascade_20e', 'retinanet_2x', 'shapes', 'small']
    """
    return RECIPES.names()
