"""Every setting of a training, typed and checked, in one flat dataclass. Imports neither torch nor numpy."""

from __future__ import annotations

import itertools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sgenet.classification.recipes import list_recipes, load_recipe, suggest_recipe
from sgenet.errors import ConfigError, did_you_mean
from sgenet.named_files import read_yaml

__all__ = [
    "TrainConfig",
    "field_types",
    "list_recipes",
    "load_recipe",
    "make_config",
    "read_config",
    "suggest_recipe",
    "to_words",
    "to_yaml",
]


def _setting(default: Any, help_text: str) -> Any:  # noqa: ANN401  # a dataclass field of any type
    """A field whose help stands beside it; the command line shows the same words."""
    return field(default=default, metadata={"help": help_text})


def _mapping(help_text: str) -> Any:  # noqa: ANN401  # a dataclass field
    return field(default_factory=dict, metadata={"help": help_text})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
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

    model: str = _setting("sge_resnet18", "network: a name of `sgenet models`, timm:NAME or torchvision:NAME")
    pretrained: bool = _setting(False, "start from weights that timm or torchvision provide")
    weights: str | None = _setting(
        None, "start from the weights of a run, or of a file of sgenet.save; attention that it lacks keeps its output"
    )
    attention: str | None = _setting(None, "attention to add to a network that has none in its name, e.g. sge or se")
    attention_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "options of the attention module, e.g. groups or reduction"}
    )
    model_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "options of the network, e.g. stem: small for small images"}
    )

    data: str = _setting("", "images: a folder with train/CLASS/* and val/CLASS/*, CIFAR's own folder, or shapes")
    data_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "options of the data, e.g. noise or train_size of shapes"}
    )
    val_split: float = _setting(0.0, "share of the images kept for validation where there is no val folder")
    labels: str | None = _setting(None, "CSV file with columns path,label[,split], paths relative to data")

    image_size: int = _setting(224, "side of the square that the network sees, pixels")
    resize: int | None = _setting(256, "validation: short side before the centre crop, pixels; null: image_size")
    interpolation: Literal["bilinear", "bicubic"] = _setting("bilinear", "how images are resized")
    mean: tuple[float, float, float] = _setting((0.485, 0.456, 0.406), "subtracted from red, green, blue in 0..1")
    std: tuple[float, float, float] = _setting((0.229, 0.224, 0.225), "divides red, green, blue after that")
    crop: Literal["random-resized", "pad", "none"] = _setting(
        "random-resized", "training crop: random area and shape; or pad and shift; or as validation"
    )
    crop_scale: tuple[float, float] = _setting((0.25, 1.0), "random-resized: smallest and largest share of the area")
    crop_ratio: tuple[float, float] = _setting((0.75, 4 / 3), "random-resized: smallest and largest width / height")
    pad: int = _setting(4, "pad: zeros on each side before a random crop of image_size, pixels")
    flip: float = _setting(0.5, "probability of a horizontal flip")
    rotation: float = _setting(0.0, "largest rotation either way, degrees")
    jitter: int = _setting(0, "largest amount added to each value of each pixel either way, of 255")
    color_jitter: float = _setting(0.0, "strength of brightness, contrast and saturation changes, 0..1")
    random_erasing: float = _setting(0.0, "probability that a rectangle is erased")
    mixup: float = _setting(0.0, "alpha of mixup; 0 is off")
    cutmix: float = _setting(0.0, "alpha of cutmix; 0 is off; with mixup, each is used for half of the batches")
    mix_probability: float = _setting(1.0, "share of the batches that mixup or cutmix changes")
    label_smoothing: float = _setting(0.1, "share of the target that is spread over all classes, below 1")

    epochs: int = _setting(30, "passes over the training images")
    batch_size: int = _setting(64, "images an optimisation step, over all devices; an incomplete last one is left out")
    accumulate: int = _setting(1, "forward passes that a step is split into, to save memory")
    optimizer: Literal["sgd", "adamw"] = _setting("sgd", "optimiser")
    lr: float = _setting(0.05, "learning rate at its highest, for the whole batch_size")
    attention_lr: float = _setting(1.0, "what lr is multiplied by for the parameters of attention modules")
    freeze_host: bool = _setting(
        False, "train attention and the classifier only; the rest of the network keeps weights and statistics"
    )
    momentum: float = _setting(0.9, "momentum of sgd; first beta of adamw")
    nesterov: bool = _setting(True, "Nesterov's momentum for sgd")
    weight_decay: float = _setting(0.0001, "weight decay")
    decay: Literal["all", "no-bias", "no-norm", "no-norm-bias"] = _setting(
        "no-norm-bias",
        "which parameters decay: all; all but biases; all but normalisation (weights and biases of norm layers, and "
        "an attention module's own scalars, e.g. SGE's); all but both",
    )
    clip_norm: float | None = _setting(None, "gradients are scaled down to this total norm; null is off")
    schedule: Literal["step", "cosine", "plateau", "constant"] = _setting(
        "cosine", "learning rate after the warm-up: lower at milestones; half a cosine to min_lr; lower when the "
        "validation loss stalls; or as it is"
    )  # fmt: skip
    warmup_epochs: float = _setting(1.0, "epochs of linear growth from 0 to lr, at most half of all; not with plateau")
    milestones: tuple[int, ...] = _setting((), "step: epochs after which the learning rate is multiplied by gamma")
    gamma: float = _setting(0.1, "step and plateau: what the learning rate is multiplied by")
    patience: int = _setting(10, "plateau: epochs without a lower validation loss before the learning rate falls")
    drops: int = _setting(3, "plateau: how often the learning rate may fall")
    min_lr: float = _setting(0.0, "cosine: learning rate at the end")
    ema: float = _setting(0.0, "decay of an exponential moving average of the weights, kept and used if above 0")
    freeze_bn_from_epoch: int | None = _setting(
        None, "from this epoch on (first is 1) batch normalisation keeps its running statistics; null: never"
    )

    precision: Literal["auto", "32", "bf16", "16"] = _setting(
        "auto", "floating point of the forward pass (autocast); auto: bf16 where the device computes it itself, or 32"
    )
    channels_last: bool = _setting(True, "keep images and weights channels last in memory: faster convolutions")
    compile: bool = _setting(False, "torch.compile the network: worth it for long trainings on a GPU")
    accelerator: str = _setting("auto", "Lightning's accelerator: auto, cpu, gpu, ...")
    devices: str = _setting("auto", "how many devices, or which ('0,1'): Lightning's devices")
    nodes: int = _setting(1, "machines, started with torchrun or Slurm")
    loader: Literal["auto", "workers", "resident"] = _setting(
        "auto", "images decoded on demand by worker processes, or held decoded in memory (small sets of small images)"
    )
    workers: int | None = _setting(None, "processes that decode images; 0: this one; null: chosen by data and machine")
    seed: int = _setting(0, "decides initial weights, order, augmentation and the network's own randomness")
    output: str | None = _setting(None, "run folder, new or empty; null: runs/MODEL-DATA-N")
    checkpoint_every_steps: int | None = _setting(
        None, "write a checkpoint also every so many steps; null: only after each epoch"
    )

    def __post_init__(self) -> None:
        for name, hint in field_types().items():
            object.__setattr__(self, name, _coerce(name, getattr(self, name), hint))
        for name, (holds, rule) in _RULES.items():
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ConfigError(f"{name}={value!r} {rule}")
        _check_start(self)
        _check_schedule(self)
        _check_batches(self)


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
    return _from_values({**values, **overrides}, f"recipe '{recipe}'" if recipe else "the settings")


