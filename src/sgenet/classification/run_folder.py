"""What a training leaves on disk beside its checkpoints: settings, one row an epoch, and where it ran."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sgenet.classification.config import TrainConfig, read_config, to_yaml
from sgenet.errors import RunError

__all__ = ["EpochRow", "RunFolder", "describe_environment", "write_whole"]


@dataclass(frozen=True)
class EpochRow:
    """The result of one epoch; a line of metrics.csv.

    Attributes:
        epoch: Counted from 1.
        step: Optimisation steps done by the end of the epoch.
        lr: Learning rate of the epoch's last step.
        train_loss: Mean loss over the epoch's images as they were seen: augmented, smoothed, with weights on the move.
        train_top1: Top-1 over the same images, percent; with mixup, of the label with the image's own share.
        val_loss: Mean cross-entropy over the validation images.
        val_top1: Percent.
        val_top5: Percent.
        images_per_second: Training images, over all devices, without validation.
        seconds: Of the epoch, with validation.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    val_top5: float
    images_per_second: float
    seconds: float


class RunFolder:
    """A folder that a training writes: config.yaml, metrics.csv, environment.json, tensorboard/, checkpoints/.

    Args:
        path: The folder.

    Examples:
        >>> RunFolder("runs/demo").checkpoints.name
        'checkpoints'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Where event files are."""
        return self.path / "tensorboard"

    @property
    def metrics(self) -> Path:
        """The table of the epochs."""
        return self.path / "metrics.csv"

    @classmethod
    def check(cls, output: str | None) -> None:
        """See, before any work, that a run can be written there.

        Args:
            output: The folder; None for one that `create` names.

        Raises:
            RunError: If it holds something already, or cannot be written.
        """
        path = Path("runs") if output is None else Path(output)
        try:
            if output is not None and path.is_dir() and any(path.iterdir()):
                raise RunError(_taken(path))
            nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
        except OSError as error:
            raise _unwritable(path, error) from error
        if not nearest.is_dir():
            raise RunError(f"output '{path}' cannot be a folder: '{nearest}' is a file; choose another --output")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise RunError(f"output '{path}' cannot be written: no permission in '{nearest}'; choose another --output")

    @classmethod
    def create(cls, config: TrainConfig, data_name: str) -> RunFolder:
        """Make the folder and write settings and environment into it.

        Args:
            config: Settings; `output` names the folder, or runs/MODEL-DATA-N is taken with the next free N.
            data_name: Of the data set.

        Returns:
            The new run.

        Raises:
            RunError: If the folder exists and is not empty, or cannot be written.
        """
        try:
            run = cls(_new_folder(config, data_name))
            run.checkpoints.mkdir()
            run.write_config(config)
            run.add_session()
        except OSError as error:
            raise _unwritable(Path(config.output or "runs"), error) from error
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """An existing run.

        Raises:
            RunError: If the folder is none.
        """
        if not (Path(path) / "config.yaml").is_file():
            raise RunError(f"'{path}' is no run folder: it has no config.yaml; give a folder that `sgenet train` wrote")
        return cls(path)

    def read_config(self) -> TrainConfig:
        """The settings of the run."""
        return read_config(self.path / "config.yaml")

    def write_config(self, config: TrainConfig) -> None:
        """Write config.yaml."""
        write_whole(self.path / "config.yaml", to_yaml(config))

    def write_metrics(self, rows: Iterable[EpochRow]) -> None:
        """Write metrics.csv: all rows, so that resuming from an earlier epoch leaves no line too many."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(item.name for item in fields(EpochRow))
        writer.writerows(dataclasses.astuple(row) for row in rows)
        write_whole(self.metrics, text.getvalue())

    def read_metrics(self) -> tuple[EpochRow, ...]:
        """The rows of metrics.csv.

        Raises:
            RunError: If the file is not there, or is no such table.
        """
        try:
            with self.metrics.open(encoding="utf-8", newline="") as lines:
                return tuple(_row(line) for line in csv.DictReader(lines))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"'{self.metrics}' cannot be read; delete '{self.path}' to train it again") from error

    def add_session(self) -> None:
        """Add the environment of this process to environment.json; resuming adds another one."""
        file = self.path / "environment.json"
        sessions = json.loads(file.read_text(encoding="utf-8"))["sessions"] if file.exists() else []
        write_whole(file, json.dumps({"sessions": [*sessions, describe_environment()]}, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "a.txt", "text")
        ...     (Path(folder) / "a.txt").read_text()
        'text'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def describe_environment() -> dict[str, Any]:
    """Versions, machine, git state and command of this process.

    Returns:
        JSON-able values.

    Examples:
        >>> sorted(describe_environment())
        ['command', 'git', 'machine', 'started', 'versions']
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {"python": platform.python_version(), **_package_versions()},
        "machine": _machine(),
        "git": _git_state(),
    }


def _row(line: dict[str, str]) -> EpochRow:
    figures = {name: float(value) for name, value in line.items() if name not in ("epoch", "step")}
    return EpochRow(epoch=int(line["epoch"]), step=int(line["step"]), **figures)


def _taken(path: Path) -> str:
    if (path / "config.yaml").is_file():
        return f"output '{path}' holds a run; go on with `sgenet train --resume {path}`, or choose another --output"
    return f"output '{path}' exists and is not empty; choose another --output"


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"output '{path}' cannot be written: {error.strerror or error}; choose another --output")


def _new_folder(config: TrainConfig, data_name: str) -> Path:
    if config.output is not None:
        path = Path(config.output)
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise RunError(_taken(path))
        return path
    attention = f"{config.attention}-" if config.attention not in (None, "none") else ""
    stem = re.sub(r"[^\w.]+", "-", f"{attention}{config.model}-{data_name}").strip("-")
    number = 1
    while True:
        path = Path("runs") / f"{stem}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def _package_versions() -> dict[str, str | None]:
    names = ("sgenet", "torch", "torchvision", "pytorch-lightning", "timm", "numpy", "pillow", "safetensors")
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _machine() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git_state() -> dict[str, Any] | None:
    """Commit of the working directory and whether files differ from it; None where there is no repository."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
