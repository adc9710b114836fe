"""Group normalisation in the place of batch normalisation, for detectors trained from random weights.

A detector sees few images at once, too few for statistics of a batch. Wu, He: "Group Normalization", arXiv 1803.08494.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sgenet.attention import Attention
from sgenet.detection.features import record_maps
from sgenet.errors import ConfigError

__all__ = ["group_norm", "use_group_norm"]

_MOST = 32  # groups, as in the paper
_LEAST = 2  # channels a group: one channel alone would lose its mean at a map of one position


def group_norm(channels: int) -> nn.GroupNorm:
    """A group norm with 32 groups, or the most that divide the channels into groups of at least two.

    Args:
        channels: Of its input.

    Returns:
        The module.

    Source:
        32 groups: arXiv 1803.08494.

    Examples:
        >>> group_norm(256).num_groups, group_norm(24).num_groups, group_norm(7).num_groups
        (32, 12, 1)
    """
    most = max(1, min(_MOST, channels // _LEAST))
    return nn.GroupNorm(next(g for g in range(most, 0, -1) if channels % g == 0), channels)


def use_group_norm(network: nn.Module, *, name: str = "") -> nn.Module:
    """Put a group norm into the place of every batch norm of a network with random weights.

    Scale and shift start as those of the batch norm did; its statistics are gone. Norms of pooled maps, where a group
    of two channels would hold two values, get one group. Batch norms inside attention modules are part of these and
    stay.

    Args:
        network: The network; changed in place.
        name: Its name, for the message.

    Returns:
        `network`.

    Raises:
        ConfigError: If it has no batch norm.

    Examples:
        >>> import torchvision
        >>> use_group_norm(torchvision.models.resnet18()).bn1.num_groups
        32
    """
    inside = {inner for module in network.modules() if isinstance(module, Attention) for inner in module.modules()}
    norms = {
        key: module
        for key, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module not in inside
    }
    name = name or type(network).__name__
    if not norms:
        raise ConfigError(f"'{name}' has no batch norm that norm='group' could replace; leave out norm")
    shapes = record_maps(network, name).shapes
    for key, norm in norms.items():
        pooled = key in shapes and set(shapes[key][2:]) == {1}
        network.set_submodule(key, _in_place_of(norm, pooled=pooled))
    return network


def _in_place_of(norm: nn.BatchNorm2d, *, pooled: bool) -> nn.Module:
    groups = nn.GroupNorm(1, norm.num_features) if pooled else group_norm(norm.num_features)
    if norm.affine:
        groups.load_state_dict({"weight": norm.weight, "bias": norm.bias})
    activation = getattr(norm, "act", None)  # timm has norms with their activation in them
    if activation is None:
        return groups
    return nn.Sequential(OrderedDict(norm=groups, act=activation))
