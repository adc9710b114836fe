"""What the files of annotations, of whatever format, are read into, and how it is given out again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sgenet.data.decode import decode_image
from sgenet.data.detection import Target
from sgenet.data.segmentations import Segmentations
from sgenet.data.source import UnreadableImage
from sgenet.errors import ConfigError, DataError

__all__ = [
    "LARGEST_SIDE",
    "AnnotatedFiles",
    "Cases",
    "Objects",
    "clipped_corners",
    "coco_content",
    "coco_object",
    "parse_flag",
    "refuse",
    "usable_boxes",
]

Floats: TypeAlias = npt.NDArray[np.float64]

LARGEST_SIDE = 2**31 - 1
"""Pixels: more than any image has."""

# In pixels: half of what COCO's files round to. A smaller side could vanish in float32 arithmetic.
_ROUNDING = 0.005


@dataclass
class Cases:
    """Counts what is wrong with annotations, kind by kind, and keeps the first case of each.

    Examples:
        >>> cases = Cases()
        >>> for number in (7, 9):
        ...     cases.add("boxes without a class, left out", f"annotation {number}")
        >>> cases.lines("train.json")
        ('train.json: boxes without a class, left out: 2, the first: annotation 7',)
    """

    found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, case: str) -> None:
        """Note one case."""
        count, first = self.found.get(kind, (0, case))
        self.found[kind] = (count + 1, first)

    def lines(self, where: str) -> tuple[str, ...]:
        """One line each kind, which begins with `where`."""
        return tuple(f"{where}: {kind}: {count}, the first: {case}" for kind, (count, case) in self.found.items())


def refuse(where: str | Path, problems: Sequence[str]) -> None:
    """Raise one error for all problems of a kind, if there are any.

    Args:
        where: The file or folder.
        problems: What is wrong, case by case.

    Raises:
        DataError: It names the first case and their number.

    Examples:
        >>> refuse("val.json", ["image 7 has no width", "image 9 has no width"])
        Traceback (most recent call last):
        ...
        sgenet.errors.DataError: val.json: image 7 has no width (the first of 2 such cases)
    """
    if problems:
        count = f" (the first of {len(problems)} such cases)" if len(problems) > 1 else ""
        raise DataError(f"{where}: {problems[0]}{count}")


def parse_flag(value: Any) -> bool:  # noqa: ANN401  # whatever a file holds
    """Read what a file says of a thing that is so or is not.

    Args:
        value: 0, 1, true or false, as such or as text; None where nothing is said, which is false.

    Returns:
        Whether it is so.

    Raises:
        ValueError: If it is anything else.

    Examples:
        >>> [parse_flag(value) for value in (1, "0", True, "False", None)]
        [True, False, True, False, False]
    """
    words = str(value).strip().lower()
    if value is None or words in ("0", "0.0", "false", ""):
        return False
    if words in ("1", "1.0", "true"):
        return True
    raise ValueError(f"{value!r:.40}; it must be 0 or 1")


def usable_boxes(
    boxes: Floats, heights: Floats, widths: Floats, names: Sequence[str], cases: Cases
) -> npt.NDArray[np.bool_]:
    """Which boxes have something of their image in them.

    Args:
        boxes: float64 (N, 4): left, top, width, height in pixels.
        heights: float64 (N,), of the image of each.
        widths: float64 (N,), of the image of each.
        names: What each is called in messages.
        cases: Told of those that cannot be used, and of those that `Target` clips.

    Returns:
        bool (N,).

    Examples:
        >>> boxes = np.array([[1.0, 1, 5, 5], [8, 8, 5, 5], [3, 3, 0, 1], [20, 20, 2, 2]])
        >>> usable_boxes(boxes, np.full(4, 10.0), np.full(4, 10.0), list("abcd"), cases := Cases()).tolist()
        [True, True, False, False]
        >>> len(cases.lines("here"))
        3
    """
    finite = np.all(np.isfinite(boxes), axis=1)
    boxes = np.where(finite[:, None], boxes, 0.0)
    left, top, wide, high = boxes.T
    x_min, y_min, x_max, y_max = clipped_corners(boxes, heights, widths).T
    positive = finite & (np.minimum(wide, high) >= _ROUNDING)
    inside: npt.NDArray[np.bool_] = positive & (np.minimum(x_max - x_min, y_max - y_min) >= _ROUNDING)
    over = np.maximum(left + wide - widths, top + high - heights)
    beyond = inside & (np.maximum(over, -np.minimum(left, top)) >= _ROUNDING)
    for kind, found in (
        ("boxes that are missing or not four finite numbers, left out", ~finite),
        ("boxes of zero or negative size, left out", finite & ~positive),
        ("boxes outside their image, left out", positive & ~inside),
        ("boxes that reach beyond their image, clipped to it for training", beyond),
    ):
        for number in np.flatnonzero(found).tolist():
            cases.add(kind, names[number])
    return inside


def clipped_corners(boxes: Floats, height: Floats | float, width: Floats | float) -> Floats:
    """The part of boxes that is in their image.

    Args:
        boxes: float64 (N, 4): left, top, width, height.
        height: Of the image of each, or of all.
        width: Of the image of each, or of all.

    Returns:
        float64 (N, 4): left, top, right, bottom.

    Examples:
        >>> clipped_corners(np.array([[-2.0, 1.0, 5.0, 20.0]]), 10, 8).tolist()
        [[0.0, 1.0, 3.0, 10.0]]
    """
    left, top, wide, high = boxes.T
    corners = [np.maximum(left, 0), np.maximum(top, 0), np.minimum(left + wide, width), np.minimum(top + high, height)]
    return np.stack(corners, axis=1)


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of many images, image by image. N in all.

    Attributes:
        images: int64 (N,), the position of the image of each; ascending.
        boxes: float64 (N, 4): left, top, width, height as the file says it; they may reach beyond the image.
        labels: int64 (N,).
        crowd: bool (N,).
        areas: float64 (N,).
        segmentations: One each, where there are any.
    """

    images: npt.NDArray[np.int64]
    boxes: Floats
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: Floats
    segmentations: Segmentations | None = None

    def of_images(self, chosen: Sequence[int]) -> Objects:
        """Those of some of the images, which then have the positions 0, 1, ...

        Args:
            chosen: Positions of images, ascending.
        """
        kept = np.flatnonzero(np.isin(self.images, chosen))
        images = np.searchsorted(chosen, self.images[kept])
        segmentations = self.segmentations
        if segmentations is not None:
            segmentations = Segmentations([segmentations[i] for i in kept.tolist()])
        return Objects(images, self.boxes[kept], self.labels[kept], self.crowd[kept], self.areas[kept], segmentations)


