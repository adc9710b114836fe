"""Numbers, boxes and masks as annotations and results in COCO's form have them, and what can be wrong with them."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

__all__ = ["RunLengths", "box_problem", "is_number", "is_whole", "kind_of", "mask_problem", "run_lengths", "shown"]

RunLengths: TypeAlias = dict[str, Any]
"""A mask in COCO's compressed form: size [height, width], counts."""


def is_number(value: object) -> bool:
    """Whether a value out of a JSON file is a finite number.

    Examples:
        >>> is_number(0.5), is_number(float("nan")), is_number(True), is_number(10**400), is_number("1")
        (True, False, False, False, False)
    """
    if type(value) is float:  # nearly all are
        return math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, as ids are."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def box_problem(box: object) -> str | None:
    """What is wrong with a box.

    Args:
        box: Left, top, width, height.

    Returns:
        The rest of a sentence about its owner; None if nothing is wrong.

    Examples:
        >>> box_problem([0, 0, 5, 5]), box_problem([0, 0, -5, 5])
        (None, 'has bbox [0, 0, -5, 5], whose width or height is negative')
    """
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(is_number, box)):
        return f"has bbox {shown(box)}, which is not four finite numbers"
    if box[2] < 0 or box[3] < 0:
        return f"has bbox {shown(box)}, whose width or height is negative"
    return None


def mask_problem(mask: object) -> str | None:
    """What is wrong with the outward form of a mask; damage inside is what `run_lengths` finds.

    Args:
        mask: Polygons, or run lengths.

    Returns:
        The rest of a sentence about its owner; None if nothing is wrong.

    Examples:
        >>> mask_problem([[0, 0, 4, 0, 4, 4]]), mask_problem({"size": [5, 5], "counts": "d0"})
        (None, None)
        >>> mask_problem("circle")
        "has segmentation 'circle', which is neither polygons nor run lengths with size and counts"
    """
    good = _is_run_lengths(mask) if isinstance(mask, dict) else _is_polygons(mask)
    return (
        None
        if good
        else f"has segmentation {shown(mask)}, which is neither polygons nor run lengths with size and counts"
    )


def _is_run_lengths(mask: dict[str, Any]) -> bool:
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(map(is_whole, size)):
        return False
    return isinstance(counts, str | bytes) or (isinstance(counts, list) and all(map(is_whole, counts)))


def _is_polygons(mask: object) -> bool:
    if not isinstance(mask, list) or not mask:
        return False
    return all(isinstance(part, list) and len(part) >= 4 and all(map(is_number, part)) for part in mask)


def run_lengths(mask: Any, height: int, width: int) -> RunLengths:  # noqa: ANN401  # any of COCO's three forms
    """A mask of any of COCO's forms in its compressed one.

    Args:
        mask: Polygons, run lengths as a list of counts, or compressed ones.
        height: Of the image, pixels.
        width: Of the image, pixels.

    Returns:
        Run lengths, the counts as bytes.

    Raises:
        ValueError: If it is none of these, of another size, or damaged; the message is the rest of a sentence about its
            owner.

    Examples:
        >>> run_lengths([[0, 0, 4, 0, 4, 4, 0, 4]], 4, 4)
        {'size': [4, 4], 'counts': b'0`0'}
    """
    from faster_coco_eval import mask as coco_masks

    problem = mask_problem(mask)
    if problem is not None:
        raise ValueError(problem)
    if isinstance(mask, dict) and [int(side) for side in mask["size"]] != [height, width]:
        raise ValueError(f"has a mask of {mask['size'][0]}x{mask['size'][1]} in an image of {height}x{width}")
    try:
        if isinstance(mask, list):
            found = coco_masks.merge(coco_masks.frPyObjects(mask, height, width))
        elif isinstance(mask["counts"], list):
            found = coco_masks.frPyObjects(mask, height, width)
        else:
            counts = mask["counts"]
            found = {"size": [height, width], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
            coco_masks.area([found])  # which reads all of it
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"has a damaged mask ({' '.join(str(error).split())})") from error
    compressed: RunLengths = found
    return compressed


def kind_of(value: object) -> str:
    """What a value out of a JSON file is, in a word or two.

    Examples:
        >>> kind_of({}), kind_of(3), kind_of(None)
        ('a mapping', 'a number', 'null')
    """
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "null", bool: "true or false"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def shown(value: object) -> str:
    """A value as it stands in a message, shortened.

    Examples:
        >>> shown("x" * 100)
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."
    """
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