def read_config(path: str | Path) -> TrainConfig:
    """Settings from a file that `to_yaml` wrote.

    Args:
        path: The YAML file.

    Returns:
        The checked settings.

    Raises:
        ConfigError: If the file cannot be read or holds something else.
    """
    return _from_values(read_yaml(Path(path)), str(path))


def to_yaml(config: TrainConfig, *, comments: bool = True) -> str:
    """The settings as YAML that `--config`, `--recipe` and `read_config` take.

    Args:
        config: Settings.
        comments: Write the help of each setting behind it.

    Returns:
        One line a setting.

    Examples:
        >>> print(to_yaml(TrainConfig(), comments=False).splitlines()[0])
        model: sge_resnet18
    """
    import yaml

    lines = []
    for item in fields(config):
        value = getattr(config, item.name)
        value = list(value) if isinstance(value, tuple) else value
        whole = yaml.safe_dump([value], default_flow_style=True, width=10_000, sort_keys=False).strip()
        line = f"{item.name}: {whole[1:-1]}"  # a list of one, because YAML ends a lone scalar with '...'
        lines.append(f"{line}  # {item.metadata['help']}" if comments else line)
    return "\n".join(lines) + "\n"


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
    usual = make_config(recipe, **decisive)
    words = ["--recipe", recipe or "default"]
    for name in ("model", "weights"):
        if getattr(config, name) != getattr(make_config(recipe), name):
            words += [f"--{name}", str(getattr(config, name))]
    for item in fields(config):
        value = getattr(config, item.name)
        if value != getattr(usual, item.name):
            words += _as_words(f"--{item.name.replace('_', '-')}", value)
    return words


