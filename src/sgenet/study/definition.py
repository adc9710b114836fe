"""What a study asks: which settings are compared, over which seeds, on what, and what a paper found."""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sgenet.errors import ConfigError, did_you_mean
from sgenet.named_files import read_yaml
from sgenet.study.kinds import KINDS, START, Kind, Metric
from sgenet.study.presets import STUDIES, list_studies
from sgenet.training.settings import TrainingSettings, from_values, types_of

__all__ = [
    "MACHINE_SETTINGS",
    "Cell",
    "Combination",
    "Definition",
    "Factor",
    "Level",
    "Paper",
    "Pretraining",
    "load_study",
]

# Where a machine may have its own value: they decide neither what is trained nor on what.
MACHINE_SETTINGS = ("workers", "loader", "accelerator", "devices")

FINGERPRINT = ("trains", "metric", "compare", "baseline")
"""What two runs of a study must have in common, besides factors and settings."""

EPOCH_COLUMNS = ("step", "lr", "images_per_second", "seconds")
"""Columns of an epoch's row that say nothing of a whole training."""

BACKBONES = "backbones"
"""The folder, within a study's, of the classifiers that its networks start from."""

# columns of comparisons.csv and cells.csv, beside those of figures and of an epoch's row
_COLUMNS = ("seed", "seeds", "verdict", "parameters", "macs", "elementwise", "bytes_moved", "paper", "command")
_DECIDED = ("seed", "output")  # settings that are no study's to give: each training has its own
_TINY_SEEDS = 2
_BACKBONE = ("backbone", "backbone_options", "attention", "attention_options")  # what decides a detector's classifier
_NAME = re.compile(r"[\w.+-]+")


@dataclass(frozen=True)
class Level:
    """One of the values that a factor takes.

    Attributes:
        name: What tables call it.
        settings: The settings of the training that make it what it is.
    """

    name: str
    settings: Mapping[str, Any]

    @property
    def number(self) -> float | None:
        """The name as a number, for an axis; None where it is none."""
        try:
            value = float(self.name)
        except ValueError:
            return None
        return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Factor:
    """Something that a study varies.

    Attributes:
        name: E.g. "attention".
        levels: Its values, in the order of tables.
    """

    name: str
    levels: tuple[Level, ...]

    def level(self, name: str) -> Level:
        """The level of this name."""
        return next(level for level in self.levels if level.name == name)

    @property
    def settings(self) -> set[str]:
        """The settings that decide between its levels, e.g. "model" or "attention_options.groups"."""
        return {path for level in self.levels for path in _paths(level.settings)}


@dataclass(frozen=True)
class Paper:
    """What a paper printed for the same question, to stand beside what is found here.

    Attributes:
        source: Where, e.g. "arXiv 1709.01507v4, table 10".
        setting: On what data, with which network and schedule.
        metric: What its figures are, e.g. "top-1 error, %".
        figures: A figure, or words, by the name of a combination ("16", or "resnet50 / se").
        differs: What is different here, besides data and schedule.
    """

    source: str
    setting: str = ""
    metric: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)
    differs: str = ""


@dataclass(frozen=True)
class Pretraining:
    """How the classifiers are trained that a study's detectors start from: one for each backbone and seed.

    Attributes:
        recipe: Of `sgenet train`.
        settings: What is changed of it; the network is the detector's backbone, and the seed the cell's.
    """

    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolved:
    """All settings of a combination's trainings, but for seeds, folders and what machines have of their own.

    Attributes:
        training: By name.
        start: Those of the classifier that the networks start from; None where there is none.
    """

    training: Mapping[str, Any]
    start: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Combination:
    """One level of each factor.

    Attributes:
        levels: Names of levels by names of factors.
    """

    levels: Mapping[str, str]

    @property
    def name(self) -> str:
        """All levels in a row, e.g. "resnet50 / se"."""
        return " / ".join(self.levels.values())

    @property
    def key(self) -> str:
        """What it is called in the storage: "attention=se, noise=2"."""
        return ", ".join(f"{factor}={level}" for factor, level in self.levels.items())


@dataclass(frozen=True)
class Cell:
    """One training of the grid.

    Attributes:
        combination: Levels of all factors.
        seed: Of the training.
    """

    combination: Combination
    seed: int

    @property
    def key(self) -> str:
        """What it is called in the storage: "attention=se, seed=0"."""
        return ", ".join(filter(None, (self.combination.key, f"seed={self.seed}")))

    @property
    def folder(self) -> str:
        """What its run folder is called."""
        return _folder(self.key)


