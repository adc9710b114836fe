"""Which detection finds which object, by COCO's rule: found once, it gives the figures of any choice of images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sgenet.detection.ground_truth import Annotation, GroundTruth, Kind
from sgenet.detection.results import Result

__all__ = ["MOST_DETECTIONS", "OVERLAPS", "SIZES", "ClassMatches", "match"]

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""Thresholds of IoU."""

SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Areas in pixels, both ends included."""

MOST_DETECTIONS = (1, 10, 100)
"""How many detections of an image and a class may count, those of the highest scores."""

_Bools: TypeAlias = npt.NDArray[np.bool_]
_Floats: TypeAlias = npt.NDArray[np.float64]

# An overlap of exactly 1 may be a little less in floating point, and still finds an object at any threshold.
_LIMITS = np.minimum(OVERLAPS, 1 - 1e-10)
_LOWEST = np.array([low for low, _ in SIZES.values()])
_HIGHEST = np.array([high for _, high in SIZES.values()])


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The detections of one class in all images, by falling score, and what became of them.

    N detections; S sizes, T thresholds of IoU, I images. A detection that is neither a hit nor a miss does not count:
    it lies in a crowd region, or it has another size than is asked for.

    Attributes:
        image: int64 (N,), the place of its image among all.
        rank: int64 (N,), its place among the detections of its image, from 0.
        hit: bool (S, T, N), whether it finds an object.
        miss: bool (S, T, N), whether it is wrong.
        objects: int64 (S, I), how many objects there are to find in each image.
    """

    image: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int64]
    hit: _Bools
    miss: _Bools
    objects: npt.NDArray[np.int64]


def match(
    truth: GroundTruth,
    results: Sequence[Result],
    kind: Kind,
    image_ids: Collection[int] | None = None,
    *,
    mask_areas: bool = False,
) -> list[ClassMatches]:
    """Match detections with objects as COCO does.

    In every image and class, detections choose in the order of their scores: the free object that they overlap most.

    Args:
        truth: The objects.
        results: In COCO's results form.
        kind: "bbox" or "segm".
        image_ids: Of the images to look at; all if not given.
        mask_areas: As in `evaluate`.

    Returns:
        The matches of each class, in the order of `truth.categories`. Images are counted in the order of their ids.

    Raises:
        DataError: As `evaluate`.
        ConfigError: If an image id is unknown.
    """
    chosen = truth.chosen(image_ids)
    objects = _by_class_and_image(truth.objects(kind, chosen))
    detections = _by_class_and_image(truth.detections(results, kind, chosen, mask_areas=mask_areas))
    place = {image_id: i for i, image_id in enumerate(chosen)}
    return [_match_class(objects[id_], detections[id_], place, kind) for id_ in truth.categories]


_ByImage: TypeAlias = Mapping[int, list[Annotation]]


def _by_class_and_image(annotations: Iterable[Annotation]) -> Mapping[int, _ByImage]:
    found: dict[int, dict[int, list[Annotation]]] = defaultdict(lambda: defaultdict(list))
    for annotation in annotations:
        found[annotation["category_id"]][annotation["image_id"]].append(annotation)
    return found


def _match_class(objects: _ByImage, detections: _ByImage, place: Mapping[int, int], kind: Kind) -> ClassMatches:
    best = {image_id: _best(detections[image_id]) for image_id in sorted(detections)}
    all_best = [detection for in_image in best.values() for detection in in_image]
    scores = np.array([detection["score"] for detection in all_best], dtype=np.float64)
    matched, on_ignored = np.zeros((2, len(SIZES), len(OVERLAPS), len(all_best)), dtype=np.bool_)
    end = 0
    for image_id, in_image in best.items():
        start, end = end, end + len(in_image)
        if image_id in objects:
            own = objects[image_id]
            matched[..., start:end], on_ignored[..., start:end] = _assign(_overlaps(in_image, own, kind), own)
    order = np.argsort(-scores, kind="stable")
    return ClassMatches(
        image=np.array([place[detection["image_id"]] for detection in all_best], dtype=np.int64)[order],
        rank=np.array([rank for in_image in best.values() for rank in range(len(in_image))], dtype=np.int64)[order],
        hit=(matched & ~on_ignored)[..., order],
        miss=~(matched | _of_other_size(all_best)[:, None])[..., order],
        objects=_counts([entry for in_image in objects.values() for entry in in_image], place),
    )


def _best(detections: list[Annotation]) -> list[Annotation]:
    return sorted(detections, key=lambda detection: -detection["score"])[: MOST_DETECTIONS[-1]]


def _counts(objects: list[Annotation], place: Mapping[int, int]) -> npt.NDArray[np.int64]:
    """How many objects of each size count in each image: (S, I)."""
    images = np.array([place[entry["image_id"]] for entry in objects], dtype=np.int64)
    return np.stack([np.bincount(images[counting], minlength=len(place)) for counting in ~_ignored(objects)])


def _overlaps(detections: list[Annotation], objects: list[Annotation], kind: Kind) -> _Floats:
    """IoU (detections, objects); with a crowd region the share of the detection that lies in it."""
    from faster_coco_eval import mask as coco_masks

    name = "bbox" if kind == "bbox" else "segmentation"
    shapes: list[Any] = [[entry[name] for entry in entries] for entries in (detections, objects)]
    if kind == "bbox":
        shapes = [np.array(boxes, dtype=np.float64) for boxes in shapes]
    overlaps: _Floats = coco_masks.iou(*shapes, [o["iscrowd"] for o in objects])
    return overlaps


def _assign(overlaps: _Floats, objects: list[Annotation]) -> tuple[_Bools, _Bools]:
    """Whether each detection is matched, and whether that is to an object that does not count: (S, T, detections)."""
    cases = len(SIZES) * len(OVERLAPS)  # every size with every threshold, one a row
    limits = np.tile(_LIMITS, len(SIZES))[:, None]
    ignored = _ignored(objects).repeat(len(OVERLAPS), axis=0)
    crowd = np.array([o["iscrowd"] for o in objects], dtype=np.bool_)
    free = np.ones_like(ignored)
    matched, on_ignored = np.zeros((2, cases, len(overlaps)), dtype=np.bool_)
    rows = np.arange(cases)
    for i in np.flatnonzero((overlaps >= limits[0]).any(axis=1)):
        possible = (free | crowd) & (overlaps[i] >= limits)
        counting = possible & ~ignored
        # An object that does not count is chosen only where no other can be.
        open_to = np.where(counting.any(axis=1, keepdims=True), counting, possible)
        # Of equal overlaps COCO takes the last.
        chosen = len(objects) - 1 - np.where(open_to, overlaps[i], -1.0)[:, ::-1].argmax(axis=1)
        matched[:, i] = open_to[rows, chosen]
        on_ignored[:, i] = matched[:, i] & ignored[rows, chosen]
        free[rows, chosen] &= ~matched[:, i]
    shape = (len(SIZES), len(OVERLAPS), len(overlaps))
    return matched.reshape(shape), on_ignored.reshape(shape)


def _ignored(objects: list[Annotation]) -> _Bools:
    """Which objects do not count, for each size: (S, objects)."""
    crowd = np.array([o["iscrowd"] for o in objects], dtype=np.bool_)
    return _of_other_size(objects) | crowd


def _of_other_size(annotations: list[Annotation]) -> _Bools:
    areas = np.array([a["area"] for a in annotations], dtype=np.float64)
    return (areas < _LOWEST[:, None]) | (areas > _HIGHEST[:, None])
