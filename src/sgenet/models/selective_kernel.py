"""ResNets with selective kernels: in each block one 3x3 convolution is replaced, so they are built, not added to.

Li, Wang, Hu, Yang: "Selective Kernel Networks", arXiv 1903.06586.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from sgenet.attention import SelectiveKernelConv
from sgenet.attention.reduction import fit_reduction
from sgenet.errors import ConfigError, did_you_mean
from sgenet.surgery.blocks import has_slot, is_known_block

__all__ = ["selective_kernel_options", "use_selective_kernels"]

_BY_THE_HOST = ("in_channels", "out_channels", "stride", "device", "dtype")


def selective_kernel_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of every selective kernel in a network, complete, so that a description outlives a changed default.

    Args:
        options: Those that the user gave.

    Returns:
        `reduction`, `branches` and `groups`; None for branches: "dilated" where the host's convolutions are grouped, as
        SKNet is built of ResNeXt, and "grouped" elsewhere; None for groups: the form's own where they divide the
        channels.

    Raises:
        ConfigError: If there is no such option.

    Examples:
        >>> selective_kernel_options({"reduction": 8})
        {'reduction': 8, 'branches': None, 'groups': None}
    """
    parameters = inspect.signature(SelectiveKernelConv).parameters
    known = {name: p.default for name, p in parameters.items() if name not in _BY_THE_HOST} | {"branches": None}
    for option in options:
        if option not in known:
            raise ConfigError(
                f"attention 'sk' has no option '{option}'.{did_you_mean(option, known)} Known: {', '.join(known)}"
            )
    return {**known, **options}


def use_selective_kernels(model: nn.Module, options: dict[str, Any]) -> nn.Module:
    """Put a selective kernel in the place of one 3x3 convolution and its batch norm in every residual block.

    It is the middle convolution of a bottleneck and the first one of a basic block. The block's ReLU behind it changes
    nothing, since the mixed branches are not negative. Where the form's 32 groups do not divide the channels evenly
    into groups of at least two, there are as many as do, and `reduction` falls until 4 hidden units remain.

    Args:
        model: A ResNet of torchvision's or timm's blocks, with random weights; changed in place.
        options: As `selective_kernel_options`.

    Returns:
        `model`.

    Raises:
        ConfigError: If the network has no such blocks, or dilated ones; or an option is wrong.

    Source:
        arXiv 1903.06586, table 1; in a ResNet: the experiments of arXiv 1905.09646, table 1.

    Examples:
        >>> import torchvision
        >>> model = use_selective_kernels(torchvision.models.resnet18(), {})
        >>> type(model.layer1[0].conv1).__name__, type(model.layer1[0].bn1).__name__
        ('SelectiveKernelConv', 'Identity')
    """
    asked = selective_kernel_options(options)
    built = [(block, names, _kernel(getattr(block, names[0]), asked)) for block, names in _places(model)]
    if not built:
        raise ConfigError(
            f"{type(model).__name__} has no blocks that 'sk' knows; it is for ResNets and ResNeXts, e.g. sk_resnet50"
        )
    for block, (conv, norm), kernel in built:
        setattr(block, conv, kernel)
        setattr(block, norm, nn.Identity())
    return model


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, str]]]:
    """The residual blocks, each with the names of the convolution and of the norm to replace."""
    for module in model.modules():
        if is_known_block(module) or has_slot(module):
            yield module, ("conv2", "bn2") if hasattr(module, "conv3") else ("conv1", "bn1")


def _kernel(conv: nn.Conv2d, asked: dict[str, Any]) -> SelectiveKernelConv:
    if conv.dilation != (1, 1):
        raise ConfigError("'sk' replaces 3x3 convolutions without dilation; leave out the option that dilates them")
    options = dict(asked)
    if options["branches"] is None:
        options["branches"] = "dilated" if conv.groups > 1 else "grouped"
    if options["groups"] is None:
        options["groups"] = _groups(conv, options["branches"])
    return SelectiveKernelConv(
        conv.in_channels,
        conv.out_channels,
        conv.stride[0],
        device=conv.weight.device,
        dtype=conv.weight.dtype,
        **fit_reduction(conv.out_channels, options),
    )


def _groups(conv: nn.Conv2d, branches: str) -> tuple[int, int] | None:
    """Groups for a place that is too narrow for 32 groups of two channels; None where it is not."""
    common = math.gcd(conv.in_channels, conv.out_channels)
    if common % 64 == 0:
        return None
    most = next(g for g in range(min(32, max(1, common // 2)), 0, -1) if common % g == 0)
    return (most, most) if branches == "dilated" else (1, most)
