"""What a detector's settings say about images: where they are, and how batches become what detectors take."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from sgenet.data import DetectionBatch, DetectionData, Target, open_detection_data
from sgenet.detection.config import DetectConfig
from sgenet.errors import ConfigError

__all__ = ["count_workers", "has_masks", "open_config_data", "prepare_images", "prepare_targets"]


def open_config_data(config: DetectConfig) -> DetectionData:
    """The images that the settings name.

    Args:
        config: Settings. `data_options` may hold a `seed`, which decides what `shapes` draws; it is 0 if not given,
            whatever the training's own seed.

    Returns:
        Training and validation images.

    Raises:
        ConfigError: If no data are named.
        DataError: If they cannot be used.
    """
    if not config.data:
        raise ConfigError("no images are named; give --data PATH, or --data shapes for generated ones")
    options = dict(config.data_options)
    seed = options.pop("seed", 0)
    if not isinstance(seed, int):
        raise ConfigError(f"data_options: seed={seed!r} must be a whole number")
    if config.data == "shapes":
        options.setdefault("image_size", config.min_size)
    return open_detection_data(config.data, seed=seed, options=options)


def has_masks(config: DetectConfig) -> bool:
    """Whether the detector finds masks.

    Examples:
        >>> has_masks(DetectConfig(detector="mask_rcnn"))
        True
    """
    return "mask" in config.detector


def prepare_images(batch: DetectionBatch, device: torch.device) -> list[Tensor]:
    """Images as detectors take them: float32 (3, H, W) in 0..1, on the device.

    Examples:
        >>> batch = DetectionBatch([torch.full((3, 2, 2), 255, dtype=torch.uint8)], [], torch.tensor([0]), [])
        >>> float(prepare_images(batch, torch.device("cpu"))[0].max())
        1.0
    """
    return [image.to(device, non_blocking=True).float().div_(255) for image in batch.images]


def prepare_targets(targets: Sequence[Target], device: torch.device) -> list[dict[str, Tensor]]:
    """Objects as detectors take them: labels from 1 on, and no crowds, which are regions and not objects.

    Args:
        targets: Of the images of a batch.
        device: Where to.

    Returns:
        One dictionary an image: boxes float32 (N, 4), labels int64 (N,), and masks uint8 (N, H, W) where there are any.
    """
    return [_prepared(target, device) for target in targets]


def count_workers(config: DetectConfig, device: torch.device) -> int:
    """Processes that decode images: those asked for, or what suits the images and the machine.

    Examples:
        >>> count_workers(DetectConfig(workers=3), torch.device("cpu"))
        3
    """
    if config.workers is not None:
        return config.workers
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)


def _prepared(target: Target, device: torch.device) -> dict[str, Tensor]:
    objects = ~target.crowd
    prepared = {"boxes": target.boxes[objects], "labels": target.labels[objects] + 1}
    if target.masks is not None:
        prepared["masks"] = target.masks[objects].to(torch.uint8)
    return {name: values.to(device, non_blocking=True) for name, values in prepared.items()}
