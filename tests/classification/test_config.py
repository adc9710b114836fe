from __future__ import annotations

import pytest
import yaml

from sgenet.classification.config import TrainConfig, make_config
from sgenet.classification.recipes import list_recipes
from sgenet.errors import ConfigError
from sgenet.training.settings import ordered_fields, read_settings, to_yaml, types_of


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": -3}, ["epochs=-3", "1 or more"]),
        ({"epochs": 2.5}, ["epochs=2.5", "whole number"]),
        ({"epochs": True}, ["epochs=True", "whole number"]),
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"lr": 0}, ["lr=0", "above 0"]),
        ({"lr": "fast"}, ["lr='fast'", "number"]),
        ({"lr": float("nan")}, ["lr=nan", "finite"]),
        ({"precision": "8"}, ["precision='8'", "auto, 32, bf16, 16"]),
        ({"schedule": "step"}, ["milestones"]),
        ({"schedule": "step", "milestones": [60, 30]}, ["milestones=(60, 30)", "increasing"]),
        ({"schedule": "step", "milestones": [30, 30]}, ["milestones", "increasing"]),
        ({"schedule": "plateau"}, ["warm-up", "warmup_epochs=0"]),
        ({"mixup": 0.2, "batch_size": 9}, ["even", "9"]),
        ({"cutmix": 1.0, "batch_size": 12, "accumulate": 4}, ["even", "3"]),
        ({"batch_size": 10, "accumulate": 4}, ["accumulate=4", "divisor"]),
        ({"crop_scale": [0.9, 0.1]}, ["crop_scale"]),
        ({"mean": [0.5, 0.5]}, ["mean", "3 numbers"]),
        ({"mean": 0.5}, ["mean", "list"]),
        ({"std": [0.2, 0.2, 0.0]}, ["std"]),
        ({"val_split": 1.0}, ["val_split=1.0"]),
        ({"label_smoothing": 1.0}, ["label_smoothing"]),
        ({"momentum": 0.0}, ["nesterov", "momentum"]),
        ({"min_lr": 1.0}, ["min_lr", "lr"]),
        ({"model_options": "small"}, ["model_options", "mapping"]),
        ({"model_options": {"num_classes": 5}}, ["model_options has 'num_classes'", "setting data"]),
        ({"pretrained": "yes"}, ["pretrained='yes'", "true or false"]),
        ({"model": ""}, ["model", "sgenet models"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"clip_norm": 0.0}, ["clip_norm"]),
        ({"freeze_bn_from_epoch": 0}, ["freeze_bn_from_epoch"]),
        ({"attention_lr": 0}, ["attention_lr=0", "above 0"]),
        ({"attention_lr": -1.0}, ["attention_lr=-1.0", "above 0"]),
        ({"freeze_host": True}, ["freeze_host", "random weights", "pretrained or weights"]),
        ({"weights": "runs/a", "pretrained": True}, ["weights='runs/a'", "pretrained", "leave out one"]),
    ],
)
def test_a_bad_value_is_named_with_its_rule_on_one_line(settings, words):
    with pytest.raises(ConfigError) as caught:
        make_config(**settings)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_values_take_their_declared_types():
    config = make_config(lr="1e-3", rotation=5, milestones=[1, 2], schedule="step", precision=32, clip_norm="2")
    assert (config.lr, config.rotation, config.milestones) == (0.001, 5.0, (1, 2))
    assert (config.precision, config.clip_norm) == ("32", 2.0)
    assert isinstance(config.rotation, float)
    assert make_config(devices=2).devices == "2"


def test_an_unknown_setting_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"'label_smothing'.*'label_smoothing'"):
        make_config("cifar", label_smothing=0.1)


def test_every_setting_has_help_and_is_written_with_it():
    text = to_yaml(TrainConfig())
    assert [line.partition(":")[0] for line in text.splitlines()] == list(types_of(TrainConfig))
    for item, line in zip(ordered_fields(TrainConfig), text.splitlines(), strict=True):
        assert len(item.metadata["help"]) > 5
        assert line.endswith(f"# {item.metadata['help']}")


@pytest.mark.parametrize("recipe", list_recipes())
def test_written_settings_read_back_as_they_were(recipe, tmp_path):
    awkward = {"data": "a: b # 'c'", "labels": "1e3", "output": "null", "attention_options": {"a": {"b": [1, None]}}}
    config = make_config(recipe, weight_decay="3e-5", **awkward)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert read_settings(TrainConfig, file) == config
    assert TrainConfig(**yaml.safe_load(to_yaml(config, comments=False))) == config


def test_a_file_that_is_no_settings_is_an_error(tmp_path):
    file = tmp_path / "config.yaml"
    for text, words in (("- 1\n- 2\n", "must hold"), ("a: [", "YAML"), ("epoch: 3", "'epochs'")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_settings(TrainConfig, file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(TrainConfig, tmp_path / "nowhere.yaml")


def test_a_recipes_network_options_stay_with_its_family():
    assert make_config("tiny_imagenet", model="sge_resnet50").model_options == {"stem": "small"}
    assert make_config("tiny_imagenet", model="timm:resnet50").model_options == {}
    assert make_config("shapes", model="resnet18").model_options == {}
    assert make_config("shapes", model="resnet18", model_options={"stem": "small"}).model_options == {"stem": "small"}


def test_weights_take_the_place_of_a_recipes_pretrained_ones():
    assert make_config("finetune").pretrained
    config = make_config("finetune", model="resnet18", weights="runs/a")
    assert (config.pretrained, config.weights) == (False, "runs/a")
    with pytest.raises(ConfigError, match="two starts"):
        make_config("finetune", weights="runs/a", pretrained=True)
