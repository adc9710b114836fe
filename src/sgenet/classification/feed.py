"""The images' side of a training: which loader, how many workers, and where in an epoch it stands."""

from __future__ import annotations

from functools import cached_property

import pytorch_lightning as pl
import torch

from sgenet.classification.config import TrainConfig
from sgenet.classification.images import augmentation_of, count_workers, preprocessing_of
from sgenet.data import (
    BatchLoader,
    ClassificationData,
    ImageSource,
    ResidentImages,
    ResidentLoader,
    eval_loader,
    fingerprint,
    fits,
    train_loader,
)
from sgenet.errors import ConfigError, DataError
from sgenet.training.batches import Batches
from sgenet.training.progress import Progress
from sgenet.training.schedules import steps_per_epoch

__all__ = ["ImageFeed"]

_MANY = 10_000  # images that take seconds to read
_RESIDENT_LIMIT = 1 << 30  # bytes: all of CIFAR or Tiny ImageNet, and nothing that a laptop would miss


class ImageFeed(pl.LightningDataModule):
    """Gives Lightning the batches of each epoch, from the place where the training stands.

    Args:
        data: Training and validation images.
        config: Settings.
        progress: Told when reading takes a while.
    """

    def __init__(self, data: ClassificationData, config: TrainConfig, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._data = data
        self._config = config
        self._train: BatchLoader | ResidentLoader | None = None
        self._val: BatchLoader | ResidentLoader | None = None

    def train_dataloader(self) -> Batches:
        """The batches that are left in the current epoch."""
        trainer, config = self._attached(), self._config
        if self._train is None:
            self._train = self._open_train(trainer.global_rank, trainer.world_size, trainer.strategy.root_device)
        steps = steps_per_epoch(len(self._data.train), config)
        epoch, step = divmod(trainer.global_step, steps)
        first = step * config.accumulate
        self._train.set_epoch(epoch, first)
        # A step is never made of fewer passes than the others: what is left at the end of an epoch is left out.
        return Batches(self._train, min(len(self._train), steps * config.accumulate - first))

    def val_dataloader(self) -> Batches:
        """Every validation image once, over all processes."""
        trainer = self._attached()
        if self._val is None:
            self._val = self._open_val(trainer.global_rank, trainer.world_size, trainer.strategy.root_device)
        return Batches(self._val, len(self._val))

    def state_dict(self) -> dict[str, str]:
        """What a checkpoint keeps of the images, by which `load_state_dict` tells that they are others."""
        return {"training": self._train_fingerprint, "validation": self._val_fingerprint}

    def load_state_dict(self, state_dict: dict[str, str]) -> None:
        """See that the images are those that the training began with.

        Raises:
            DataError: If they are not.
        """
        for name, now in self.state_dict().items():
            if state_dict[name] != now:
                raise DataError(
                    f"the {name} images of '{self._data.name}' have changed: they were {state_dict[name]}, and are "
                    f"{now}; restore them, or start a new run"
                )

    @cached_property
    def _train_fingerprint(self) -> str:
        return fingerprint(self._data.train)

    @cached_property
    def _val_fingerprint(self) -> str:
        return fingerprint(self._data.val)

    def _attached(self) -> pl.Trainer:
        if self.trainer is None:
            msg = "the feed belongs to no trainer yet"
            raise RuntimeError(msg)
        return self.trainer

    def _open_train(self, rank: int, world: int, device: torch.device) -> BatchLoader | ResidentLoader:
        config, source = self._config, self._data.train
        preprocessing, augmentation = preprocessing_of(config), augmentation_of(config)
        size = config.batch_size // config.accumulate
        if self._resident(device):
            held = self._hold(source, device)
            return held.train_loader(augmentation, batch_size=size, seed=config.seed, rank=rank, world=world)
        return train_loader(
            source,
            preprocessing,
            augmentation,
            batch_size=size,
            seed=config.seed,
            rank=rank,
            world=world,
            workers=count_workers(config, device),
            pin_memory=device.type == "cuda",
        )

    def _open_val(self, rank: int, world: int, device: torch.device) -> BatchLoader | ResidentLoader:
        config, source = self._config, self._data.val
        preprocessing = preprocessing_of(config)
        size = config.batch_size // config.accumulate
        if self._resident(device):
            return self._hold(source, device).eval_loader(batch_size=size, rank=rank, world=world)
        return eval_loader(
            source,
            preprocessing,
            batch_size=size,
            rank=rank,
            world=world,
            workers=count_workers(config, device),
            pin_memory=device.type == "cuda",
        )

    def _hold(self, source: ImageSource, device: torch.device) -> ResidentImages:
        if len(source) >= _MANY:
            self._progress.line(f"reading {len(source):,} images into memory")
        workers = count_workers(self._config, device)
        return ResidentImages(source, preprocessing_of(self._config), device=device, workers=workers)

    def _resident(self, device: torch.device) -> bool:
        config, preprocessing, augmentation = (
            self._config,
            preprocessing_of(self._config),
            augmentation_of(self._config),
        )
        if config.loader == "workers":
            return False
        possible = fits(self._data.train, preprocessing, augmentation, limit_bytes=_RESIDENT_LIMIT) and fits(
            self._data.val, preprocessing, limit_bytes=_RESIDENT_LIMIT
        )
        if config.loader == "resident" and not possible:
            raise ConfigError(
                "loader='resident' holds images in memory: crop must be pad or none, with no more than flips, and each "
                f"set at most {_RESIDENT_LIMIT >> 20} MiB at image_size={config.image_size}; use loader=workers"
            )
        return possible
