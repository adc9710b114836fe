"""Rows of benchmarks: where they are kept, and what they say about the machine."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from sgenet.classification.run_folder import describe_environment

__all__ = ["add_row", "circumstances", "results_file"]


def circumstances(device: str = "cpu") -> dict[str, Any]:
    """Where, when and with what a row is measured."""
    environment = describe_environment()
    machine, versions = environment["machine"], environment["versions"]
    cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else machine["processor"],
        "threads": torch.get_num_threads(),
        **{name: versions[name] for name in ("python", "torch", "torchvision", "sgenet")},
        "date": environment["started"][:10],
    }


def results_file(benchmark: str, device: str) -> Path:
    """The CSV file of a benchmark on a device."""
    slug = "-".join("".join(c if c.isalnum() else " " for c in device).split())
    return Path(__file__).parent / "results" / f"{benchmark}-{slug}.csv"


def add_row(path: Path, values: dict[str, Any]) -> None:
    """Append to a CSV file; write its header first where it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(values))
        if new:
            writer.writeheader()
        writer.writerow(values)
