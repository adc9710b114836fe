"""Train every run of a demonstration that is not finished yet, under one progress bar."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sgenet.classification.run_folder import EpochRow, RunFolder
from sgenet.demo.plan import NETWORKS, run_of

if TYPE_CHECKING:
    from sgenet.classification.config import TrainConfig
    from sgenet.classification.progress import Progress
    from sgenet.data import ClassificationData, ImageSource

__all__ = ["Histories", "train_missing"]

Histories = dict[tuple[str, int], tuple[EpochRow, ...]]


def train_missing(configs: Mapping[tuple[str, int], TrainConfig], progress: Progress) -> tuple[Histories, int]:
    """Train what is not trained yet: a finished run is read, an interrupted one goes on at its last checkpoint.

    Args:
        configs: Settings of every run, by network and seed.
        progress: Where to show how far all of them together are.

    Returns:
        The epochs of every run, and how many runs were trained for that.
    """
    histories = {key: _history(config) for key, config in configs.items()}
    missing = [key for key, config in configs.items() if len(histories[key]) < config.epochs]
    if not missing:
        progress.line(f"All {len(configs)} runs are there already; only the report is written anew.")
        return histories, 0
    if len(missing) < len(configs):
        progress.line(f"{len(configs) - len(missing)} of {len(configs)} runs are there already.")
    whole = _Whole(progress, len(configs), len(configs) - len(missing))
    drawn = _Drawn()
    try:
        for model, seed in missing:
            whole.current = f"{NETWORKS[model]} seed", seed
            histories[model, seed] = history = _train(configs[model, seed], drawn, whole)
            seconds = sum(row.seconds for row in history)
            progress.line(f"{NETWORKS[model]}, seed {seed}: top-1 {history[-1].val_top1:.1f}%, {seconds:.0f} s")
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("stopped; the same command goes on where it was") from stop
    finally:
        progress.stop()
    return histories, len(missing)


def _train(config: TrainConfig, drawn: _Drawn, progress: Progress) -> tuple[EpochRow, ...]:
    from sgenet.classification.training import resume, train

    run = run_of(config)
    if _can_go_on(run, config):
        return tuple(resume(run, data=drawn.images(config), progress=progress).history)
    if run.exists():
        shutil.rmtree(run)
    return tuple(train(config, data=drawn.images(config), progress=progress).history)


def _can_go_on(run: Path, config: TrainConfig) -> bool:
    """Whether a checkpoint is there to resume from.

    A run killed before its first checkpoint has learned nothing, and one killed between its last checkpoint and the
    last line of its table lacks a figure: both are quickest begun anew.
    """
    from sgenet.models import read_metadata

    return (run / "checkpoints" / "index.json").is_file() and int(read_metadata(run)["epoch"]) < config.epochs


class _Drawn:
    """The images, drawn once for all runs."""

    def __init__(self) -> None:
        self._data: ClassificationData | None = None

    def images(self, config: TrainConfig) -> ClassificationData:
        """The data that the settings name, in memory."""
        from sgenet.classification.images import open_config_data

        if self._data is None:
            data = open_config_data(config)
            self._data = dataclasses.replace(data, train=_in_memory(data.train), val=_in_memory(data.val))
        return self._data


def _in_memory(source: ImageSource) -> ImageSource:
    import torch

    from sgenet.data import ArraySource

    images = torch.stack([source.load(i) for i in range(len(source))])
    return ArraySource(images, source.labels, source.classes)


def _history(config: TrainConfig) -> tuple[EpochRow, ...]:
    """The epochs that a run has behind it; none where there is no run."""
    run = RunFolder(run_of(config))
    return run.read_metrics() if run.metrics.is_file() else ()


class _Whole:
    """The progress of one training, shown as a part of all of them."""

    def __init__(self, shown: Progress, runs: int, finished: int) -> None:
        self._shown = shown
        self._runs = runs
        self._finished = finished
        self._started = False
        self.current = ("", 0)

    def start(self, description: str, total_steps: int, completed: int = 0) -> None:
        """The first run tells how many steps each of them has."""
        del description
        if not self._started:
            self._shown.start("demo", self._runs * total_steps, self._finished * total_steps + completed)
            self._started = True

    def advance(self, metrics: Mapping[str, float]) -> None:
        """A step of the current run."""
        name, seed = self.current
        self._shown.advance({name: seed, **metrics})

    def line(self, text: str) -> None:
        """Epochs of single runs are in their metrics.csv; one line a run is enough here."""

    def stop(self) -> None:
        """The next run goes on with the same bar."""