class AnnotatedFiles:
    """Images in files, with their objects.

    Args:
        paths: The files, from `root`.
        sizes: int64 (images, 2), height and width of each in pixels.
        image_ids: One each.
        objects: Those of all images.
        categories: Name of each class by its id, in the order of the labels.
        root: The folder that `paths` start from.

    Attributes:
        classes: Names of the classes.
        category_ids: Their ids.
        image_ids: Ids of the images.
        sizes: int64 (images, 2).
        has_masks: Whether the objects have masks.
    """

    def __init__(
        self,
        paths: Sequence[str],
        sizes: npt.NDArray[np.int64],
        image_ids: Sequence[int],
        objects: Objects,
        categories: Mapping[int, str],
        root: str | Path = "",
    ) -> None:
        self.classes = list(categories.values())
        self.category_ids = list(categories)
        self.image_ids = list(image_ids)
        self.sizes = torch.from_numpy(sizes)
        self.has_masks = objects.segmentations is not None
        self._paths = list(paths)
        self._root = str(root)
        self._objects = objects
        self._starts = np.searchsorted(objects.images, np.arange(len(paths) + 1))

    def __len__(self) -> int:
        return len(self._paths)

    def load(self, index: int) -> Tensor:
        """Image `index`: uint8 (3, H, W); see `sgenet.data.decode_image`.

        Raises:
            UnreadableImage: If it cannot be decoded, or has another size than its annotations say: then its boxes are
                of some other picture.
        """
        height, width = self.sizes[index].tolist()
        image = decode_image(self.path(index), (height, width))
        if image.shape[1:] != (height, width):
            raise UnreadableImage(
                self.path(index),
                f"it is {image.shape[2]} x {image.shape[1]} pixels, but its annotations say {width} x {height}",
            )
        return image

    def target(self, index: int, *, masks: bool = False) -> Target:
        """The objects of image `index`.

        Raises:
            ConfigError: If masks are asked for and there are none.
        """
        objects = self._objects
        if masks and objects.segmentations is None:
            raise ConfigError("masks are asked for, but the annotations hold none; train a detector without masks")
        start, stop = int(self._starts[index]), int(self._starts[index + 1])
        height, width = self.sizes[index].tolist()
        return Target(
            boxes=torch.from_numpy(clipped_corners(objects.boxes[start:stop], height, width)).float(),
            labels=torch.from_numpy(objects.labels[start:stop].copy()),
            crowd=torch.from_numpy(objects.crowd[start:stop].copy()),
            areas=torch.from_numpy(objects.areas[start:stop]).float(),
            masks=_masks(objects.segmentations, range(start, stop), height, width) if masks else None,
        )

    def path(self, index: int) -> str:
        """Where image `index` is."""
        return os.path.join(self._root, self._paths[index])  # noqa: PTH118  # a Path takes eight times as long

    def to_coco(self) -> dict[str, Any]:
        """The annotations as a COCO file says them: boxes as they were read, not clipped, and numbered from 1."""
        sizes = self.sizes.tolist()
        images = [
            {"id": number, "file_name": path, "height": height, "width": width}
            for number, path, (height, width) in zip(self.image_ids, self._paths, sizes, strict=True)
        ]
        objects = self._objects
        annotations = []
        for number, image in enumerate(objects.images.tolist()):
            annotations.append(
                coco_object(
                    number + 1,
                    self.image_ids[image],
                    self.category_ids[objects.labels[number]],
                    objects.boxes[number].tolist(),
                    float(objects.areas[number]),
                    bool(objects.crowd[number]),
                    None if objects.segmentations is None else objects.segmentations[number].to_coco(*sizes[image]),
                )
            )
        return coco_content(images, annotations, self.classes, self.category_ids)


