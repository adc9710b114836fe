"""Train one cell of a study: a finished run is read, an interrupted one goes on, any other begins."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgenet.classification.config import TrainConfig, to_words
from sgenet.classification.history import EpochRow
from sgenet.study.definition import Definition
from sgenet.study.locking import alone
from sgenet.study.storage import Claim, Result
from sgenet.training.environment import describe_environment
from sgenet.training.run_folder import RunFolder

if TYPE_CHECKING:
    from sgenet.data import ClassificationData, ImageSource

__all__ = ["Images", "train_cell"]


_KEPT = 4  # sets of generated images


class Images:
    """The images of a study's trainings; what is drawn is drawn once for all that want the same."""

    def __init__(self) -> None:
        self._drawn: dict[str, ClassificationData] = {}

    def of(self, config: TrainConfig) -> ClassificationData:
        """The images that the settings name; generated ones in memory.

        Args:
            config: Of a training.

        Returns:
            Training and validation images.
        """
        from sgenet.classification.images import open_config_data

        if config.data != "shapes":
            return open_config_data(config)
        key = repr((config.data_options, config.image_size))
        if key not in self._drawn:
            if len(self._drawn) == _KEPT:
                del self._drawn[next(iter(self._drawn))]
            data = open_config_data(config)
            self._drawn[key] = dataclasses.replace(data, train=_in_memory(data.train), val=_in_memory(data.val))
        return self._drawn[key]


def train_cell(
    definition: Definition,
    claim: Claim,
    output: Path,
    images: Images,
    machine: Mapping[str, Any],
    stopped: Callable[[], bool] = lambda: False,
) -> Result:
    """Train a cell, as far as that is not done yet.

    Args:
        definition: The study.
        claim: The cell, and where to tell of its epochs.
        output: The study's folder; the run goes to `runs/CELL` in it.
        images: Where its images come from.
        machine: Settings that belong to this machine.
        stopped: Asked at every step whether it is to stop.

    Returns:
        What it came to.

    Raises:
        SgenetError: If it cannot be trained.
        Superseded: If the cell is another worker's now.
        KeyboardInterrupt: If it is to stop; what its last checkpoint has is kept.
    """
    run = output / "runs" / claim.cell.folder
    config = definition.config(claim.cell, run, **machine)
    run.parent.mkdir(parents=True, exist_ok=True)
    with alone(run.with_name(f".{run.name}.lock")):  # one that was taken for dead may live, until its next epoch
        history = _trained(config, run, lambda: images.of(config), _Reporting(claim.report, stopped))
    words = ["sgenet", "train", *to_words(dataclasses.replace(config, output=None), definition.recipe)]
    return Result(history, shlex.join(words), str(run), describe_environment())


def _trained(
    config: TrainConfig, run: Path, data: Callable[[], ClassificationData], progress: _Reporting
) -> tuple[EpochRow, ...]:
    from sgenet.classification.training import resume, train

    folder = RunFolder(run)
    known = folder.read_metrics(EpochRow) if folder.metrics.is_file() else ()
    if len(known) >= config.epochs:
        return known
    if _can_go_on(run, config):
        return tuple(resume(run, data=data(), progress=progress).history)
    if run.exists():  # killed before its first checkpoint, it has learned nothing
        shutil.rmtree(run)
    return tuple(train(config, data=data(), progress=progress).history)


def _can_go_on(run: Path, config: TrainConfig) -> bool:
    """Whether a checkpoint is there to resume from.

    A run killed between its last checkpoint and the last line of its table lacks a figure: it is quickest begun anew.
    """
    from sgenet.models import read_metadata

    return (run / "checkpoints" / "index.json").is_file() and int(read_metadata(run)["epoch"]) < config.epochs


def _in_memory(source: ImageSource) -> ImageSource:
    import torch

    from sgenet.data import ArraySource

    images = torch.stack([source.load(i) for i in range(len(source))])
    return ArraySource(images, source.labels, source.classes)


class _Reporting:
    """Hands on the epochs of a training, and shows nothing: who runs the study shows all its trainings together."""

    def __init__(self, report: Callable[[EpochRow], None], stopped: Callable[[], bool]) -> None:
        self._report, self._stopped = report, stopped

    def start(self, description: str, total_steps: int, completed: int = 0) -> None:
        """Nothing."""

    def advance(self, metrics: Mapping[str, float]) -> None:
        """Stop where that is asked for."""
        if self._stopped():
            raise KeyboardInterrupt

    def epoch(self, row: EpochRow) -> None:
        """Tell the storage."""
        self._report(row)

    def line(self, text: str) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""
