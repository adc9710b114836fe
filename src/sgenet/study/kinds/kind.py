"""What a study needs to know of a kind of training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from sgenet.training.settings import TrainingSettings

if TYPE_CHECKING:
    from sgenet.training.progress import Progress
    from sgenet.training.run_folder import Row

__all__ = ["START", "Kind", "Metric", "text_of"]

START = "start_top1"
"""The column that a study adds to its rows where networks start from classifiers that it trained: their top-1."""

_SHOWN = (
    *("epochs", "batch_size", "optimizer", "momentum", "weight_decay", "lr", "schedule"),
    *("warmup_epochs", "precision"),
)

C = TypeVar("C", bound=TrainingSettings)
D = TypeVar("D")


@dataclass(frozen=True)
class Metric:
    """A figure that trainings are compared by: percent, and more is better.

    Attributes:
        key: Its column in a run's metrics.csv.
        name: In tables and within a sentence, e.g. "top-1".
        about: What it is: the rest of a sentence that begins with its name.
    """

    key: str
    name: str
    about: str

    @property
    def title(self) -> str:
        """The name at the beginning of a sentence.

        Examples:
            >>> Metric("val_top1", "top-1", "").title
            'Top-1'
        """
        return self.name[:1].upper() + self.name[1:]


class Kind(ABC, Generic[C, D]):
    """A kind of training that studies can consist of.

    Attributes:
        name: What a study's file calls it.
        command: The command that does such a training by itself.
        settings: The class of its settings.
        row: The class of an epoch's result.
        metrics: What its trainings are told by. A study compares by the first, unless it names another.
        shown: Settings of network and images that a report tells, beside those of the optimisation.
        size: The setting that says how large images are.
        decisive: Settings on which it depends what a recipe says beside them.
        sections: What its reports can have besides figures.
        pretrains: Whether its networks can start from a classifier that the study trains first.
        counted: What the counted cost covers, where that is not the whole network.
    """

    name: ClassVar[str]
    command: ClassVar[str]
    settings: ClassVar[type[TrainingSettings]]
    row: ClassVar[type[Row]]
    metrics: ClassVar[tuple[Metric, ...]]
    shown: ClassVar[tuple[str, ...]]
    size: ClassVar[str]
    decisive: ClassVar[tuple[str, ...]]
    sections: ClassVar[tuple[str, ...]] = ()
    pretrains: ClassVar[bool] = False
    counted: ClassVar[str] = ""

    @abstractmethod
    def make(self, recipe: str | None, **overrides: Any) -> C:  # noqa: ANN401  # any setting
        """Settings of a recipe, with some of them changed.

        Raises:
            ConfigError: If the recipe or a setting is unknown, or a value cannot be used.
        """

    @abstractmethod
    def words(self, config: C, recipe: str | None) -> list[str]:
        """The words after the command that give these settings.

        They begin at a recipe of the package: a user's file may be another, or gone, when they are used.
        """

    @abstractmethod
    def small(self, config: C) -> dict[str, Any]:
        """What makes a training so short that it only shows that everything works."""

    def described(self, configs: Sequence[C]) -> dict[str, str]:
        """What trainings have in common, in a reader's words: of a module's options those that are the same in all.

        Args:
            configs: Of the trainings.

        Returns:
            By the name of a setting; one that is not the same everywhere is left out, as one that says nothing is.
        """
        found = {}
        for name in (*self.shown, *_SHOWN):
            values = [getattr(config, name) for config in configs if self.applies(name, config)]
            value = _shared_options(values) if values and isinstance(values[0], Mapping) else _shared(values)
            if value not in (None, "", {}):
                found[name] = Path(str(value)).name if name == "data" else _in_words(value)
        return found

    def applies(self, name: str, config: C) -> bool:
        """Whether a setting decides anything beside the others."""
        return True

    @abstractmethod
    def open_data(self, config: C) -> D:
        """The images that the settings name.

        Raises:
            SgenetError: If they cannot be used.
        """

    def in_memory(self, data: D) -> D:
        """Drawn images, kept in memory where drawing them for each training takes a large part of its time."""
        return data

    @abstractmethod
    def cost(self, config: C, classes: int) -> dict[str, Any]:
        """What the network costs, as `sgenet.cost.count` says it; building it shows that its options are right."""

    @abstractmethod
    def train(self, config: C, data: D, progress: Progress) -> list[Row]:
        """Train from the start, to the run folder that the settings name; its rows."""

    @abstractmethod
    def resume(self, run: Path, data: D, progress: Progress) -> list[Row]:
        """Go on with a training that was stopped; all its rows."""


def text_of(settings: Mapping[str, Any], before: str = "") -> str:
    """Settings as words: their names and values, in a row.

    Examples:
        >>> text_of({"model": "resnet18", "options": {"groups": 4}, "weights": {}})
        'model resnet18, options groups 4, no weights'
    """
    parts = []
    for name, value in settings.items():
        inner = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        parts.append(f"{name} {inner}".strip() if inner else f"no {name}")
    return before + ", ".join(parts) if parts else ""


def _shared(values: Sequence[Any]) -> Any:  # noqa: ANN401  # any setting
    return values[0] if values and all(value == values[0] for value in values) else None


def _shared_options(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Options that are the same wherever there are any: what has none, as a network without attention, says nothing."""
    given = [options for options in values if options]
    names = given[0] if given else ()
    found = {name: _shared([options.get(name) for options in given]) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _in_words(value: Any) -> str:  # noqa: ANN401  # any setting
    if isinstance(value, Mapping):
        return text_of(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
