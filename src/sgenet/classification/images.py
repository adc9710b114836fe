"""What the settings say about images: where they are, how they are seen, and who decodes them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from sgenet.classification.config import TrainConfig
from sgenet.data import (
    Augmentation,
    ClassificationData,
    ImageSource,
    Preprocessing,
    normalise,
    open_data,
    open_judged_data,
)
from sgenet.errors import ConfigError

__all__ = [
    "augmentation_of",
    "count_workers",
    "open_config_data",
    "open_other_images",
    "prepare_images",
    "preprocessing_of",
]


def open_config_data(config: TrainConfig) -> ClassificationData:
    """The images that the settings name.

    Args:
        config: Settings. `data_options` may hold a `seed`, which decides what `val_split` sets aside and what `shapes`
            draws; it is 0 if not given, whatever the training's own seed.

    Returns:
        Training and validation images.

    Raises:
        ConfigError: If no data are named.
        DataError: If they cannot be used.
    """
    if not config.data:
        raise ConfigError("no images are named; give --data PATH, or --data shapes for generated ones")
    options = dict(config.data_options)
    # Not the training's seed: runs that are compared over seeds must see the same images.
    seed = options.pop("seed", 0)
    if not isinstance(seed, int):
        raise ConfigError(f"data_options: seed={seed!r} must be a whole number")
    if config.data == "shapes":
        options.setdefault("image_size", config.image_size)
    return open_data(config.data, val_split=config.val_split, labels=config.labels, seed=seed, options=options)


def open_other_images(config: TrainConfig, data: str | Path, classes: list[str]) -> tuple[ImageSource, tuple[str, ...]]:
    """Images to judge a run's network by that are not the run's own.

    Args:
        config: Of the run; of what it says of its own images, only what `shapes` draws from holds for others.
        data: Where they are.
        classes: Of the network.

    Returns:
        The images; and the files that are none and are left out, one ``path: reason`` each.

    Raises:
        DataError: If they cannot be used, or show other classes.
    """
    if data != "shapes":
        return open_judged_data(data, classes)
    options = {"image_size": config.image_size}
    return open_judged_data(data, classes, seed=config.data_options.get("seed", 0), options=options)


def prepare_images(images: Tensor, config: TrainConfig) -> Tensor:
    """Make images into what the network takes.

    Args:
        images: uint8 (B, 3, S, S).
        config: `mean`, `std` and `channels_last`.

    Returns:
        float32 (B, 3, S, S), in the memory format that the settings ask for.

    Examples:
        >>> prepare_images(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), TrainConfig()).dtype
        torch.float32
    """
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return normalise(images, config.mean, config.std)


def count_workers(config: TrainConfig, device: torch.device) -> int:
    """Processes that decode images: those asked for, or what suits the images and the machine.

    Args:
        config: Settings.
        device: That the network runs on.

    Returns:
        0 for small images beside a network on the CPU, where a process costs more than it brings; up to 8 otherwise.

    Examples:
        >>> count_workers(TrainConfig(workers=3), torch.device("cpu"))
        3
    """
    if config.workers is not None:
        return config.workers
    if device.type == "cpu" and config.image_size <= 64:
        return 0
    return min(8, os.cpu_count() or 1)


def preprocessing_of(config: TrainConfig) -> Preprocessing:
    """The part of the settings that an image goes through before the network, in training and in use.

    Examples:
        >>> preprocessing_of(TrainConfig(image_size=32, resize=None)).image_size
        32
    """
    return Preprocessing(
        image_size=config.image_size,
        resize=config.resize,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
    )


def augmentation_of(config: TrainConfig) -> Augmentation:
    """The part of the settings that varies training images.

    Examples:
        >>> augmentation_of(TrainConfig(crop="pad", pad=2)).pad
        2
    """
    return Augmentation(
        crop=config.crop,
        crop_scale=config.crop_scale,
        crop_ratio=config.crop_ratio,
        pad=config.pad,
        flip=config.flip,
        rotation=config.rotation,
        jitter=config.jitter,
        color_jitter=config.color_jitter,
        random_erasing=config.random_erasing,
    )
