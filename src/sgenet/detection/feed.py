"""The images' side of a detector's training: its loaders."""

from __future__ import annotations

import torch

from sgenet.data import (
    DetectionAugmentation,
    DetectionData,
    DetectionLoader,
    DetectionSource,
    detection_eval_loader,
    detection_train_loader,
    fingerprint,
)
from sgenet.detection.config import DetectConfig
from sgenet.detection.images import count_workers, has_masks
from sgenet.training.feed import Feed

__all__ = ["DetectionFeed"]


class DetectionFeed(Feed):
    """Batches of images with their objects.

    Args:
        data: Training and validation images.
        config: Settings.
    """

    def __init__(self, data: DetectionData, config: DetectConfig) -> None:
        super().__init__(data.name, data.train, data.val, config)
        self._data = data
        self._config = config

    def open_train(self, rank: int, world: int, device: torch.device) -> DetectionLoader:
        """Shuffled, varied batches, wide images apart from tall ones."""
        config = self._config
        return detection_train_loader(
            self._data.train,
            DetectionAugmentation(flip=config.flip),
            batch_size=config.batch_size // config.accumulate,
            seed=config.seed,
            masks=has_masks(config),
            group=config.group_by_aspect,
            rank=rank,
            world=world,
            workers=count_workers(config, device),
            pin_memory=device.type == "cuda",
        )

    def open_val(self, rank: int, world: int, device: torch.device) -> DetectionLoader:
        """Images as they are, in their order."""
        config = self._config
        return detection_eval_loader(
            self._data.val,
            batch_size=config.batch_size // config.accumulate,
            rank=rank,
            world=world,
            workers=count_workers(config, device),
            pin_memory=device.type == "cuda",
        )

    def fingerprint(self, images: DetectionSource) -> str:
        """Of their number, names, ids and sizes."""
        names = [images.path(i) for i in range(len(images))]
        return fingerprint(names, {"ids": torch.tensor(images.image_ids), "sizes": images.sizes})
