from __future__ import annotations

import pytest
from PIL import Image

from sgenet.classification import load_recipe, make_config
from sgenet.classification.recipes import RECIPES, list_recipes, recipe_summary, suggest_recipe
from sgenet.errors import ConfigError, UnknownNameError

IMAGENET_IMAGES = {
    "image_size": 224,
    "resize": 256,
    "crop": "random-resized",
    "crop_scale": (0.08, 1.0),
    "crop_ratio": (3 / 4, 4 / 3),
    "flip": 0.5,
    "color_jitter": 0.0,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}
CAFFE_PIXELS = {"mean": (123 / 255, 117 / 255, 104 / 255), "std": (1 / 255, 1 / 255, 1 / 255)}
PAPERS = {
    # arXiv 1905.09646: README and imagenet.py of the authors' code
    "imagenet_sge": {
        **IMAGENET_IMAGES,
        "model": "sge_resnet50",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "rotation": 0.0,
        "jitter": 0,
        "label_smoothing": 0.0,
        "epochs": 100,
        "batch_size": 256,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "decay": "all",
        "schedule": "step",
        "milestones": (30, 60, 90),
        "gamma": 0.1,
        "warmup_epochs": 0.0,
        "ema": 0.0,
        "precision": "32",
    },
    # arXiv 1709.01507v4, section 5.1
    "imagenet_senet": {
        **IMAGENET_IMAGES,
        **CAFFE_PIXELS,
        "model": "se_resnet50",
        "label_smoothing": 0.0,
        "epochs": 100,
        "batch_size": 1024,
        "optimizer": "sgd",
        "lr": 0.6,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": (30, 60, 90),
        "gamma": 0.1,
        "warmup_epochs": 0.0,
    },
    # section 6
    "imagenet_senet_ablation": {
        **IMAGENET_IMAGES,
        **CAFFE_PIXELS,
        "attention": "se",
        "attention_options": {"reduction": 16, "bias": False},
        "label_smoothing": 0.1,
        "epochs": 300,
        "lr": 0.1,
        "momentum": 0.9,
        "schedule": "plateau",
        "gamma": 0.1,
        "drops": 3,
    },
    # appendix, and hujie-frank/SENet
    "imagenet_senet154": {
        **IMAGENET_IMAGES,
        **CAFFE_PIXELS,
        "model": "timm:legacy_senet154",
        "model_options": {"drop_rate": 0.2},
        "rotation": 10.0,
        "jitter": 20,
        "label_smoothing": 0.1,
        "batch_size": 2048,
        "lr": 1.0,
        "freeze_bn_from_epoch": 91,
    },
    # table 3, and version 3 of the paper for the weight decay
    "imagenet_mobile": {
        **CAFFE_PIXELS,
        "epochs": 400,
        "batch_size": 256,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 4e-5,
        "schedule": "plateau",
        "gamma": 0.1,
    },
    # arXiv 1512.03385, section 4.2: the images; the optimisation is our choice
    "cifar": {"image_size": 32, "crop": "pad", "pad": 4, "flip": 0.5},
}


@pytest.mark.parametrize("recipe", PAPERS)
def test_recipe_is_the_papers(recipe):
    config = make_config(recipe)
    for name, value in PAPERS[recipe].items():
        expected = pytest.approx(value) if isinstance(value, float | tuple) else value
        assert getattr(config, name) == expected, name


def test_every_recipe_makes_settings_and_says_what_it_is_for():
    assert set(PAPERS) < set(list_recipes())
    for recipe in list_recipes():
        assert make_config(recipe).epochs >= 1
        assert len(recipe_summary(recipe)) > 20


def test_the_default_recipe_is_the_defaults():
    assert make_config("default") == make_config()


def test_a_recipe_may_be_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("# Mine.\nepochs: 7\nlr: 1e-3\n")
    assert make_config(str(file), batch_size=2).epochs == 7
    assert make_config(str(file)).lr == 0.001
    assert recipe_summary(str(file)) == "Mine."
    file.write_text("")
    assert load_recipe(str(file)) == {}


def test_an_unknown_recipe_is_an_error_with_a_suggestion():
    with pytest.raises(UnknownNameError, match=r"'imagenet_seg'.*'imagenet_sge'"):
        RECIPES.find("imagenet_seg")
    with pytest.raises(UnknownNameError, match=r"cifar, default"):
        RECIPES.find("zzz")


def test_a_recipe_with_an_unknown_setting_names_the_recipe(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("learning_rate: 1")
    with pytest.raises(ConfigError, match=r"mine\.yaml.*'learning_rate'"):
        make_config(str(file))


@pytest.mark.parametrize(
    ("side", "pretrained", "recipe"),
    [
        (32, False, "cifar"),
        (64, False, "tiny_imagenet"),
        (300, False, "default"),
        (300, True, "finetune"),
        (32, True, "finetune"),
    ],
)
def test_the_recipe_is_chosen_by_the_size_of_the_images(tmp_path, side, pretrained, recipe):
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_text("not an image")
    Image.new("RGB", (side, side // 2)).save(folder / "b.png")
    assert suggest_recipe(str(tmp_path), pretrained=pretrained) == recipe


def test_the_recipe_is_chosen_without_images_too(tmp_path):
    assert suggest_recipe("shapes") == "shapes"
    assert suggest_recipe(str(tmp_path)) == "default"
    assert suggest_recipe(str(tmp_path), weights=True) == "finetune"
    assert suggest_recipe(str(tmp_path / "nowhere")) == "default"
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert suggest_recipe(str(tmp_path)) == suggest_recipe(str(tmp_path), weights=True) == "cifar"
    assert suggest_recipe(str(tmp_path / "cifar-10-batches-py")) == "cifar"
