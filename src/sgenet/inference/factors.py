"""The constant factors of attention modules that started as the identity, given to the layer in front of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch

from sgenet.attention import (
    Attention,
    BottleneckAttention,
    ConvBlockAttention,
    EfficientChannelAttention,
    GatherExcite,
    GlobalContext,
    SpatialGroupEnhance,
    SqueezeExcite,
)

__all__ = ["takes_factor", "without_factor"]


def _take_sge(attention: Any, factor: float) -> None:  # noqa: ANN401  # the module of its name
    if attention.normalize:
        attention.eps *= factor**2
    else:
        attention.weight.div_(factor**2)


def _take_cbam(attention: Any, factor: float) -> None:  # noqa: ANN401
    attention.fc1.weight.div_(factor)
    attention.conv.weight.div_(math.sqrt(factor))  # it sees the map after the channels' gate, which had half the factor


def _take_bam(attention: Any, factor: float) -> None:  # noqa: ANN401
    attention.channel[0].weight.div_(factor)
    attention.spatial[0].weight.div_(factor)


def _take_context(attention: Any, factor: float) -> None:  # noqa: ANN401
    attention.score.weight.div_(factor)
    attention.fc1.weight.div_(factor)


# What gives a module, for an input that is `factor` times as large, the gate that it had, without its own factor.
# Style recalibration adds a constant to a variance, so that no change of its weights does it.
_TAKERS: dict[type[Attention], Callable[[Any, float], object]] = {
    SpatialGroupEnhance: _take_sge,
    SqueezeExcite: lambda attention, factor: attention.fc1.weight.div_(factor),
    ConvBlockAttention: _take_cbam,
    BottleneckAttention: _take_bam,
    EfficientChannelAttention: lambda attention, factor: attention.conv.weight.div_(factor),
    GatherExcite: lambda attention, factor: attention.gather[0].weight.div_(factor),
    GlobalContext: _take_context,
}


def takes_factor(attention: Any) -> bool:  # noqa: ANN401
    """Whether something is an attention module with a factor that the layer in front of it can have."""
    return type(attention) in _TAKERS and attention.scale != 1.0 and attention.blend is None


def without_factor(attention: Attention) -> Attention:
    """A module that does to its factor times an input what the given one does to the input."""
    scaled = copy.deepcopy(attention)
    with torch.no_grad():
        _TAKERS[type(scaled)](scaled, scaled.scale)
    scaled.scale = 1.0
    return scaled
