"""The options of the detectors, checked when they are made. Imports neither torch nor numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from sgenet.errors import ConfigError, did_you_mean

__all__ = [
    "OPTIONS",
    "DetectorOptions",
    "MaskOptions",
    "Norm",
    "PyramidNorm",
    "RegionOptions",
    "RetinaNetOptions",
    "check_stages",
    "make_options",
    "option_names",
]

Norm = Literal["batch", "group"]
PyramidNorm = Literal["none", "group"]

_LEVELS = 5  # of every detector's pyramid
_STAGES = 4  # of every backbone


@dataclass(frozen=True)
class DetectorOptions:
    """What all detectors have. The defaults are torchvision's, which are the usual ones for COCO.

    Attributes:
        image_min_size: Pixels that the shorter side of an image gets; of several one is drawn for each image in
            training, and the last is used in test.
        image_max_size: Pixels that the longer side has at most, which can make the shorter one shorter.
        image_mean: Of the channels red, green, blue in 0..1; it is subtracted.
        image_std: Of the channels; what is left is divided by it.
        norm: "batch", or "group" for group norms in the backbone, to train it from random weights.
        norm_eval: Whether the backbone's batch norms keep their statistics in training. None: where it starts from
            weights.
        frozen_stages: How many of the backbone's stages do not learn, with what is before them: 0 to 4.
        freeze_attention: Whether attention in frozen stages does not learn either, as in the SGE paper's detectors.
        fpn_channels: Of the pyramid's levels.
        fpn_norm: "none", or "group" for group norms in the pyramid.
        fpn_attention: Name of the attention module after each of the pyramid's 3x3 convolutions; None for none.
        fpn_attention_options: The module's own.
        anchor_sizes: Pixels, one for each of the pyramid's five levels; for images of 160 pixels, a fifth of the usual
            ones.
        anchor_ratios: Heights divided by widths.
        score_threshold: Detections with lower scores are dropped.
        nms_threshold: Of two boxes of a class that share more than this the worse one is dropped.
        detections_per_image: At most.

    Raises:
        ConfigError: If a value cannot be used.
    """

    image_min_size: int | tuple[int, ...] = 800
    image_max_size: int = 1333
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    norm: Norm = "batch"
    norm_eval: bool | None = None
    frozen_stages: int = 0
    freeze_attention: bool = False
    fpn_channels: int = 256
    fpn_norm: PyramidNorm = "none"
    fpn_attention: str | None = None
    fpn_attention_options: dict[str, Any] = field(default_factory=dict)
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections_per_image: int = 100

    def __post_init__(self) -> None:
        """Make tuples of lists, as a file of settings has them, and check every value."""
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, list):
                object.__setattr__(self, option.name, tuple(value))
        object.__setattr__(self, "anchor_ratios", _all(self.anchor_ratios))
        self._check()

    def _check(self) -> None:
        """Refuse what cannot be used."""
        for name in ("image_min_size", "anchor_sizes"):
            _check_all(name, getattr(self, name), _check_whole)
        for name in ("image_max_size", "fpn_channels", "detections_per_image"):
            _check_whole(name, getattr(self, name))
        _check_all("image_mean", self.image_mean, _check_number)
        _check_all("anchor_ratios", self.anchor_ratios, _check_positive)
        _check_all("image_std", self.image_std, _check_positive)
        for name in ("score_threshold", "nms_threshold"):
            _check_share(name, getattr(self, name))
        check_stages(self.frozen_stages)
        _check_choice("norm", self.norm, get_args(Norm))
        _check_choice("fpn_norm", self.fpn_norm, get_args(PyramidNorm))
        _check_count("image_mean", self.image_mean, 3, "the three channels")
        _check_count("image_std", self.image_std, 3, "the three channels")
        _check_count("anchor_sizes", self.anchor_sizes, _LEVELS, "the five levels of the pyramid")
        for size, ratio in itertools.product(self.anchor_sizes, self.anchor_ratios):
            if round(size * min(ratio, 1 / ratio) ** 0.5 / 2) == 0:
                raise ConfigError(
                    f"an anchor of anchor_sizes {size} and anchor_ratios {ratio:g} has no area; give a larger size"
                )
        if max(_all(self.image_min_size)) > self.image_max_size:
            raise ConfigError(
                f"image_min_size={self.image_min_size} is above image_max_size={self.image_max_size}; "
                "the shorter side of an image cannot be longer than the longer one"
            )
        if self.norm == "group" and self.norm_eval:
            raise ConfigError("norm_eval holds the statistics of batch norms, and norm='group' has none; leave one out")
        if self.fpn_attention_options and self.fpn_attention in (None, "none"):
            raise ConfigError(
                f"fpn_attention_options={self.fpn_attention_options} need attention; give fpn_attention, e.g. 'sge'"
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-able values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class RegionOptions(DetectorOptions):
    """What detectors have that look at regions: Faster R-CNN and Cascade R-CNN.

    Attributes:
        anchors_per_image: Anchors that the proposals' loss is taken of.
        proposals_before_nms: Proposals of each level before suppression, in training and in test.
        proposals_after_nms: Proposals of an image after it, in training and in test.
        proposal_nms_threshold: Of two proposals that share more than this the worse one is dropped.
        rois_per_image: Regions that the heads' loss is taken of; a cascade's in each stage.
        roi_positive_share: Of them on objects, at most.
        roi_canonical_size: Pixels of the region that is cropped from the level of stride 16; for images of 160 pixels
            a fifth of the usual 224.
        box_features: Width of the two hidden layers of a box head.
    """

    anchors_per_image: int = 256
    proposals_before_nms: tuple[int, ...] = (2000, 1000)
    proposals_after_nms: tuple[int, ...] = (2000, 1000)
    proposal_nms_threshold: float = 0.7
    rois_per_image: int = 512
    roi_positive_share: float = 0.25
    roi_canonical_size: int = 224
    box_features: int = 1024

    def _check(self) -> None:
        super()._check()
        for name in ("anchors_per_image", "rois_per_image", "roi_canonical_size", "box_features"):
            _check_whole(name, getattr(self, name))
        for name in ("proposals_before_nms", "proposals_after_nms"):
            _check_all(name, getattr(self, name), _check_whole)
            _check_count(name, getattr(self, name), 2, "training and test")
        for name in ("proposal_nms_threshold", "roi_positive_share"):
            _check_share(name, getattr(self, name))


@dataclass(frozen=True)
class MaskOptions(RegionOptions):
    """What detectors have that draw masks.

    Attributes:
        mask_channels: Of a mask head's convolutions.
        mask_layers: How many 3x3 convolutions it has.
    """

    mask_channels: int = 256
    mask_layers: int = 4

    def _check(self) -> None:
        super()._check()
        _check_whole("mask_channels", self.mask_channels)
        _check_whole("mask_layers", self.mask_layers)


@dataclass(frozen=True)
class RetinaNetOptions(DetectorOptions):
    """What RetinaNet has.

    Attributes:
        detections_per_image: At most.
        anchor_scales: How many sizes of anchors a level has, evenly between its own and twice that.
        extra_levels: "p5", or "c5": what the two coarsest levels are computed from: the pyramid's last level, or the
            backbone's last map as in the RetinaNet of the SGE paper.
        head_norm: "none", or "group" for group norms in the heads.
        candidates_per_level: Detections of a level before suppression, at most.
    """

    detections_per_image: int = 300
    anchor_scales: int = 3
    extra_levels: Literal["p5", "c5"] = "p5"
    head_norm: PyramidNorm = "none"
    candidates_per_level: int = 1000

    def _check(self) -> None:
        super()._check()
        _check_whole("anchor_scales", self.anchor_scales)
        _check_whole("candidates_per_level", self.candidates_per_level)
        _check_choice("extra_levels", self.extra_levels, ("p5", "c5"))
        _check_choice("head_norm", self.head_norm, get_args(PyramidNorm))

    @property
    def sizes_of_levels(self) -> tuple[tuple[int, ...], ...]:
        """The sizes of each level's anchors, in whole pixels."""
        steps = [2 ** (step / self.anchor_scales) for step in range(self.anchor_scales)]
        return tuple(tuple(int(size * step) for step in steps) for size in self.anchor_sizes)


