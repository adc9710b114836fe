"""What a COCO-format JSON file says, checked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from sgenet.data.annotations import LARGEST_SIDE, Cases, Objects, clipped_corners, parse_flag, refuse, usable_boxes
from sgenet.data.segmentations import Polygons, Segmentation, Segmentations, parse_segmentation, rectangle
from sgenet.errors import DataError

__all__ = ["CocoContent", "read_coco"]

_Row: TypeAlias = dict[str, Any]
_Floats: TypeAlias = npt.NDArray[np.float64]
_Integers: TypeAlias = npt.NDArray[np.int64]

_TABLES = ("images", "annotations", "categories")
_NO_BOX = np.full(4, np.nan)
_LARGEST_AREA = float(LARGEST_SIDE) ** 2


@dataclass(frozen=True, eq=False)
class CocoContent:
    """The content of a COCO-format file.

    Attributes:
        categories: Name of each class by its id, ascending; a label is a position among them.
        image_ids: One an image, in the order of the file.
        names: Their files, as the file says them.
        sizes: int64 (images, 2), their heights and widths.
        objects: Those of all images.
        skipped: What was left out or changed, one line each kind.
    """

    categories: Mapping[int, str]
    image_ids: list[int]
    names: list[str]
    sizes: _Integers
    objects: Objects
    skipped: tuple[str, ...]


def read_coco(file: Path, categories: Mapping[int, str] | None = None) -> CocoContent:
    """Read and check a COCO-format file.

    Args:
        file: JSON with images, annotations and categories.
        categories: Those of the training set, whose positions are the labels; None takes the file's own.

    Returns:
        Its content. Objects without a box that has something of the image in it are left out, and counted.

    Raises:
        DataError: If the file cannot be used: broken JSON, keys missing, ids that stand twice, annotations of images or
            of classes that are nowhere. It names the first case and their number.
    """
    images, annotations, classes = _tables(file)
    category_ids = _ids(file, "category", classes)
    own = dict(sorted(zip(category_ids, _column(file, "category", classes, "name", str), strict=True)))
    categories = own if categories is None else categories
    image_ids = _ids(file, "image", images)
    names = _names(file, image_ids, images)
    sizes = _sizes(file, image_ids, images)
    _ids(file, "annotation", annotations)
    of_image = _known(file, annotations, "image", image_ids)
    of_category = _known(file, annotations, "category", own)
    crowd = _crowd(file, annotations)
    _check_classes(file, {number: own[number] for number in sorted(set(of_category))}, categories)
    positions, labels = _positions(of_image, image_ids), _positions(of_category, categories)
    order = np.argsort(positions, kind="stable")
    rows = [annotations[i] for i in order.tolist()]
    cases = Cases()
    objects = _objects(rows, positions[order], labels[order], crowd[order], sizes, cases)
    return CocoContent(categories, image_ids, names, sizes, objects, cases.lines(str(file)))


# --- what makes a file unusable ---------------------------------------------------------------------------------------


def _tables(file: Path) -> list[list[_Row]]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be opened ({error.strerror})") from None
    # Most are JSONDecodeErrors and UnicodeDecodeErrors; a number of thousands of digits is a plain ValueError.
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is not a JSON file ({reason}); download or write it again") from None
    tables: list[list[_Row]] = []
    for key in _TABLES:
        table = content.get(key) if isinstance(content, dict) else None
        if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
            raise DataError(
                f"{file} has no list of {key}; a COCO file holds {', '.join(_TABLES)}, each a list of objects"
            )
        if not table and key != "annotations":
            raise DataError(f"{file} has an empty list of {key}, so there is nothing to work on")
        tables.append(table)
    return tables


def _column(file: Path, what: str, rows: Sequence[_Row], key: str, kind: type) -> list[Any]:
    """The values of a key that each row must have."""
    wrong = [
        (place, row) for place, row in enumerate(rows, start=1) if type(row.get(key)) is not kind or row[key] == ""
    ]
    rule = "a whole number" if kind is int else "a text"
    problems = []
    for place, row in wrong:
        name = f"{row['id']!r:.40}" if "id" in row else f"number {place}"
        found = f"the {key} {row[key]!r:.40}" if key in row else f"no {key}"
        problems.append(f"{what} {name} has {found}; it must be {rule}")
    refuse(file, problems)
    return [row[key] for row in rows]


def _ids(file: Path, what: str, rows: Sequence[_Row]) -> list[int]:
    ids = _column(file, what, rows, "id", int)
    twice = [number for number, count in Counter(ids).items() if count > 1]
    refuse(file, [f"the {what} id {number} stands more than once; give each an id of its own" for number in twice])
    return ids


def _names(file: Path, ids: Sequence[int], rows: Sequence[_Row]) -> list[str]:
    names: list[str] = _column(file, "image", rows, "file_name", str)
    paths = [PurePosixPath(name) for name in names]
    outside = [i for i, path in enumerate(paths) if path.is_absolute() or ".." in path.parts]
    rule = "which leads out of the folder of the images; give paths from that folder"
    refuse(file, [f"image {ids[i]} is '{names[i]}', {rule}" for i in outside])
    return names


def _sizes(file: Path, ids: Sequence[int], rows: Sequence[_Row]) -> _Integers:
    heights, widths = (_column(file, "image", rows, side, int) for side in ("height", "width"))
    sizes = list(zip(ids, widths, heights, strict=True))
    wrong = [size for size in sizes if not 0 < min(size[1:]) <= max(size[1:]) <= LARGEST_SIDE]
    rule = "which no image is; give its true size"
    refuse(file, [f"image {number} is {width} x {height} pixels, {rule}" for number, width, height in wrong])
    return np.array([heights, widths], dtype=np.int64).T


def _known(file: Path, rows: Sequence[_Row], what: str, known: Iterable[int]) -> list[int]:
    """The images or categories of the annotations."""
    numbers: list[int] = _column(file, "annotation", rows, f"{what}_id", int)
    there = set(known)
    wrong = [(row["id"], number) for row, number in zip(rows, numbers, strict=True) if number not in there]
    rule = f"which is none of the file's {len(there)}; add it to them, or remove the annotation"
    refuse(file, [f"annotation {name} is of {what} {number}, {rule}" for name, number in wrong])
    return numbers


def _crowd(file: Path, rows: Sequence[_Row]) -> npt.NDArray[np.bool_]:
    crowd, problems = [], []
    for row in rows:
        try:
            crowd.append(parse_flag(row.get("iscrowd")))
        except ValueError as reason:
            problems.append(f"annotation {row['id']} has the iscrowd {reason}")
    refuse(file, problems)
    return np.array(crowd, dtype=np.bool_)


def _check_classes(file: Path, used: Mapping[int, str], training: Mapping[int, str]) -> None:
    problems = []
    for number, name in used.items():
        there = f"'{training[number]}'" if number in training else "none"
        if there != f"'{name}'":
            problems.append(f"category {number} is '{name}', but {there} in the training set; use the same in both")
    refuse(file, problems)


def _positions(numbers: Sequence[int], known: Iterable[int]) -> _Integers:
    place = {number: i for i, number in enumerate(known)}
    return np.array([place[number] for number in numbers], dtype=np.int64)


# --- what is left out, or made good -----------------------------------------------------------------------------------


class _Found(NamedTuple):
    """One annotation."""

    name: str
    row: _Row
    outline: Segmentation | None
    box: _Floats


def _objects(
    rows: Sequence[_Row],
    images: _Integers,
    labels: _Integers,
    crowd: npt.NDArray[np.bool_],
    sizes: _Integers,
    cases: Cases,
) -> Objects:
    """The usable ones of annotations that are sorted by image."""
    height, width = sizes[images].T
    found = [_found(row, h, w, cases) for row, h, w in zip(rows, height.tolist(), width.tolist(), strict=True)]
    boxes = np.array([one.box for one in found]).reshape(-1, 4)
    kept = np.flatnonzero(usable_boxes(boxes, height, width, [one.name for one in found], cases))
    found = [found[i] for i in kept.tolist()]
    corners = clipped_corners(boxes[kept], height[kept], width[kept])
    areas = _areas(found, corners, cases)
    return Objects(images[kept], boxes[kept], labels[kept], crowd[kept], areas, _segmentations(found, corners, cases))


def _found(row: _Row, height: int, width: int, cases: Cases) -> _Found:
    name = f"annotation {row['id']}"
    outline = _outline(row.get("segmentation"), name, height, width, cases)
    value = row.get("bbox")
    if (value is None or value == []) and outline is not None:
        cases.add("objects without a box, which their segmentation gives", name)
        return _Found(name, row, outline, outline.box(height, width))
    return _Found(name, row, outline, _four_numbers(value))


def _outline(value: Any, name: str, height: int, width: int, cases: Cases) -> Segmentation | None:  # noqa: ANN401
    if value is None or value == []:
        return None
    try:
        outline = parse_segmentation(value, height, width)
    except ValueError as reason:
        cases.add("segmentations that cannot be used", f"{name}, {reason}")
        return None
    if isinstance(outline, Polygons) and len(outline.corners) < len(value):
        cases.add("segmentations with polygons that have no three corners, those left out", name)
    return outline


def _four_numbers(value: Any) -> _Floats:  # noqa: ANN401  # whatever JSON holds
    try:
        box = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return _NO_BOX
    return box if box.shape == (4,) else _NO_BOX


def _areas(found: Sequence[_Found], corners: _Floats, cases: Cases) -> _Floats:
    areas: _Floats = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    for i, one in enumerate(found):
        value = one.row.get("area")
        if isinstance(value, int | float) and 0 <= value <= _LARGEST_AREA:
            areas[i] = value
        else:
            cases.add("objects without an area, that of the box taken", one.name)
    return areas


def _segmentations(found: Sequence[_Found], corners: _Floats, cases: Cases) -> Segmentations | None:
    """A segmentation for each, where any has one: a missing one is the object's box."""
    if not any(one.outline for one in found):
        return None
    outlines: list[Segmentation] = []
    for one, (left, top, right, bottom) in zip(found, corners.tolist(), strict=True):
        if one.outline is None:
            cases.add("objects without a mask among others with one, their boxes taken", one.name)
        outlines.append(one.outline or rectangle(left, top, right - left, bottom - top))
    return Segmentations(outlines)
