"""What COCO calls a segmentation: the outline of an object as polygons, or its pixels as run lengths.

Polygons become masks by COCO's own rule, which faster-coco-eval brings; run lengths are counted out here, where a
damaged file can do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Polygons", "Runs", "Segmentation", "Segmentations", "parse_segmentation", "rectangle"]

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]

_SMALLEST_POLYGON = 6  # three corners
# In pixels. Drawing walks along each edge, so that an edge of 10^9 pixels would fill the memory.
_FARTHEST_CORNER = 1e6


@dataclass(frozen=True, eq=False)
class Polygons:
    """An object as polygons, filled and joined.

    Attributes:
        corners: For each polygon float64 (2 C,): x, y, x, y, ... in pixels.
    """

    corners: Sequence[Floats]

    def mask(self, height: int, width: int) -> Mask:
        """The pixels of the object as COCO's own tools draw it: bool (height, width)."""
        from faster_coco_eval.core import mask

        drawn = mask.frPyObjects([polygon.tolist() for polygon in self.corners], height, width)
        return np.asarray(mask.decode(mask.merge(drawn)), dtype=np.bool_)

    def box(self, height: int, width: int) -> Floats:
        """The extent of the corners: float64 (4,), left, top, width, height."""
        points = np.concatenate(self.corners).reshape(-1, 2)
        low, high = points.min(0), points.max(0)
        return np.concatenate([low, high - low])

    def to_coco(self, height: int, width: int) -> list[list[float]]:
        """As a COCO file says it."""
        return [polygon.tolist() for polygon in self.corners]


@dataclass(frozen=True, eq=False)
class Runs:
    """An object as run lengths: pixels outside, inside, outside, ... down one column after the other.

    Attributes:
        lengths: float64 (R,), whole numbers from 0 on.

    Examples:
        >>> Runs(np.array([1.0, 2.0, 3.0])).mask(2, 3).astype(int).tolist()
        [[0, 1, 0], [1, 0, 0]]
    """

    lengths: Floats

    @classmethod
    def of_mask(cls, mask: Mask) -> Runs:
        """The run lengths of a mask.

        Examples:
            >>> Runs.of_mask(np.array([[False, True, False], [True, False, False]])).lengths.tolist()
            [1.0, 2.0, 3.0]
        """
        pixels = mask.T.reshape(-1)
        changes = np.flatnonzero(np.diff(pixels, prepend=False))
        return cls(np.diff(changes, prepend=0, append=pixels.size).astype(np.float64))

    def mask(self, height: int, width: int) -> Mask:
        """The pixels of the object: bool (height, width)."""
        inside = np.arange(len(self.lengths)) % 2 == 1
        return np.repeat(inside, self.lengths.astype(np.int64)).reshape(width, height).T

    def box(self, height: int, width: int) -> Floats:
        """The smallest box around the pixels: float64 (4,), left, top, width, height; all 0 where there are none."""
        # Without a mask: a file may say of any size that its image has it.
        ends = np.cumsum(self.lengths.astype(np.int64))
        inside = (np.arange(len(ends)) % 2 == 1) & (self.lengths > 0)
        if not inside.any():
            return np.zeros(4)
        (left, top), (right, bottom) = (
            np.divmod(pixels[inside], height) for pixels in (ends - self.lengths.astype(np.int64), ends - 1)
        )
        if np.any(left < right):  # a run goes on at the top of the next column
            top, bottom = np.array([0]), np.array([height - 1])
        edges = [left[0], top.min(), right[-1] + 1 - left[0], bottom.max() + 1 - top.min()]
        return np.array(edges, dtype=np.float64)

    def to_coco(self, height: int, width: int) -> dict[str, list[int]]:
        """As a COCO file says it, not compressed."""
        return {"size": [height, width], "counts": self.lengths.astype(np.int64).tolist()}


Segmentation: TypeAlias = Polygons | Runs


