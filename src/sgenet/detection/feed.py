"""The images' side of a detector's training: its loaders, and where in an epoch they stand."""

from __future__ import annotations

import pytorch_lightning as pl

from sgenet.data import (
    DetectionAugmentation,
    DetectionData,
    DetectionLoader,
    detection_eval_loader,
    detection_train_loader,
)
from sgenet.detection.config import DetectConfig
from sgenet.detection.images import count_workers, has_masks
from sgenet.training.batches import Batches
from sgenet.training.schedules import steps_per_epoch

__all__ = ["DetectionFeed"]


class DetectionFeed(pl.LightningDataModule):
    """Gives Lightning the batches of each epoch, from the place where the training stands.

    Args:
        data: Training and validation images.
        config: Settings.
    """

    def __init__(self, data: DetectionData, config: DetectConfig) -> None:
        super().__init__()
        self._data = data
        self._config = config
        self._train: DetectionLoader | None = None
        self._val: DetectionLoader | None = None

    def train_dataloader(self) -> Batches:
        """The batches that are left in the current epoch."""
        trainer, config = self._attached(), self._config
        if self._train is None:
            device = trainer.strategy.root_device
            self._train = detection_train_loader(
                self._data.train,
                DetectionAugmentation(flip=config.flip),
                batch_size=config.batch_size // config.accumulate,
                seed=config.seed,
                masks=has_masks(config),
                group=config.group_by_aspect,
                rank=trainer.global_rank,
                world=trainer.world_size,
                workers=count_workers(config, device),
                pin_memory=device.type == "cuda",
            )
        steps = steps_per_epoch(len(self._data.train), config)
        epoch, step = divmod(trainer.global_step, steps)
        first = step * config.accumulate
        self._train.set_epoch(epoch, first)
        return Batches(self._train, min(len(self._train), steps * config.accumulate - first))

    def val_dataloader(self) -> Batches:
        """Every validation image once, over all processes."""
        trainer, config = self._attached(), self._config
        if self._val is None:
            device = trainer.strategy.root_device
            self._val = detection_eval_loader(
                self._data.val,
                batch_size=config.batch_size // config.accumulate,
                rank=trainer.global_rank,
                world=trainer.world_size,
                workers=count_workers(config, device),
                pin_memory=device.type == "cuda",
            )
        return Batches(self._val, len(self._val))

    def _attached(self) -> pl.Trainer:
        if self.trainer is None:
            msg = "the feed belongs to no trainer yet"
            raise RuntimeError(msg)
        return self.trainer
