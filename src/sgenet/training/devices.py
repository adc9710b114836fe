"""Which device, and which floating point, a network runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal, TypeVar

import torch

from sgenet.training.settings import TrainingSettings

__all__ = ["autocast", "choose_device", "resolve_precision"]

S = TypeVar("S", bound=TrainingSettings)


def choose_device(accelerator: str) -> torch.device:
    """The device that Lightning would take first for an accelerator's name.

    Args:
        accelerator: As in `TrainingSettings.accelerator`.

    Returns:
        The device.

    Examples:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def resolve_precision(config: S) -> S:
    """The settings with `precision="auto"` replaced by what it means here, so that a run's file says what was used.

    Args:
        config: Settings.

    Returns:
        Settings with precision 32, bf16 or 16.

    Examples:
        >>> resolve_precision(TrainingSettings(precision="32")).precision
        '32'
    """
    if config.precision != "auto":
        return config
    return replace(config, precision="bf16" if _computes_bf16(choose_device(config.accelerator)) else "32")


def autocast(device: torch.device, precision: Literal["auto", "32", "bf16", "16"]) -> AbstractContextManager[None]:
    """The context that a forward pass of this precision runs in.

    Args:
        device: Of the network.
        precision: "32" changes nothing.

    Returns:
        A context manager.

    Examples:
        >>> with autocast(torch.device("cpu"), "bf16"):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    dtype = {"bf16": torch.bfloat16, "16": torch.float16}.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _computes_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; where it is emulated, float32 is faster."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public name for it
        return bool(supported is not None and supported())
    return False
