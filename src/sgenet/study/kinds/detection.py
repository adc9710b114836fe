"""Studies of detectors: `sgenet detect train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sgenet.detection.config import DetectConfig, make_detect_config, to_detect_words
from sgenet.detection.history import DetectRow
from sgenet.detection.recipes import list_recipes
from sgenet.study.kinds.kind import START, Kind, Metric
from sgenet.training.settings import TrainingSettings

if TYPE_CHECKING:
    from sgenet.data import DetectionData
    from sgenet.training.progress import Progress
    from sgenet.training.run_folder import Row

__all__ = ["Detection"]


class Detection(Kind[DetectConfig, "DetectionData"]):
    """Trainings of `sgenet detect train`, compared by AP of the boxes on the validation images."""

    name: ClassVar[str] = "detectors"
    command: ClassVar[str] = "detect train"
    settings: ClassVar[type[TrainingSettings]] = DetectConfig
    row: ClassVar[type[Row]] = DetectRow
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("ap", "AP", "is COCO's average precision of the boxes, over IoU 0.5 to 0.95 and all classes"),
        Metric("ap50", "AP50", "counts boxes with an IoU of at least 0.5"),
        Metric("ap75", "AP75", "counts boxes with an IoU of at least 0.75"),
        Metric("ap_small", "APs", "is that of objects below 32² pixels"),
        Metric("ap_medium", "APm", "is that of objects from 32² to 96² pixels"),
        Metric("ap_large", "APl", "is that of larger objects"),
        Metric("mask_ap", "mask AP", "is that of the masks"),
        Metric("mask_ap50", "mask AP50", "counts masks with an IoU of at least 0.5"),
        Metric(START, "top-1 at the start", "is that of the classifier whose weights the backbone starts from"),
    )
    shown: ClassVar[tuple[str, ...]] = (
        *("data", "data_options", "detector", "detector_options", "backbone", "backbone_options"),
        *("attention", "attention_options", "min_size", "max_size", "flip", "warmup_steps"),
    )
    size: ClassVar[str] = "min_size"
    decisive: ClassVar[tuple[str, ...]] = ("detector", "backbone_weights")
    pretrains: ClassVar[bool] = True
    counted: ClassVar[str] = "backbone and pyramid"

    def make(self, recipe: str | None, **overrides: Any) -> DetectConfig:  # noqa: ANN401  # any setting
        """See `Kind`."""
        return make_detect_config(recipe, **overrides)

    def words(self, config: DetectConfig, recipe: str | None) -> list[str]:
        """See `Kind`."""
        return to_detect_words(config, recipe if recipe is not None and recipe in list_recipes() else "2x")

    def small(self, config: DetectConfig) -> dict[str, Any]:
        """See `Kind`."""
        small: dict[str, Any] = {"epochs": 1, "min_size": 64, "max_size": 64, "batch_size": 4, "warmup_steps": 0}
        small["detector_options"] = {"fpn_channels": 32}  # checkpoints take the most of so short a training
        if config.schedule == "step":
            small["milestones"] = [1]
        if config.data == "shapes":
            small["data_options"] = {"train_size": 4, "val_size": 4}
        return small

    def applies(self, name: str, config: DetectConfig) -> bool:
        """See `Kind`."""
        if name in ("warmup_epochs", "warmup_steps"):
            return (config.warmup_epochs > 0) == (name == "warmup_epochs")
        return True

    def open_data(self, config: DetectConfig) -> DetectionData:
        """See `Kind`."""
        from sgenet.detection.images import open_config_data

        return open_config_data(config)

    def cost(self, config: DetectConfig, classes: int) -> dict[str, Any]:
        """Of all parameters, and of the work in backbone and pyramid, whose size alone decides it."""
        from sgenet.cost import count
        from sgenet.detection.training import network_of

        plain = dataclasses.replace(config, backbone_weights=None, pretrained=False, frozen_stages=0)
        network = network_of(plain, classes)
        cost = dataclasses.asdict(count(network.get_submodule("backbone"), (1, 3, config.min_size, config.min_size)))
        return cost | {"parameters": sum(parameter.numel() for parameter in network.parameters())}

    def train(self, config: DetectConfig, data: DetectionData, progress: Progress) -> list[Row]:
        """See `Kind`."""
        from sgenet.detection.training import train_detector

        return [*train_detector(config, data=data, progress=progress).history]

    def resume(self, run: Path, data: DetectionData, progress: Progress) -> list[Row]:
        """See `Kind`."""
        from sgenet.detection.training import resume_detector

        return [*resume_detector(run, data=data, progress=progress).history]
