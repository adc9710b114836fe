"""Where the rows of benchmarks are kept."""

from __future__ import annotations

from pathlib import Path

__all__ = ["results_file"]


def results_file(benchmark: str, device: str) -> Path:
    """The CSV file of a benchmark on a device."""
    slug = "-".join("".join(c if c.isalnum() else " " for c in device).split())
    return Path(__file__).parent / "results" / f"{benchmark}-{slug}.csv"
