"""Detection results of several runs on the same images: differences, and how much they depend on these images."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sgenet.bench.table import aligned
from sgenet.detection.evaluation import FIGURES, check_kind
from sgenet.detection.ground_truth import GroundTruth, Kind, read_ground_truth
from sgenet.detection.matching import SIZES, match
from sgenet.detection.resampling import draw_weights, weighted_figures
from sgenet.detection.results import Result
from sgenet.errors import ConfigError, DataError

__all__ = [
    "FEWEST_IMAGES",
    "Comparison",
    "FigureDifference",
    "Verdict",
    "check_resamples",
    "compare",
    "markdown",
    "notes",
    "summary",
]

Verdict: TypeAlias = Literal["better", "worse", "not significant", "untested"]

FEWEST_IMAGES = 10
"""With fewer images to draw from, percentile intervals are far too narrow, and nothing is tested."""

_LEAST_SPREAD = 1e-9
_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FigureDifference:
    """By how much one figure of a run differs from that of the baseline.

    Attributes:
        figure: One of `FIGURES`.
        value: Of the run, a fraction; None where there is nothing to find.
        baseline: Of the run that it is compared with.
        interval: Bounds of the difference by the bootstrap, at the level of the comparison; None where there are
            fewer than `FEWEST_IMAGES` images with objects that the figure is of, or where all resamples differ by the
            same amount, which shows no spread to judge by.
        images: How many images have objects that the figure is of.
    """

    figure: str
    value: float | None
    baseline: float | None
    interval: tuple[float, float] | None
    images: int

    @property
    def difference(self) -> float | None:
        """`value` minus `baseline`; None where there is nothing to find."""
        return None if self.value is None or self.baseline is None else self.value - self.baseline

    @property
    def verdict(self) -> Verdict:
        """What may be said of it. An interval that holds 0 is not significant, which does not mean equal."""
        if self.interval is None:
            return "untested"
        low, high = self.interval
        if low <= 0 <= high:
            return "not significant"
        return "better" if low > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """Figures of several runs on the same images, and the differences of all to one of them.

    Attributes:
        kind: "bbox" or "segm".
        baseline: Name of the run that the others are compared with.
        figures: Name of each run: each of `FIGURES` as a fraction, or None where there is nothing to find.
        differences: Name of each run but the baseline: one difference a figure, in the order of `FIGURES`.
        images: How many images were judged.
        resamples: How often they were drawn again.
        seed: What decided which were drawn.
        level: Share of the resamples that the intervals hold.
    """

    kind: Kind
    baseline: str
    figures: Mapping[str, Mapping[str, float | None]]
    differences: Mapping[str, tuple[FigureDifference, ...]]
    images: int
    resamples: int
    seed: int
    level: float


def compare(
    ground_truth: Mapping[str, Any] | str | os.PathLike[str] | GroundTruth,
    results: Mapping[str, Sequence[Result]],
    kind: Kind = "bbox",
    *,
    baseline: str | None = None,
    image_ids: Collection[int] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    mask_areas: bool = False,
) -> Comparison:
    """Compare runs by COCO's twelve figures, with intervals from a bootstrap over the images.

    As many images as there are get drawn with replacement, again and again, and each time all figures of all runs are
    found on the same images; the intervals are percentiles of the differences. What they show is how much a difference
    depends on the images that were judged. How much it depends on chance in training only several trainings show.

    Args:
        ground_truth: As in `evaluate`.
        results: Name of each run, two or more: its results.
        kind: "bbox" compares boxes, "segm" masks.
        baseline: Name of the run that the others are compared with; the first if not given.
        image_ids: Judge these images only; all if not given.
        resamples: How often images are drawn.
        seed: Decides which.
        level: Share of the resamples that an interval holds.
        mask_areas: As in `evaluate`.

    Returns:
        Figures and differences; `summary` and `markdown` make tables of them.

    Raises:
        DataError: If annotations or results are in another form, or do not go together.
        ConfigError: If an argument has a value that cannot be used.

    Examples:
        >>> truth = {
        ...     "images": [{"id": i, "height": 64, "width": 64} for i in range(20)],
        ...     "categories": [{"id": 1, "name": "dog"}],
        ...     "annotations": [
        ...         {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [8, 8, 20, 20]} for i in range(20)
        ...     ],
        ... }
        >>> found = [{"image_id": i, "category_id": 1, "bbox": [8, 8, 20, 20], "score": 0.9} for i in range(20)]
        >>> ap = compare(truth, {"plain": found[:8], "sge": found[:16]}, seed=1).differences["sge"][0]
        >>> ap.figure, round(ap.baseline, 2), round(ap.value, 2), ap.verdict
        ('AP', 0.41, 0.8, 'better')

    Source:
        Efron, "Bootstrap methods: another look at the jackknife", 1979; percentile intervals of paired differences.
    """
    check_kind(kind)
    baseline = _check(results, baseline, resamples, level)
    truth = read_ground_truth(ground_truth)
    images = len(truth.chosen(image_ids))
    once = np.ones((images, 1), dtype=np.int64)
    drawn = draw_weights(images, resamples, seed) if images else np.zeros((0, resamples), dtype=np.int64)
    seen: dict[str, _Floats] = {}
    resampled: dict[str, _Floats] = {}
    having = dict.fromkeys(SIZES, 0)
    for name, own in results.items():
        try:
            matches = match(truth, own, kind, image_ids, mask_areas=mask_areas)
        except DataError as error:
            raise DataError(f"run '{name}': {error}") from error
        seen[name] = weighted_figures(matches, once)[:, 0]
        resampled[name] = weighted_figures(matches, drawn)
        counts = sum((found.objects for found in matches), start=np.zeros((len(SIZES), images), dtype=np.int64))
        having = dict(zip(SIZES, np.count_nonzero(counts, axis=1).tolist(), strict=True))
    differences = {
        name: tuple(_differences(seen[name], seen[baseline], resampled[name] - resampled[baseline], having, level))
        for name in results
        if name != baseline
    }
    return Comparison(
        kind=kind,
        baseline=baseline,
        figures=MappingProxyType({name: MappingProxyType(_named(values)) for name, values in seen.items()}),
        differences=MappingProxyType(differences),
        images=images,
        resamples=resamples,
        seed=seed,
        level=level,
    )


def check_resamples(resamples: int, level: float = 0.95) -> None:
    """Refuse too few resamples for an interval.

    Args:
        resamples: How often images are drawn.
        level: Share of the resamples that an interval holds.

    Raises:
        ConfigError: If they are too few, or the level is no share.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level={level} must be above 0 and below 1, e.g. 0.95")
    fewest = int(np.ceil(2 / (1 - level) - 1e-9))
    if resamples < fewest:
        raise ConfigError(f"resamples={resamples} are too few to see {level:.0%} of them; choose {fewest} or more")