def rectangle(left: float, top: float, width: float, height: float) -> Polygons:
    """A box as a segmentation.

    Examples:
        >>> rectangle(1, 2, 3, 4).to_coco(9, 9)
        [[1.0, 2.0, 4.0, 2.0, 4.0, 6.0, 1.0, 6.0]]
    """
    right, bottom = left + width, top + height
    return Polygons([np.array([left, top, right, top, right, bottom, left, bottom], dtype=np.float64)])


def parse_segmentation(value: Any, height: int, width: int) -> Segmentation:  # noqa: ANN401  # whatever JSON holds
    """Read what a COCO file has as the segmentation of an object.

    Args:
        value: A list of polygons, or a dict of run lengths, compressed or not.
        height: Of the image, pixels.
        width: Of the image, pixels.

    Returns:
        The same; of several polygons without those that are none.

    Raises:
        ValueError: If it cannot be used. The message is the reason.

    Examples:
        >>> parse_segmentation({"size": [2, 3], "counts": "123"}, 2, 3).to_coco(2, 3)
        {'size': [2, 3], 'counts': [1, 2, 3]}
    """
    if isinstance(value, dict):
        return _parse_runs(value, height, width)
    if not isinstance(value, list):
        raise ValueError("neither polygons nor run lengths")
    corners = [polygon for polygon in map(_parse_polygon, value) if polygon is not None]
    if not corners:
        raise ValueError("no polygon of three corners or more")
    return Polygons(corners)


def _parse_polygon(value: Any) -> Floats | None:  # noqa: ANN401
    try:
        corners = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if corners.ndim != 1 or len(corners) < _SMALLEST_POLYGON or len(corners) % 2:
        return None
    # Written so that it is false of NaN.
    return corners if bool(np.abs(corners).max() <= _FARTHEST_CORNER) else None


def _parse_runs(value: dict[str, Any], height: int, width: int) -> Runs:
    counts = value.get("counts")
    if value.get("size") != [height, width]:
        raise ValueError(f"run lengths of an image of size {value.get('size')}, not [{height}, {width}]")
    lengths = _uncompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(type(length) is int and length >= 0 for length in lengths):
        raise ValueError("run lengths that are no whole numbers from 0 on")
    if sum(lengths) != height * width:
        raise ValueError(f"run lengths of {sum(lengths)} pixels, not {height} x {width}")
    return Runs(np.array(lengths, dtype=np.float64))


def _uncompressed(text: str) -> list[int]:
    """COCO's compressed run lengths: five bits a character, and from the fourth number on differences."""
    lengths: list[int] = []
    value = shift = 0
    for code in text.encode():
        bits = code - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("run lengths with characters that are not in use")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    return lengths


class Segmentations:
    """Many segmentations in a few arrays: lists of Python numbers would take ten times the memory.

    Args:
        segmentations: Of one object after the other.

    Examples:
        >>> both = Segmentations([rectangle(0, 0, 2, 2), Runs(np.array([1.0, 2.0, 3.0]))])
        >>> len(both), both[1].to_coco(2, 3)
        (2, {'size': [2, 3], 'counts': [1, 2, 3]})
    """

    def __init__(self, segmentations: Sequence[Segmentation]) -> None:
        parts = [list(s.corners) if isinstance(s, Polygons) else [s.lengths] for s in segmentations]
        flat = [part for several in parts for part in several]
        self._are_runs = np.array([isinstance(s, Runs) for s in segmentations], dtype=np.bool_)
        self._numbers = np.concatenate(flat) if flat else np.zeros(0)
        self._first_number = _starts([len(part) for part in flat])
        self._first_part = _starts([len(several) for several in parts])

    def __len__(self) -> int:
        return len(self._are_runs)

    def __getitem__(self, index: int) -> Segmentation:
        runs, parts = self._are_runs[index], range(self._first_part[index], self._first_part[index + 1])
        numbers = [self._numbers[self._first_number[part] : self._first_number[part + 1]] for part in parts]
        return Runs(numbers[0]) if runs else Polygons(numbers)


def _starts(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)
