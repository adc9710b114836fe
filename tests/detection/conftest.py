"""Small trainings of detectors on drawn images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgenet.data import DetectionData
from sgenet.data.shapes_detection import ShapesDetectionSource
from sgenet.detection import DetectConfig, DetectResult, make_detect_config, train_detector
from sgenet.training import SilentProgress

SIZE = 96


class Changed:
    """A source of images of which a part is something else."""

    def __init__(self, source: Any, **changes: Any) -> None:
        self._source = source
        self.__dict__.update(changes)

    def __len__(self) -> int:
        return len(self._source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


@pytest.fixture(scope="session")
def shapes() -> DetectionData:
    """Twelve training images and six to judge by."""
    train, val = (ShapesDetectionSource(split, size, image_size=SIZE) for split, size in (("train", 12), ("val", 6)))
    return DetectionData(train, val, "shapes")


def small_config(output: Path, detector: str = "retinanet", **settings: Any) -> DetectConfig:
    """Three steps an epoch."""
    options: dict[str, Any] = {"fpn_channels": 32}
    if detector != "retinanet":
        options |= {"box_features": 32, "rois_per_image": 16, "roi_canonical_size": 45}
    if "mask" in detector:
        options |= {"mask_channels": 16, "mask_layers": 1}
    given = {
        "detector": detector,
        "detector_options": options,
        "data_options": {"train_size": 12, "val_size": 6},
        "min_size": SIZE,
        "max_size": SIZE,
        "epochs": 2,
        "batch_size": 4,
        "accelerator": "cpu",
        "precision": "32",
        "output": str(output),
    }
    return make_detect_config("shapes", **{**given, **settings})


@pytest.fixture(scope="session")
def changed() -> type[Changed]:
    return Changed


@pytest.fixture(scope="session")
def config_at() -> Callable[..., DetectConfig]:
    return small_config


@pytest.fixture(scope="session")
def trained(shapes: DetectionData, tmp_path_factory: pytest.TempPathFactory) -> DetectResult:
    """A finished training of a detector with masks."""
    config = small_config(tmp_path_factory.mktemp("runs") / "masks", "mask_rcnn")
    return train_detector(config, data=shapes, progress=SilentProgress())


@pytest.fixture(scope="session")
def boxes_run(shapes: DetectionData, tmp_path_factory: pytest.TempPathFactory) -> DetectResult:
    """A finished training of a detector without masks."""
    config = small_config(tmp_path_factory.mktemp("runs") / "boxes", "cascade_rcnn")
    return train_detector(config, data=shapes, progress=SilentProgress())
