"""What this machine has for sgenet, and why something is not there."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib import metadata

import torch

import sgenet
from sgenet.extras import EXTRAS, modules_of
from sgenet.ops.backends import BACKENDS, VARIABLE, availability, backend_for

__all__ = ["diagnose"]

_SHOWN_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def diagnose() -> list[tuple[str, str]]:
    """What runs here, in the order in which one would ask.

    Returns:
        Pairs of a name and what is to be said of it, a line each.

    Raises:
        ConfigError: If SGENET_BACKEND asks for a backend that does not exist, or that this machine does not have.

    Examples:
        >>> [name for name, _ in diagnose()][:3]
        ['sgenet', 'Python', 'torch']
    """
    return [
        ("sgenet", sgenet.__version__),
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} CPU threads"),
        ("torchvision", _torchvision()),
        *_devices(),
        *[(f"backend {name}", _backend(name, reason)) for name, reason in availability().items()],
        *_chosen(),
        ("torch.compile", _compiler()),
        *[(f"extra {name}", _extra(name)) for name in EXTRAS],
    ]


def _torchvision() -> str:
    try:
        return metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return "missing: attention modules work without it, named networks and data do not"


def _devices() -> list[tuple[str, str]]:
    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("Apple GPU (mps)")
    return [("GPU", ", ".join(found) or "none")]


def _backend(name: str, reason: str | None) -> str:
    meanings = {"triton": "kernels for CUDA", "cpu": "compiled kernels for the CPU", "reference": "plain torch"}
    return f"yes: {meanings[name]}" if reason is None else f"no: {reason}"


def _chosen() -> list[tuple[str, str]]:
    """What computes SGE's maps on each device."""
    asked = os.environ.get(VARIABLE)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if asked in BACKENDS and asked != "reference":
        return [(VARIABLE, f"asks for {asked}, and for nothing else")]
    rows = [(f"SGE on {device}", _by_dtype(device)) for device in devices]
    return rows if not asked else [*rows, (VARIABLE, f"asks for {asked}")]


def _by_dtype(device: str) -> str:
    return ", ".join(f"{str(d).removeprefix('torch.')} by {backend_for(device, d, 4)}" for d in _SHOWN_DTYPES)


def _compiler() -> str:
    """Asked of inductor itself, which promises no such question; importing it takes a while."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        found = get_cpp_compiler()
    except ImportError:
        return "unknown: this torch does not say which C++ compiler it takes"
    except (RuntimeError, OSError):
        asked = os.environ.get("CXX")
        return "no: on a CPU it needs a C++ compiler, and " + (
            f"CXX={asked} does not run; correct or unset it" if asked else "there is none; install g++"
        )
    return f"yes: {shutil.which(found) or found}"


def _extra(name: str) -> str:
    missing = [module for module in modules_of(name) if importlib.util.find_spec(module) is None]
    return "yes" if not missing else f"no: {', '.join(missing)} missing; pip install 'sgenet[{name}]'"
