"""Train one cell of a study: a finished run is read, an interrupted one goes on, any other begins."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sgenet.errors import CheckpointError, RunError
from sgenet.study.definition import MACHINE_SETTINGS, Cell, Definition
from sgenet.study.kinds import KINDS, START, Kind
from sgenet.study.locking import alone
from sgenet.study.storage import Claim, Result
from sgenet.training.environment import describe_environment
from sgenet.training.run_folder import Row, RunFolder
from sgenet.training.settings import TrainingSettings, types_of

__all__ = ["Images", "train_cell"]


_KEPT = 4  # sets of generated images
_PLACES = (*MACHINE_SETTINGS, "output")  # settings that do not tell one training from another
_FILES = ("data", "labels", "weights", "backbone_weights")
History = tuple[Mapping[str, float], ...]


class Images:
    """The images of a study's trainings; what is drawn is drawn once for all that want the same."""

    def __init__(self) -> None:
        self._drawn: dict[str, Any] = {}

    def of(self, kind: Kind[Any, Any], config: Any) -> Any:  # noqa: ANN401  # settings and images of that kind
        """The images that the settings name; generated ones in memory.

        Args:
            kind: Of the training.
            config: Of the training.

        Returns:
            Training and validation images.
        """
        if config.data != "shapes":
            return kind.open_data(config)
        key = repr((kind.name, config.data_options, getattr(config, kind.size)))
        if key not in self._drawn:
            if len(self._drawn) == _KEPT:
                del self._drawn[next(iter(self._drawn))]
            self._drawn[key] = kind.in_memory(kind.open_data(config))
        return self._drawn[key]


def train_cell(
    definition: Definition,
    claim: Claim,
    output: Path,
    images: Images,
    machine: Mapping[str, Any],
    stopped: Callable[[], bool] = lambda: False,
) -> Result:
    """Train a cell, as far as that is not done yet, and before it the classifier that it starts from.

    Args:
        definition: The study.
        claim: The cell, and where to tell of its epochs.
        output: The study's folder; the run goes to `runs/CELL` in it, the classifier to `backbones/...`.
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
    cell, kind, column = claim.cell, definition.kind, definition.compared.key
    first = definition.start(cell, output, **machine)
    found = {}
    if first is not None:
        classifier = _trained(KINDS["classifiers"], first, images, _Reporting(lambda row: None, stopped))
        found[START] = classifier[-1]["val_top1"]
    config = definition.config(cell, output, **machine)

    def told(row: Row) -> None:
        claim.report(row.epoch, getattr(row, column))

    history = _trained(kind, config, images, _Reporting(told, stopped))
    history = tuple({**row, **found} for row in history)
    return Result(history, _command(definition, cell, machine), str(config.output), describe_environment())


def _command(definition: Definition, cell: Cell, machine: Mapping[str, Any]) -> str:
    """What repeats the training, where there is no study."""
    config = dataclasses.replace(definition.config(cell, **machine), output=None)
    words = ["sgenet", *definition.kind.command.split(), *definition.kind.words(config, definition.recipe)]
    first = definition.start(cell, **machine)
    if first is None or definition.pretraining is None:
        return shlex.join(words)
    classifiers = KINDS["classifiers"]
    before = ["sgenet", *classifiers.command.split(), *classifiers.words(first, definition.pretraining.recipe)]
    return f"{shlex.join(before)} && {shlex.join(words)}"


def _trained(kind: Kind[Any, Any], config: TrainingSettings, images: Images, progress: _Reporting) -> History:
    run = Path(str(config.output))
    run.parent.mkdir(parents=True, exist_ok=True)
    # Another worker may be at it: one that needs the same classifier, or one that was taken for dead and lives on
    # until its next epoch.
    with alone(run.with_name(f".{run.name}.lock")):
        folder = RunFolder(run)
        _check_same(folder, config)
        rows = [*folder.read_metrics(kind.row)] if folder.metrics.is_file() else []
        finished = len(rows) == config.epochs and rows[-1].epoch == config.epochs
        if not finished:
            rows = _resumed(kind, config, images, progress)
        if not rows:
            if run.exists():  # killed before its first checkpoint, it has learned nothing
                shutil.rmtree(run)
            rows = kind.train(config, images.of(kind, config), progress)
    return tuple(dataclasses.asdict(row) for row in rows)


def _resumed(kind: Kind[Any, Any], config: TrainingSettings, images: Images, progress: _Reporting) -> list[Row]:
    """All rows of a run that went on from its checkpoint; none where it has to begin anew."""
    run = Path(str(config.output))
    try:
        if _can_go_on(run, config):
            return kind.resume(run, images.of(kind, config), progress)
    except CheckpointError:  # it is damaged
        if run.exists():
            run.rename(_aside(run))
    return []


def _aside(run: Path) -> Path:
    """A name beside the run's that is free."""
    names = (run.with_name(f"{run.name}.damaged-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def _check_same(run: RunFolder, config: TrainingSettings) -> None:
    """See that a run, where there is one, is the one that is wanted: it may be left from another study."""
    if not (run.path / "config.yaml").is_file():
        return
    known = run.read_config(type(config))
    changed = []
    for name in types_of(type(config)):
        there, here = getattr(known, name), getattr(config, name)
        if name not in _PLACES and not _alike(name, there, here):
            changed.append(f"{name}: {there!r} there, {here!r} here")
    if changed:
        raise RunError(
            f"'{run.path}' holds a training of other settings ({'; '.join(changed)}); move that folder away to train "
            "anew, or give another --output"
        )


def _alike(name: str, there: Any, here: Any) -> bool:  # noqa: ANN401  # any setting
    """Whether two values mean the same: a file or folder is known by its name, also behind a link to it."""
    if name in _FILES and there and here:
        return Path(there).name in (Path(here).name, Path(here).expanduser().resolve().name)
    return bool(there == here) or (name == "precision" and here == "auto")


def _can_go_on(run: Path, config: TrainingSettings) -> bool:
    """Whether a checkpoint is there to resume from.

    A run killed between its last checkpoint and the last line of its table lacks a figure: it is quickest begun anew.
    """
    from sgenet.models import read_metadata

    return (run / "checkpoints" / "index.json").is_file() and int(read_metadata(run)["epoch"]) < config.epochs


class _Reporting:
    """Hands on the epochs of a training, and shows nothing: who runs the study shows all its trainings together."""

    def __init__(self, report: Callable[[Row], None], stopped: Callable[[], bool]) -> None:
        self._report, self._stopped = report, stopped

    def start(self, description: str, total_steps: int, completed: int = 0) -> None:
        """Nothing."""

    def advance(self, metrics: Mapping[str, float]) -> None:
        """Stop where that is asked for."""
        if self._stopped():
            raise KeyboardInterrupt

    def epoch(self, row: Row) -> None:
        """Tell the storage."""
        self._report(row)

    def line(self, text: str) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""