@dataclass(frozen=True)
class Definition:
    """A study.

    Attributes:
        name: A short name, of letters, digits and "_.+-".
        title: What it is about, as a heading.
        question: What it asks, in a sentence or two.
        factors: What it varies; its cells are all combinations of their levels with all seeds.
        compare: The factor whose levels are compared with each other; the others are circumstances.
        baseline: The level of `compare` that the others are compared with.
        seeds: How many seeds: 0, 1, ...
        trains: What: a name of `sgenet.study.kinds.KINDS`.
        metric: What is compared: the column of metrics.csv; of None, the first of its kind.
        recipe: The recipe of every training.
        settings: What every training changes of it.
        pretraining: How the classifiers are trained that the networks start from; None for no such start.
        trend: A factor whose levels are numbers, along which differences may grow or shrink; or None.
        spread: What the difference between two trainings of one seed is expected to vary by, from seed to seed: a
            standard deviation in points of the metric; or None.
        spread_source: How that is known.
        paper: What a paper found, or None.
        needs: Why it cannot be run yet, or None.
        wiring: Whether it only shows that all parts work together; then its report draws no conclusion.
        sections: What its report has besides figures: "samples" of the data, "masks" of SGE, "times" measured.
        resolved: By the key of a combination, the settings that recipes and changes came to when the study was written
            down. They stay, whatever becomes of a recipe's file; if not given, they are worked out now.
    """

    name: str
    title: str
    question: str
    factors: tuple[Factor, ...]
    compare: str
    baseline: str
    seeds: int
    trains: str = "classifiers"
    metric: str | None = None
    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    pretraining: Pretraining | None = None
    trend: str | None = None
    spread: float | None = None
    spread_source: str = ""
    paper: Paper | None = None
    needs: str | None = None
    wiring: bool = False
    sections: tuple[str, ...] = ()
    resolved: Mapping[str, Resolved] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _check(self)
        if self.needs is None:
            known = {c.key: self._settings_of(c) for c in self.combinations}
            object.__setattr__(self, "resolved", known)
            for combination in self.combinations:
                self.config(Cell(combination, 0))

    @property
    def kind(self) -> Kind[Any, Any]:
        """What its trainings are."""
        return KINDS[self.trains]

    @property
    def compared(self) -> Metric:
        """The figure that is compared."""
        return next(m for m in self.kind.metrics if self.metric in (None, m.key))

    @property
    def factor(self) -> Factor:
        """The factor whose levels are compared."""
        return self._factor(self.compare)

    @property
    def circumstances(self) -> tuple[Factor, ...]:
        """The other factors."""
        return tuple(f for f in self.factors if f.name != self.compare)

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """All combinations of levels; those of the compared factor vary fastest."""
        names = [f.name for f in self.factors]
        ordered = [*self.circumstances, self.factor]
        found = []
        for levels in itertools.product(*(f.levels for f in ordered)):
            chosen = {f.name: level.name for f, level in zip(ordered, levels, strict=True)}
            found.append(Combination({name: chosen[name] for name in names}))
        return tuple(found)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All trainings, seed after seed, so that a study that stops early has compared what it has."""
        return tuple(Cell(c, seed) for seed in range(self.seeds) for c in self.combinations)

    @property
    def comparisons(self) -> int:
        """How many differences the study tests."""
        circumstances = math.prod(len(f.levels) for f in self.circumstances)
        others = len(self.factor.levels) - 1
        return others * (
            circumstances + (0 if self.trend is None else circumstances // len(self._factor(self.trend).levels))
        )

    def cells_of(self, levels: Mapping[str, Collection[str]]) -> tuple[Cell, ...]:
        """The trainings with certain levels.

        Args:
            levels: By the name of a factor, those of its levels that are wanted; of other factors, all.

        Returns:
            A part of `cells`.

        Raises:
            ConfigError: If a factor or a level is unknown.
        """
        self._check_known(levels)
        return tuple(
            cell for cell in self.cells if all(cell.combination.levels[name] in levels[name] for name in levels)
        )

    def overrides(self, combination: Combination) -> dict[str, Any]:
        """What a combination changes of the recipe."""
        changed: dict[str, Any] = copy.deepcopy(dict(self.settings))
        for factor in self.factors:
            _merge(changed, factor.level(combination.levels[factor.name]).settings)
        return changed

    def config(
        self,
        cell: Cell,
        folder: str | Path | None = None,
        **machine: Any,  # noqa: ANN401  # any setting
    ) -> Any:  # noqa: ANN401  # the kind's settings
        """The settings of a cell's training.

        Args:
            cell: One of `cells`.
            folder: The study's folder, where runs go to `runs/CELL`; None for no output.
            **machine: Settings of `MACHINE_SETTINGS`, and `data` where it lies elsewhere on this machine.

        Returns:
            Checked settings, of `kind.settings`.
        """
        own = {"seed": cell.seed, "output": None if folder is None else str(Path(folder) / "runs" / cell.folder)}
        if self.pretraining is not None:
            own["backbone_weights"] = str(Path(folder or "") / BACKBONES / self._backbone(cell))
        settings = {**self._settings_of(cell.combination).training, **machine, **own}
        return from_values(self.kind.settings, settings, f"the study '{self.name}'")

    def start(self, cell: Cell, folder: str | Path | None = None, **machine: Any) -> Any:  # noqa: ANN401  # any setting
        """The settings of the classifier that a cell's network starts from.

        Args:
            cell: One of `cells`.
            folder: The study's folder, where it goes to `backbones/...`.
            **machine: As for `config`; `data` does not count for it.

        Returns:
            Checked settings of `sgenet train`, or None where the study has no such start.
        """
        settings = self._settings_of(cell.combination).start
        if settings is None:
            return None
        own = {"seed": cell.seed, "output": str(Path(folder or "") / BACKBONES / self._backbone(cell))}
        here = {name: value for name, value in machine.items() if name in MACHINE_SETTINGS}
        return from_values(KINDS["classifiers"].settings, {**settings, **here, **own}, f"the study '{self.name}'")

    def _settings_of(self, combination: Combination) -> Resolved:
        return self.resolved.get(combination.key) or self._resolve(combination)

    def _resolve(self, combination: Combination) -> Resolved:
        """What the recipes say now, and what the study changes of it."""
        changed = self.overrides(combination)
        if self.pretraining is not None:
            changed["backbone_weights"] = BACKBONES
        decisive = {name: changed[name] for name in self.kind.decisive if name in changed}
        usual = self.kind.make(self.recipe, **decisive)
        for name, value in changed.items():
            known = getattr(usual, name)
            if isinstance(value, Mapping) and isinstance(known, Mapping) and value:
                changed[name] = {**known, **value}  # what a recipe says of networks, modules and data holds, too
        config = self.kind.make(self.recipe, **changed)
        if self.pretraining is None:
            return Resolved(_plain(config))
        network = {
            "model": config.backbone,
            "model_options": config.backbone_options,
            "attention_options": config.attention_options,
            **({} if config.attention is None else {"attention": config.attention}),
        }
        start = KINDS["classifiers"].make(self.pretraining.recipe, **{**network, **self.pretraining.settings})
        training = {name: value for name, value in _plain(config).items() if name != "backbone_weights"}
        return Resolved(training, _plain(start))

    def _backbone(self, cell: Cell) -> str:
        """What the folder of a cell's classifier is called: the levels that decide it, and the seed."""
        levels = {
            f.name: cell.combination.levels[f.name]
            for f in self.factors
            if {path.partition(".")[0] for path in f.settings} & {*_BACKBONE}
        }
        return _folder(Cell(Combination(levels), cell.seed).key)

    def with_settings(self, recipe: str | None = None, seeds: int | None = None, **settings: Any) -> Definition:  # noqa: ANN401
        """The same study on other data, by another recipe, with other settings or more seeds.

        Args:
            recipe: A recipe in the place of its own; None keeps it.
            seeds: How many; None keeps them.
            **settings: Settings of the training.

        Returns:
            A new definition.

        Raises:
            ConfigError: If a setting is what a factor varies, or no setting at all.
        """
        for path in _paths(settings):
            factor = next((f for f in self.factors if path in f.settings), None)
            if factor is not None:
                raise ConfigError(
                    f"{path} is what the factor '{factor.name}' of the study '{self.name}' varies; leave it out, or "
                    "write a study file of your own (`sgenet study show` prints this one)"
                )
        _check_names(settings, self.kind, "settings")
        merged: dict[str, Any] = copy.deepcopy(dict(self.settings))
        if "data" in settings and settings["data"] != merged.get("data"):
            merged.pop("data_options", None)  # those of another data set
        _merge(merged, settings)
        return replace(
            self,
            recipe=recipe or self.recipe,
            settings=merged,
            seeds=self.seeds if seeds is None else seeds,
            resolved=self.resolved if recipe is None and not settings else {},
        )

    def with_levels(self, levels: Mapping[str, Collection[str]]) -> Definition:
        """A smaller study, which asks of some levels alone.

        Args:
            levels: By the name of a factor, those of its levels that stay; of other factors, all. The baseline stays.

        Returns:
            A new definition.

        Raises:
            ConfigError: If a factor or a level is unknown, or nothing is left to compare.
        """
        self._check_known(levels)
        factors = tuple(
            replace(f, levels=tuple(level for level in f.levels if self._stays(f, level, levels))) for f in self.factors
        )
        names = {" / ".join(c) for c in itertools.product(*([level.name for level in f.levels] for f in factors))}
        paper = self.paper
        if paper is not None:
            paper = replace(paper, figures={name: text for name, text in paper.figures.items() if name in names})
        return replace(self, factors=factors, paper=paper)

    def _stays(self, factor: Factor, level: Level, levels: Mapping[str, Collection[str]]) -> bool:
        base = (factor.name, level.name) == (self.compare, self.baseline)
        return base or factor.name not in levels or level.name in levels[factor.name]

    def _check_known(self, levels: Mapping[str, Collection[str]]) -> None:
        for name, wanted in levels.items():
            factor = next((f for f in self.factors if f.name == name), None)
            if factor is None:
                raise ConfigError(f"the study '{self.name}' has no factor '{name}'; there is {_listed(self.factors)}")
            known = [level.name for level in factor.levels]
            for level in wanted:
                if level not in known:
                    raise ConfigError(
                        f"'{name}' has no level '{level}'.{did_you_mean(level, known)} There are {', '.join(known)}"
                    )

    def tiny(self) -> Definition:
        """The smallest study with the same cells, but for the seeds: it shows that everything works, and no more."""
        settings: dict[str, Any] = copy.deepcopy(dict(self.settings))
        varied = set().union(*(f.settings for f in self.factors))
        small = self.kind.small(self.config(self.cells[0]))
        _merge(settings, {name: value for name, value in small.items() if name not in varied})
        start = self.pretraining
        if start is not None:
            start = replace(start, settings={**start.settings, **KINDS["classifiers"].small(self.start(self.cells[0]))})
        return replace(
            self,
            factors=self._of_few_epochs(small["epochs"]),
            settings=settings,
            pretraining=start,
            seeds=min(self.seeds, _TINY_SEEDS),
            wiring=True,
            sections=(),
            resolved={},
        )

    def _of_few_epochs(self, least: int) -> tuple[Factor, ...]:
        """The factors; where one varies epochs, by as few as leave its levels different."""
        lengths = sorted(
            {level.settings["epochs"] for f in self.factors for level in f.levels if "epochs" in level.settings}
        )
        few = {length: {"epochs": least + position} for position, length in enumerate(lengths)}

        def short(level: Level) -> Level:
            known = level.settings.get("epochs")
            return level if known is None else replace(level, settings={**level.settings, **few[known]})

        return tuple(replace(f, levels=tuple(short(level) for level in f.levels)) for f in self.factors)

    def to_dict(self) -> dict[str, Any]:
        """The definition as JSON-able values, of which `from_dict` makes it again."""
        values = asdict(self)
        values["factors"] = {f.name: {level.name: dict(level.settings) for level in f.levels} for f in self.factors}
        values["sections"] = list(self.sections)
        return dict(json.loads(json.dumps(values)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str = "the study") -> Definition:
        """A definition from what a YAML file or a storage holds.

        Args:
            values: As `to_dict` gives it, or as files have it.
            origin: What errors call it.

        Returns:
            The checked definition.

        Raises:
            ConfigError: If something is missing, unknown, or does not fit.
        """
        known = {key: Resolved(**settings) for key, settings in (values.get("resolved") or {}).items()}
        return _from_values({key: value for key, value in values.items() if key != "resolved"}, origin, known)

    def fingerprint(self) -> dict[str, Any]:
        """What two runs of one study must have in common: all that decides what is trained.

        Not the number of seeds, of which there may be more later, nor where a machine keeps the data. By the key of a
        combination, its settings.
        """
        settings = {}
        for combination in self.combinations:
            found = self._settings_of(combination)
            start = {f"{name} of the start": value for name, value in _shared(found.start or {}).items()}
            settings[combination.key] = {**_shared(found.training), **start}
        factors = {f.name: {level.name: dict(level.settings) for level in f.levels} for f in self.factors}
        asked = {name: getattr(self, name) for name in FINGERPRINT}
        return dict(json.loads(json.dumps({**asked, "factors": factors, "settings": settings})))

    def _factor(self, name: str) -> Factor:
        return next(f for f in self.factors if f.name == name)


def load_study(name_or_path: str) -> Definition:
    """A study by its name, or from a YAML file.

    Args:
        name_or_path: One of `list_studies()`, or a file.

    Returns:
        The checked definition.

    Raises:
        UnknownNameError: If there is neither.
        ConfigError: If the file cannot be used.

    Examples:
        >>> [level.name for level in load_study("se-reduction").factor.levels]
        ['none', '2', '4', '8', '16', '32']
    """
    path = STUDIES.find(name_or_path)
    origin = f"the study '{name_or_path}'" if name_or_path in list_studies() else str(path)
    return _from_values({"name": path.stem, **read_yaml(path)}, origin, {})


# ------------------------------------------------------------------------------------- reading and checking


_KEYS = {
    "name": str, "title": str, "question": str, "trains": str, "metric": str, "factors": dict, "compare": str,
    "baseline": str, "seeds": int, "recipe": str, "settings": dict, "pretraining": dict, "trend": str,
    "spread": float, "spread_source": str, "paper": dict, "needs": str, "wiring": bool, "sections": list,
}  # fmt: skip


def _from_values(values: dict[str, Any], origin: str, resolved: Mapping[str, Resolved]) -> Definition:
    for key, value in values.items():
        if key not in _KEYS:
            raise ConfigError(
                f"{origin}: there is no '{key}'.{did_you_mean(str(key), _KEYS)} Known: {', '.join(_KEYS)}"
            )
        values[key] = _typed(key, value, origin)
    for key in ("factors", "seeds"):
        if key not in values:
            raise ConfigError(f"{origin} has no '{key}'; a study needs factors and seeds")
    if not all(isinstance(section, str) for section in values.get("sections") or ()):
        raise ConfigError(f"{origin}: sections={values['sections']!r} must be a list of names")
    trains = values.get("trains") or "classifiers"
    if trains not in KINDS:
        raise ConfigError(f"{origin}: trains={trains!r} must be one of {', '.join(KINDS)}")
    factors = tuple(_factor(str(name), levels, KINDS[trains], origin) for name, levels in values["factors"].items())
    if not factors:
        raise ConfigError(f"{origin} has no factors, so its grid is empty; name at least one, with two levels")
    compare = values.get("compare", factors[0].name)
    compared = next((f for f in factors if f.name == compare), None)
    if compared is None:
        raise ConfigError(f"{origin}: compare names the factor '{compare}', but there is {_listed(factors)}")
    rest = {key: values[key] for key in values.keys() - {"factors", "compare", "paper", "pretraining", "sections"}}
    paper, start = values.get("paper"), values.get("pretraining")
    return Definition(
        **{
            "title": rest["name"], "question": "", "baseline": compared.levels[0].name if compared.levels else "",
            **{key: value for key, value in rest.items() if value is not None},
        },
        factors=factors,
        compare=compare,
        paper=None if paper is None else _paper(paper, origin),
        pretraining=None if start is None else _pretraining(start, origin),
        sections=tuple(values.get("sections") or ()),
        resolved=resolved,
    )  # fmt: skip


def _typed(key: str, value: Any, origin: str) -> Any:  # noqa: ANN401  # what YAML holds
    hint = _KEYS[key]
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # a level such as 16
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if value is None and key not in ("factors", "seeds"):
        return None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        words = {dict: "a mapping", str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise ConfigError(f"{origin}: {key}={value!r} must be {words.get(hint, 'a list')}")
    return value


def _factor(name: str, levels: Any, kind: Kind[Any, Any], origin: str) -> Factor:  # noqa: ANN401  # what YAML holds
    """A factor from names of levels with their settings, or from a list of values of the setting it is named after."""
    if not levels or not isinstance(levels, Mapping | Sequence) or isinstance(levels, str):
        raise ConfigError(f"{origin}: the factor '{name}' has no levels, so the grid is empty; give it at least two")
    if isinstance(levels, Mapping):
        pairs = [(str(level), {} if settings is None else settings) for level, settings in levels.items()]
    else:
        setting = name.partition(".")[0]
        if setting not in types_of(kind.settings):
            raise ConfigError(
                f"{origin}: the factor '{name}' is no setting of `sgenet {kind.command}`.{_meant(setting, kind)} "
                "A factor with a list of values must be named like one; any other needs settings for each level"
            )
        pairs = [(str(value), _nested(name, value)) for value in levels]
    for level, settings in pairs:
        if not isinstance(settings, Mapping):
            raise ConfigError(f"{origin}: the level '{level}' of '{name}' must hold settings, not {settings!r}")
        for setting in settings:
            if setting not in types_of(kind.settings):
                raise ConfigError(
                    f"{origin}: the factor '{name}' varies '{setting}', which is no setting of "
                    f"`sgenet {kind.command}`.{_meant(setting, kind)}"
                )
    return Factor(name, tuple(Level(level, dict(settings)) for level, settings in pairs))


def _meant(setting: object, kind: Kind[Any, Any]) -> str:
    return did_you_mean(str(setting), types_of(kind.settings))


def _pretraining(values: Mapping[str, Any], origin: str) -> Pretraining:
    unknown = values.keys() - set(Pretraining.__dataclass_fields__)
    recipe, settings = values.get("recipe"), values.get("settings") or {}
    if unknown or not isinstance(settings, Mapping) or not isinstance(recipe, str | None):
        raise ConfigError(
            f"{origin}: pretraining holds recipe and settings, a name or a file and a mapping; not {dict(values)}"
        )
    _check_names(settings, KINDS["classifiers"], f"{origin}: pretraining")
    return Pretraining(recipe, dict(settings))


def _check_names(settings: Mapping[str, Any], kind: Kind[Any, Any], where: str) -> None:
    for name in settings:
        if name not in types_of(kind.settings):
            raise ConfigError(f"{where}: there is no setting '{name}'.{_meant(name, kind)}")
        if name in _DECIDED:
            raise ConfigError(f"{where}: {name} is what the study decides for each training; leave it out")


def _paper(values: Mapping[str, Any], origin: str) -> Paper:
    known = set(Paper.__dataclass_fields__)
    unknown = values.keys() - known
    if unknown or "source" not in values:
        raise ConfigError(f"{origin}: paper holds {', '.join(sorted(known))}; it must have a source, and no {unknown}")
    figures = values.get("figures") or {}
    if not isinstance(figures, Mapping):
        raise ConfigError(f"{origin}: figures={figures!r} of the paper must be a mapping from combinations to figures")
    figures = {str(name): str(figure) for name, figure in figures.items()}
    words = {name: str(value) for name, value in values.items() if name != "figures"}
    return Paper(**words, figures=figures)


def _check(study: Definition) -> None:
    if not _NAME.fullmatch(study.name):
        raise ConfigError(f"a study's name may have letters, digits and _.+- only, not '{study.name}'")
    if study.seeds < 1:
        raise ConfigError(f"seeds={study.seeds} must be 1 or more: without seeds the grid is empty")
    if study.spread is not None and not study.spread > 0:
        raise ConfigError(f"spread={study.spread} must be above 0: it is a standard deviation in points")
    names = [f.name for f in study.factors]
    if study.compare not in names:
        raise ConfigError(f"compare names the factor '{study.compare}', but there is {_listed(study.factors)}")
    for factor in study.factors:
        _check_levels(study, factor)
    if study.baseline not in [level.name for level in study.factor.levels]:
        known = ", ".join(level.name for level in study.factor.levels)
        raise ConfigError(f"baseline='{study.baseline}' is no level of '{study.compare}'; there are {known}")
    _check_trend(study)
    _check_metric(study)
    _check_extras(study)


def _check_metric(study: Definition) -> None:
    keys = [metric.key for metric in study.kind.metrics if metric.key != START]
    if study.metric is not None and study.metric not in keys:
        raise ConfigError(f"metric='{study.metric}' must be one of {', '.join(keys)}")
    if study.pretraining is None:
        return
    if not study.kind.pretrains:
        raise ConfigError(f"pretraining is for detectors, which start from a classifier, not for {study.trains}")
    for name in ("backbone_weights", "pretrained"):
        if study.settings.get(name) or any(name in factor.settings for factor in study.factors):
            raise ConfigError(f"{name} and pretraining are two starts; leave out one of them")


def _check_extras(study: Definition) -> None:
    folders: dict[str, str] = {}
    names = [combination.name for combination in study.combinations]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two combinations of levels would be called '{twice}'; give a level a name without ' / '")
    for combination in study.combinations:
        other = folders.setdefault(Cell(combination, 0).folder, combination.name)
        if other != combination.name:
            raise ConfigError(f"'{other}' and '{combination.name}' would share a folder; give one of them another name")
    unknown = set(study.sections) - set(study.kind.sections)
    if unknown:
        known = ", ".join(study.kind.sections) or "none"
        raise ConfigError(f"sections of {study.trains} may be {known}, not {', '.join(sorted(unknown))}")
    _check_names(study.settings, study.kind, "settings")


def _check_levels(study: Definition, factor: Factor) -> None:
    if factor.name == "seed":
        raise ConfigError("a factor may not be called 'seed': every study has its seeds; say how many by seeds: N")
    columns = {*_COLUMNS, *study.kind.row.__dataclass_fields__} - {*EPOCH_COLUMNS} | {"seconds"}
    figures = ("difference", "course", *(metric.key for metric in study.kind.metrics))
    if factor.name in columns or any(re.fullmatch(rf"{figure}(_.+)?", factor.name) for figure in figures):
        raise ConfigError(
            f"a factor may not be called '{factor.name}', which is a column of the study's tables; give it another name"
        )
    for name in _DECIDED:
        if name in factor.settings:
            raise ConfigError(f"the factor '{factor.name}' varies {name}, which the study decides for each training")
    names = [level.name for level in factor.levels]
    least = 2 if factor.name == study.compare else 1
    if len(names) < least:
        raise ConfigError(f"the factor '{factor.name}' has {len(names)} levels; give it at least {least}")
    if len(set(names)) < len(names):
        raise ConfigError(f"the factor '{factor.name}' has a level twice: {', '.join(names)}")
    shared = {p for f in study.factors if f is not factor for p in f.settings} & factor.settings
    if shared:
        raise ConfigError(f"two factors vary {', '.join(sorted(shared))}; each setting may be varied by one")


def _check_trend(study: Definition) -> None:
    if study.trend is None:
        return
    factor = next((f for f in study.circumstances if f.name == study.trend), None)
    if factor is None:
        others = ", ".join(f.name for f in study.circumstances) or "no other factor"
        raise ConfigError(f"trend='{study.trend}' must be a factor other than '{study.compare}'; there is {others}")
    numbers = {level.number for level in factor.levels}
    if None in numbers or len(numbers) < max(2, len(factor.levels)):
        names = ", ".join(level.name for level in factor.levels)
        raise ConfigError(
            f"the levels of '{study.trend}' must be two different numbers or more to show a trend, not {names}"
        )


def _plain(config: TrainingSettings) -> dict[str, Any]:
    """Settings as JSON-able values, without what each training has of its own."""
    values = {name: value for name, value in asdict(config).items() if name not in _DECIDED}
    return dict(json.loads(json.dumps(values)))


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are the same on every machine; of the data their name, wherever they lie."""
    shared = {name: value for name, value in settings.items() if name not in MACHINE_SETTINGS}
    return shared | {"data": Path(str(shared["data"])).name} if shared else {}


def _folder(key: str) -> str:
    return re.sub(r"[^\w.+=-]+", "_", key.replace(", ", "-"))


def _listed(factors: Sequence[Factor]) -> str:
    return ", ".join(f"'{f.name}'" for f in factors)


def _paths(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from (f"{name}.{inner}" for inner in value)
        else:
            yield name


def _nested(path: str, value: Any) -> dict[str, Any]:  # noqa: ANN401  # any setting
    name, _, inner = path.partition(".")
    return {name: {inner: value} if inner else value}


def _merge(into: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Options of networks, modules and data add up, unless there are to be none; any other setting is replaced."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value and isinstance(into.get(name), Mapping):
            into[name] = {**into[name], **value}
        else:
            into[name] = copy.deepcopy(value)
