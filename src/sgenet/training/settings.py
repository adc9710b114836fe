"""Settings of a training, typed and checked, from recipes, files and command lines. Imports neither torch nor numpy."""

from __future__ import annotations

import itertools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from sgenet.errors import ConfigError, did_you_mean
from sgenet.named_files import read_yaml

__all__ = [
    "AT_LEAST_0",
    "AT_LEAST_1",
    "BELOW_1",
    "POSITIVE",
    "SHARE",
    "Settings",
    "TrainingSettings",
    "described",
    "from_values",
    "ordered_fields",
    "read_settings",
    "setting",
    "to_yaml",
    "types_of",
    "words_of",
]

Rule = tuple[Callable[[Any], bool], str]
S = TypeVar("S", bound="Settings")

AT_LEAST_0: Rule = (lambda v: v >= 0, "must be 0 or more")
AT_LEAST_1: Rule = (lambda v: v >= 1, "must be 1 or more")
POSITIVE: Rule = (lambda v: v > 0, "must be above 0")
SHARE: Rule = (lambda v: 0 <= v <= 1, "must be between 0 and 1")
BELOW_1: Rule = (lambda v: 0 <= v < 1, "must be 0 or more and below 1")


def described(help_text: str, section: str) -> dict[str, str]:
    """What a field says of itself: its help, and the heading that it stands under."""
    return {"help": help_text, "section": section}


