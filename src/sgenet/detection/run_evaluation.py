"""COCO's figures of a run, or of a file of results."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sgenet.data import DetectionData, open_detection_data
from sgenet.detection.cascade import CascadeHeads
from sgenet.detection.evaluation import Evaluation, evaluate
from sgenet.detection.ground_truth import read_ground_truth
from sgenet.detection.images import has_masks
from sgenet.detection.results import Result, read_results, write_results
from sgenet.detection.running import TrainedDetector, open_run, results_of, validation_images
from sgenet.errors import ConfigError, DataError

__all__ = ["DetectEvaluation", "evaluate_results", "evaluate_run"]


@dataclass(frozen=True)
class DetectEvaluation:
    """How good a detector is.

    Attributes:
        boxes: COCO's figures of the boxes.
        masks: The same of the masks; None where the detector or the images have none.
        skipped: Images that could not be read, and were not judged: one ``path: reason`` each.
    """

    boxes: Evaluation
    masks: Evaluation | None
    skipped: tuple[str, ...] = ()


def evaluate_run(
    run: str | os.PathLike[str],
    *,
    data: str | DetectionData | None = None,
    checkpoint: Literal["last", "best"] = "last",
    per_class: bool = False,
    results: str | os.PathLike[str] | None = None,
    stages: int | None = None,
) -> DetectEvaluation:
    """COCO's twelve figures of a run on its validation images.

    Everything is as in the training's validation, so that the last checkpoint gives exactly what the training reported.

    Args:
        run: The folder of the run.
        data: Other images with the same classes, as a folder or opened; the run's own if not given.
        checkpoint: "last" or "best".
        per_class: Also give the figures of each class.
        results: A file to write what was found to, in COCO's results form.
        stages: Of a cascade, use so many from the first on; all if not given.

    Returns:
        The figures.

    Raises:
        SgenetError: If the run, its checkpoint, the data or the file cannot be used.
        ConfigError: If `stages` is given for a detector that has none, or not so many.
    """
    if results is not None:
        _check_writable(Path(results))
    detector = open_run(run, checkpoint)
    if stages is not None:
        _use_stages(detector, stages)
    source = validation_images(detector, data)
    found, image_ids, skipped = results_of(detector, source)
    if results is not None:
        write_results(results, found)
    masks = has_masks(detector.config) and source.has_masks
    return _judged(source.to_coco(), found, image_ids, tuple(skipped), per_class=per_class, masks=masks)


def evaluate_results(
    results: str | os.PathLike[str], data: str | os.PathLike[str] | DetectionData, *, per_class: bool = False
) -> DetectEvaluation:
    """COCO's twelve figures of results that any program wrote.

    Args:
        results: A JSON file in COCO's results form.
        data: Whose validation images they are of: a folder, opened data, or a JSON file of annotations.
        per_class: Also give the figures of each class.

    Returns:
        The figures; of masks too, where every result and every object has one.

    Raises:
        SgenetError: If a file cannot be used.
    """
    truth: Any = _annotations(data)
    known = read_ground_truth(truth)
    found = read_results(results, image_ids=known.images, category_ids=known.categories)
    masks = bool(found) and all("segmentation" in result for result in found) and known.has_masks
    return _judged(known, found, None, (), per_class=per_class, masks=masks)


def _annotations(data: str | os.PathLike[str] | DetectionData) -> Any:  # noqa: ANN401  # a file, or COCO's JSON
    if isinstance(data, DetectionData):
        return data.val.to_coco()
    if Path(data).suffix == ".json":
        return data
    return open_detection_data(Path(data)).val.to_coco()


def _check_writable(results: Path) -> None:
    """Before the images are gone through: a file that cannot be written is known early."""
    folder = results.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DataError(
            f"results '{results}' cannot be written: '{folder}' is no folder to write to; give another file"
        )


def _use_stages(detector: TrainedDetector, stages: int) -> None:
    heads = getattr(detector.network, "roi_heads", None)
    if not isinstance(heads, CascadeHeads):
        raise ConfigError(f"stages={stages} is for cascades; '{detector.run}' is a {detector.config.detector}")
    heads.test_stages = stages


def _judged(
    truth: Any,  # noqa: ANN401  # COCO's JSON
    found: list[Result],
    image_ids: list[int] | None,
    skipped: tuple[str, ...],
    *,
    per_class: bool,
    masks: bool,
) -> DetectEvaluation:
    known = read_ground_truth(truth)
    boxes = evaluate(known, found, "bbox", per_class=per_class, image_ids=image_ids)
    segments = evaluate(known, found, "segm", per_class=per_class, image_ids=image_ids) if masks else None
    return DetectEvaluation(boxes, segments, skipped)
