"""What attention costs in time and memory, measured: whole networks, and modules alone. Nothing here imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgenet.importing import names_on_use

if TYPE_CHECKING:
    from sgenet.bench.measuring import bench as bench
    from sgenet.bench.result import BenchResult as BenchResult
    from sgenet.bench.result import BenchRow as BenchRow
    from sgenet.bench.settings import BenchSettings as BenchSettings

_HOME = {"BenchResult": "result", "BenchRow": "result", "BenchSettings": "settings", "bench": "measuring"}

__all__ = [*_HOME]  # the table above is the list
__getattr__, __dir__ = names_on_use(__name__, _HOME)
