"""What a benchmark found, as rows for a table, a CSV file or JSON."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgenet.bench.settings import BenchSettings
from sgenet.errors import ConfigError

if TYPE_CHECKING:
    from sgenet.timing import Ratio

__all__ = ["COLUMNS", "BenchResult", "BenchRow", "add_rows", "check_file", "key"]

COLUMNS = (
    *("what", "mode", "execution", "dtype", "layout", "batch", "size"),
    *("form", "baseline", "input", "ratio", "lower quartile", "upper quartile", "pairs", "ms", "peak MB", "peak ratio"),
    *("backend", "allocator", "device", "threads", "python", "torch", "torchvision", "sgenet", "date"),
)
"""Those of a benchmark's rows, known before it is run."""


@dataclass(frozen=True)
class BenchRow:
    """One form, compared with its baseline.

    Attributes:
        form: What was measured: "sge", "se unfused", "plain again", or for a module "forward", "backward".
        baseline: What it was compared with: "plain", or for a module "copy_" or "add_ relu_".
        shape: The input's.
        ratio: Its time.
        peak_bytes: The most memory above the parameters, in training; None where it was not measured.
        peak_ratio: The same as a multiple of the plain network's.
    """

    form: str
    baseline: str
    shape: tuple[int, ...]
    ratio: Ratio
    peak_bytes: int | None = None
    peak_ratio: float | None = None


@dataclass(frozen=True)
class BenchResult:
    """All rows of one benchmark, and what they hold for.

    Attributes:
        settings: What was asked for, with no "auto" left.
        rows: The forms in the order of the table.
        circumstances: Machine, versions, date, backend and the allocator's settings.
    """

    settings: BenchSettings
    rows: tuple[BenchRow, ...]
    circumstances: dict[str, Any]

    def to_rows(self) -> list[dict[str, Any]]:
        """Each row with everything that it holds for, as JSON-able values by column."""
        return [{**key(self.settings), **_measured(row), **self.circumstances} for row in self.rows]


def check_file(path: Path, columns: Sequence[str]) -> None:
    """See that rows can be appended to a CSV file, and leave it as it is.

    Args:
        path: The file; it may be new.
        columns: Of the rows.

    Raises:
        ConfigError: If the file has other columns, is none of this kind, or cannot be written.
    """
    try:
        known = _columns_of(path)
        place = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
        with place.open("a") if place == path.absolute() else tempfile.TemporaryFile(dir=place):
            pass
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"'{path}' cannot take rows of a CSV file: {reason}; choose another file") from error
    if known not in (None, [*columns]):
        raise ConfigError(f"'{path}' has other columns than these rows; choose another file")


def _columns_of(path: Path) -> list[str] | None:
    """The header of a CSV file; None where it is new."""
    if not path.exists() or not path.stat().st_size:
        return None
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file))


def add_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append to a CSV file; its header comes first where it is new.

    Args:
        path: The file.
        rows: Values by column, the same columns in each.

    Raises:
        ConfigError: As `check_file`.
    """
    columns = list(rows[0])
    check_file(path, columns)
    new = _columns_of(path) is None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def key(settings: BenchSettings) -> dict[str, Any]:
    """The columns by which a benchmark's rows are found again.

    Args:
        settings: With a dtype, a batch and so on.

    Returns:
        Values by column; as text they are what the CSV file holds.

    Examples:
        >>> key(BenchSettings(compile=True))["execution"]
        'compile'
    """
    steps = {"optimize": settings.optimize, "compile": settings.compile, "freeze": settings.freeze}
    return {
        "what": settings.model if settings.module is None else f"module {settings.module}",
        "mode": settings.mode if settings.module is None else "",
        "execution": " ".join(name for name, taken in steps.items() if taken) or "eager",
        "dtype": settings.dtype,
        "layout": settings.layout,
        "batch": settings.batch,
        "size": settings.size if settings.module is None else "",
    }


def _measured(row: BenchRow) -> dict[str, Any]:
    return {
        "form": row.form,
        "baseline": row.baseline,
        "input": "x".join(map(str, row.shape)),
        "ratio": round(row.ratio.median, 4),
        "lower quartile": round(row.ratio.lower, 4),
        "upper quartile": round(row.ratio.upper, 4),
        "pairs": row.ratio.pairs,
        "ms": round(row.ratio.seconds * 1e3, 4),
        "peak MB": "" if row.peak_bytes is None else round(row.peak_bytes / 1e6, 2),
        "peak ratio": "" if row.peak_ratio is None else round(row.peak_ratio, 4),
    }
