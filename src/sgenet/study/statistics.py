"""What a few trainings of each network can show about their differences.

Two trainings of one seed see the same images in the same order with the same augmentation, so they are compared with
each other: what a seed has in common for both drops out. The distributions come from SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

__all__ = [
    "Paired",
    "compare",
    "holm",
    "mean_interval",
    "needed_seeds",
    "of_differences",
    "sign_flip_p",
    "sign_flips_reach",
    "slope",
    "smallest_difference",
    "standard_deviation",
]

ALPHA = 0.05
"""How often a difference may be called significant where there is none, over all differences of a study."""

POWER = 0.8
"""How often a difference of the smallest size that a study is planned for should be found."""

_MOST_FLIPPED = 20  # pairs: a million signs
_MOST_SEEDS = 1000


@dataclass(frozen=True)
class Paired:
    """A difference between two networks, over trainings paired by their seeds.

    Attributes:
        difference: Mean of the pairs' differences.
        spread: Their standard deviation; None for a single pair.
        interval: The 95% interval of the mean (Student's t); None for a single pair, and where all pairs differ by the
            same amount, which shows no spread to judge by.
        p: Of the paired t-test, two-sided; None where there is no interval.
        exact_p: Of the sign-flip permutation test, where so many pairs can reach significance at all; else None.
        pairs: How many.
    """

    difference: float
    spread: float | None
    interval: tuple[float, float] | None
    p: float | None
    exact_p: float | None
    pairs: int


def compare(values: Sequence[float], baseline: Sequence[float], comparisons: int = 1) -> Paired:
    """Compare two networks by the figures of their seeds.

    Args:
        values: One figure a seed.
        baseline: Those of the network to compare with, of the same seeds in the same order.
        comparisons: How many differences the study tests, which decides whether the permutation test can reach
            significance with so few pairs.

    Returns:
        The difference values - baseline.

    Examples:
        >>> found = compare([90.0, 91.0, 92.0], [88.0, 89.0, 91.0])
        >>> round(found.difference, 2), round(found.p, 3), found.exact_p
        (1.67, 0.038, None)
    """
    return of_differences([a - b for a, b in zip(values, baseline, strict=True)], comparisons)


def of_differences(differences: Sequence[float], comparisons: int = 1) -> Paired:
    """The same, of the pairs' differences themselves.

    Args:
        differences: One a seed.
        comparisons: As in `compare`.

    Returns:
        Whether their mean differs from 0.
    """
    pairs, mean, spread = len(differences), float(np.mean(differences)), standard_deviation(differences)
    # Differences that are equal but for rounding have no spread: a t-test would be certain for no reason.
    if spread is None or spread <= 1e-9 * max(1.0, abs(mean)):
        return Paired(mean, spread, None, None, None, pairs)
    p = float(2 * stats.t.sf(abs(mean) / (spread / math.sqrt(pairs)), pairs - 1))
    exact = sign_flip_p(differences) if sign_flips_reach(pairs, comparisons) else None
    return Paired(mean, spread, mean_interval(differences), p, exact, pairs)


def standard_deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None for a single value, which shows none.

    Examples:
        >>> standard_deviation([1.0, 2.0, 3.0]), standard_deviation([1.0])
        (1.0, None)
    """
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def mean_interval(values: Sequence[float], level: float = 1 - ALPHA) -> tuple[float, float] | None:
    """The interval of a mean (Student's t), or None for a single value.

    Args:
        values: Independent figures.
        level: How often such an interval holds the truth.

    Returns:
        Its ends.

    Examples:
        >>> low, high = mean_interval([88.0, 89.0, 90.0])
        >>> round(low, 2), round(high, 2)
        (86.52, 91.48)
    """
    spread = standard_deviation(values)
    if spread is None:
        return None
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def sign_flip_p(differences: Sequence[float]) -> float:
    """The exact two-sided permutation test of paired differences: were both networks equal, each sign would be chance.

    Args:
        differences: One a pair, at most 20.

    Returns:
        The share of all signs whose mean is at least as far from 0 as the one seen.

    Examples:
        >>> sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        0.03125
    """
    pairs = len(differences)
    if pairs > _MOST_FLIPPED:
        raise ValueError(f"{pairs} pairs have too many signs to try them all; there may be {_MOST_FLIPPED}")
    sums = np.zeros(1)
    for value in differences:
        sums = np.concatenate([sums + value, sums - value])
    seen = abs(math.fsum(differences))
    return float(np.mean(np.abs(sums) >= seen - 1e-9 * np.sum(np.abs(differences))))


def sign_flips_reach(pairs: int, comparisons: int = 1) -> bool:
    """Whether the permutation test can call anything significant with so many pairs, after Holm's correction.

    Examples:
        >>> [n for n in range(1, 12) if sign_flips_reach(n)][0]
        6
    """
    return pairs <= _MOST_FLIPPED and 2.0 ** (1 - pairs) <= ALPHA / comparisons


def holm(p_values: Sequence[float], tests: int = 0) -> list[float]:
    """Correct p values for their number (Holm, "A simple sequentially rejective multiple test procedure", 1979).

    Calling significant what is below 0.05 afterwards errs in at most 5% of all studies, whatever is true of the others.

    Args:
        p_values: One a test.
        tests: How many tests there were to be, where some could not be made yet.

    Returns:
        Adjusted p values in the same order, at most 1.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    tests = max(tests, len(p_values))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (tests - rank)))
        adjusted[i] = highest
    return adjusted


def slope(values: Sequence[float], along: Sequence[float]) -> float:
    """How much `values` grow for each unit of `along`: the least-squares line's slope.

    Examples:
        >>> round(slope([1.0, 2.0, 3.0], [0.0, 0.5, 1.0]), 6)
        2.0
    """
    centred = np.asarray(along, float) - np.mean(along)
    return float(centred @ np.asarray(values, float) / (centred @ centred))


def smallest_difference(spread: float, seeds: int, comparisons: int = 1, power: float = POWER) -> float | None:
    """The smallest difference that a study would find with a probability of `power`.

    Holm's correction is taken at its strictest, where this difference is the only one that there is.

    Args:
        spread: Standard deviation of the pairs' differences.
        seeds: Pairs.
        comparisons: How many differences the study tests.
        power: How often it should be found.

    Returns:
        In the unit of `spread`; None for a single seed, which can find nothing.

    Examples:
        >>> round(smallest_difference(1.0, 5), 2), round(smallest_difference(1.0, 5, comparisons=10), 2)
        (1.68, 3.16)
    """
    if seeds < 2:
        return None

    def lack(effect: float) -> float:
        return _power(effect, seeds, comparisons) - power

    high = 1.0
    while lack(high) < 0:
        high *= 2
    return spread * float(optimize.brentq(lack, 0.0, high))


def _power(effect: float, seeds: int, comparisons: int) -> float:
    """How often a t-test finds a difference of `effect` standard deviations."""
    freedom = seeds - 1
    bound = float(stats.t.ppf(1 - ALPHA / (2 * comparisons), freedom))
    # The other tail adds less than the test's error; the distribution is not computed reliably there.
    return float(stats.nct.sf(bound, freedom, effect * math.sqrt(seeds)))


def needed_seeds(difference: float, spread: float, comparisons: int = 1, power: float = POWER) -> int | None:
    """How many seeds would find such a difference with a probability of `power`.

    Args:
        difference: In the unit of `spread`, not 0.
        spread: Standard deviation of the pairs' differences.
        comparisons: How many differences the study tests.
        power: How often it should be found.

    Returns:
        The least number of pairs; None where more than a thousand would be needed.

    Examples:
        >>> needed_seeds(1.0, 1.0)
        10
    """
    effect = abs(difference) / spread
    low, high = 1, 2
    while _power(effect, high, comparisons) < power:
        if high == _MOST_SEEDS:
            return None
        low, high = high, min(2 * high, _MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(effect, middle, comparisons) >= power else (middle, high)
    return high
