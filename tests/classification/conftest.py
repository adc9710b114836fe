"""Small data and small trainings for the tests of classification."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sgenet.classification import TrainConfig, make_config, train
from sgenet.data import ArraySource, ClassificationData


def tinted(count: int, seed: int, side: int = 16) -> ArraySource:
    """Noise, in which the class decides how red an image is: learnable, but not in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    images = torch.randint(0, 128, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    images[:, 0] += (30 * labels).to(torch.uint8)[:, None, None]
    return ArraySource(images, labels, ["ant", "bee", "cat", "dog"])


@pytest.fixture(scope="session")
def data() -> ClassificationData:
    return ClassificationData(tinted(44, 0), tinted(30, 1), "tinted")


def small_config(output: Path, **settings: Any) -> TrainConfig:
    """Five steps an epoch."""
    given = {
        "model": "sge_resnet8_cifar",
        "epochs": 4,
        "batch_size": 8,
        "image_size": 16,
        "accelerator": "cpu",
        "precision": "32",
        "output": str(output),
    }
    return make_config("cifar", **{**given, **settings})


@pytest.fixture(scope="session")
def config_at() -> Callable[..., TrainConfig]:
    return small_config


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., TrainConfig]:
    def build(name: str = "run", **settings: Any) -> TrainConfig:
        return small_config(tmp_path / name, **settings)

    return build


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of plain images, 12 + 6 a class, and one file that is damaged."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 12), ("val", 6)):
        for name, colour in (("blue", (20, 30, 200)), ("red", (200, 30, 20))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (20, 18), tuple(c + i for c in colour)).save(folder / f"{i:02d}.png")
    whole = (root / "val" / "red" / "00.png").read_bytes()
    (root / "val" / "red" / "damaged.png").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="session")
def trained(image_folder: Path, tmp_path_factory: pytest.TempPathFactory, stop_at: type) -> tuple[Any, list[str]]:
    """A finished training on the folder, and the lines it showed."""
    progress = stop_at()
    output = tmp_path_factory.mktemp("runs") / "photos"
    config = small_config(output, data=str(image_folder), epochs=3, batch_size=6, label_smoothing=0.1)
    return train(config, progress=progress), progress.lines


def metrics_without_times(run: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv, less what a clock decides."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["images_per_second"], row["seconds"]
    return rows


@pytest.fixture
def metrics():
    return metrics_without_times
