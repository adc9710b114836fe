"""Every setting of a detector's training, typed and checked. Imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

from sgenet.detection.options import OPTIONS, option_names
from sgenet.detection.recipes import RECIPES
from sgenet.errors import ConfigError
from sgenet.named_files import read_yaml
from sgenet.training.settings import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    SHARE,
    Rule,
    TrainingSettings,
    described,
    from_values,
    refuse_settings,
    setting,
    words_of,
)

__all__ = ["DetectConfig", "make_detect_config", "to_detect_words"]

# What the settings say of a detector and of its backbone, by the names of `create_detector` and `create_model`.
_OF_DETECTOR = {
    **{f"image_{name}": name for name in ("min_size", "max_size", "mean", "std")},
    **{name: name for name in ("norm", "norm_eval", "frozen_stages", "freeze_attention")},
    **{name: name for name in ("anchor_sizes", "fpn_norm", "fpn_attention", "backbone", "backbone_weights")},
    **{name: name for name in ("pretrained", "backbone_options", "attention", "attention_options")},
    "name": "detector",
    "num_classes": "data",
}
_OF_BACKBONE = ("pretrained", "attention", "attention_options")

_network = partial(setting, section="Network")
_images = partial(setting, section="Images")
_seen = partial(setting, section="How images are seen")
_varied = partial(setting, section="How training images are varied")
_optimisation = partial(setting, section="Optimisation")


@dataclass(frozen=True, kw_only=True)
class DetectConfig(TrainingSettings):
    """All settings of a detector's training; `sgenet detect train --help` prints what each of them means.

    The defaults are those of the recipe `2x`, but for what is frozen. Every field is an option of `sgenet detect train`
    (`frozen_stages` is `--frozen-stages`), a key of a recipe, and a line of a run's config.yaml.

    Raises:
        ConfigError: If a value is of the wrong type, out of range, or does not go with another one.

    Examples:
        >>> DetectConfig(batch_size=4).peak_lr
        0.005
        >>> DetectConfig(detector="yolo")
        Traceback (most recent call last):
        ...
        sgenet.errors.ConfigError: detector='yolo' must be one of faster_rcnn, mask_rcnn, cascade_rcnn, ...
    """

    detector: Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "retinanet"] = _network(
        "faster_rcnn", "what finds the boxes on the backbone's maps"
    )
    backbone: str = _network("sge_resnet50", "network: a name of `sgenet models`, timm:NAME or torchvision:NAME")
    backbone_weights: str | None = _network(
        None, "start the backbone from a classifier: its run, or a file of sgenet.save"
    )
    pretrained: bool = _network(False, "start the backbone from weights that timm or torchvision provide")
    attention: str | None = _network(None, "attention to add to a backbone that has none in its name, e.g. sge or se")
    attention_options: dict[str, Any] = field(
        default_factory=dict, metadata=described("options of the attention module, e.g. groups or reduction", "Network")
    )
    backbone_options: dict[str, Any] = field(
        default_factory=dict,
        metadata=described("options of the backbone, e.g. stem: small for small images", "Network"),
    )
    norm: Literal["batch", "group"] = _network(
        "batch", "the backbone's normalisation; group, for small batches, is learned from random weights"
    )
    norm_eval: bool | None = _network(
        None, "keep the statistics of batch normalisation as they are; null: where the backbone starts from weights"
    )
    frozen_stages: int = _network(
        0, "stages of the backbone that do not learn: 0 none, 1 the stem and the first, ... 4"
    )
    freeze_attention: bool = _network(False, "freeze the attention of frozen stages too")
    fpn_norm: Literal["none", "group"] = _network("none", "normalisation in the feature pyramid")
    fpn_attention: str | None = _network(None, "attention after each level of the feature pyramid, e.g. sge")
    anchor_sizes: tuple[int, ...] = _network(
        (32, 64, 128, 256, 512), "pixels, one for each level of the pyramid, finest first; for images of 800 pixels"
    )
    detector_options: dict[str, Any] = field(
        default_factory=dict,
        metadata=described("options of the detector, e.g. box_features, rois_per_image", "Network"),
    )

    data: str = _images("", "images and boxes: a folder in COCO's layout, Pascal VOC's, or shapes")
    data_options: dict[str, Any] = field(
        default_factory=dict, metadata=described("options of the data, e.g. noise or train_size of shapes", "Images")
    )

    min_size: int = _seen(800, "short side that images are resized to, pixels")
    max_size: int = _seen(1333, "longest long side, pixels")
    mean: tuple[float, float, float] = _seen((0.485, 0.456, 0.406), "subtracted from red, green, blue in 0..1")
    std: tuple[float, float, float] = _seen((0.229, 0.224, 0.225), "divides red, green, blue after that")

    flip: float = _varied(0.5, "probability of a horizontal flip")
    group_by_aspect: bool = _varied(True, "make batches of wide images, and batches of tall ones")

    epochs: int = _optimisation(24, "passes over the training images")
    batch_size: int = _optimisation(
        16, "images an optimisation step, over all devices; an incomplete last one is left out"
    )
    lr: float = _optimisation(0.02, "learning rate at its highest, for a batch of lr_batch images")
    lr_batch: int | None = _optimisation(
        16,
        "the rate is in proportion to the batch: lr * batch_size / lr_batch; null: lr whatever the batch",
    )
    nesterov: bool = _optimisation(False, "Nesterov's momentum for sgd")
    decay: Literal["all", "no-bias", "no-norm", "no-norm-bias"] = _optimisation(
        "all",
        "which parameters decay: all; all but biases; all but normalisation (weights and biases of norm layers, and "
        "an attention module's own scalars, e.g. SGE's); all but both",
    )
    clip_norm: float | None = _optimisation(35.0, "gradients are scaled down to this total norm; null is off")
    schedule: Literal["step", "cosine", "constant"] = _optimisation(
        "step", "learning rate after the warm-up: lower at milestones; half a cosine to min_lr; or as it is"
    )
    milestones: tuple[int, ...] = _optimisation(
        (16, 22), "step: epochs after which the learning rate is multiplied by gamma"
    )
    warmup_epochs: float = _optimisation(0.0, "warm-up in epochs; warmup_steps is used if it is 0")
    warmup_steps: int = _optimisation(500, "steps of linear growth from warmup_start * lr to lr, at most half of all")
    warmup_start: float = _optimisation(1 / 3, "share of the learning rate that the warm-up begins with")

    RULES: ClassVar[Mapping[str, Rule]] = {
        **TrainingSettings.RULES,
        "backbone": (bool, "must not be empty; `sgenet models` lists names"),
        "anchor_sizes": (
            lambda v: len(v) == 5 and min(v) > 0,
            "must be 5 sizes above 0, one for each level of the pyramid",
        ),
        "frozen_stages": (lambda v: 0 <= v <= 4, "must be between 0 and 4"),
        "min_size": AT_LEAST_1,
        "max_size": AT_LEAST_1,
        "std": (lambda v: min(v) > 0, "must be above 0 each"),
        "flip": SHARE,
        "lr_batch": AT_LEAST_1,
        "warmup_steps": AT_LEAST_0,
        "warmup_start": POSITIVE,
    }

    @property
    def peak_lr(self) -> float:
        """The learning rate at its highest: in proportion to the batch (arXiv 1706.02677), or as it is."""
        return self.lr if self.lr_batch is None else self.lr * self.batch_size / self.lr_batch

    def warmup_length(self, steps_per_epoch: int) -> int:
        """How many steps the warm-up takes."""
        if self.warmup_epochs > 0:
            return super().warmup_length(steps_per_epoch)
        return min(self.warmup_steps, self.epochs * steps_per_epoch // 2)

    def warmup_factor(self, step: int, length: int) -> float:
        """What the learning rate is multiplied by in a step of the warm-up."""
        return self.warmup_start + (1 - self.warmup_start) * step / length

    def check(self) -> None:
        """See that the values go together."""
        super().check()
        refuse_settings("detector_options", self.detector_options, _OF_DETECTOR)
        refuse_settings("backbone_options", self.backbone_options, {name: name for name in _OF_BACKBONE})
        if self.max_size < self.min_size:
            raise ConfigError(f"max_size={self.max_size} is below min_size={self.min_size}; raise it")
        if self.backbone_weights is not None and self.pretrained:
            raise ConfigError(
                f"backbone_weights='{self.backbone_weights}' and pretrained=True are two starts; leave out one of them"
            )
        if self.frozen_stages and self.backbone_weights is None and not self.pretrained:
            raise ConfigError(
                f"frozen_stages={self.frozen_stages} would keep random weights; give backbone_weights or pretrained, "
                "or frozen_stages=0"
            )


def make_detect_config(recipe: str | None = None, **overrides: Any) -> DetectConfig:  # noqa: ANN401  # any setting
    """Settings of a recipe, with some of them changed.

    Args:
        recipe: A name of `sgenet.detection.list_recipes()` or a YAML file; None for the defaults.
        **overrides: Settings that win over the recipe's.

    Returns:
        The checked settings. A recipe's `pretrained` is left out where the overrides name weights, and of its
        `detector_options` those that only other detectors have.

    Raises:
        ConfigError: If the recipe or a setting is unknown, or a value cannot be used.

    Examples:
        >>> make_detect_config("retinanet_2x").lr
        0.01
    """
    values = {} if recipe is None else read_yaml(RECIPES.find(recipe))
    if overrides.get("backbone_weights") is not None:
        values.pop("pretrained", None)
    detector = str(overrides.get("detector", values.get("detector", DetectConfig.detector)))
    if detector in OPTIONS:
        given = values.get("detector_options") or {}
        values["detector_options"] = {name: value for name, value in given.items() if _concerns(name, detector)}
    origin = f"recipe '{recipe}'" if recipe else "the settings"
    return from_values(DetectConfig, {**values, **overrides}, origin)


def to_detect_words(config: DetectConfig, recipe: str) -> list[str]:
    """The words after `sgenet detect train` that give these settings: the recipe, and what differs from it.

    Args:
        config: Settings.
        recipe: A name of `sgenet.detection.list_recipes()` or a YAML file.

    Returns:
        Words, not yet quoted for a shell.

    Examples:
        >>> to_detect_words(make_detect_config("shapes", seed=1), "shapes")
        ['--recipe', 'shapes', '--seed', '1']
    """
    words = ["--recipe", recipe]
    decisive: dict[str, Any] = {"detector": config.detector}
    if config.detector != make_detect_config(recipe).detector:  # first: what a recipe says beside them depends on them
        words += ["--detector", config.detector]
    if config.backbone_weights is not None:
        decisive["backbone_weights"] = config.backbone_weights
        words += ["--backbone-weights", config.backbone_weights]
    return words + words_of(config, make_detect_config(recipe, **decisive))


def _concerns(option: str, detector: str) -> bool:
    """Whether a recipe's option is meant for a detector; one that no detector has is, so that it is told."""
    return option in option_names(detector) or not any(option in option_names(other) for other in OPTIONS)
