"""Detectors on photographs of COCO with its annotations, where they are at hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sgenet.detection import list_detectors, make_detect_config, train_detector
from sgenet.training import SilentProgress


@pytest.fixture(scope="module")
def twenty(coco200: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the first twenty training images."""
    whole = json.loads((coco200 / "annotations/instances_train2017.json").read_text())
    images = whole["images"][:20]
    ids = {image["id"] for image in images}
    objects = [annotation for annotation in whole["annotations"] if annotation["image_id"] in ids]
    file = tmp_path_factory.mktemp("coco") / "twenty.json"
    file.write_text(json.dumps({**whole, "images": images, "annotations": objects}))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("detector", list_detectors())
def test_every_detector_learns_from_photographs(detector, coco200, twenty, tmp_path):
    files = {"train_json": str(twenty), "train_images": "train2017", "val_json": str(twenty), "val_images": "train2017"}
    config = make_detect_config(
        "small", detector=detector, data=str(coco200), data_options=files, min_size=160, max_size=160, lr=0.001,
        epochs=4, batch_size=4, warmup_steps=5, output=str(tmp_path / "run"),
    )  # fmt: skip
    history = train_detector(config, progress=SilentProgress()).history
    assert history[-1].step == 20
    assert all(math.isfinite(row.train_loss) for row in history)
    assert history[-1].train_loss < 0.9 * history[0].train_loss
