"""COCO's twelve figures of detection results, by faster-coco-eval: those of pycocotools, sooner."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from sgenet.detection.ground_truth import Annotation, GroundTruth, Kind, read_ground_truth
from sgenet.detection.results import Result
from sgenet.errors import ConfigError

__all__ = ["FIGURES", "ClassFigures", "Evaluation", "check_kind", "evaluate"]

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve figures, in its order: average precision over IoU 0.50 to 0.95, at 0.50 and at 0.75, of small (area up
to 32^2 pixels), medium (up to 96^2) and large objects; average recall with 1, 10 and 100 detections an image, and with
100 of small, medium and large objects."""


@dataclass(frozen=True)
class ClassFigures:
    """How well one class is found.

    Attributes:
        category_id: COCO's number of the class.
        name: Of the class.
        objects: How many there are to find; crowd regions do not count.
        ap: Its AP, a fraction; None without objects.
        ap50: The same at IoU 0.5.
    """

    category_id: int
    name: str
    objects: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True)
class Evaluation:
    """How good detection results are.

    Attributes:
        figures: Each of `FIGURES`: a fraction, or None where there is nothing to find (COCO's -1).
        kind: "bbox" or "segm".
        images: How many were judged.
        objects: How many there were to find, crowd regions left out.
        per_class: One a class in the order of the category ids; empty if it was not asked for.
    """

    figures: Mapping[str, float | None]
    kind: Kind
    images: int
    objects: int
    per_class: tuple[ClassFigures, ...] = ()


def evaluate(
    ground_truth: Mapping[str, Any] | str | os.PathLike[str] | GroundTruth,
    results: Sequence[Result],
    kind: Kind = "bbox",
    *,
    per_class: bool = False,
    image_ids: Collection[int] | None = None,
    mask_areas: bool = False,
) -> Evaluation:
    """COCO's twelve figures, equal to those of pycocotools on the same input.

    Args:
        ground_truth: Annotations in COCO's instances form, or their JSON file. Annotations without `iscrowd` are single
            objects, those without `area` are as large as their mask (`kind` "segm") or box.
        results: In COCO's results form, from `to_results` or `read_results`. Images without results are judged too.
        kind: "bbox" compares boxes, "segm" masks.
        per_class: Also give the figures of each class.
        image_ids: Judge these images only; all if not given.
        mask_areas: With "segm", take the size of a detection from its mask even where it has a box. COCO's code takes
            it from the box, and so does this function unless told otherwise; sizes decide which unmatched detections
            count among small, medium and large ones, so only the figures of sizes differ.

    Returns:
        The figures. Nothing is printed, and nothing that was given is changed.

    Raises:
        DataError: If the annotations or the results are in another form, or do not go together.
        ConfigError: If `kind` or `image_ids` cannot be used.

    Examples:
        >>> truth = {
        ...     "images": [{"id": 1, "height": 64, "width": 64}],
        ...     "categories": [{"id": 1, "name": "dog"}],
        ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 40, 40]}],
        ... }
        >>> found = [{"image_id": 1, "category_id": 1, "bbox": [8, 8, 40, 30], "score": 0.9}]
        >>> evaluation = evaluate(truth, found)
        >>> evaluation.figures["AP50"], evaluation.figures["AP75"], evaluation.figures["APs"]
        (1.0, 1.0, None)
        >>> round(evaluation.figures["AP"], 4)
        0.6

    Source:
        arXiv 1405.0312; the figures as on cocodataset.org/#detection-eval.
    """
    check_kind(kind)
    truth = read_ground_truth(ground_truth)
    chosen = truth.chosen(image_ids)
    objects = truth.objects(kind, chosen)
    detections = truth.detections(results, kind, chosen, mask_areas=mask_areas)
    to_find = [annotation for annotation in objects if not annotation["iscrowd"]]
    if not chosen or not truth.categories:
        figures, precision = dict.fromkeys(FIGURES, None), None
    else:
        figures, precision = _judge(truth, chosen, objects, detections, kind)
    return Evaluation(
        figures=MappingProxyType(figures),
        kind=kind,
        images=len(chosen),
        objects=len(to_find),
        per_class=_by_class(truth, to_find, precision) if per_class else (),
    )


def check_kind(kind: str) -> None:
    """Check what is to be compared.

    Raises:
        ConfigError: If it is neither "bbox" nor "segm".
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"kind='{kind}' must be 'bbox' (boxes) or 'segm' (masks)")


def _judge(
    truth: GroundTruth, image_ids: list[int], objects: list[Annotation], detections: list[Annotation], kind: Kind
) -> tuple[dict[str, float | None], npt.NDArray[np.float64]]:
    """The figures, and the precision (thresholds of IoU, of recall, classes, sizes, numbers of detections)."""
    from faster_coco_eval import COCOeval_faster

    judge = COCOeval_faster(
        _as_coco(truth, image_ids, objects), _as_coco(truth, image_ids, detections), kind, print_function=_say_nothing
    )
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    figures = {name: _fraction(value) for name, value in zip(FIGURES, judge.stats, strict=True)}
    return figures, np.asarray(judge.eval["precision"])


def _as_coco(truth: GroundTruth, image_ids: list[int], annotations: list[Annotation]) -> Any:  # noqa: ANN401  # untyped
    from faster_coco_eval import COCO

    return COCO(
        {
            "images": [
                {"id": image_id, "height": truth.images[image_id][0], "width": truth.images[image_id][1]}
                for image_id in image_ids
            ],
            "categories": [{"id": id_, "name": name} for id_, name in truth.categories.items()],
            "annotations": annotations,
        },
        print_function=_say_nothing,
    )


def _say_nothing(*_: object) -> None:
    """Stands for print."""


def _by_class(
    truth: GroundTruth, to_find: list[Annotation], precision: npt.NDArray[np.float64] | None
) -> tuple[ClassFigures, ...]:
    counts = dict.fromkeys(truth.categories, 0)
    for annotation in to_find:
        counts[annotation["category_id"]] += 1
    found = []
    for place, (category_id, name) in enumerate(truth.categories.items()):
        # Of objects of any size, with at most 100 detections an image.
        own = np.full((1, 1), -1.0) if precision is None else precision[:, :, place, 0, -1]
        found.append(
            ClassFigures(category_id, name, counts[category_id], _fraction(own.mean()), _fraction(own[0].mean()))
        )
    return tuple(found)


def _fraction(value: float) -> float | None:
    """COCO's figure, whose -1 says that there was nothing to find."""
    return float(value) if value >= 0 else None
