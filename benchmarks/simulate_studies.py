"""Simulate whole studies whose truth is known, and count how often their analysis is right.

    python benchmarks/simulate_studies.py

Nothing is trained: every AP is drawn, as a seed's effect that all levels share, the level's own effect, and noise; and
so are AP50 and AP75, which stand in a second table. The studies then go through `sgenet.study.analyse` as real ones do.
For each number of seeds and levels, a third of the studies have levels that are all equal; in another third one level
is better than the baseline, by just the `smallest_difference` that the study would be said to find; in the last all
levels end far above the baseline, which was above them before: over all epochs they are equal. What the documentation
promises is counted:

- of all 95% intervals of a difference, between 93% and 97% hold the true one (in the first two thirds);
- a study calls any difference of the last epoch significant where there is none in at most 5% (in the first third);
- it calls any of its second table significant where there is none in at most 5% (in the first third);
- it calls any level better or worse throughout where there is no difference in at most 5% (in the last third, where the
  last epochs, which do differ, let all of them through to that question);
- the better level is found in at least 75% (in the second third), where 80% is planned for.

Behind each share stands its standard error, over the studies. The script ends with status 1 where a promise is broken.
With a single comparison the rate of false positives is 5% by construction, so a count may be above it by chance: that
promise is broken only where the count is above by more than three standard errors. The other two are kept with room to
spare, which the standard errors of fewer than about 1000 studies may use up.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgenet.study import Analysis, Definition, analyse
from sgenet.study.analysis import Difference
from sgenet.study.definition import Factor, Level
from sgenet.study.statistics import smallest_difference
from sgenet.study.storage import Result, State

SEEDS = (3, 5, 10)
LEVELS = (1, 4)  # besides the baseline
EPOCHS = 3
FIGURES = ("ap", "ap50", "ap75")  # the first is compared; the others stand in the second table

SEED_SPREAD = 2.0  # points of top-1: what all trainings of a seed have in common
NOISE = 0.7  # points: what each training has of its own
PAIR_SPREAD = math.sqrt(2) * NOISE

LEAST_HELD, MOST_HELD = 0.93, 0.97
MOST_FALSE = 0.05
LEAST_FOUND = 0.75


@dataclass(frozen=True)
class Share:
    """A share of what was counted.

    Attributes:
        mean: Over the studies.
        error: Its standard error. Differences of one study share a baseline, so studies are what is independent.
    """

    mean: float
    error: float

    @classmethod
    def of(cls, studies: Sequence[float]) -> Share:
        """From the share in each study."""
        return cls(float(np.mean(studies)), float(np.std(studies, ddof=1)) / math.sqrt(len(studies)))

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.error:.2f} %"


@dataclass(frozen=True)
class Counted:
    """What the studies of one setting came to.

    Attributes:
        difference: The smallest that such a study is said to find, points.
        held: Intervals with the true difference in them.
        false: Studies that call a difference of the last epoch significant where there is none.
        further: Studies that call one of the second table significant where there is none.
        course: Studies that call a level better or worse throughout where it is neither.
        found: Studies that find the level which is better by `difference`.
    """

    difference: float
    held: Share
    false: Share
    further: Share
    course: Share
    found: Share

    @property
    def shares(self) -> tuple[Share, ...]:
        """All of them, in the order of the table."""
        return (self.held, self.false, self.further, self.course, self.found)

    @property
    def broken(self) -> list[str]:
        """Promises that are not kept."""
        kept = {
            "intervals": LEAST_HELD <= self.held.mean <= MOST_HELD,
            **{
                f"false positives, {where}": share.mean <= MOST_FALSE + 3 * share.error
                for where, share in (("last", self.false), ("second", self.further), ("course", self.course))
            },
            "found": self.found.mean >= LEAST_FOUND,
        }
        return [promise for promise, true in kept.items() if not true]


def made_up(levels: int, seeds: int) -> Definition:
    """A study of a baseline and so many other levels."""
    names = ["baseline", *(f"level {n}" for n in range(1, levels + 1))]
    return Definition(
        name="made-up",
        title="Made-up trainings",
        question="Is what the analysis says of them true?",
        factors=(Factor("level", tuple(Level(name, {}) for name in names)),),
        compare="level",
        baseline="baseline",
        seeds=seeds,
        trains="detectors",
        needs="its trainings are made up",
    )


def trained(figures: NDArray[np.float64]) -> Result:
    """The result of a training that had such figures after each epoch."""
    rows = (dict(zip(FIGURES, map(float, row), strict=True)) for row in figures)
    return Result(tuple(rows), "", "", {})


def analyses(
    definition: Definition, effects: NDArray[np.float64], studies: int, generator: np.random.Generator
) -> Iterator[Analysis]:
    """Analyses of studies whose levels, without the baseline, are better than it by `effects`, in each epoch."""
    cells, levels = definition.cells, [level.name for level in definition.factor.levels]
    truth = dict(zip(levels, [np.zeros(EPOCHS), *effects], strict=True))
    own = np.array([truth[cell.combination.levels["level"]] for cell in cells])[..., None]
    learned = np.linspace(60, 80, EPOCHS)[:, None]
    for _ in range(studies):
        common = generator.normal(0, SEED_SPREAD, definition.seeds)[[cell.seed for cell in cells]][:, None, None]
        figures = common + own + learned + generator.normal(0, NOISE, (len(cells), EPOCHS, len(FIGURES)))
        results = {cell.key: trained(row) for cell, row in zip(cells, figures, strict=True)}
        yield analyse(definition, State(results, {}, (), {}))


def held(analysis: Analysis, effects: Sequence[float]) -> float:
    """The share of intervals that hold the true difference."""
    inside = []
    for difference, effect in zip(analysis.differences, effects, strict=True):
        low, high = difference.paired.interval or (math.nan, math.nan)
        inside.append(low <= effect <= high)
    return sum(inside) / len(inside)


def count(seeds: int, levels: int, studies: int, generator: np.random.Generator) -> Counted:
    """Make the studies of one setting and count."""
    definition = made_up(levels, seeds)
    smallest = smallest_difference(PAIR_SPREAD, seeds, definition.comparisons)
    if smallest is None:
        raise ValueError(f"studies of {seeds} seed can find no difference")
    equal, one_better = [0.0] * levels, [smallest, *[0.0] * (levels - 1)]
    always = np.ones(EPOCHS)
    inside, false, further, found = [], [], [], []
    for analysis in analyses(definition, np.outer(equal, always), studies // 3, generator):
        inside.append(held(analysis, equal))
        false.append(any_significant(analysis.differences))
        further.append(any_significant([figure.difference for row in analysis.rows for figure in row.further]))
    for analysis in analyses(definition, np.outer(one_better, always), studies // 3, generator):
        inside.append(held(analysis, one_better))
        found.append(float(analysis.differences[0].verdict == "better"))
    late = 10 * smallest * np.array([*[-1 / (EPOCHS - 1)] * (EPOCHS - 1), 1.0])
    crossing = analyses(definition, np.outer(np.ones(levels), late), studies // 3, generator)
    course = [any_significant([row.course for row in analysis.rows]) for analysis in crossing]
    return Counted(smallest, *map(Share.of, (inside, false, further, course, found)))


def any_significant(differences: Iterable[Difference | None]) -> float:
    """1 where a study calls any of them significant, 0 where it calls none so."""
    return float(any(d is not None and d.verdict in ("better", "worse") for d in differences))


def main() -> int:
    """Simulate, count, print."""
    parser = argparse.ArgumentParser(description="Count how often the analysis of simulated studies is right.")
    parser.add_argument("--studies", type=int, default=6000, help="for each number of seeds and levels (6000)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (0)")
    options = parser.parse_args()
    if options.studies < 6:
        parser.error("--studies must be 6 or more: a third of fewer have no standard error")
    begun, broken = time.perf_counter(), False
    print(f"{options.studies} studies in each row, seed {options.seed}")
    heads = ("intervals hold", "any false one", "second table", "throughout", "found")
    print(f"{'seeds':>5}  {'levels':>6}  " + "  ".join(f"{head:>16}" for head in heads) + "  difference")
    generators = iter(np.random.default_rng(options.seed).spawn(len(SEEDS) * len(LEVELS)))
    for seeds in SEEDS:
        for levels in LEVELS:
            counted = count(seeds, levels, options.studies, next(generators))
            broken = broken or bool(counted.broken)
            print(
                f"{seeds:>5}  {levels:>6}  "
                + "".join(f"{share!s:>16}  " for share in counted.shares)
                + f"{counted.difference:.2f} points"
                + "".join(f"  BROKEN: {promise}" for promise in counted.broken),
                flush=True,
            )
    most = f"at most {MOST_FALSE:.0%}"
    promised = [f"{LEAST_HELD:.0%} to {MOST_HELD:.0%}", most, most, most, f"at least {LEAST_FOUND:.0%}"]
    print(f"{'promised':>13}  " + "  ".join(f"{words:>16}" for words in promised))
    print(f"{time.perf_counter() - begun:.0f} seconds")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
