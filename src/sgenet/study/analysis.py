"""What a study's results say: means, differences to the baseline paired by seed, and how far they carry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

from sgenet.study import statistics
from sgenet.study.definition import Combination, Definition
from sgenet.study.kinds import Metric
from sgenet.study.statistics import ALPHA, Paired
from sgenet.study.storage import Result, State

__all__ = ["Analysis", "Block", "Difference", "Further", "Row", "Trend", "analyse"]

Verdict = Literal["better", "worse", "not significant", "untested"]


@dataclass(frozen=True)
class Difference:
    """A difference to the baseline, among all that the study tests.

    Attributes:
        paired: What the pairs of seeds show.
        adjusted_p: Its p, corrected for the number of tests (Holm); None where nothing can be tested.
    """

    paired: Paired
    adjusted_p: float | None = None

    @property
    def verdict(self) -> Verdict:
        """What may be said of it."""
        if self.adjusted_p is None:
            return "untested"
        if self.adjusted_p > ALPHA:
            return "not significant"
        return "better" if self.paired.difference > 0 else "worse"


@dataclass(frozen=True)
class Further:
    """Another figure of the same trainings than the one that the study asks about.

    Attributes:
        metric: What it is.
        values: Of the last epoch of each finished training, percent, in the order of the seeds.
        difference: To the baseline's, points; its p is corrected for all further figures of the study together, apart
            from the figure that the study asks about.
    """

    metric: Metric
    values: tuple[float, ...]
    difference: Difference | None = None

    @property
    def mean(self) -> float:
        """Mean of `values`."""
        return fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Their standard deviation."""
        return statistics.standard_deviation(self.values)


@dataclass(frozen=True)
class Row:
    """One combination of levels over its seeds.

    Attributes:
        combination: The levels.
        results: Finished trainings, by seed.
        baseline: Whether the others of its block are compared with it.
        metric: What is compared.
        difference: Of the last epoch, points, to the baseline; None for itself, or without a common seed.
        course: Of the mean over all epochs, points: whether it learned better throughout; None where it was trained for
            more or fewer epochs than the baseline.
        ahead: The share of epochs in which its mean over the seeds is above the baseline's; None likewise.
        further: What else the trainings are told by, as far as it is a number.
        failed: Why trainings failed, by seed.
        paper: What the paper printed, or None.
    """

    combination: Combination
    results: Mapping[int, Result]
    baseline: bool
    metric: Metric
    difference: Difference | None = None
    course: Difference | None = None
    ahead: float | None = None
    further: tuple[Further, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)
    paper: str | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """The figure of the last epoch of each finished training, percent, in the order of the seeds."""
        return tuple(result.last(self.metric.key) for _, result in sorted(self.results.items()))

    @property
    def mean(self) -> float | None:
        """Mean of `values`."""
        return fmean(self.values) if self.results else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of `values`."""
        return statistics.standard_deviation(self.values) if self.results else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the mean."""
        return statistics.mean_interval(self.values) if self.results else None

    def curve(self, column: str) -> list[list[float]]:
        """A figure over the epochs, for each finished training."""
        return [[row[column] for row in result.history] for _, result in sorted(self.results.items())]


@dataclass(frozen=True)
class Block:
    """The levels that are compared, under the same circumstances.

    Attributes:
        circumstances: Levels of the other factors; nothing where there are none.
        rows: One a level, in the study's order.
    """

    circumstances: Mapping[str, str]
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """The circumstances in words, e.g. "noise 2"; empty where there are none."""
        return ", ".join(f"{factor} {level}" for factor, level in self.circumstances.items())

    @property
    def baseline(self) -> Row:
        """The row that the others are compared with."""
        return next(row for row in self.rows if row.baseline)


@dataclass(frozen=True)
class Trend:
    """How a difference to the baseline grows along another factor.

    Attributes:
        level: The level that is compared with the baseline.
        along: The name of the factor along which it may grow.
        circumstances: Levels of the remaining factors.
        slope: Points for each unit of that factor: the mean over the seeds of the slopes of each.
    """

    level: str
    along: str
    circumstances: Mapping[str, str]
    slope: Difference