def setting(default: Any, help_text: str, section: str) -> Any:  # noqa: ANN401  # a dataclass field of any type
    """A field whose help stands beside it; the command line shows the same words, under the section's heading."""
    return field(default=default, metadata=described(help_text, section))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of dataclasses of settings: every value is brought to its declared type and checked.

    Attributes:
        SECTIONS: Headings that settings stand under, in the order of files and help.
        RULES: By a setting's name, what must hold of its value, and how to say that; None is never asked about.

    Raises:
        ConfigError: If a value is of the wrong type, out of range, or does not go with another one.
    """

    SECTIONS: ClassVar[tuple[str, ...]] = ()
    RULES: ClassVar[Mapping[str, Rule]] = {}

    def __post_init__(self) -> None:
        for name, hint in types_of(type(self)).items():
            object.__setattr__(self, name, _coerce(name, getattr(self, name), hint))
        for name, (holds, rule) in self.RULES.items():
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ConfigError(f"{name}={value!r} {rule}")
        self.check()

    def check(self) -> None:
        """See that the values go together."""


_optimisation = partial(setting, section="Optimisation")
_machine = partial(setting, section="Machine and output")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """What all trainings have settings for: the optimisation, the machine, and where the result goes."""

    epochs: int = _optimisation(30, "passes over the training images")
    batch_size: int = _optimisation(
        64, "images an optimisation step, over all devices; an incomplete last one is left out"
    )
    accumulate: int = _optimisation(1, "forward passes that a step is split into, to save memory")
    optimizer: Literal["sgd", "adamw"] = _optimisation("sgd", "optimiser")
    lr: float = _optimisation(0.05, "learning rate at its highest, for the whole batch_size")
    attention_lr: float = _optimisation(1.0, "what lr is multiplied by for the parameters of attention modules")
    momentum: float = _optimisation(0.9, "momentum of sgd; first beta of adamw")
    nesterov: bool = _optimisation(True, "Nesterov's momentum for sgd")
    weight_decay: float = _optimisation(0.0001, "weight decay")
    decay: Literal["all", "no-bias", "no-norm", "no-norm-bias"] = _optimisation(
        "no-norm-bias",
        "which parameters decay: all; all but biases; all but normalisation (weights and biases of norm layers, and "
        "an attention module's own scalars, e.g. SGE's); all but both",
    )
    clip_norm: float | None = _optimisation(None, "gradients are scaled down to this total norm; null is off")
    schedule: Literal["step", "cosine", "plateau", "constant"] = _optimisation(
        "cosine", "learning rate after the warm-up: lower at milestones; half a cosine to min_lr; lower when the "
        "validation loss stalls; or as it is"
    )  # fmt: skip
    warmup_epochs: float = _optimisation(
        1.0, "epochs of linear growth from 0 to lr, at most half of all; not with plateau"
    )
    milestones: tuple[int, ...] = _optimisation((), "step: epochs after which the learning rate is multiplied by gamma")
    gamma: float = _optimisation(0.1, "step and plateau: what the learning rate is multiplied by")
    patience: int = _optimisation(10, "plateau: epochs without a lower validation loss before the learning rate falls")
    drops: int = _optimisation(3, "plateau: how often the learning rate may fall")
    min_lr: float = _optimisation(0.0, "cosine: learning rate at the end")
    ema: float = _optimisation(0.0, "decay of an exponential moving average of the weights, kept and used if above 0")
    freeze_bn_from_epoch: int | None = _optimisation(
        None, "from this epoch on (first is 1) batch normalisation keeps its running statistics; null: never"
    )

    precision: Literal["auto", "32", "bf16", "16"] = _machine(
        "auto", "floating point of the forward pass (autocast); auto: bf16 where the device computes it itself, or 32"
    )
    channels_last: bool = _machine(True, "keep images and weights channels last in memory: faster convolutions")
    compile: bool = _machine(False, "torch.compile the network: worth it for long trainings on a GPU")
    accelerator: str = _machine("auto", "Lightning's accelerator: auto, cpu, gpu, ...")
    devices: str = _machine("auto", "how many devices, or which ('0,1'): Lightning's devices")
    nodes: int = _machine(1, "machines, started with torchrun or Slurm")
    workers: int | None = _machine(None, "processes that decode images; 0: this one; null: chosen by data and machine")
    seed: int = _machine(0, "decides initial weights, order, augmentation and the network's own randomness")
    output: str | None = _machine(None, "run folder, new or empty; null: runs/MODEL-DATA-N")
    checkpoint_every_steps: int | None = _machine(
        None, "write a checkpoint also every so many steps; null: only after each epoch"
    )

    SECTIONS: ClassVar[tuple[str, ...]] = (
        "Network",
        "Images",
        "How images are seen",
        "How training images are varied",
        "Optimisation",
        "Machine and output",
    )
    RULES: ClassVar[Mapping[str, Rule]] = {
        "epochs": AT_LEAST_1,
        "batch_size": AT_LEAST_1,
        "accumulate": AT_LEAST_1,
        "lr": POSITIVE,
        "attention_lr": POSITIVE,
        "momentum": BELOW_1,
        "weight_decay": AT_LEAST_0,
        "clip_norm": POSITIVE,
        "warmup_epochs": AT_LEAST_0,
        "milestones": (
            lambda v: all(m >= 1 for m in v) and all(a < b for a, b in itertools.pairwise(v)),
            "must be epochs from 1 on in increasing order, e.g. 30 60 90",
        ),
        "gamma": (lambda v: 0 < v < 1, "must be above 0 and below 1"),
        "patience": AT_LEAST_0,
        "drops": AT_LEAST_0,
        "min_lr": AT_LEAST_0,
        "ema": BELOW_1,
        "freeze_bn_from_epoch": AT_LEAST_1,
        "nodes": AT_LEAST_1,
        "workers": AT_LEAST_0,
        "seed": (lambda v: 0 <= v < 2**32, "must be between 0 and 2**32 - 1"),
        "checkpoint_every_steps": AT_LEAST_1,
    }

    @property
    def peak_lr(self) -> float:
        """The learning rate at its highest."""
        return self.lr

    def warmup_length(self, steps_per_epoch: int) -> int:
        """Steps of the warm-up: no more than half of the training, so that a recipe can be tried briefly."""
        return round(min(self.warmup_epochs, self.epochs / 2) * steps_per_epoch)

    def warmup_factor(self, step: int, length: int) -> float:
        """What the learning rate is multiplied by in a step of the warm-up."""
        return (step + 1) / (length + 1)

    def check(self) -> None:
        """See that the values go together."""
        if self.schedule == "step" and not self.milestones:
            raise ConfigError("schedule='step' needs milestones, e.g. milestones 30 60 90")
        if self.schedule == "plateau" and self.warmup_epochs > 0:
            raise ConfigError(f"schedule='plateau' has no warm-up; set warmup_epochs=0 (it is {self.warmup_epochs:g})")
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ConfigError("nesterov needs momentum above 0; set momentum=0.9 or nesterov=false")
        if self.min_lr > self.peak_lr:
            of_batch = "" if self.peak_lr == self.lr else f", which a batch of {self.batch_size} makes {self.peak_lr:g}"
            raise ConfigError(f"min_lr={self.min_lr:g} is above lr={self.lr:g}{of_batch}; lower it")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"batch_size={self.batch_size} cannot be split into accumulate={self.accumulate} equal passes; "
                "choose a divisor"
            )


def refuse_settings(option: str, given: Mapping[str, Any], settings: Mapping[str, str]) -> None:
    """Refuse, among the options of a part, what settings of their own say.

    Args:
        option: The setting that holds the options, e.g. "model_options".
        given: The options.
        settings: Names of options, each with the setting that says it.

    Raises:
        ConfigError: If one of them is given.

    Examples:
        >>> refuse_settings("model_options", {"pretrained": True}, {"pretrained": "pretrained"})
        Traceback (most recent call last):
        ...
        sgenet.errors.ConfigError: model_options has 'pretrained', which the setting pretrained says; give that instead
    """
    for name in given:
        if name in settings:
            raise ConfigError(f"{option} has '{name}', which the setting {settings[name]} says; give that instead")


def ordered_fields(kind: type[Any]) -> tuple[Field[Any], ...]:
    """The fields of settings, section after section."""
    return tuple(sorted(fields(kind), key=lambda item: kind.SECTIONS.index(item.metadata["section"])))


def types_of(kind: Any) -> dict[str, Any]:  # noqa: ANN401  # a kind of Settings, whose __hash__ mypy takes for its own
    """The type of each setting, by name, in the order of `ordered_fields`."""
    return _types_of(kind)


@cache
def _types_of(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in ordered_fields(kind)}


def from_values(kind: type[S], values: Mapping[str, Any], origin: str) -> S:
    """Settings from what a file or a caller names.

    Args:
        kind: Of the settings.
        values: By name; defaults for the rest.
        origin: What errors call it.

    Returns:
        Checked settings.

    Raises:
        ConfigError: If there is no such setting, or a value cannot be used.
    """
    for name in values:
        if name not in types_of(kind):
            raise ConfigError(f"{origin}: there is no setting '{name}'.{did_you_mean(str(name), types_of(kind))}")
    return kind(**values)


def read_settings(kind: type[S], path: str | Path) -> S:
    """Settings from a file that `to_yaml` wrote.

    Args:
        kind: Of the settings.
        path: The YAML file.

    Returns:
        The checked settings.

    Raises:
        ConfigError: If the file cannot be read or holds something else.
    """
    return from_values(kind, read_yaml(Path(path)), str(path))


def to_yaml(config: Settings, *, comments: bool = True) -> str:
    """The settings as YAML that `--config`, `--recipe` and `read_settings` take.

    Args:
        config: Settings.
        comments: Write the help of each setting behind it.

    Returns:
        One line a setting.
    """
    import yaml

    lines = []
    for item in ordered_fields(type(config)):
        value = getattr(config, item.name)
        value = list(value) if isinstance(value, tuple) else value
        whole = yaml.safe_dump([value], default_flow_style=True, width=10_000, sort_keys=False).strip()
        line = f"{item.name}: {whole[1:-1]}"  # a list of one, because YAML ends a lone scalar with '...'
        lines.append(f"{line}  # {item.metadata['help']}" if comments else line)
    return "\n".join(lines) + "\n"


def words_of(config: Settings, usual: Settings) -> list[str]:
    """The words of a command line that make `config` of `usual`.

    Args:
        config: Settings.
        usual: Settings of the same kind.

    Returns:
        Options and values for what differs, not yet quoted for a shell.
    """
    words = []
    for name in types_of(type(config)):
        value = getattr(config, name)
        if value != getattr(usual, name):
            words += _as_words(f"--{name.replace('_', '-')}", value)
    return words


def _as_words(option: str, value: Any) -> list[str]:  # noqa: ANN401  # any setting
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if isinstance(value, tuple):
        return [option, *map(str, value)]
    if isinstance(value, dict):
        return [option, json.dumps(value)]
    return [option, "null" if value is None else str(value)]


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
