"""What the operators refuse, and how they say so."""

from __future__ import annotations

import torch
from torch import Tensor

from sgenet.errors import ConfigError

__all__ = [
    "check_device",
    "check_eps",
    "check_groups",
    "check_input",
    "check_norm",
    "check_overwritten",
    "check_residual",
]


def check_input(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, residual: Tensor | None) -> None:
    """Check what `spatial_group_enhance` is given.

    Args:
        x: The map.
        weight: γ.
        bias: β.
        groups: G.
        eps: ε.
        residual: What is to be added, or None.

    Raises:
        ConfigError: If something does not fit; the message names it.
    """
    if not 3 <= len(x.shape) <= 5:
        raise ConfigError(
            f"spatial_group_enhance takes (batch, channels, 1 to 3 spatial axes), not a tensor of {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise ConfigError(f"spatial_group_enhance takes floating-point input, not {x.dtype}; convert it with .float()")
    check_groups(x.shape[1], groups)
    check_eps(eps)
    for name, value in (("weight", weight), ("bias", bias)):
        if value.numel() != groups:
            raise ConfigError(f"{name} holds {value.numel()} values for {groups} groups; give one value a group")
        check_device(x, value, name)
    if residual is not None:
        check_residual(x, residual)


def check_residual(x: Tensor, residual: Tensor) -> None:
    """Check that `residual` can be added without a broadcast or a loss of precision.

    Args:
        x: The map.
        residual: What is to be added to it.

    Raises:
        ConfigError: If it is of another shape, or, where no autocast promotes both, of another dtype.
    """
    if residual.shape != x.shape:
        raise ConfigError(
            f"the residual has the shape {tuple(residual.shape)} and the map {tuple(x.shape)}; they must be equal"
        )
    check_device(x, residual, "the residual")
    if residual.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ConfigError(f"the residual is {residual.dtype} and the map {x.dtype}; convert one with .to()")


def check_overwritten(x: Tensor, residual: Tensor | None) -> None:
    """Check that the sum has a place in `x` itself.

    Args:
        x: The map that is written over.
        residual: What is to be added to it, or None.

    Raises:
        ConfigError: If they are of different dtypes, of which autocast would take the wider for the sum.
    """
    if residual is not None and residual.dtype != x.dtype:
        raise ConfigError(
            f"the residual is {residual.dtype} and the map {x.dtype}, which is written over; convert one with .to()"
        )


def check_eps(eps: float) -> None:
    """Check what is added to a standard deviation.

    Args:
        eps: ε.

    Raises:
        ConfigError: If it is not positive.

    Examples:
        >>> check_eps(0.0)
        Traceback (most recent call last):
        sgenet.errors.ConfigError: eps=0.0 must be positive: it keeps the division by a zero deviation finite
    """
    if not eps > 0:
        raise ConfigError(f"eps={eps} must be positive: it keeps the division by a zero deviation finite")


def check_device(x: Tensor, other: Tensor, name: str) -> None:
    """Check that two tensors are in one memory.

    Args:
        x: The map.
        other: What is to be combined with it.
        name: Of the other, for the message.

    Raises:
        ConfigError: If they are not.
    """
    if other.device != x.device:
        raise ConfigError(f"{name} is on {other.device} and the map on {x.device}; bring both together with .to()")


def check_norm(x: Tensor, *values: Tensor | None) -> None:
    """Check what describes a batch norm.

    Args:
        x: The map, (B, C, ...).
        values: The norm's tensors, each of which holds C values; or None.

    Raises:
        ConfigError: If one is of another size, or on another device.
    """
    for value in values:
        if value is not None:
            if value.numel() != x.shape[1]:
                raise ConfigError(
                    f"the norm has a tensor of {value.numel()} values, and the map {x.shape[1]} channels; give one each"
                )
            check_device(x, value, "the norm")


def check_groups(channels: int, groups: int) -> None:
    """Check that `channels` can be split into `groups` equal groups.

    Args:
        channels: C.
        groups: G.

    Raises:
        ConfigError: If it cannot; the message offers divisors.

    Examples:
        >>> check_groups(96, 64)
        Traceback (most recent call last):
        sgenet.errors.ConfigError: 96 channels cannot be split into 64 groups; choose a divisor of 96, e.g. groups=48
    """
    if groups >= 1 and channels % groups == 0:
        return
    nearest = max(d for d in range(1, max(1, min(groups, channels)) + 1) if channels % d == 0)
    raise ConfigError(
        f"{channels} channels cannot be split into {groups} groups; "
        f"choose a divisor of {channels}, e.g. groups={nearest}"
    )
