"""Compare trained detectors: figures with intervals, what they cost, and what else differs between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from sgenet.bench.table import aligned
from sgenet.classification.config import TrainConfig
from sgenet.data import DetectionData, check_classes
from sgenet.detection.comparison import Comparison, check_resamples, compare, summary
from sgenet.detection.config import DetectConfig
from sgenet.detection.cost import backbone_cost
from sgenet.detection.images import has_masks
from sgenet.detection.results import Result
from sgenet.detection.running import TrainedDetector, names_of, open_run, results_of, validation_images
from sgenet.detection.starting_points import EPOCHS_DONE, StartingPoint, same_start
from sgenet.errors import ConfigError, SgenetError
from sgenet.models import read_metadata
from sgenet.timing import Ratio, compare_latency
from sgenet.training.settings import read_settings

__all__ = ["DetectorCost", "RunComparison", "compare_runs", "comparison_text"]

_PAPER_SIZE = (800, 1333)


@dataclass(frozen=True)
class DetectorCost:
    """What a detector costs.

    Attributes:
        parameters: Of the whole detector.
        backbone_parameters: Of its backbone, without the pyramid.
        backbone_gflops: Of the backbone at 1333 x 800 pixels, in the SGE paper's convention.
        latency: Of one image of the size that the run was trained at, as a multiple of the first run's.
    """

    parameters: int
    backbone_parameters: int
    backbone_gflops: float
    latency: Ratio | None


@dataclass(frozen=True)
class RunComparison:
    """Runs beside each other.

    Attributes:
        boxes: Figures of the boxes, and their differences.
        masks: The same of the masks, where all runs and the images have them.
        costs: By the names of the runs.
        warnings: What else differs between the runs.
        skipped: Images that could not be read, and were not judged: one ``path: reason`` each.
    """

    boxes: Comparison
    masks: Comparison | None
    costs: dict[str, DetectorCost]
    warnings: tuple[str, ...]
    skipped: tuple[str, ...] = ()


def compare_runs(
    runs: Sequence[str | os.PathLike[str]],
    *,
    data: str | DetectionData | None = None,
    checkpoint: Literal["last", "best"] = "last",
    resamples: int = 1000,
    latency: bool = True,
    progress: Callable[[str], object] = lambda line: None,
) -> RunComparison:
    """Compare runs on the same validation images; the first is what the others are compared with.

    Args:
        runs: Two folders of runs or more.
        data: Other images with the same classes; the first run's own if not given.
        checkpoint: "last" or "best".
        resamples: Of the images, for the intervals.
        latency: Whether to measure it, which takes some seconds a run and a quiet machine.
        progress: Told what is being done.

    Returns:
        The comparison.

    Raises:
        SgenetError: If a run or the data cannot be used, or the runs have other classes.
    """
    _check_runs(runs)
    check_resamples(resamples)
    names = names_of(runs)
    detectors = {name: open_run(run, checkpoint) for name, run in zip(names, runs, strict=True)}
    source = validation_images(detectors[names[0]], data)
    for detector in detectors.values():
        check_classes(names[0], source.classes, detector.classes)
    results: dict[str, list[Result]] = {}
    for name, detector in detectors.items():
        progress(f"{name}: finding objects in {len(source):,} images")
        results[name], image_ids, skipped = results_of(detector, source)
    truth = source.to_coco()
    boxes = compare(truth, results, "bbox", image_ids=image_ids, resamples=resamples)
    with_masks = source.has_masks and all(has_masks(detector.config) for detector in detectors.values())
    masks = compare(truth, results, "segm", image_ids=image_ids, resamples=resamples) if with_masks else None
    if latency:
        progress("measuring latency")
    times = _latencies(detectors) if latency else {}
    costs = {name: _cost(detector, times.get(name)) for name, detector in detectors.items()}
    starts = [_starting_point(name, detector) for name, detector in detectors.items()]
    return RunComparison(boxes, masks, costs, tuple(same_start(starts)), tuple(skipped))


def comparison_text(comparison: RunComparison) -> str:
    """A comparison for a reader at a terminal.

    Args:
        comparison: From `compare_runs`.

    Returns:
        Warnings, tables and what they hold for.
    """
    header = ["run", "parameters", "of the backbone", "backbone GFLOPs", "ms an image", "x"]
    rows = [[name, *_cost_cells(cost)] for name, cost in comparison.costs.items()]
    costs = (
        f"{aligned(header, rows)}\n\nBackbone GFLOPs at 1333 x 800 pixels in the SGE paper's convention: "
        "multiply-adds of layers, without the pyramid."
    )
    parts = [f"Warning: {warning}" for warning in comparison.warnings]
    parts += [summary(comparison.boxes)]
    parts += [] if comparison.masks is None else [summary(comparison.masks)]
    left_out = [f"left out, unreadable: {name}" for name in comparison.skipped]
    return "\n\n".join([*parts, costs, *(["\n".join(left_out)] if left_out else [])])


def _check_runs(runs: Sequence[str | os.PathLike[str]]) -> None:
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run cannot be compared; give two or more")
    places = [Path(run).resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"run '{os.fspath(run)}' is named twice; name each once")


def _cost_cells(cost: DetectorCost) -> list[str]:
    time = ["–", "–"] if cost.latency is None else [f"{1000 * cost.latency.seconds:.1f}", f"{cost.latency.median:.3f}"]
    return [f"{cost.parameters:,}", f"{cost.backbone_parameters:,}", f"{cost.backbone_gflops:.3f}", *time]


def _cost(detector: TrainedDetector, latency: Ratio | None) -> DetectorCost:
    network: Any = detector.network
    backbone = backbone_cost(network.backbone.body, _PAPER_SIZE)
    parameters = sum(p.numel() for p in network.parameters())
    return DetectorCost(parameters, backbone.parameters, backbone.paper_gflops, latency)


def _latencies(detectors: dict[str, TrainedDetector]) -> dict[str, Ratio]:
    """Each beside the first, in turn; on a picture of noise, in which all find what they find."""
    steps = {name: _step(detector) for name, detector in detectors.items()}
    first = next(iter(steps.values()))
    device = next(iter(detectors.values())).device
    return compare_latency(first, steps, pairs=15, budget_seconds=60.0, device=device)


def _step(detector: TrainedDetector) -> Callable[[], object]:
    config = detector.config
    image = torch.rand(3, config.min_size, min(config.max_size, config.min_size * 4 // 3)).to(detector.device)
    return lambda: detector([image])


def _starting_point(name: str, detector: TrainedDetector) -> StartingPoint:
    config = detector.config
    return StartingPoint(name, _origin(config), asdict(config) | {EPOCHS_DONE: detector.epochs_done})


def _origin(config: DetectConfig) -> dict[str, Any] | str | None:
    """What is known of the backbone's training."""
    if config.pretrained:
        return f"the zoo's weights of {config.backbone}"
    if config.backbone_weights is None:
        return "random weights"
    try:
        settings = asdict(read_settings(TrainConfig, Path(config.backbone_weights) / "config.yaml"))
        return settings | {EPOCHS_DONE: read_metadata(config.backbone_weights)["epoch"]}
    except (SgenetError, KeyError):
        return None
