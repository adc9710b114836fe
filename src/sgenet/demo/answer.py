"""What may be said about a difference between two networks, given a few seeds of each.

With a handful of seeds, nearly nothing: the sentences here state what was seen and how far it carries, and never that
one network *is* better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgenet.demo.result import NetworkResult

__all__ = [
    "Difference",
    "compare",
    "headline",
    "mean_and_std",
    "mean_interval",
    "needed_seeds",
    "number_word",
    "outlook",
    "signed",
    "verdict",
]

# 97.5% quantiles of Student's t for 1, 2, 3, ... degrees of freedom.
_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_Z975, _Z80 = 1.960, 0.842  # normal quantiles: 5% error on two sides, 80% power


@dataclass(frozen=True)
class Difference:
    """How much the mean top-1 of a network lies above that of another, over runs paired by their seed.

    Attributes:
        points: The difference in percentage points.
        half_width: Half the width of its 95% interval (Student's t over the pairs); None for a single pair.
        spread: Standard deviation of the pairs' differences; None for a single pair.
        seeds: Number of pairs.
    """

    points: float
    half_width: float | None
    spread: float | None
    seeds: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the difference in points."""
        if self.half_width is None:
            return None
        return self.points - self.half_width, self.points + self.half_width

    @property
    def clears_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.half_width is not None and abs(self.points) > self.half_width


def compare(network: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Compare two networks by the top-1 of their seeds.

    Runs of one seed see the same images in the same order with the same augmentation, so they are compared with each
    other; what a seed has in common for both networks drops out.

    Args:
        network: Top-1 in percent, one value a seed.
        baseline: Those of the network to compare with, of the same seeds in the same order.

    Returns:
        The difference network - baseline with its interval.

    Examples:
        >>> d = compare([90.0, 91.0, 92.0], [88.0, 89.0, 91.0])
        >>> round(d.points, 2), round(d.half_width, 2)
        (1.67, 1.43)
    """
    differences = [a - b for a, b in zip(network, baseline, strict=True)]
    interval = mean_interval(differences)
    if interval is None:
        return Difference(fmean(differences), None, None, len(differences))
    half = (interval[1] - interval[0]) / 2
    return Difference(fmean(differences), half, stdev(differences), len(differences))


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95% interval of a mean (Student's t), or None for a single value.

    Examples:
        >>> low, high = mean_interval([88.0, 89.0, 90.0])
        >>> round(low, 2), round(high, 2)
        (86.52, 91.48)
    """
    if len(values) < 2:
        return None
    half = _t975(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def _t975(freedom: int) -> float:
    return _T975[freedom - 1] if freedom <= len(_T975) else _Z975 + 2.4 / freedom


def needed_seeds(difference: Difference) -> int | None:
    """Seeds of each network that a study would need to see a difference of this size.

    Normal approximation of a paired two-sided test at 5% with 80% power; the spread it starts from is itself a guess
    from a few pairs, so the figure tells an order of magnitude.

    Returns:
        The number, at least 10 (fewer cannot estimate a spread); None where no spread or no difference was seen.

    Examples:
        >>> needed_seeds(Difference(points=0.5, half_width=2.0, spread=0.8, seeds=3))
        21
    """
    if not difference.spread or abs(difference.points) < 1e-9:
        return None
    return max(10, math.ceil(((_Z975 + _Z80) * difference.spread / difference.points) ** 2))


def headline(networks: Sequence[NetworkResult]) -> str:
    """The answer in one sentence: each network's top-1, and that so few seeds do not decide between them.

    Args:
        networks: The networks; the first is the one that the others are compared with.

    Returns:
        Plain text.
    """
    figures = ", ".join(f"{net.title} {mean_and_std(net)}%" for net in reversed(networks))
    seeds = _seeds(len(networks[0].runs))
    hints = any(compare(net.top1, networks[0].top1).clears_zero for net in networks[1:])
    ending = f"a hint, and {seeds} cannot settle it" if hints else f"{seeds} cannot settle differences of this size"
    return f"{figures} top-1: {ending}."


def verdict(network: NetworkResult, baseline: NetworkResult) -> str:
    """One sentence on what the seeds show about a network beside the baseline, and what they cannot show.

    Args:
        network: The network in question.
        baseline: The network it is compared with, over the same seeds.

    Returns:
        Plain text.
    """
    difference = compare(network.top1, baseline.top1)
    seen = f"{network.title} ended {_apart(difference.points, baseline.title)}"
    if difference.interval is None:
        return f"{seen}; a single seed shows no spread, so nothing follows from it."
    low, high = difference.interval
    seen += f" (95% interval of the difference: {signed(low)} to {signed(high)} points)"
    if not difference.clears_zero:
        return f"{seen}. The interval holds zero: two equal networks could have given these runs too."
    direction = "for" if difference.points > 0 else "against"
    return (
        f"{seen}. That is a hint {direction} {network.title} on this data, with these settings; "
        f"{_seeds(difference.seeds)} cannot settle it."
    )


def outlook(network: NetworkResult, baseline: NetworkResult) -> str:
    """What a study would need in order to know.

    Args:
        network: The network in question.
        baseline: The network it is compared with, over the same seeds.

    Returns:
        Plain text.
    """
    difference = compare(network.top1, baseline.top1)
    needed = needed_seeds(difference)
    if needed is None:
        number = "more seeds of each network, their number fixed beforehand"
    else:
        number = (
            f"{'more than a thousand' if needed > 1000 else f'about {needed}'} seeds of each network, fixed beforehand "
            f"(to see {abs(difference.points):.1f} points with a chance of 80%, if the difference goes on to vary from "
            f"seed to seed by {difference.spread:.1f} points, itself a guess from so few)"
        )
    return (
        f"To settle it, a study would need {number}, the same effort spent on the settings of every network, and more "
        "than one set of data: what holds for small generated pictures need not hold for photographs."
    )


def mean_and_std(network: NetworkResult) -> str:
    """Mean top-1 with the standard deviation of the seeds, in percent, without the sign of the unit."""
    return f"{network.mean:.1f}" + ("" if network.std is None else f" ± {network.std:.1f}")


def _seeds(number: int) -> str:
    return f"{number_word(number)} seed{'' if number == 1 else 's'}"


def _apart(points: float, title: str) -> str:
    if abs(points) < 0.05:
        return f"level with {title}"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {title}"


def signed(points: float) -> str:
    """A number of points with its sign, one decimal and a true minus.

    Examples:
        >>> signed(0.25), signed(-1), signed(-0.01)
        ('+0.2', '−1.0', '0.0')
    """
    rounded = f"{abs(points):.1f}"
    return rounded if float(rounded) == 0 else ("+" if points > 0 else "−") + rounded


def number_word(number: int) -> str:
    """Small numbers as words, others as digits.

    Examples:
        >>> number_word(3), number_word(12)
        ('three', '12')
    """
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[number] if number < len(words) else str(number)
