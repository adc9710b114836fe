"""One function that opens any data set a user can name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sgenet.data.cifar import find_cifar, open_cifar
from sgenet.data.folder import open_class_folders, open_known_classes, open_label_table
from sgenet.data.source import ClassificationData, ImageSource, few
from sgenet.errors import ConfigError, DataError, did_you_mean

__all__ = ["check_classes", "open_data", "open_judged_data"]

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
_SHAPES_OPTIONS = ("image_size", "noise", "train_size", "val_size")
_SHAPES_TRAIN, _SHAPES_VAL = 4000, 1000


def open_data(
    spec: str | Path,
    *,
    val_split: float = 0.0,
    labels: str | Path | None = None,
    seed: int = 0,
    options: Mapping[str, Any] = _NO_OPTIONS,
) -> ClassificationData:
    """Open a data set: everything that can be said against it is said here, before any work starts.

    Args:
        spec: One of

            - ``"shapes"``: generated images, nothing on disk (for a folder of that name write ``./shapes``);
            - a folder with ``train/CLASS/*`` and ``val/CLASS/*``;
            - a folder with ``CLASS/*`` or only ``train/CLASS/*``, of which `val_split` is set aside;
            - a folder whose files the table `labels` names;
            - a folder that is or holds ``cifar-10-batches-py`` or ``cifar-100-python``.
        val_split: Share of every class for validation, above 0 and below 1, where the data have no split of their own.
        labels: CSV file with the columns path (from the folder), label and, if wanted, split (train or val).
        seed: Decides which images `val_split` sets aside, and which images ``shapes`` draws.
        options: For ``shapes``: image_size, noise, train_size (4000), val_size (1000).

    Returns:
        The training and the validation set. Files that are no images are left out and named in `rejected`; damage that
        only decoding shows is named by the loaders.

    Raises:
        DataError: If the data cannot be used as they are.
        ConfigError: If an argument has a value that cannot be used, or does not go with the data.

    Examples:
        >>> open_data("no/such/folder")
        Traceback (most recent call last):
        ...
        sgenet.errors.DataError: no/such/folder does not exist; give a folder of images, or 'shapes'
    """
    if not 0 <= val_split < 1:
        raise ConfigError(f"val_split={val_split} must be above 0 and below 1, or 0 for data with a split of their own")
    if spec == "shapes":
        if val_split or labels is not None:
            raise ConfigError("shapes draws its own validation images and labels; leave val_split and labels out")
        return _open_shapes(options, seed)
    if options:
        raise ConfigError(f"the options {', '.join(sorted(options))} are for the data set 'shapes', not for '{spec}'")
    root = _existing_folder(spec)
    if labels is not None:
        return open_label_table(root, Path(labels).expanduser(), val_split=val_split, seed=seed)
    cifar = find_cifar(root)
    if cifar is None:
        return open_class_folders(root, val_split=val_split, seed=seed)
    if val_split:
        raise ConfigError(f"val_split={val_split}: {cifar[0]} has a test set of its own; leave val_split out")
    return open_cifar(*cifar)


def open_judged_data(
    spec: str | Path, classes: Sequence[str], *, seed: int = 0, options: Mapping[str, Any] = _NO_OPTIONS
) -> tuple[ImageSource, tuple[str, ...]]:
    """Open the images of a data set that a network is to be judged by: those for validation, or else all.

    Args:
        spec: As in `open_data`, but of a folder with ``CLASS/*`` all images are taken.
        classes: Those that the network tells apart, in the order of its outputs.
        seed: As in `open_data`.
        options: As in `open_data`.

    Returns:
        The images; and the files that are none and are left out, one ``path: reason`` each.

    Raises:
        DataError: If the data cannot be used, or show other classes.
        ConfigError: If an option has a value that cannot be used.

    Examples:
        >>> images, _ = open_judged_data("shapes", ["cat", "dog"])
        Traceback (most recent call last):
        ...
        sgenet.errors.DataError: 'shapes' has other classes than the network was trained on ...
    """
    if spec != "shapes" and find_cifar(root := _existing_folder(spec)) is None:
        return open_known_classes(root, classes)
    data = open_data(spec, seed=seed, options=options)
    check_classes(data.name, data.classes, classes)
    return data.val, data.rejected


def check_classes(data: str, classes: Sequence[str], known: Sequence[str]) -> None:
    """See that images have the classes that a network tells apart, and no others.

    Args:
        data: What the images are called, for the message.
        classes: Theirs.
        known: The network's, in the order of its outputs.

    Raises:
        DataError: If they have not.
    """
    if list(classes) != list(known):
        raise DataError(
            f"'{data}' has other classes than the network was trained on ({len(classes)}: {few(classes)}; the network: "
            f"{len(known)}: {few(known)}); give images of its classes"
        )


def _existing_folder(spec: str | Path) -> Path:
    root = Path(spec).expanduser()
    if root.is_dir():
        return root
    if root.exists():
        raise DataError(f"{root} is a file; give the folder that holds the images")
    raise DataError(f"{root} does not exist; give a folder of images, or 'shapes'{did_you_mean(str(spec), ['shapes'])}")


def _open_shapes(options: Mapping[str, Any], seed: int) -> ClassificationData:
    for name in options:
        if name not in _SHAPES_OPTIONS:
            hint = did_you_mean(name, _SHAPES_OPTIONS)
            raise ConfigError(f"shapes has no option '{name}'; it has {', '.join(_SHAPES_OPTIONS)}.{hint}")
    # Only now: whoever brings images of their own need not load the drawing code.
    from sgenet.data.shapes import ShapesSource

    drawing = {name: value for name, value in options.items() if name in ("image_size", "noise")}
    train = ShapesSource("train", options.get("train_size", _SHAPES_TRAIN), seed=seed, **drawing)
    val = ShapesSource("val", options.get("val_size", _SHAPES_VAL), seed=seed, **drawing)
    return ClassificationData(train, val, "shapes")