@dataclass(frozen=True)
class Analysis:
    """A study as far as it is.

    Attributes:
        definition: What it asks.
        blocks: Its rows.
        trends: Where it asks for any.
        finished: Trainings with a result.
        cells: Trainings that the grid has.
        failed: Why cells failed, by name.
    """

    definition: Definition
    blocks: tuple[Block, ...]
    trends: tuple[Trend, ...]
    finished: int
    cells: int
    failed: Mapping[str, str]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows."""
        return tuple(row for block in self.blocks for row in block.rows)

    @property
    def complete(self) -> bool:
        """Whether every cell has a result."""
        return self.finished == self.cells

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Everything that is tested: what p values are corrected for."""
        rows = [row.difference for row in self.rows if row.difference is not None]
        return (*rows, *(trend.slope for trend in self.trends))

    @property
    def seen_spread(self) -> float | None:
        """The standard deviation of pairs' differences, pooled over the rows."""
        found = [row.difference.paired for row in self.rows if row.difference is not None]
        freedom = sum(pair.pairs - 1 for pair in found)
        if not freedom:
            return None
        return float((sum((p.pairs - 1) * (p.spread or 0.0) ** 2 for p in found) / freedom) ** 0.5)


def analyse(definition: Definition, state: State) -> Analysis:
    """Say what the results say.

    Args:
        definition: The study.
        state: What its storage has.

    Returns:
        Rows, differences with p values corrected for their number, and trends. Three questions are corrected each by
        itself, and may each be answered wrongly in 5% of all studies: the last epoch, the whole course, and the further
        figures.
    """
    cells = {cell.key: cell for cell in definition.cells}
    results: dict[str, dict[int, Result]] = {}
    failed: dict[str, dict[int, str]] = {}
    for key, cell in cells.items():
        if key in state.results:
            results.setdefault(cell.combination.name, {})[cell.seed] = state.results[key]
        elif key in state.failed:
            failed.setdefault(cell.combination.name, {})[cell.seed] = state.failed[key]
    blocks = [_block(definition, group, results, failed) for group in _grouped(definition)]
    blocks, trends = _corrected(blocks, _trends(definition, blocks), definition.comparisons)
    finished = sum(key in state.results for key in cells)
    return Analysis(definition, tuple(blocks), tuple(trends), finished, len(cells), dict(state.failed))


def _grouped(definition: Definition) -> list[list[Combination]]:
    size = len(definition.factor.levels)
    every = definition.combinations
    return [list(every[i : i + size]) for i in range(0, len(every), size)]


def _block(
    definition: Definition,
    combinations: Sequence[Combination],
    results: Mapping[str, Mapping[int, Result]],
    failed: Mapping[str, Mapping[int, str]],
) -> Block:
    compare, figures = definition.compare, definition.paper.figures if definition.paper else {}
    metric, tests = definition.compared, definition.comparisons
    plain = next(c for c in combinations if c.levels[compare] == definition.baseline)
    base = results.get(plain.name, {})
    rows = []
    for combination in combinations:
        own = results.get(combination.name, {})
        is_base = combination is plain
        seeds = [] if is_base else sorted(own.keys() & base.keys())
        lengths = {len(which[seed].history) for seed in seeds for which in (own, base)}
        alike = seeds if len(lengths) == 1 else []
        rows.append(
            Row(
                combination,
                own,
                is_base,
                metric,
                _difference_of(metric, own, base, seeds, tests),
                _difference(own, base, alike, tests, lambda result: fmean(row[metric.key] for row in result.history)),
                _ahead(own, base, alike, metric.key),
                _further(definition, own, base, seeds),
                failed.get(combination.name, {}),
                figures.get(combination.name),
            )
        )
    return Block({f: level for f, level in plain.levels.items() if f != compare}, tuple(rows))


def _difference(
    own: Mapping[int, Result],
    base: Mapping[int, Result],
    seeds: Sequence[int],
    comparisons: int,
    figure: Callable[[Result], float],
) -> Difference | None:
    if not seeds:
        return None
    return Difference(
        statistics.compare([figure(own[s]) for s in seeds], [figure(base[s]) for s in seeds], comparisons)
    )


def _difference_of(
    metric: Metric, own: Mapping[int, Result], base: Mapping[int, Result], seeds: Sequence[int], comparisons: int
) -> Difference | None:
    """That of the last epoch, over the seeds where the baseline's is a number."""
    known = [seed for seed in seeds if math.isfinite(base[seed].last(metric.key))]
    return _difference(own, base, known, comparisons, lambda result: result.last(metric.key))


def _further(
    definition: Definition, own: Mapping[int, Result], base: Mapping[int, Result], seeds: Sequence[int]
) -> tuple[Further, ...]:
    found = []
    for metric in definition.kind.metrics:
        values = tuple(result.last(metric.key) for _, result in sorted(own.items()))
        if metric == definition.compared or not values or not all(map(math.isfinite, values)):
            continue
        found.append(Further(metric, values, _difference_of(metric, own, base, seeds, definition.comparisons)))
    return tuple(found)


