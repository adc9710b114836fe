"""Every setting of a training of a classifier, typed and checked. Imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

from sgenet.classification.recipes import list_recipes, load_recipe, suggest_recipe
from sgenet.errors import ConfigError
from sgenet.training.settings import (
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_1,
    SHARE,
    Rule,
    TrainingSettings,
    described,
    from_values,
    refuse_settings,
    setting,
    words_of,
)

__all__ = ["TrainConfig", "list_recipes", "load_recipe", "make_config", "suggest_recipe", "to_words"]

# What settings of their own say of a network, by the names of `create_model`.
_OF_NETWORK = {name: name for name in ("pretrained", "attention", "attention_options")}
_OF_NETWORK |= {"name": "model", "num_classes": "data"}

_network = partial(setting, section="Network")
_images = partial(setting, section="Images")
_seen = partial(setting, section="How images are seen")
_varied = partial(setting, section="How training images are varied")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainingSettings):
    """All settings of one training; `sgenet train --help` prints what each of them means.

    The defaults are those of the recipe `default`. Every field is an option of `sgenet train`
    (`label_smoothing` is `--label-smoothing`), a key of a recipe, and a line of a run's config.yaml.

    Raises:
        ConfigError: If a value is of the wrong type, out of range, or does not go with another one.

    Examples:
        >>> TrainConfig(data="shapes", epochs=2).epochs
        2
        >>> TrainConfig(epochs=-1)
        Traceback (most recent call last):
        ...
        sgenet.errors.ConfigError: epochs=-1 must be 1 or more
    """

    model: str = _network("sge_resnet18", "network: a name of `sgenet models`, timm:NAME or torchvision:NAME")
    pretrained: bool = _network(False, "start from weights that timm or torchvision provide")
    weights: str | None = _network(
        None, "start from the weights of a run, or of a file of sgenet.save; attention that it lacks keeps its output"
    )
    attention: str | None = _network(None, "attention to add to a network that has none in its name, e.g. sge or se")
    attention_options: dict[str, Any] = field(
        default_factory=dict, metadata=described("options of the attention module, e.g. groups or reduction", "Network")
    )
    model_options: dict[str, Any] = field(
        default_factory=dict, metadata=described("options of the network, e.g. stem: small for small images", "Network")
    )

    data: str = _images("", "images: a folder with train/CLASS/* and val/CLASS/*, CIFAR's own folder, or shapes")
    data_options: dict[str, Any] = field(
        default_factory=dict, metadata=described("options of the data, e.g. noise or train_size of shapes", "Images")
    )
    val_split: float = _images(0.0, "share of the images kept for validation where there is no val folder")
    labels: str | None = _images(None, "CSV file with columns path,label[,split], paths relative to data")

    image_size: int = _seen(224, "side of the square that the network sees, pixels")
    resize: int | None = _seen(256, "validation: short side before the centre crop, pixels; null: image_size")
    interpolation: Literal["bilinear", "bicubic"] = _seen("bilinear", "how images are resized")
    mean: tuple[float, float, float] = _seen((0.485, 0.456, 0.406), "subtracted from red, green, blue in 0..1")
    std: tuple[float, float, float] = _seen((0.229, 0.224, 0.225), "divides red, green, blue after that")
    crop: Literal["random-resized", "pad", "none"] = _varied(
        "random-resized", "training crop: random area and shape; or pad and shift; or as validation"
    )
    crop_scale: tuple[float, float] = _varied((0.25, 1.0), "random-resized: smallest and largest share of the area")
    crop_ratio: tuple[float, float] = _varied((0.75, 4 / 3), "random-resized: smallest and largest width / height")
    pad: int = _varied(4, "pad: zeros on each side before a random crop of image_size, pixels")
    flip: float = _varied(0.5, "probability of a horizontal flip")
    rotation: float = _varied(0.0, "largest rotation either way, degrees")
    jitter: int = _varied(0, "largest amount added to each value of each pixel either way, of 255")
    color_jitter: float = _varied(0.0, "strength of brightness, contrast and saturation changes, 0..1")
    random_erasing: float = _varied(0.0, "probability that a rectangle is erased")
    mixup: float = _varied(0.0, "alpha of mixup; 0 is off")
    cutmix: float = _varied(0.0, "alpha of cutmix; 0 is off; with mixup, each is used for half of the batches")
    mix_probability: float = _varied(1.0, "share of the batches that mixup or cutmix changes")
    label_smoothing: float = _varied(0.1, "share of the target that is spread over all classes, below 1")

    freeze_host: bool = setting(
        False,
        "train attention and the classifier only; the rest of the network keeps weights and statistics",
        "Optimisation",
    )

    loader: Literal["auto", "workers", "resident"] = setting(
        "auto",
        "images decoded on demand by worker processes, or held decoded in memory (small sets of small images)",
        "Machine and output",
    )

    RULES: ClassVar[Mapping[str, Rule]] = {
        **TrainingSettings.RULES,
        "model": (bool, "must not be empty; `sgenet models` lists names"),
        "val_split": BELOW_1,
        "image_size": AT_LEAST_1,
        "resize": AT_LEAST_1,
        "std": (lambda v: min(v) > 0, "must be above 0 each"),
        "crop_scale": (lambda v: 0 < v[0] <= v[1] <= 1, "must be 0 < smallest <= largest <= 1"),
        "crop_ratio": (lambda v: 0 < v[0] <= v[1], "must be 0 < smallest <= largest"),
        "pad": AT_LEAST_0,
        "flip": SHARE,
        "rotation": (lambda v: 0 <= v <= 180, "must be between 0 and 180 degrees"),
        "jitter": (lambda v: 0 <= v <= 255, "must be between 0 and 255"),
        "color_jitter": SHARE,
        "random_erasing": SHARE,
        "mixup": AT_LEAST_0,
        "cutmix": AT_LEAST_0,
        "mix_probability": SHARE,
        "label_smoothing": BELOW_1,
    }

    def check(self) -> None:
        """See that the values go together."""
        super().check()
        refuse_settings("model_options", self.model_options, _OF_NETWORK)
        if self.weights is not None and self.pretrained:
            raise ConfigError(f"weights='{self.weights}' and pretrained=True are two starts; leave out one of them")
        if self.freeze_host and self.weights is None and not self.pretrained:
            raise ConfigError("freeze_host=True would keep random weights; give pretrained or weights too")
        if (self.mixup or self.cutmix) and (self.batch_size // self.accumulate) % 2:
            raise ConfigError(
                f"mixup and cutmix pair images, so that batch_size / accumulate must be even "
                f"(it is {self.batch_size // self.accumulate}); change batch_size"
            )


def make_config(recipe: str | None = None, **overrides: Any) -> TrainConfig:  # noqa: ANN401  # values of any setting
    """Settings of a recipe, with some of them changed.

    Args:
        recipe: A name of `list_recipes()` or a YAML file; None for the defaults.
        **overrides: Settings that win over the recipe's.

    Returns:
        The checked settings. A recipe's `model_options` are left out where the overrides name a network of another
        family, which would not know them, and its `pretrained` where they name weights.

    Raises:
        ConfigError: If the recipe or a setting is unknown, or a value cannot be used.

    Examples:
        >>> make_config("imagenet_sge", data="imagenet", epochs=90).lr
        0.1
    """
    values = {} if recipe is None else load_recipe(recipe)
    if "model" in overrides and _family(overrides["model"]) != _family(values.get("model")):
        values.pop("model_options", None)
    if overrides.get("weights") is not None:
        values.pop("pretrained", None)
    return from_values(TrainConfig, {**values, **overrides}, f"recipe '{recipe}'" if recipe else "the settings")


def to_words(config: TrainConfig, recipe: str | None = None) -> list[str]:
    """The words after `sgenet train` that give these settings: the recipe, and what differs from it.

    Args:
        config: Settings.
        recipe: A name of `list_recipes()` or a YAML file; None for the defaults.

    Returns:
        Words, not yet quoted for a shell.

    Examples:
        >>> to_words(make_config("shapes", model="sge_resnet8_cifar", seed=1), "shapes")
        ['--recipe', 'shapes', '--model', 'sge_resnet8_cifar', '--seed', '1']
    """
    decisive = {"model": config.model, **({} if config.weights is None else {"weights": config.weights})}
    words = ["--recipe", recipe or "default"]
    for name in ("model", "weights"):  # these come first: what a recipe says beside them depends on them
        if getattr(config, name) != getattr(make_config(recipe), name):
            words += [f"--{name}", str(getattr(config, name))]
    return words + words_of(config, make_config(recipe, **decisive))


def _family(model: object) -> str:
    """Networks of one family take the same options."""
    name = str(model)
    if ":" in name:
        return name
    return "cifar" if name.endswith("_cifar") else "resnet"
