"""Studies of classifiers: `sgenet train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sgenet.classification.config import TrainConfig, list_recipes, make_config, to_words
from sgenet.classification.history import EpochRow
from sgenet.study.kinds.kind import Kind, Metric
from sgenet.training.settings import TrainingSettings

if TYPE_CHECKING:
    from sgenet.data import ClassificationData, ImageSource
    from sgenet.training.progress import Progress
    from sgenet.training.run_folder import Row

__all__ = ["Classification"]


class Classification(Kind[TrainConfig, "ClassificationData"]):
    """Trainings of `sgenet train`, compared by top-1 on the validation images."""

    name: ClassVar[str] = "classifiers"
    command: ClassVar[str] = "train"
    settings: ClassVar[type[TrainingSettings]] = TrainConfig
    row: ClassVar[type[Row]] = EpochRow
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("val_top1", "top-1", "is the share of validation images whose most probable class is the right one"),
    )
    shown: ClassVar[tuple[str, ...]] = (
        *("data", "data_options", "model", "model_options", "attention", "attention_options"),
        *("image_size", "crop", "pad", "flip"),
    )
    size: ClassVar[str] = "image_size"
    decisive: ClassVar[tuple[str, ...]] = ("model", "weights")
    sections: ClassVar[tuple[str, ...]] = ("samples", "masks", "times")

    def make(self, recipe: str | None, **overrides: Any) -> TrainConfig:  # noqa: ANN401  # any setting
        """See `Kind`."""
        return make_config(recipe, **overrides)

    def words(self, config: TrainConfig, recipe: str | None) -> list[str]:
        """See `Kind`."""
        return to_words(config, recipe if recipe in list_recipes() else None)

    def small(self, config: TrainConfig) -> dict[str, Any]:
        """See `Kind`."""
        small: dict[str, Any] = {"epochs": 2, "image_size": 32, "batch_size": 32, "warmup_epochs": 0.0}
        if config.schedule == "step":
            small["milestones"] = [1]
        if config.data == "shapes":
            small["data_options"] = {"train_size": 64, "val_size": 64}
        return small

    def applies(self, name: str, config: TrainConfig) -> bool:
        """See `Kind`."""
        return name != "pad" or config.crop == "pad"

    def open_data(self, config: TrainConfig) -> ClassificationData:
        """See `Kind`."""
        from sgenet.classification.images import open_config_data

        return open_config_data(config)

    def in_memory(self, data: ClassificationData) -> ClassificationData:
        """See `Kind`."""
        return dataclasses.replace(data, train=_in_memory(data.train), val=_in_memory(data.val))

    def cost(self, config: TrainConfig, classes: int) -> dict[str, Any]:
        """See `Kind`."""
        from sgenet.classification.training import create_network
        from sgenet.cost import count

        network = create_network(dataclasses.replace(config, pretrained=False), classes)
        return dataclasses.asdict(count(network, (1, 3, config.image_size, config.image_size)))

    def train(self, config: TrainConfig, data: ClassificationData, progress: Progress) -> list[Row]:
        """See `Kind`."""
        from sgenet.classification.training import train

        return [*train(config, data=data, progress=progress).history]

    def resume(self, run: Path, data: ClassificationData, progress: Progress) -> list[Row]:
        """See `Kind`."""
        from sgenet.classification.training import resume

        return [*resume(run, data=data, progress=progress).history]


def _in_memory(source: ImageSource) -> ImageSource:
    import torch

    from sgenet.data import ArraySource

    images = torch.stack([source.load(i) for i in range(len(source))])
    return ArraySource(images, source.labels, source.classes)
