"""Recipes: settings under a name, as YAML files of this folder or of the user. Imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sgenet.named_files import NamedFiles, read_yaml

__all__ = ["RECIPES", "list_recipes", "load_recipe", "recipe_summary", "suggest_recipe"]

RECIPES = NamedFiles("recipe", Path(__file__).parent)

_IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"}


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package.

    Returns:
        Sorted names.

    Examples:
        >>> "cifar" in list_recipes()
        True
    """
    return RECIPES.names()


def load_recipe(name_or_path: str) -> dict[str, Any]:
    """The settings that a recipe makes.

    Args:
        name_or_path: A name of `list_recipes()`, or a YAML file.

    Returns:
        Values by name; `make_config` checks them.

    Raises:
        UnknownNameError: If there is neither such a recipe nor such a file.
        ConfigError: If the file is not a YAML mapping.

    Examples:
        >>> load_recipe("imagenet_senet")["batch_size"]
        1024
    """
    return read_yaml(RECIPES.find(name_or_path))


def recipe_summary(name_or_path: str) -> str:
    """What a recipe is for: the first comment of its file.

    Args:
        name_or_path: A name of `list_recipes()`, or a YAML file.

    Returns:
        One line.

    Examples:
        >>> recipe_summary("shapes")
        'The generated shapes, 64 pixels: about half a minute of training on two CPU cores.'
    """
    with RECIPES.find(name_or_path).open(encoding="utf-8") as lines:
        first = next(lines, "")
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def suggest_recipe(data: str, *, pretrained: bool = False, weights: bool = False) -> str:
    """The recipe that suits the data, for a user who names none.

    Args:
        data: As in `TrainConfig.data`.
        pretrained: Whether training starts from the weights of a zoo, which have seen large images.
        weights: Whether it starts from weights of one's own, which have seen images like these.

    Returns:
        `shapes` for the generated images; `finetune` for pretrained weights; `cifar` up to 40 pixels and
        `tiny_imagenet` up to 80, judged by the first images found; otherwise `finetune` for one's own weights and
        `default` without.

    Examples:
        >>> suggest_recipe("shapes")
        'shapes'
    """
    if data == "shapes":
        return "shapes"
    side = _typical_side(Path(data))
    large = "finetune" if pretrained or weights else "default"
    if pretrained or side is None:
        return large
    if side <= 40:
        return "cifar"
    return "tiny_imagenet" if side <= 80 else large


def _typical_side(folder: Path) -> int | None:
    """The longest side of the first images in a folder, read from their headers; None if there are none."""
    if any(
        (f / name).is_dir() for f in (folder, folder.parent) for name in ("cifar-10-batches-py", "cifar-100-python")
    ):
        return 32
    if folder.name in ("cifar-10-batches-py", "cifar-100-python"):
        return 32
    sides = list(islice(_sides(folder), 5))
    return max(sides, default=None)


def _sides(folder: Path) -> Iterator[int]:
    from PIL import Image

    for path in islice(_images(folder), 50):
        try:
            with Image.open(path) as image:
                yield max(image.size)
        except (OSError, ValueError, Image.DecompressionBombError):
            continue  # a broken file says nothing about the others; the data set itself names it


def _images(folder: Path) -> Iterator[Path]:
    """Image files, depth first; a generator, so that a folder of millions is not listed."""
    try:
        for entry in folder.iterdir():
            if entry.suffix.lower() in _IMAGE_ENDINGS:
                yield entry
            elif entry.is_dir():
                yield from _images(entry)
    except OSError:
        return
