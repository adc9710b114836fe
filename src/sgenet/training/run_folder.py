"""What a training leaves on disk beside its checkpoints: settings, one row an epoch, and where it ran."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from sgenet.errors import RunError
from sgenet.training.environment import describe_environment
from sgenet.training.locking import RunLock
from sgenet.training.settings import TrainingSettings, read_settings, to_yaml
from sgenet.writing import write_whole

__all__ = ["Row", "RunFolder"]


class Row(Protocol):
    """The result of an epoch: a dataclass of numbers, and a line of metrics.csv.

    Attributes:
        epoch: Counted from 1.
        step: Optimisation steps done by the end of the epoch.
        lr: Learning rate of the epoch's last step.
        train_loss: Mean over the epoch.
        images_per_second: Training images, over all devices, without validation.
        seconds: Of the epoch, with validation.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def epoch(self) -> int:
        """See above."""

    @property
    def step(self) -> int:
        """See above."""

    @property
    def lr(self) -> float:
        """See above."""

    @property
    def train_loss(self) -> float:
        """See above."""

    @property
    def images_per_second(self) -> float:
        """See above."""

    @property
    def seconds(self) -> float:
        """See above."""


R = TypeVar("R", bound=Row)
S = TypeVar("S", bound=TrainingSettings)


class RunFolder:
    """A folder that a training writes: config.yaml, metrics.csv, environment.json, tensorboard/, checkpoints/, .lock.

    Args:
        path: The folder.

    Examples:
        >>> RunFolder("runs/demo").checkpoints.name
        'checkpoints'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock: RunLock | None = None

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
            nearest = next(p for p in (path, *path.absolute().parents) if p.exists() or p.is_symlink())
        except OSError as error:
            raise _unwritable(path, error) from error
        if not nearest.exists():
            raise RunError(
                f"output '{path}' cannot be a folder: the link '{nearest}' leads nowhere; make the folder that it "
                "names, or choose another --output"
            )
        if not nearest.is_dir():
            raise RunError(f"output '{path}' cannot be a folder: '{nearest}' is a file; choose another --output")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise RunError(f"output '{path}' cannot be written: no permission in '{nearest}'; choose another --output")

    @classmethod
    def create(cls, config: TrainingSettings, name: str) -> RunFolder:
        """Make the folder, lock it, and write settings and environment into it.

        Args:
            config: Settings; `output` names the folder, or runs/NAME-N is taken with the next free N.
            name: What the run is about, e.g. "sge_resnet18-photos".

        Returns:
            The new run.

        Raises:
            RunError: If the folder exists and is not empty, cannot be written, or is another training's.
        """
        try:
            run = cls(_new_folder(config.output, name))
            run.lock()
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
            raise RunError(f"'{path}' is no run folder: it has no config.yaml; give a folder that a training wrote")
        return cls(path)

    def lock(self) -> None:
        """Keep other trainings out of the folder, until `release` or the end of this process.

        Raises:
            RunError: If one is at work in it.
        """
        self._lock = RunLock(self.path / ".lock")

    def release(self) -> None:
        """Let other trainings in, where `lock` kept them out."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def read_config(self, kind: type[S]) -> S:
        """The settings of the run, if it is one of that kind.

        Raises:
            ConfigError: If it is another.
        """
        return read_settings(kind, self.path / "config.yaml")

    def write_config(self, config: TrainingSettings) -> None:
        """Write config.yaml."""
        write_whole(self.path / "config.yaml", to_yaml(config))

    def write_metrics(self, kind: type[R], rows: Iterable[R]) -> None:
        """Write metrics.csv: all rows, so that resuming from an earlier epoch leaves no line too many."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [item.name for item in fields(kind)]
        writer.writerow(names)
        writer.writerows([getattr(row, name) for name in names] for row in rows)
        write_whole(self.metrics, text.getvalue())

    def read_metrics(self, kind: type[R]) -> tuple[R, ...]:
        """The rows of metrics.csv, where they are of that kind.

        Raises:
            RunError: If the file is not there, or is no such table.
        """
        try:
            with self.metrics.open(encoding="utf-8", newline="") as lines:
                return tuple(_row(kind, line) for line in csv.DictReader(lines))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"'{self.metrics}' cannot be read; delete '{self.path}' to train it again") from error

    def add_session(self) -> None:
        """Add the environment of this process to environment.json; resuming adds another one.

        A file that cannot be read is put aside as environment.damaged.json: it is a record, which nothing depends on.
        """
        file = self.path / "environment.json"
        try:
            sessions = [*json.loads(file.read_bytes())["sessions"]]
        except FileNotFoundError:
            sessions = []
        except (ValueError, KeyError, TypeError):
            file.replace(file.with_suffix(".damaged.json"))
            sessions = []
        write_whole(file, json.dumps({"sessions": [*sessions, describe_environment()]}, indent=2) + "\n")


def _row(kind: type[R], line: dict[str, str]) -> R:
    values: dict[str, Any] = {n: int(v) if n in ("epoch", "step") else float(v) for n, v in line.items()}
    return kind(**values)


def _taken(path: Path) -> str:
    if (path / "config.yaml").is_file():
        return f"output '{path}' holds a run; go on with --resume {path}, or choose another --output"
    return f"output '{path}' exists and is not empty; choose another --output"


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"output '{path}' cannot be written: {error.strerror or error}; choose another --output")


def _new_folder(output: str | None, name: str) -> Path:
    if output is not None:
        path = Path(output)
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise RunError(_taken(path))
        return path
    runs = Path("runs")
    runs.mkdir(exist_ok=True)
    stem = re.sub(r"[^\w.]+", "-", name).strip("-")
    number = 1
    while True:
        path = runs / f"{stem}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path
