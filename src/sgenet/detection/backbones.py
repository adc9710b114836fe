"""Feature pyramids on classifiers, with parts that are frozen and norms that are held."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from sgenet.attention import Attention, create_attention
from sgenet.attention.registry import attention_class
from sgenet.detection.features import STRIDES, FeatureTrunk, feature_trunk
from sgenet.detection.group_norm import group_norm, use_group_norm
from sgenet.detection.options import Norm, PyramidNorm, check_stages
from sgenet.errors import ConfigError
from sgenet.models import build, create_model, load_weights

__all__ = ["Backbone", "Extra", "build_trunk", "create_trunk"]

Extra = Literal["pool", "p5", "c5"]

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Backbone(nn.Module):
    """A trunk of feature maps and the feature pyramid on it, under torchvision's names `body` and `fpn`.

    What is frozen and held stays so through every call of `train()`.

    Args:
        trunk: The maps, from `feature_trunk`.
        finest: Stride of the pyramid's first level: 4, or 8 for a RetinaNet.
        extra: The levels above the last map: "pool", one more by subsampling, as an R-CNN has; "p5" or "c5", two more
            by convolutions of the pyramid's last level or of the trunk's last map, as a RetinaNet has.
        channels: Of the pyramid's levels.
        norm: "none", or "group" for a group norm after each of the pyramid's convolutions.
        attention: Name of an attention module that follows the 3x3 convolution of each level; None for none.
        attention_options: The module's own.
        frozen_stages: How many stages are frozen, with what comes before them: 0 for none, 1 for the stem and the first
            stage, up to 4 for the whole trunk. Their parameters do not learn, and their norms and dropout are in eval
            mode.
        freeze_attention: Whether attention within frozen stages is frozen too. It was in the SGE paper's detectors,
            whose γ and β of the first stage stayed as the classifier's training left them.
        norm_eval: Keep all batch norms of the trunk in eval mode, so that their statistics stay; scale and shift learn.

    Attributes:
        body: The trunk.
        fpn: The pyramid.
        out_channels: `channels`.

    Shape:
        (B, 3, H, W) to a dictionary of maps, the finest first: (B, channels, H / stride, W / stride).

    Raises:
        ConfigError: If an option has a value that cannot be used.

    Source:
        Pyramid: arXiv 1612.03144; with P6 and P7: arXiv 1708.02002. Frozen first stage and held norms: the settings
        of arXiv 1905.09646's detectors.

    Examples:
        >>> import torch
        >>> backbone = Backbone(feature_trunk(create_model("sge_resnet18")), frozen_stages=1)
        >>> {level: tuple(m.shape[1:]) for level, m in backbone(torch.zeros(2, 3, 128, 128)).items()}
        {'0': (256, 32, 32), '1': (256, 16, 16), '2': (256, 8, 8), '3': (256, 4, 4), 'pool': (256, 2, 2)}
        >>> [name for name, p in backbone.body.layer1[0].named_parameters() if p.requires_grad]
        ['attention.weight', 'attention.bias']
    """

    def __init__(
        self,
        trunk: FeatureTrunk,
        *,
        finest: int = 4,
        extra: Extra = "pool",
        channels: int = 256,
        norm: PyramidNorm = "none",
        attention: str | None = None,
        attention_options: Mapping[str, Any] = _NO_OPTIONS,
        frozen_stages: int = 0,
        freeze_attention: bool = False,
        norm_eval: bool = False,
    ) -> None:
        super().__init__()
        self.body = trunk
        self._first = STRIDES.index(finest)
        self.fpn = FeaturePyramidNetwork(
            list(trunk.channels[self._first :]),
            channels,
            extra_blocks=_extra(extra, trunk.channels[-1], channels),
            norm_layer=group_norm if norm == "group" else None,
        )
        if attention not in (None, "none"):
            for block in self.fpn.layer_blocks:
                block.add_module("attention", _fitted(attention, channels, attention_options))
        self.out_channels = channels
        self.norm_eval = norm_eval
        self.frozen = _frozen(trunk, frozen_stages, freeze_attention=freeze_attention)
        for name, parameter in trunk.named_parameters():
            if name in self.frozen:
                parameter.requires_grad_(False)
        self.train()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The pyramid's levels."""
        maps = list(self.body(x).values())[self._first :]
        levels: dict[str, Tensor] = self.fpn({str(level): m for level, m in enumerate(maps)})
        return levels

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode of all but what is frozen or held, which is in eval mode always."""
        super().train(mode)
        if mode:
            self._hold(self.body, "")
        return self

    def _hold(self, module: nn.Module, prefix: str) -> None:
        """Put frozen parts and held norms below a module in eval mode.

        A part without parameters follows its owner, who is frozen too where only attention within it learns.
        """
        names = {prefix + name for name, _ in module.named_parameters()}
        attention = {f"{prefix}{name}.": part for name, part in module.named_modules() if isinstance(part, Attention)}
        learning = names - self.frozen
        frozen = names != learning and all(name.startswith(tuple(attention)) for name in learning)
        held = self.norm_eval and isinstance(module, nn.modules.batchnorm._BatchNorm)
        if held or frozen:
            module.eval()
            for part in attention.values() if learning else ():
                part.train()
            return
        for name, child in module.named_children():
            self._hold(child, f"{prefix}{name}.")


def create_trunk(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    checkpoint: Literal["last", "best"] = "last",
    pretrained: bool = False,
    norm: Norm = "batch",
    options: Mapping[str, Any] = _NO_OPTIONS,
) -> FeatureTrunk:
    """A trunk of feature maps from a network's name, with the weights to start from.

    Args:
        name: As `sgenet.create_model`.
        weights: A file that `sgenet.save` wrote, or a run folder. Attention that they have not starts so that the
            network computes what it computed without it.
        checkpoint: Which of a run's checkpoints.
        pretrained: Start from the zoo's weights instead.
        norm: "batch", or "group" for group norms in the place of batch norms; for random weights only.
        options: Of `sgenet.create_model`.

    Returns:
        The trunk.

    Raises:
        UnknownNameError: If the name is unknown.
        ConfigError: If an option is wrong, the network has no maps for a detector, or weights are wanted for norms that
            they are not of.
        CheckpointError: If the weights do not fit, or cannot be had.

    Examples:
        >>> create_trunk("torchvision:mobilenet_v2").channels
        (24, 32, 96, 1280)
        >>> create_trunk("resnet18", pretrained=True, norm="group")
        Traceback (most recent call last):
        ...
        sgenet.errors.ConfigError: norm='group' starts from random weights, and those of 'resnet18' belong to batch
        norms; leave out the weights, or norm
    """
    if weights is not None and pretrained:
        raise ConfigError("backbone_weights and pretrained both say where the backbone starts from; give one of them")
    if norm == "group" and (weights is not None or pretrained):
        raise ConfigError(
            f"norm='group' starts from random weights, and those of '{name}' belong to batch norms; "
            "leave out the weights, or norm"
        )
    network = create_model(name, pretrained=pretrained, **options)
    if weights is not None:
        load_weights(network, weights, checkpoint=checkpoint)
    return _trunk(network, norm, name)


def build_trunk(description: dict[str, Any], *, norm: Norm = "batch") -> FeatureTrunk:
    """Build a trunk again, with random weights.

    Args:
        description: `FeatureTrunk.description`.
        norm: As `create_trunk`.

    Returns:
        The trunk.
    """
    return _trunk(build(description), norm, description["host"]["name"])


def _trunk(network: nn.Module, norm: Norm, name: str) -> FeatureTrunk:
    return feature_trunk(use_group_norm(network, name=name) if norm == "group" else network, name=name)


def _extra(extra: Extra, last: int, channels: int) -> ExtraFPNBlock:
    if extra == "pool":
        return LastLevelMaxPool()
    levels = LastLevelP6P7(channels if extra == "p5" else last, channels)
    levels.use_P5 = extra == "p5"  # it goes by the number of channels, and these can be equal
    return levels


def _fitted(name: str, channels: int, options: Mapping[str, Any]) -> Attention:
    """An attention module for a level, its usual options adapted to the channels; those asked for stay."""
    usual = attention_class(name).fit_options(channels, {})
    return create_attention(name, channels, **{**usual, **options})


def _frozen(trunk: FeatureTrunk, stages: int, *, freeze_attention: bool) -> frozenset[str]:
    """Names of the trunk's parameters that do not learn."""
    check_stages(stages)
    frozen = frozenset[str]().union(*trunk.reached[:stages])
    if freeze_attention:
        return frozen
    attention = tuple(f"{name}." for name, module in trunk.named_modules() if isinstance(module, Attention))
    return frozenset(name for name in frozen if not name.startswith(attention))
