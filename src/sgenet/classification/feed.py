"""The images' side of a classifier's training: which loader, and how many workers."""

from __future__ import annotations

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
from sgenet.errors import ConfigError
from sgenet.training.feed import Feed
from sgenet.training.progress import Progress

__all__ = ["ImageFeed"]

_MANY = 10_000  # images that take seconds to read
_RESIDENT_LIMIT = 1 << 30  # bytes: all of CIFAR or Tiny ImageNet, and nothing that a laptop would miss


class ImageFeed(Feed):
    """Batches of images with their labels.

    Args:
        data: Training and validation images.
        config: Settings.
        progress: Told when reading takes a while.
    """

    def __init__(self, data: ClassificationData, config: TrainConfig, progress: Progress) -> None:
        super().__init__(data.name, data.train, data.val, config)
        self._progress = progress
        self._data = data
        self._config = config

    def fingerprint(self, images: ImageSource) -> str:
        """Of their number, names and labels."""
        return fingerprint([images.path(i) for i in range(len(images))], {"labels": images.labels})

    def open_train(self, rank: int, world: int, device: torch.device) -> BatchLoader | ResidentLoader:
        """Shuffled, varied batches."""
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

    def open_val(self, rank: int, world: int, device: torch.device) -> BatchLoader | ResidentLoader:
        """Images as they are, in their order."""
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
