"""What a detector found, as a list in COCO's results form: made, written, read and checked."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from sgenet.detection.coco_form import box_problem, is_number, is_whole, kind_of, mask_problem, shown
from sgenet.errors import ConfigError, DataError
from sgenet.writing import write_whole

__all__ = ["Result", "check_results", "encode_masks", "read_results", "to_results", "write_results"]

Result: TypeAlias = dict[str, Any]
"""One found object: image_id, category_id, bbox (left, top, width, height in pixels), score, and with a mask
segmentation ({"size": [height, width], "counts": text})."""

_FORM = '{"image_id": int, "category_id": int, "bbox": [left, top, width, height], "score": number}'


def to_results(
    image_id: int, found: Mapping[str, Tensor], category_ids: Sequence[int], *, mask_threshold: float = 0.5
) -> list[Result]:
    """A detector's output for one image in COCO's results form.

    Args:
        image_id: COCO's number of the image.
        found: By torchvision's convention: boxes float (N, 4), left, top, right, bottom in pixels of the image; labels
            int (N,), counted from 1; scores float (N,); perhaps masks float (N, 1, H, W), probabilities at every pixel
            of the image. On any device.
        category_ids: What COCO calls the classes: label 1 is the first of them.
        mask_threshold: A pixel belongs to an object if its probability is above this.

    Returns:
        One entry an object, in their order.

    Raises:
        ConfigError: If a label has no category id.

    Examples:
        >>> import torch
        >>> found = {"boxes": torch.tensor([[1.0, 2, 4, 8]]), "labels": torch.tensor([2]), "scores": torch.ones(1)}
        >>> to_results(7, found, [1, 18])
        [{'image_id': 7, 'category_id': 18, 'bbox': [1.0, 2.0, 3.0, 6.0], 'score': 1.0}]
    """
    labels = found["labels"].tolist()
    for label in labels:
        if not 1 <= label <= len(category_ids):
            raise ConfigError(
                f"label {label} stands for no category: there are {len(category_ids)} category ids, so labels are "
                f"1 to {len(category_ids)}; build the detector for as many classes as the data have"
            )
    boxes = found["boxes"].detach().cpu().double()
    corners, sides = boxes[:, :2].tolist(), (boxes[:, 2:] - boxes[:, :2]).tolist()
    scores = found["scores"].detach().tolist()
    results: list[Result] = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": [*corner, *side], "score": score}
        for label, corner, side, score in zip(labels, corners, sides, scores, strict=True)
    ]
    if "masks" in found:
        for result, mask in zip(results, encode_masks(found["masks"][:, 0] > mask_threshold), strict=True):
            result["segmentation"] = mask
    return results


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Masks in COCO's compressed run lengths.

    Args:
        masks: bool (N, H, W), on any device.

    Returns:
        One ``{"size": [H, W], "counts": text}`` a mask.

    Examples:
        >>> import torch
        >>> encode_masks(torch.ones(1, 4, 4, dtype=torch.bool))
        [{'size': [4, 4], 'counts': '0`0'}]
    """
    from faster_coco_eval import mask as coco_masks

    encoded = []
    for mask in masks.cpu().numpy():
        found = coco_masks.encode(np.asfortranarray(mask, dtype=np.uint8))
        encoded.append({"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")})
    return encoded


def write_results(path: str | os.PathLike[str], results: Sequence[Result]) -> Path:
    """Write results as JSON that COCO's own tools read; the file appears whole or not at all.

    Args:
        path: The file; an existing one is replaced.
        results: One entry an object.

    Returns:
        The path.

    Raises:
        DataError: If the file cannot be written.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = write_results(Path(folder) / "results.json", [])
        ...     read_results(file)
        []
    """
    path = Path(path)
    text = "[" + ",\n".join(json.dumps(result) for result in results) + "]\n"
    try:
        write_whole(path, text)
    except OSError as error:
        raise DataError(f"results '{path}' cannot be written: {error.strerror or error}; give another file") from error
    return path


def read_results(
    path: str | os.PathLike[str],
    *,
    image_ids: Collection[int] | None = None,
    category_ids: Collection[int] | None = None,
) -> list[Result]:
    """Read results that `write_results` or any other program wrote, and check every entry.

    Args:
        path: A JSON file in COCO's results form.
        image_ids: Those of the annotations; None leaves them unchecked.
        category_ids: Those of the annotations; None leaves them unchecked.

    Returns:
        The entries, as they are.

    Raises:
        DataError: If the file cannot be read, is no such list, or has entries that cannot be used: the first one is
            named, and how many there are.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"results '{path}' cannot be read: {error.strerror or error}; give a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"results '{path}' are not JSON, or only a part of it ({error}); write the file again"
        ) from error
    return check_results(results, image_ids=image_ids, category_ids=category_ids, where=f"results '{path}'")


def check_results(
    results: object,
    *,
    image_ids: Collection[int] | None = None,
    category_ids: Collection[int] | None = None,
    where: str = "the results",
) -> list[Result]:
    """Check that a list is in COCO's results form.

    Args:
        results: What may be such a list.
        image_ids: Those of the annotations; None leaves them unchecked.
        category_ids: Those of the annotations; None leaves them unchecked.
        where: Begins the message.

    Returns:
        `results`.

    Raises:
        DataError: If it is none, or has entries that cannot be used: the first one is named, and how many there are.

    Examples:
        >>> len(check_results([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}]))
        1
        >>> check_results([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}])
        Traceback (most recent call last):
        ...
        sgenet.errors.DataError: the results: entry 0 has no 'score' (1 of 1 entries cannot be used); ...
    """
    if not isinstance(results, list):
        raise DataError(f"{where}: {kind_of(results)} where a list of entries {_FORM} is needed")
    images = None if image_ids is None else frozenset(image_ids)
    categories = None if category_ids is None else frozenset(category_ids)
    found = [(number, _problem(result, images, categories)) for number, result in enumerate(results)]
    problems = [(number, problem) for number, problem in found if problem is not None]
    if problems:
        number, problem = problems[0]
        raise DataError(
            f"{where}: entry {number} {problem} ({len(problems)} of {len(results)} entries cannot be used); "
            f"an entry is {_FORM}, its ids those of the annotations"
        )
    return results


def _problem(result: object, images: frozenset[int] | None, categories: frozenset[int] | None) -> str | None:
    """What is wrong with an entry: the rest of a sentence; None for nothing."""
    if not isinstance(result, dict):
        return f"is {kind_of(result)}"
    for name in ("image_id", "category_id", "score"):
        if name not in result:
            return f"has no '{name}'"
    if "bbox" not in result and "segmentation" not in result:
        return "has neither 'bbox' nor 'segmentation'"
    if not is_number(result["score"]):
        return f"has score {shown(result['score'])}, which is no finite number"
    return (
        _id_problem("image_id", result["image_id"], images)
        or _id_problem("category_id", result["category_id"], categories)
        or (box_problem(result["bbox"]) if "bbox" in result else None)
        or (mask_problem(result["segmentation"]) if "segmentation" in result else None)
    )


def _id_problem(name: str, value: object, known: frozenset[int] | None) -> str | None:
    if not is_whole(value):
        return f"has {name} {shown(value)}, which is no whole number"
    if known is not None and value not in known:
        return f"has {name} {value}, which is none of the {len(known)} that the annotations have"
    return None