def _masks(segmentations: Segmentations | None, numbers: range, height: int, width: int) -> Tensor:
    masks = np.zeros((len(numbers), height, width), dtype=np.bool_)
    if segmentations is not None:
        for mask, number in zip(masks, numbers, strict=True):
            mask[:] = segmentations[number].mask(height, width)
    return torch.from_numpy(masks)


def coco_object(
    number: int,
    image_id: int,
    category_id: int,
    box: Sequence[float],
    area: float,
    crowd: bool,
    segmentation: Any = None,  # noqa: ANN401  # JSON
) -> dict[str, Any]:
    """One entry of the annotations in a COCO file.

    Args:
        number: Its id; from 1 on, because COCO's own evaluation takes an object with the id 0 for none.
        image_id: Of its image.
        category_id: Of its class.
        box: Left, top, width, height.
        area: In square pixels.
        crowd: Whether it is a region to ignore.
        segmentation: Its outline, or None.
    """
    entry = {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(box),
        "area": area,
        "iscrowd": int(crowd),
    }
    return entry if segmentation is None else {**entry, "segmentation": segmentation}


def coco_content(
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    classes: Sequence[str],
    category_ids: Sequence[int],
) -> dict[str, Any]:
    """The content of a COCO instances file."""
    categories = [{"id": number, "name": name} for number, name in zip(category_ids, classes, strict=True)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}