def _as_words(option: str, value: Any) -> list[str]:  # noqa: ANN401  # any setting
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if isinstance(value, tuple):
        return [option, *map(str, value)]
    if isinstance(value, dict):
        return [option, json.dumps(value)]
    return [option, "null" if value is None else str(value)]


@cache
def field_types() -> dict[str, Any]:
    """Type of each setting, in the order in which they are declared."""
    hints = typing.get_type_hints(TrainConfig)
    return {item.name: hints[item.name] for item in fields(TrainConfig)}


def _family(model: object) -> str:
    """Networks of one family take the same options."""
    name = str(model)
    if ":" in name:
        return name
    return "cifar" if name.endswith("_cifar") else "resnet"


def _from_values(values: Mapping[str, Any], origin: str) -> TrainConfig:
    for name in values:
        if name not in field_types():
            raise ConfigError(f"{origin}: there is no setting '{name}'.{did_you_mean(str(name), field_types())}")
    return TrainConfig(**values)


_AT_LEAST_0 = (lambda v: v >= 0, "must be 0 or more")
_AT_LEAST_1 = (lambda v: v >= 1, "must be 1 or more")
_POSITIVE = (lambda v: v > 0, "must be above 0")
_SHARE = (lambda v: 0 <= v <= 1, "must be between 0 and 1")
_BELOW_1 = (lambda v: 0 <= v < 1, "must be 0 or more and below 1")

_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (bool, "must not be empty; `sgenet models` lists names"),
    "val_split": _BELOW_1,
    "image_size": _AT_LEAST_1,
    "resize": _AT_LEAST_1,
    "std": (lambda v: min(v) > 0, "must be above 0 each"),
    "crop_scale": (lambda v: 0 < v[0] <= v[1] <= 1, "must be 0 < smallest <= largest <= 1"),
    "crop_ratio": (lambda v: 0 < v[0] <= v[1], "must be 0 < smallest <= largest"),
    "pad": _AT_LEAST_0,
    "flip": _SHARE,
    "rotation": (lambda v: 0 <= v <= 180, "must be between 0 and 180 degrees"),
    "jitter": (lambda v: 0 <= v <= 255, "must be between 0 and 255"),
    "color_jitter": _SHARE,
    "random_erasing": _SHARE,
    "mixup": _AT_LEAST_0,
    "cutmix": _AT_LEAST_0,
    "mix_probability": _SHARE,
    "label_smoothing": _BELOW_1,
    "epochs": _AT_LEAST_1,
    "batch_size": _AT_LEAST_1,
    "accumulate": _AT_LEAST_1,
    "lr": _POSITIVE,
    "attention_lr": _POSITIVE,
    "momentum": _BELOW_1,
    "weight_decay": _AT_LEAST_0,
    "clip_norm": _POSITIVE,
    "warmup_epochs": _AT_LEAST_0,
    "milestones": (
        lambda v: all(m >= 1 for m in v) and all(a < b for a, b in itertools.pairwise(v)),
        "must be epochs from 1 on in increasing order, e.g. 30 60 90",
    ),
    "gamma": (lambda v: 0 < v < 1, "must be above 0 and below 1"),
    "patience": _AT_LEAST_0,
    "drops": _AT_LEAST_0,
    "min_lr": _AT_LEAST_0,
    "ema": _BELOW_1,
    "freeze_bn_from_epoch": _AT_LEAST_1,
    "nodes": _AT_LEAST_1,
    "workers": _AT_LEAST_0,
    "seed": (lambda v: 0 <= v < 2**32, "must be between 0 and 2**32 - 1"),
    "checkpoint_every_steps": _AT_LEAST_1,
}