def _ahead(own: Mapping[int, Result], base: Mapping[int, Result], seeds: Sequence[int], column: str) -> float | None:
    if not seeds:
        return None
    epochs = len(base[seeds[0]].history)
    above = [sum(own[s].history[e][column] - base[s].history[e][column] for s in seeds) > 0 for e in range(epochs)]
    return sum(above) / epochs


def _trends(definition: Definition, blocks: Sequence[Block]) -> list[Trend]:
    if definition.trend is None:
        return []
    along = definition.trend
    groups: dict[tuple[str, ...], list[Block]] = {}
    for block in blocks:
        rest = tuple(level for factor, level in block.circumstances.items() if factor != along)
        groups.setdefault(rest, []).append(block)
    found = []
    for group in groups.values():
        rest_of = {f: level for f, level in group[0].circumstances.items() if f != along}
        for position, row in enumerate(group[0].rows):
            slope = None if row.baseline else _slope(definition, group, position)
            if slope is not None:
                found.append(Trend(row.combination.levels[definition.compare], along, rest_of, Difference(slope)))
    return found


def _slope(definition: Definition, group: Sequence[Block], position: int) -> Paired | None:
    """Of each seed that all blocks have, how its difference to the baseline grows; and whether their mean is 0."""
    pairs = [(block.rows[position].results, block.baseline.results) for block in group]
    seeds = set.intersection(*(own.keys() & base.keys() for own, base in pairs))
    if not seeds:
        return None
    along = [float(block.circumstances[str(definition.trend)]) for block in group]
    column = definition.compared.key
    slopes = [
        statistics.slope([own[s].last(column) - base[s].last(column) for own, base in pairs], along)
        for s in sorted(seeds)
    ]
    return statistics.of_differences(slopes, definition.comparisons)


def _corrected(blocks: Sequence[Block], trends: Sequence[Trend], tests: int) -> tuple[list[Block], list[Trend]]:
    """Correct p values for the number of tests that the study makes in all, those that cannot be made yet included.

    At most 5% of all studies err about any difference or trend of the last epoch. "Better throughout" is a second
    question with 5% of its own, asked only where the first is answered: a course's p is never below that of its last
    epoch, so that where nothing differs both together err in at most 5%. The further figures stand in a second table,
    with 5% of its own.
    """
    rows = [row for block in blocks for row in block.rows]
    last = _adjusted([*(row.difference for row in rows), *(trend.slope for trend in trends)], tests)
    course = _adjusted([row.course for row in rows], tests)
    gated = [_gated(whole, end) for whole, end in zip(course, last[: len(rows)], strict=True)]
    further = iter(_further_corrected(rows, tests))
    new_rows = iter(
        replace(row, difference=difference, course=whole, further=next(further))
        for row, difference, whole in zip(rows, last[: len(rows)], gated, strict=True)
    )
    corrected = [replace(block, rows=tuple(next(new_rows) for _ in block.rows)) for block in blocks]
    slopes = [slope for slope in last[len(rows) :] if slope is not None]
    return corrected, [replace(trend, slope=slope) for trend, slope in zip(trends, slopes, strict=True)]


def _further_corrected(rows: Sequence[Row], tests: int) -> list[tuple[Further, ...]]:
    """The rows' further figures, their p values corrected for all of them together, and for nothing else."""
    every = [further for row in rows for further in row.further]
    kinds = len({further.metric for further in every})
    adjusted = iter(_adjusted([further.difference for further in every], tests * kinds))
    return [tuple(replace(further, difference=next(adjusted)) for further in row.further) for row in rows]


def _adjusted(differences: Iterable[Difference | None], tests: int) -> list[Difference | None]:
    every = list(differences)
    p_values = [None if d is None else d.paired.p for d in every]
    adjusted = iter(statistics.holm([p for p in p_values if p is not None], tests))
    return [
        d if d is None or p is None else replace(d, adjusted_p=next(adjusted))
        for d, p in zip(every, p_values, strict=True)
    ]


def _gated(course: Difference | None, last: Difference | None) -> Difference | None:
    if course is None or last is None or course.adjusted_p is None or last.adjusted_p is None:
        return course if course is None else replace(course, adjusted_p=None)
    return replace(course, adjusted_p=max(course.adjusted_p, last.adjusted_p))
