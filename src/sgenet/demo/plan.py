"""What a demonstration trains, and the record that says so in its folder."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgenet.classification.config import TrainConfig, make_config
from sgenet.classification.run_folder import write_whole
from sgenet.errors import ConfigError, RunError

__all__ = [
    "NETWORKS",
    "PLAIN",
    "SGE",
    "Plan",
    "alone_in",
    "claim",
    "read_record",
    "run_of",
    "train_command",
    "write_record",
]

NETWORKS = {"resnet8_cifar": "plain", "se_resnet8_cifar": "SE", "sge_resnet8_cifar": "SGE"}
PLAIN, *_, SGE = NETWORKS

_RECIPE = "shapes"
_RECORD = "demo.json"


@dataclass(frozen=True)
class Plan:
    """What decides the outcome; a folder holds the runs of one plan.

    Attributes:
        seeds: Runs of each network.
        epochs: Passes over the training images.
        train_size: Training images.
        val_size: Validation images.
        image_size: Their side in pixels.
    """

    seeds: int = 3
    epochs: int = 10
    train_size: int = 4000
    val_size: int = 1000
    image_size: int = 64

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ConfigError(f"{name}={value} must be 1 or more")

    def configs(self, output: Path) -> dict[tuple[str, int], TrainConfig]:
        """The settings of every run by network and seed, seed after seed.

        Args:
            output: Folder of the demonstration.

        Returns:
            One entry a run.
        """
        return {
            (model, seed): make_config(
                _RECIPE,
                model=model,
                seed=seed,
                epochs=self.epochs,
                image_size=self.image_size,
                data_options=self._data_options(),
                output=str(output / "runs" / f"{model}-seed{seed}"),
            )
            for seed in range(self.seeds)
            for model in NETWORKS
        }

    def _data_options(self) -> dict[str, int]:
        """Those that differ from what `shapes` does by itself, so that the commands in the report stay short."""
        return {name: value for name, value in self._unusual().items() if name in ("train_size", "val_size")}

    def _unusual(self) -> dict[str, int]:
        values = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        return {name: value for name, (value, usual) in values.items() if value != usual}

    def command(self, output: Path) -> str:
        """The command line that repeats the demonstration, in a folder beside it.

        Examples:
            >>> Plan(seeds=5).command(Path("runs/demo"))
            'sgenet demo --output runs/demo-again --seeds 5'
        """
        options = [word for n, v in self._unusual().items() for word in ("--" + n.replace("_", "-"), str(v))]
        return shlex.join(["sgenet", "demo", "--output", f"{output}-again", *options])


def run_of(config: TrainConfig) -> Path:
    """The run folder of one of `Plan.configs`."""
    return Path(str(config.output))


def train_command(config: TrainConfig) -> str:
    """The command line that trains one run again, in a folder of its own: the recipe, and what differs from it.

    Examples:
        >>> train_command(Plan(epochs=3).configs(Path("demo"))["sge_resnet8_cifar", 0])
        'sgenet train --recipe shapes --model sge_resnet8_cifar --seed 0 --epochs 3'
    """
    usual = make_config(_RECIPE)
    words = ["sgenet", "train", "--recipe", _RECIPE, "--model", config.model, "--seed", str(config.seed)]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(usual, field.name) and field.name not in ("model", "seed", "output"):
            words += ["--" + field.name.replace("_", "-"), value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)


def claim(output: Path, plan: Plan) -> None:
    """Make `output` the folder of this plan, or see that it is.

    Raises:
        RunError: If it holds something else, or cannot be written.
    """
    record = read_record(output)
    if record is None:
        if output.is_dir() and any(output.iterdir()):
            raise RunError(f"'{output}' is not empty and holds no demonstration; choose another --output")
        write_record(output, {"plan": dataclasses.asdict(plan)})
        return
    wanted = dataclasses.asdict(plan)
    others = [f"{name}={value}" for name, value in record["plan"].items() if value != wanted[name]]
    if others:
        raise RunError(f"'{output}' holds a demonstration with {', '.join(others)}; give the same, or another --output")


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """Keep a second demonstration out of the folder for as long as this one works in it, where the system can.

    Args:
        output: An existing folder.

    Raises:
        RunError: If another process is at work in it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"another demonstration is at work in '{output}'; wait for it, or give another --output"
            ) from error
        yield
    finally:
        os.close(folder)


def read_record(output: Path) -> dict[str, Any] | None:
    """What the demonstration's folder says of itself: its plan and, once measured, its times.

    Returns:
        The record; None where there is none.

    Raises:
        RunError: If it cannot be read.
    """
    file = output / _RECORD
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        known = set(record["plan"]) == {field.name for field in dataclasses.fields(Plan)}
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise RunError(f"'{file}' is not the record of a demonstration of this version; choose another --output")
    return dict(record)


def write_record(output: Path, record: Mapping[str, Any]) -> None:
    """Replace the record.

    Raises:
        RunError: If `output` cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(output / _RECORD, json.dumps(record, indent=2) + "\n")
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"output '{output}' cannot be written: {reason}; choose another --output") from error
