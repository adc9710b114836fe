"""What attention costs in time and memory, measured: whole networks, and modules alone. Nothing here imports torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgenet.bench.measuring import bench as bench
    from sgenet.bench.result import BenchResult as BenchResult
    from sgenet.bench.result import BenchRow as BenchRow
    from sgenet.bench.settings import BenchSettings as BenchSettings

_HOME = {"BenchResult": "result", "BenchRow": "result", "BenchSettings": "settings", "bench": "measuring"}

__all__ = [*_HOME]  # the table above is the list


def __getattr__(name: str) -> object:
    if name not in _HOME:
        msg = f"module 'sgenet.bench' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"sgenet.bench.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
