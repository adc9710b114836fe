"""Training detectors: what a run holds, resuming, and what happens when something is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys

import pytest
import torch

import sgenet
from sgenet.data import DetectionData, Target
from sgenet.detection import evaluate_run, resume_detector, train_detector
from sgenet.detection.history import DetectRow
from sgenet.errors import ConfigError, DataError, RunError
from sgenet.models import checkpoint_folder
from sgenet.training import SilentProgress
from sgenet.training.checkpointing import read_checkpoint
from sgenet.training.run_folder import RunFolder
from sgenet.training.settings import to_yaml

NOTHING = Target(
    torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool), torch.zeros(0), None
)


def state(run):
    return read_checkpoint(checkpoint_folder(run), "network.")["state_dict"]


def test_a_run_holds_what_it_says(trained):
    folder = RunFolder(trained.run)
    rows = folder.read_metrics(DetectRow)
    assert [row.epoch for row in rows] == [1, 2]
    assert [row.step for row in rows] == [3, 6]
    assert rows[-1].train_loss < rows[0].train_loss
    assert 0 <= rows[-1].ap <= rows[-1].ap50 <= 100
    assert 0 <= rows[-1].mask_ap50 <= 100
    assert math.isnan(rows[-1].ap_large)  # no object of 96 pixels' images is that large
    assert (trained.run / "config.yaml").is_file()
    assert json.loads((trained.run / "environment.json").read_text())["sessions"]
    assert list((trained.run / "tensorboard").iterdir())


def test_the_evaluation_of_a_run_is_its_last_validation(trained, shapes):
    found = evaluate_run(trained.run, data=shapes)
    last = trained.history[-1]
    assert 100 * found.boxes.figures["AP"] == last.ap
    assert 100 * found.masks.figures["AP50"] == last.mask_ap50


def test_the_first_stages_of_a_cascade_can_be_judged_alone(boxes_run, trained, shapes, tmp_path):
    found = {}
    for stages in (None, 3, 1):
        evaluate_run(boxes_run.run, data=shapes, stages=stages, results=tmp_path / f"{stages}.json")
        found[stages] = json.loads((tmp_path / f"{stages}.json").read_text())
    assert found[3] == found[None]
    assert found[1] != found[None]
    with pytest.raises(ConfigError, match="test_stages=4 is not possible"):
        evaluate_run(boxes_run.run, data=shapes, stages=4)
    with pytest.raises(ConfigError, match=r"stages=1 is for cascades;.*is a mask_rcnn"):
        evaluate_run(trained.run, data=shapes, stages=1)


@pytest.mark.parametrize("detector", [pytest.param("retinanet", marks=pytest.mark.slow), "faster_rcnn"])
def test_resuming_is_the_same_training_bit_for_bit(detector, shapes, config_at, tmp_path, stop_at, stop_error):
    settings = {"detector": detector, "checkpoint_every_steps": 2}
    whole = train_detector(config_at(tmp_path / "whole", **settings), data=shapes, progress=SilentProgress())
    with pytest.raises(stop_error):
        train_detector(config_at(tmp_path / "cut", **settings), data=shapes, progress=stop_at(6))
    resumed = resume_detector(tmp_path / "cut", data=shapes, progress=SilentProgress())
    for name, tensor in state(whole.run).items():
        assert torch.equal(tensor, state(resumed.run)[name]), name
    kept = [{k: v for k, v in dataclasses.asdict(row).items() if "second" not in k} for row in whole.history]
    again = [{k: v for k, v in dataclasses.asdict(row).items() if "second" not in k} for row in resumed.history]
    assert str(again) == str(kept)  # as text: nan is nan


def test_a_finished_run_says_so_and_goes_on_for_longer(boxes_run, shapes, tmp_path, changed):
    run = tmp_path / "run"
    shutil.copytree(boxes_run.run, run)
    with pytest.raises(RunError, match="has finished 2 of 2 epochs"):
        resume_detector(run, data=shapes, progress=SilentProgress())
    others = DetectionData(shapes.train, changed(shapes.val, sizes=shapes.val.sizes + 1), shapes.name)
    with pytest.raises(DataError, match="the validation images of 'shapes' have changed"):
        resume_detector(run, epochs=3, data=others, progress=SilentProgress())
    assert len(resume_detector(run, epochs=3, data=shapes, progress=SilentProgress()).history) == 3


def test_a_backbone_starts_from_a_classifier_and_frozen_stages_stay(shapes, config_at, tmp_path):
    classifier = sgenet.create_model("sge_resnet18", num_classes=8)
    file = sgenet.save(classifier, tmp_path / "classifier.safetensors")
    settings = {"backbone_weights": str(file), "frozen_stages": 1, "freeze_attention": True, "epochs": 1}
    run = train_detector(config_at(tmp_path / "run", **settings), data=shapes, progress=SilentProgress()).run
    before, after = classifier.state_dict(), state(run)
    frozen = [name for name in before if name.startswith(("conv1", "bn1", "layer1"))]
    assert any("attention" in name for name in frozen)
    for name in frozen:
        assert torch.equal(before[name], after[f"network.backbone.body.{name}"]), name
    assert not torch.equal(before["layer2.0.conv1.weight"], after["network.backbone.body.layer2.0.conv1.weight"])


def test_images_without_objects_train(shapes, config_at, tmp_path, changed):
    empty = changed(shapes.train, target=lambda index, masks=False: NOTHING)
    data = DetectionData(empty, shapes.val, "empty")
    for detector in ("retinanet", "cascade_rcnn"):
        config = config_at(tmp_path / detector, detector, epochs=1)
        result = train_detector(config, data=data, progress=SilentProgress())
        assert math.isfinite(result.history[-1].train_loss)


def test_a_loss_that_is_no_number_stops_the_run_with_step_and_images(shapes, config_at, tmp_path):
    config = config_at(tmp_path / "run", lr=1e30, optimizer="sgd", clip_norm=None, warmup_steps=0)
    with pytest.raises(RunError, match=r"the training loss is (nan|inf) at step \d+ \(epoch \d\), images \d+") as stop:
        train_detector(config, data=shapes, progress=SilentProgress())
    assert "there is no checkpoint yet" in str(stop.value)


def test_masks_are_needed_by_detectors_of_masks(shapes, config_at, tmp_path, changed):
    for which in ("train", "val"):
        data = DetectionData(
            *(
                changed(source, has_masks=name != which)
                for name, source in (("train", shapes.train), ("val", shapes.val))
            ),
            "boxes",
        )
        with pytest.raises(DataError, match=f"the {which}[a-z]* images of 'boxes' have no masks, which mask_rcnn"):
            train_detector(config_at(tmp_path / "run", "mask_rcnn"), data=data, progress=SilentProgress())
    assert not (tmp_path / "run").exists()


def test_an_output_that_holds_something_is_left_alone(shapes, config_at, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty"):
        train_detector(config_at(tmp_path), data=shapes, progress=SilentProgress())


def test_an_option_that_the_detector_lacks_is_named(shapes, config_at, tmp_path):
    config = config_at(tmp_path / "run", detector_options={"box_feature": 3})
    with pytest.raises(ConfigError, match="detector 'retinanet' has no option 'box_feature'"):
        train_detector(config, data=shapes, progress=SilentProgress())


def test_a_run_of_another_kind_is_named(trained):
    with pytest.raises(ConfigError, match="there is no setting 'detector'"):
        sgenet.evaluate(trained.run)


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(config_at, tmp_path):
    """RetinaNet draws no lots in training: up to rounding it is the same, whatever shares its batches and images."""
    settings = {
        "detector": "retinanet",
        "norm": "group",
        "norm_eval": None,
        "precision": "32",
        "workers": 0,
        "epochs": 2,
    }
    settings |= {"data": "shapes", "data_options": {"train_size": 8, "val_size": 7}, "batch_size": 4}
    one = train_detector(config_at(tmp_path / "one", **settings), progress=SilentProgress())
    file = tmp_path / "two.yaml"
    file.write_text(to_yaml(config_at(tmp_path / "two", devices="2", **settings)))
    done = subprocess.run(
        [sys.executable, "-m", "sgenet.cli", "detect", "train", "--config", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == 1
    two = RunFolder(tmp_path / "two").read_metrics(DetectRow)
    for row, other in zip(one.history, two, strict=True):
        assert row.step == other.step
        assert row.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        assert row.ap == pytest.approx(other.ap, abs=0.5)