OPTIONS: Mapping[str, type[DetectorOptions]] = {
    "faster_rcnn": RegionOptions,
    "mask_rcnn": MaskOptions,
    "cascade_rcnn": RegionOptions,
    "cascade_mask_rcnn": MaskOptions,
    "retinanet": RetinaNetOptions,
}
"""What each detector has, by its name."""


def option_names(detector: str) -> list[str]:
    """The names of a detector's options.

    Examples:
        >>> "head_norm" in option_names("retinanet"), "head_norm" in option_names("faster_rcnn")
        (True, False)
    """
    return [option.name for option in fields(OPTIONS[detector])]


def make_options(detector: str, given: Mapping[str, Any]) -> DetectorOptions:
    """The settings of a detector.

    Args:
        detector: Its name, one of `OPTIONS`.
        given: Those that are not as usual.

    Returns:
        The settings.

    Raises:
        ConfigError: If it has no such setting, or a value cannot be used.

    Examples:
        >>> make_options("faster_rcnn", {"rois_per_image": 64}).rois_per_image
        64
    """
    known = option_names(detector)
    for name in given:
        if name not in known:
            raise ConfigError(
                f"detector '{detector}' has no option '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}"
            )
    return OPTIONS[detector](**given)


def check_stages(frozen: int) -> None:
    """Refuse a number of frozen stages that there are not.

    Args:
        frozen: The number.

    Raises:
        ConfigError: If it is not 0 to 4.
    """
    if frozen not in range(_STAGES + 1):
        raise ConfigError(
            f"frozen_stages={frozen!r} is not possible; give 0 for none, 1 for the stem and the first stage, up to 4"
        )


def _all(value: Any) -> tuple[Any, ...]:  # noqa: ANN401  # one or several
    return value if isinstance(value, tuple) else (value,)


def _check_all(name: str, values: Any, check: Any) -> None:  # noqa: ANN401
    if not _all(values):
        raise ConfigError(f"{name} is empty; give at least one number")
    for value in _all(values):
        check(name, value)


def _check_whole(name: str, value: Any) -> None:  # noqa: ANN401
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}={value!r} is not possible; give whole numbers of 1 or more")


def _check_number(name: str, value: Any) -> None:  # noqa: ANN401
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name}={value!r} is not possible; give numbers")


def _check_positive(name: str, value: Any) -> None:  # noqa: ANN401
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{name}={value!r} is not possible; give numbers above 0")


def _check_share(name: str, value: Any) -> None:  # noqa: ANN401
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"{name}={value!r} is not possible; give a number from 0 to 1")


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:  # noqa: ANN401
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is not possible; give one of {', '.join(choices)}")


def _check_count(name: str, values: Any, count: int, what: str) -> None:  # noqa: ANN401
    if len(_all(values)) != count:
        raise ConfigError(f"{name}={values} has {len(_all(values))} values; give {count}, one for each of {what}")
