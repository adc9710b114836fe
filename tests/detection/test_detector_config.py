"""Settings of detectors: the papers' recipes, the rate's rule and its warm-up, and words that give them again."""

from __future__ import annotations

import pytest

from sgenet.detection import DetectConfig, list_recipes, make_detect_config
from sgenet.detection.config import to_detect_words
from sgenet.errors import ConfigError
from sgenet.training.schedules import learning_rate_factor
from sgenet.training.settings import read_settings, to_yaml


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("2x", {"lr": 0.02, "epochs": 24, "milestones": (16, 22)}),
        ("cascade_20e", {"lr": 0.02, "epochs": 20, "milestones": (16, 19), "detector": "cascade_rcnn"}),
        ("retinanet_2x", {"lr": 0.01, "epochs": 24, "milestones": (16, 22), "detector": "retinanet"}),
    ],
)
def test_the_papers_recipes(recipe, expected):
    shared = {
        "min_size": 800, "max_size": 1333, "flip": 0.5, "batch_size": 16, "lr_batch": 16, "momentum": 0.9,
        "weight_decay": 1e-4, "decay": "all", "clip_norm": 35.0, "warmup_steps": 500, "warmup_start": 1 / 3,
        "optimizer": "sgd", "nesterov": False, "schedule": "step", "gamma": 0.1, "frozen_stages": 1,
        "freeze_attention": True, "norm_eval": True,
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    }  # fmt: skip
    config = make_detect_config(recipe)
    assert {name: getattr(config, name) for name in {**shared, **expected}} == {**shared, **expected}


def test_the_rate_is_in_proportion_to_the_batch_unless_told_otherwise():
    assert make_detect_config("2x", batch_size=4).peak_lr == pytest.approx(0.005)
    assert make_detect_config("2x", batch_size=32).peak_lr == pytest.approx(0.04)
    assert make_detect_config("2x", batch_size=4, lr_batch=None).peak_lr == 0.02


def test_the_warm_up_begins_at_a_third_and_the_rate_falls_at_the_milestones():
    config = make_detect_config("2x")
    steps = 1000
    factors = [learning_rate_factor(config, step, steps) for step in (0, 250, 499, 500, 15_999, 16_000, 21_999, 22_000)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1 / 3 + 2 / 3 * 499 / 500, 1, 1, 0.1, 0.1, 0.01])


def test_a_warm_up_takes_no_more_than_half_of_a_short_training():
    assert DetectConfig(epochs=2, milestones=(1,)).warmup_length(steps_per_epoch=10) == 10


@pytest.mark.parametrize("recipe", list_recipes())
def test_a_recipe_is_a_file_that_gives_itself_again(recipe, tmp_path):
    config = make_detect_config(recipe, seed=3)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert read_settings(DetectConfig, file) == config
    assert to_detect_words(config, recipe) == ["--recipe", recipe, "--seed", "3"]


def test_options_of_a_recipe_stay_with_detectors_that_have_them():
    assert "box_features" in make_detect_config("shapes", detector="cascade_rcnn").detector_options
    assert make_detect_config("shapes", detector="retinanet").detector_options.keys() == {"fpn_channels", "head_norm"}


def test_an_option_that_no_detector_has_stays_to_be_told(tmp_path):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("detector_options: {box_feature: 3, head_norm: group}")
    assert make_detect_config(str(recipe)).detector_options == {"box_feature": 3}


def test_weights_of_a_recipe_give_way_to_those_that_are_named():
    assert make_detect_config("2x").pretrained
    assert not make_detect_config("2x", backbone_weights="runs/x").pretrained


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"detector": "yolo"}, "detector='yolo' must be one of faster_rcnn"),
        ({"frozen_stages": 5}, "frozen_stages=5 must be between 0 and 4"),
        ({"frozen_stages": 1}, "would keep random weights"),
        ({"backbone_weights": "x", "pretrained": True}, "are two starts"),
        ({"max_size": 100}, "max_size=100 is below min_size=800"),
        ({"anchor_sizes": (32, 64)}, "must be 5 sizes"),
        ({"schedule": "plateau"}, "schedule='plateau' must be one of step"),
        ({"lr_batch": 0}, "lr_batch=0 must be 1 or more"),
        ({"batch_size": 2, "min_lr": 0.01}, "min_lr=0.01 is above lr=0.02, which a batch of 2 makes 0.0025"),
        ({"detector_options": {"image_min_size": 3}}, "has 'image_min_size', which the setting min_size says"),
        ({"detector_options": {"num_classes": 3}}, "has 'num_classes', which the setting data says"),
        ({"backbone_options": {"pretrained": True}}, "has 'pretrained', which the setting pretrained says"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        DetectConfig(**settings)


def test_an_unknown_setting_is_named():
    with pytest.raises(ConfigError, match=r"no setting 'frozen_stage'\. Did you mean 'frozen_stages'"):
        make_detect_config("2x", frozen_stage=1)
