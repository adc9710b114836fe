from __future__ import annotations

import pytest
import torch

from sgenet.classification import TrainConfig
from sgenet.classification.images import (
    augmentation_of,
    count_workers,
    open_config_data,
    prepare_images,
    preprocessing_of,
)
from sgenet.errors import ConfigError
from sgenet.training.devices import autocast, choose_device, resolve_precision
from sgenet.training.schedules import steps_per_epoch


def test_images_are_normalised_in_the_asked_memory_format():
    images = torch.randint(0, 256, (2, 3, 4, 6), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    expected = (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    for channels_last in (True, False):
        found = prepare_images(images, TrainConfig(mean=mean, std=std, channels_last=channels_last))
        torch.testing.assert_close(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_workers_are_those_asked_for_or_suit_the_images(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert count_workers(TrainConfig(workers=3, image_size=32, resize=None), cpu) == 3
    assert count_workers(TrainConfig(image_size=32, resize=None), cpu) == 0
    assert count_workers(TrainConfig(image_size=32, resize=None), cuda) == 6
    assert count_workers(TrainConfig(), cpu) == 6


def test_an_epoch_is_whole_batches_and_at_least_one():
    assert steps_per_epoch(100, TrainConfig(batch_size=30)) == 3
    assert steps_per_epoch(10, TrainConfig(batch_size=30)) == 1


def test_settings_reach_the_transforms():
    config = TrainConfig(image_size=48, resize=60, crop="pad", pad=3, flip=0.25, rotation=5.0, jitter=7)
    assert preprocessing_of(config).resize == 60
    augmentation = augmentation_of(config)
    assert (augmentation.crop, augmentation.pad, augmentation.flip) == ("pad", 3, 0.25)
    assert (augmentation.rotation, augmentation.jitter) == (5.0, 7)


def test_shapes_are_drawn_at_the_size_that_the_network_sees():
    config = TrainConfig(data="shapes", image_size=40, resize=None, data_options={"train_size": 3, "val_size": 2})
    data = open_config_data(config)
    assert (len(data.train), len(data.val)) == (3, 2)
    assert data.train.load(0).shape == (3, 40, 40)


def test_no_data_is_an_error():
    with pytest.raises(ConfigError, match="--data PATH"):
        open_config_data(TrainConfig())


def test_precision_is_resolved_to_what_is_used():
    assert resolve_precision(TrainConfig(precision="16")).precision == "16"
    assert resolve_precision(TrainConfig(accelerator="cpu")).precision in ("32", "bf16")
    assert choose_device("cpu").type == "cpu"
    with autocast(torch.device("cpu"), "32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
