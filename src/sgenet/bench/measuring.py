"""Run a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from sgenet.bench.environment import allocator_settings
from sgenet.bench.modules import module_rows
from sgenet.bench.networks import network_rows
from sgenet.bench.result import BenchResult
from sgenet.bench.settings import BenchSettings
from sgenet.errors import ConfigError
from sgenet.ops.backends import backend_for
from sgenet.training.environment import describe_environment

__all__ = ["bench", "circumstances"]


def bench(settings: BenchSettings, progress: Callable[[str, float], object] | None = None) -> BenchResult:
    """Measure what attention costs a network, or a module by itself.

    In a network, each module runs in its fastest form and in the unfused one of plain torch, beside the plain network
    and a second copy of that, which shows the noise. A module alone runs on the maps of ResNet-50's four stages, beside
    copying them once: what the memory of the machine needs at least. Weights are seeded, and SGE's are drawn, because
    with those it starts with its gate is the same everywhere.

    Args:
        settings: What to measure.
        progress: Called with what is being done and the share that is done, 0 to 1.

    Returns:
        Rows and circumstances.

    Raises:
        UnknownNameError: If there is no such network or attention.
        ConfigError: If the device is not there, the network cannot take such input, or memory does not suffice.

    Examples:
        >>> settings = BenchSettings(model="resnet8_cifar", attention=("sge",), batch=1, size=8, pairs=5, device="cpu")
        >>> [row.form for row in bench(settings).rows]
        ['plain again', 'sge', 'sge unfused']
    """
    settings = replace(settings, device=_device(settings.device))
    progress = progress or _silent
    torch.manual_seed(0)
    rows = network_rows(settings, progress) if settings.module is None else module_rows(settings, progress)
    dtype = getattr(torch, settings.dtype)
    backend = backend_for(torch.device(settings.device).type, dtype, 4)
    own = {"backend": backend, "allocator": allocator_settings()}
    return BenchResult(settings, tuple(rows), own | circumstances(settings.device))


def circumstances(device: str) -> dict[str, Any]:
    """Where, when and with what something is measured.

    Args:
        device: The device that computes.

    Returns:
        JSON-able values by column.

    Examples:
        >>> sorted(circumstances("cpu"))
        ['date', 'device', 'python', 'sgenet', 'threads', 'torch', 'torchvision']
    """
    environment = describe_environment()
    machine, versions = environment["machine"], environment["versions"]
    cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else machine["processor"],
        "threads": torch.get_num_threads(),
        **{name: versions[name] for name in ("python", "torch", "torchvision", "sgenet")},
        "date": environment["started"][:10],
    }


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(f"device='{name}' cannot be used here: {reason}; take cpu, or leave it out") from error
    return name


def _silent(what: str, share: float) -> None:
    del what, share
