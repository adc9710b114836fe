"""One function that opens any data set of boxes a user can name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sgenet.data.coco import find_coco, open_coco_folder
from sgenet.data.detection import DetectionData
from sgenet.data.voc import find_voc, open_voc_folder
from sgenet.errors import ConfigError, DataError, did_you_mean

__all__ = ["open_detection_data"]

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
_SHAPES_OPTIONS = ("image_size", "noise", "train_size", "val_size")
_COCO_OPTIONS = ("train_json", "val_json", "train_images", "val_images")
_VOC_OPTIONS = ("train_set", "val_set")
_SHAPES_TRAIN, _SHAPES_VAL = 1500, 300


def open_detection_data(spec: str | Path, *, seed: int = 0, options: Mapping[str, Any] = _NO_OPTIONS) -> DetectionData:
    """Open a data set of boxes: everything that can be said against it is said here, before any work starts.

    Args:
        spec: One of

            - ``"shapes"``: generated pictures, nothing on disk (for a folder of that name write ``./shapes``);
            - a folder with ``annotations/instances_train*.json`` and ``annotations/instances_val*.json`` beside the
              images, as COCO has it, or with any COCO-format files that `options` name;
            - a folder with ``Annotations/*.xml``, ``JPEGImages`` and ``ImageSets/Main``, as Pascal VOC has it.
        seed: Decides which pictures ``shapes`` draws.
        options: None stands for what is usual. For ``shapes``: image_size (128), noise, train_size (1500), val_size
            (300). For COCO: train_json, val_json, train_images, val_images, paths from the folder. For VOC: train_set,
            val_set, names of lists of images.

    Returns:
        The training and the validation set. What was left out of the annotations is told in `skipped`; damage that
        only decoding shows is named by the loaders.

    Raises:
        DataError: If the data cannot be used as they are.
        ConfigError: If an option is unknown, or has a value that cannot be used.

    Examples:
        >>> data = open_detection_data("shapes", options={"train_size": 20, "val_size": 5})
        >>> len(data.train), len(data.val), data.train.has_masks
        (20, 5, True)
        >>> open_detection_data("no/such/folder")
        Traceback (most recent call last):
        ...
        sgenet.errors.DataError: no/such/folder does not exist; give a folder as COCO or Pascal VOC has it, or 'shapes'
    """
    given = {name: value for name, value in options.items() if value is not None}
    if spec == "shapes":
        _check_options("shapes", given, _SHAPES_OPTIONS)
        return _open_shapes(given, seed)
    root = _existing_folder(spec)
    if given.keys() & {"train_json", "val_json"} or find_coco(root, "train") or find_coco(root, "val"):
        _check_options("a COCO folder", given, _COCO_OPTIONS)
        return open_coco_folder(root, **given)
    if find_voc(root) is not None:
        _check_options("a Pascal VOC folder", given, _VOC_OPTIONS)
        return open_voc_folder(root, **given)
    raise DataError(
        f"{root} holds neither annotations/instances_train*.json, as COCO has them, nor Annotations, JPEGImages "
        "and ImageSets/Main, as Pascal VOC has them; give such a folder, or name files as train_json and val_json"
    )


def _check_options(what: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"{what} has no option '{name}'; it has {', '.join(known)}.{hint}")


def _existing_folder(spec: str | Path) -> Path:
    root = Path(spec).expanduser()
    if root.is_dir():
        return root
    if root.exists():
        raise DataError(f"{root} is a file; give the folder that holds the images and the annotations")
    raise DataError(
        f"{root} does not exist; give a folder as COCO or Pascal VOC has it, or 'shapes'"
        f"{did_you_mean(str(spec), ['shapes'])}"
    )


def _open_shapes(options: Mapping[str, Any], seed: int) -> DetectionData:
    # Only now: whoever brings images of their own need not load the drawing code.
    from sgenet.data.shapes_detection import ShapesDetectionSource

    drawing = {name: value for name, value in options.items() if name in ("image_size", "noise")}
    train = ShapesDetectionSource("train", options.get("train_size", _SHAPES_TRAIN), seed=seed, **drawing)
    val = ShapesDetectionSource("val", options.get("val_size", _SHAPES_VAL), seed=seed, **drawing)
    return DetectionData(train, val, "shapes")