def _check_start(config: TrainConfig) -> None:
    if config.weights is not None and config.pretrained:
        raise ConfigError(f"weights='{config.weights}' and pretrained=True are two starts; leave out one of them")
    if config.freeze_host and config.weights is None and not config.pretrained:
        raise ConfigError("freeze_host=True would keep random weights; give pretrained or weights too")


def _check_schedule(config: TrainConfig) -> None:
    if config.schedule == "step" and not config.milestones:
        raise ConfigError("schedule='step' needs milestones, e.g. milestones 30 60 90")
    if config.schedule == "plateau" and config.warmup_epochs > 0:
        raise ConfigError(f"schedule='plateau' has no warm-up; set warmup_epochs=0 (it is {config.warmup_epochs:g})")
    if config.nesterov and config.optimizer == "sgd" and config.momentum == 0:
        raise ConfigError("nesterov needs momentum above 0; set momentum=0.9 or nesterov=false")
    if config.min_lr > config.lr:
        raise ConfigError(f"min_lr={config.min_lr:g} is above lr={config.lr:g}; lower it")


def _check_batches(config: TrainConfig) -> None:
    if config.batch_size % config.accumulate:
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be split into accumulate={config.accumulate} equal passes; "
            "choose a divisor"
        )
    if (config.mixup or config.cutmix) and (config.batch_size // config.accumulate) % 2:
        raise ConfigError(
            f"mixup and cutmix pair images, so that batch_size / accumulate must be even "
            f"(it is {config.batch_size // config.accumulate}); change batch_size"
        )


def _coerce(name: str, value: Any, hint: Any) -> Any:  # noqa: ANN401  # any setting
    """The value as its declared type (YAML gives lists for tuples, and text for 1e-4), or a ConfigError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in arguments if a is not types.NoneType)
        return None if value is None else _coerce(name, value, inner)
    if origin is Literal:
        return _coerce_choice(name, value, arguments)
    if origin is tuple:
        return _coerce_tuple(name, value, arguments)
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ConfigError(f"{name}={value!r} must be a mapping from names to values")
        return dict(value)
    if hint is float:
        return _coerce_float(name, value)
    if hint is str and type(value) is int:
        return str(value)  # `devices: 2` in a YAML file
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{name}={value!r} must be {_WORDS[hint]}")
    return value


_WORDS = {int: "a whole number", str: "text", bool: "true or false"}


def _coerce_float(name: str, value: Any) -> float:  # noqa: ANN401  # any setting
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not math.isfinite(number):
        raise ConfigError(f"{name}={value!r} must be a finite number")
    return number


def _coerce_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:  # noqa: ANN401  # any setting
    value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if value not in choices:
        listed = ", ".join(str(c) for c in choices)
        raise ConfigError(f"{name}={value!r} must be one of {listed}")
    return value


def _coerce_tuple(name: str, value: Any, inner: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ANN401  # any setting
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name}={value!r} must be a list of numbers")
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(value) != len(inner):
        raise ConfigError(f"{name}={list(value)} must have {len(inner)} numbers")
    return tuple(_coerce(name, v, hint) for v, hint in zip(value, inner, strict=True))