def _check(results: Mapping[str, Sequence[Result]], baseline: str | None, resamples: int, level: float) -> str:
    if len(results) < 2:
        raise ConfigError(f"{len(results)} set of results cannot be compared; give two or more, each with its name")
    if baseline is not None and baseline not in results:
        raise ConfigError(f"baseline='{baseline}' is none of the runs; it must be one of {', '.join(results)}")
    check_resamples(resamples, level)
    return next(iter(results)) if baseline is None else baseline


def _differences(
    own: _Floats, baseline: _Floats, resampled: _Floats, having: Mapping[str, int], level: float
) -> list[FigureDifference]:
    values, baselines = _named(own), _named(baseline)
    found = []
    for figure, differences in zip(FIGURES, resampled, strict=True):
        size = next((name for name in SIZES if figure in (f"AP{name[0]}", f"AR{name[0]}")), "all")
        interval = _interval(differences, level) if having[size] >= FEWEST_IMAGES else None
        found.append(FigureDifference(figure, values[figure], baselines[figure], interval, having[size]))
    return found


def _interval(differences: _Floats, level: float) -> tuple[float, float] | None:
    """Percentiles, of the resamples that had anything to find; None where these are all the same, but not 0."""
    known = differences[~np.isnan(differences)]
    if not len(known) or (np.ptp(known) <= _LEAST_SPREAD and abs(known[0]) > _LEAST_SPREAD):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _named(values: _Floats) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in zip(FIGURES, values, strict=True)}


# ------------------------------------------------------------------------------------------------------------ tables


def summary(comparison: Comparison) -> str:
    """Figures, differences and what they hold for, as text for a terminal.

    Args:
        comparison: From `compare`.

    Returns:
        Tables in percent and points, and `notes`.
    """
    parts = [aligned(*_figures_table(comparison))]
    parts += [aligned(*_differences_table(comparison, name)) for name in comparison.differences]
    return "\n\n".join([*parts, "\n".join(notes(comparison))])


def markdown(comparison: Comparison) -> str:
    """The same as Markdown.

    Args:
        comparison: From `compare`.

    Returns:
        Tables in percent and points, and `notes` as a list.
    """
    parts = [_as_markdown(*_figures_table(comparison))]
    parts += [_as_markdown(*_differences_table(comparison, name)) for name in comparison.differences]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes(comparison))]) + "\n"


def notes(comparison: Comparison) -> list[str]:
    """What must be known to read the tables.

    Args:
        comparison: From `compare`.

    Returns:
        Sentences.
    """
    every = [difference for run in comparison.differences.values() for difference in run]
    tested = sum(difference.verdict != "untested" for difference in every)
    found = [
        f"{'Boxes' if comparison.kind == 'bbox' else 'Masks'} of {comparison.images} images; COCO's figures in "
        "percent, differences in points.",
        f"Intervals hold {comparison.level:.0%} of the differences in {comparison.resamples} resamples of the images "
        f"(seed {comparison.seed}), which are the same for all runs. They show how much a difference depends on the "
        "images; how much it depends on chance in training, only trainings with several seeds show.",
        f"Not significant is an interval that holds 0: these images do not tell which run is better, and the runs need "
        f"not be equal. {tested} differences were tested, without a correction for their number.",
    ]
    if tested < len(every):
        found.append(
            f"Untested are figures of objects that fewer than {FEWEST_IMAGES} images have, and differences that are "
            "the same in all resamples."
        )
    return found


_Table: TypeAlias = tuple[list[str], list[list[str]]]


def _figures_table(comparison: Comparison) -> _Table:
    header = [comparison.kind, *FIGURES]
    return header, [[name, *map(_percent, own.values())] for name, own in comparison.figures.items()]


def _differences_table(comparison: Comparison, name: str) -> _Table:
    header = [f"{name} minus {comparison.baseline}", "points", f"{comparison.level:.0%} interval", "verdict"]
    return header, [
        [d.figure, _signed(d.difference), _span(d.interval), d.verdict] for d in comparison.differences[name]
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _signed(value: float | None) -> str:
    """Points with their sign and a true minus."""
    if value is None:
        return "–"
    rounded = f"{abs(100 * value):.2f}"
    return rounded if float(rounded) == 0 else ("+" if value > 0 else "−") + rounded


def _span(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{_signed(interval[0])} to {_signed(interval[1])}"


def _as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
