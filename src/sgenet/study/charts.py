"""The report's charts, as SVG that takes its colours and fonts from the page around it.

Levels are told apart by colour (classes `net0`, `net1`, ...), and by the shape of their markers for whoever does not
see the colours; the baseline is always `net0`. Each chart is drawn for one width, so that its letters keep their size;
the page holds a wide and a narrow one and shows the one that fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup, escape

from sgenet.study.analysis import Analysis, Block, Row
from sgenet.study.statistics import standard_deviation
from sgenet.study.wording import mean_and_spread, signed

__all__ = [
    "COLOURS",
    "cost_chart",
    "curve_chart",
    "difference_chart",
    "marker",
    "net",
    "seed_chart",
    "tones",
    "trend_chart",
]

COLOURS = 10
"""How many classes `net0`, `net1`, ... the page knows; beyond, they begin again after the baseline's."""

_NARROW = 500  # pixels; below, names stand above what they name
_NAMED = 7  # points that have room for their names; the legend names more


@dataclass(frozen=True)
class _Scale:
    """A linear map from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, wanted: int) -> list[float]:
        """About `wanted` round values inside the domain."""
        raw = (self.high - self.low) / max(wanted, 1)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _padded(values: Iterable[float], least: float, share: float = 0.06) -> tuple[float, float]:
    """The range of `values` with some room at both ends, at least `least` wide."""
    known = list(values)
    low, high = min(known), max(known)
    room = max((high - low) * share, (least - (high - low)) / 2, least * 0.05)
    return low - room, high + room


def _svg(width: float, height: float, label: str, parts: Iterable[str]) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(content)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def marker(index: int, x: float, y: float, size: float = 5.0, tip: str = "") -> Markup:
    """The marker of number `index`: a circle, a square, a diamond, a triangle, in turn.

    Args:
        index: From `tones`.
        x: Centre, in pixels.
        y: Centre, in pixels.
        size: Half its height, in pixels.
        tip: What a pointer over it shows.

    Returns:
        SVG of one shape.
    """
    css = f'class="mark {net(index)}"'
    inner = f"<title>{escape(tip)}</title>" if tip else ""
    shape = (index + max(index - 1, 0) // (COLOURS - 1)) % 4  # another one each time the colours begin again
    if shape == 0:
        return Markup(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" {css}>{inner}</circle>')
    if shape == 1:
        half = size * 0.9
        return Markup(
            f'<rect x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half:g}" height="{2 * half:g}" {css}>'
            f"{inner}</rect>"
        )
    reach = size * 1.3
    corners = f"{x:.1f},{y - reach:.1f} {x + reach:.1f},{y:.1f} {x:.1f},{y + reach:.1f} {x - reach:.1f},{y:.1f}"
    if shape == 3:
        corners = f"{x:.1f},{y - reach:.1f} {x + reach:.1f},{y + size:.1f} {x - reach:.1f},{y + size:.1f}"
    return Markup(f'<polygon points="{corners}" {css}>{inner}</polygon>')


def _bottom_axis(
    scale: _Scale, top: float, bottom: float, label: str, wanted: int, show: Callable[[float], str]
) -> list[str]:
    parts = []
    for tick in scale.ticks(wanted):
        parts.append(_line(scale(tick), top, scale(tick), bottom, "grid"))
        parts.append(_text(scale(tick), bottom + 18, show(tick), "tick", "middle"))
    parts.append(_text((scale.start + scale.end) / 2, bottom + 40, label, "axis", "middle"))
    return parts


def tones(analysis: Analysis) -> dict[str, int]:
    """The number of each level's colour and marker: 0 for the baseline, the others in their order."""
    definition = analysis.definition
    others = [level.name for level in definition.factor.levels if level.name != definition.baseline]
    return {definition.baseline: 0, **{name: i for i, name in enumerate(others, 1)}}


def net(tone: int) -> str:
    """The class that gives a number from `tones` its colour.

    Examples:
        >>> net(0), net(9), net(10)
        ('net0', 'net9', 'net1')
    """
    return "net0" if tone == 0 else f"net{(tone - 1) % (COLOURS - 1) + 1}"


def seed_chart(analysis: Analysis, width: float) -> Markup:
    """Every seed's figure of the last epoch as a dot, with the mean and its 95% interval.

    Args:
        analysis: Of a study with at least one result.
        width: Width of the chart in pixels.

    Returns:
        SVG.
    """
    shown = [v for row in analysis.rows for v in row.values]
    shown += [v for row in analysis.rows if row.interval is not None for v in row.interval]
    low, high = _padded(shown, least=1.0)

    def draw(row: Row, scale: _Scale, y: float, tone: int) -> list[str]:
        dots = [(v, f"seed {seed}: {v:.2f}%") for seed, v in zip(sorted(row.results), row.values, strict=True)]
        return _dots_and_mean(scale, y, tone, row.interval, row.mean, dots)

    ends = (max(low, 0.0), min(high, 100.0))
    metric = analysis.definition.compared
    label = f"{metric.name} on the validation images, last epoch (%)"
    spoken = "; ".join(f"{row.combination.name}: " + ", ".join(f"{v:.1f}" for v in row.values) for row in analysis.rows)
    says = f"{metric.title} of every seed after the last epoch, in percent. {spoken}."
    return _row_chart(analysis, width, ends, label, draw, mean_and_spread, analysis.rows, says)


def difference_chart(analysis: Analysis, width: float) -> Markup:
    """The difference of each level to its baseline, with its 95% interval and every seed's difference as a dot.

    Args:
        analysis: Of a study with at least one difference.
        width: Width of the chart in pixels.

    Returns:
        SVG.
    """
    rows = [row for row in analysis.rows if row.difference is not None]
    pairs = {row.combination.name: _pairs(analysis, row) for row in rows}
    shown = [0.0, *(v for found in pairs.values() for _, v in found)]
    shown += [
        v for row in rows if row.difference and row.difference.paired.interval for v in row.difference.paired.interval
    ]

    def draw(row: Row, scale: _Scale, y: float, tone: int) -> list[str]:
        dots = [(v, f"seed {seed}: {signed(v)} points") for seed, v in pairs[row.combination.name]]
        found = None if row.difference is None else row.difference.paired
        interval, mean = (None, None) if found is None else (found.interval, found.difference)
        return _dots_and_mean(scale, y, tone, interval, mean, dots)

    def value(row: Row) -> str:
        return "" if row.difference is None else signed(row.difference.paired.difference)

    label = f"{analysis.definition.compared.name} minus that of {analysis.definition.baseline}, same seed (points)"
    spoken = "; ".join(f"{row.combination.name} {value(row)}" for row in rows)
    says = f"Differences to {analysis.definition.baseline} in points. {spoken}."
    return _row_chart(analysis, width, _padded(shown, least=1.0), label, draw, value, rows, says, unit=0.0)


def _dots_and_mean(
    scale: _Scale,
    y: float,
    tone: int,
    interval: tuple[float, float] | None,
    mean: float | None,
    dots: Sequence[tuple[float, str]],
) -> list[str]:
    """Every seed's figure, with what a pointer over it shows, on their mean and its interval."""
    parts: list[str] = []
    if interval is not None:
        low, high = (min(max(scale(v), scale.start), scale.end) for v in interval)
        parts.append(_line(low, y, high, y, f"interval {net(tone)}"))
    if mean is not None:
        parts.append(_line(scale(mean), y - 11, scale(mean), y + 11, f"mean {net(tone)}"))
    return [*parts, *(marker(tone, scale(value), y, 4.5, tip) for value, tip in dots)]


def _pairs(analysis: Analysis, row: Row) -> list[tuple[int, float]]:
    base = next(block.baseline for block in analysis.blocks if row in block.rows).results
    column = row.metric.key
    return [
        (seed, row.results[seed].last(column) - base[seed].last(column))
        for seed in sorted(row.results.keys() & base.keys())
    ]


def _row_chart(
    analysis: Analysis,
    width: float,
    ends: tuple[float, float],
    label: str,
    draw: Callable[[Row, _Scale, float, int], list[str]],
    value: Callable[[Row], str],
    rows: Sequence[Row],
    says: str,
    unit: float | None = None,
) -> Markup:
    """One line a row, under a heading for each block that has a name."""
    narrow = width < _NARROW
    tone, compare = tones(analysis), analysis.definition.compare
    longest = max(len(row.combination.levels[compare]) for row in rows)
    left, right = (14.0, 14.0) if narrow else (min(260.0, 24 + 8.6 * longest), 128.0)
    height, heading = (48.0 if narrow else 34.0), 34.0
    blocks = [(block, [row for row in block.rows if row in rows]) for block in analysis.blocks]
    named = any(block.name for block, _ in blocks)
    total = sum(heading * named + height * len(own) for _, own in blocks)
    top = 6.0
    scale = _Scale(ends[0], ends[1], left, width - right)
    parts = _bottom_axis(scale, top, top + total, label, 4 if narrow else 7, _plain)
    if unit is not None:
        parts.append(_line(scale(unit), top, scale(unit), top + total, "unit"))
    y = top
    for block, own in blocks:
        if named:
            parts.append(_text(left if narrow else 0, y + 23, block.name, "label heading"))
            y += heading
        for row in own:
            name, number = row.combination.levels[compare], tone[row.combination.levels[compare]]
            middle = y + height / 2 + (10 if narrow else 0)
            parts += draw(row, scale, middle, number)
            if narrow:
                parts.append(_text(left, middle - 17, name, f"name label {net(number)}"))
                parts.append(_text(width - right, middle - 17, value(row), "value label", "end"))
            else:
                parts.append(_text(left - 12, middle + 5, name, f"name {net(number)}", "end"))
                parts.append(_text(width - right + 14, middle + 5, value(row), "value"))
            y += height
    return _svg(width, top + total + 48, says, parts)


def curve_chart(analysis: Analysis, block: Block, column: str, label: str, width: float) -> Markup:
    """One figure over the epochs: the mean of the seeds as a line, their standard deviation as a band around it.

    Args:
        analysis: Of a study.
        block: The levels to show.
        column: Of the epochs' rows.
        label: What the figure is, with its unit.
        width: Width of the chart in pixels.

    Returns:
        SVG; empty where the block has no result.
    """
    compare, tone = analysis.definition.compare, tones(analysis)
    curves = {row.combination.levels[compare]: row.curve(column) for row in block.rows if row.results}
    if not curves:
        return Markup("")
    lengths = {name: min(len(history) for history in own) for name, own in curves.items()}
    epochs = max(lengths.values())
    each = {name: [[h[e] for h in own] for e in range(lengths[name])] for name, own in curves.items()}
    means = {name: [fmean(figures) for figures in own] for name, own in each.items()}
    spreads = {name: [standard_deviation(figures) or 0.0 for figures in own] for name, own in each.items()}
    ends = [m + sign * s for n in curves for m, s in zip(means[n], spreads[n], strict=True) for sign in (-1, 1)]
    longest = max(len(name) for name in curves)
    left, right, top = 48.0, min(150.0, 26 + 8.2 * longest), 14.0
    bottom = max(250.0, top + 16.0 * len(curves))
    y = _Scale(*_padded(ends, least=1e-3), bottom, top)
    x = _Scale(1, max(epochs, 2), left, width - right)
    parts = []
    for tick in y.ticks(5):
        parts.append(_line(left, y(tick), width - right, y(tick), "grid"))
        parts.append(_text(left - 8, y(tick) + 4, _plain(tick), "tick", "end"))
    whole = [tick for tick in x.ticks(min(epochs, 10)) if tick == int(tick)]
    parts += [_text(x(tick), bottom + 20, _plain(tick), "tick", "middle") for tick in whole]
    parts.append(_text((left + width - right) / 2, bottom + 42, "epoch", "axis", "middle"))
    parts += [_band(x, y, means[n], spreads[n], f"band {net(tone[n])}") for n in curves if len(curves[n]) > 1]
    for name in curves:
        parts.append(_path(x, y, means[name], f"strong {net(tone[name])}"))
        parts.append(marker(tone[name], x(lengths[name]), y(means[name][-1]), 4))
    heights = _apart([y(means[name][-1]) for name in curves], 16, top, bottom)
    for name, place in zip(curves, heights, strict=True):
        parts.append(_text(x(epochs) + 10, place + 5, name, f"name small {net(tone[name])}"))
    spoken = "; ".join(f"{name} {mean[0]:.2f} to {mean[-1]:.2f}" for name, mean in means.items())
    says = f"{label} over {epochs} epochs, means from first to last: {spoken}."
    return _svg(width, bottom + 50, says, parts)


def _path(x: _Scale, y: _Scale, values: Sequence[float], css: str) -> str:
    points = " ".join(f"{x(epoch):.1f},{y(v):.1f}" for epoch, v in enumerate(values, start=1))
    return f'<polyline points="{points}" class="{css}"/>'


def _band(x: _Scale, y: _Scale, means: Sequence[float], spreads: Sequence[float], css: str) -> str:
    upper = [f"{x(e):.1f},{y(m + s):.1f}" for e, (m, s) in enumerate(zip(means, spreads, strict=True), start=1)]
    lower = [f"{x(e):.1f},{y(m - s):.1f}" for e, (m, s) in enumerate(zip(means, spreads, strict=True), start=1)]
    return f'<polygon points="{" ".join([*upper, *reversed(lower)])}" class="{css}"/>'


def _apart(heights: Sequence[float], least: float, top: float, bottom: float) -> list[float]:
    """Move labels just as far as they need to stand `least` pixels apart, between `top` and `bottom`."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = [heights[i] for i in order]
    least = min(least, (bottom - top) / max(len(placed) - 1, 1))
    for _ in range(50):
        for upper in range(len(placed) - 1):
            lack = least - (placed[upper + 1] - placed[upper])
            if lack > 0:
                placed[upper] -= lack / 2
                placed[upper + 1] += lack / 2
    for i, place in enumerate(placed):  # from both ends inwards, so that all fit
        placed[i] = max(place, top + i * least)
    for i in range(len(placed)):
        placed[-1 - i] = min(placed[-1 - i], bottom - i * least)
    result = list(heights)
    for position, i in enumerate(order):
        result[i] = placed[position]
    return result


def trend_chart(analysis: Analysis, width: float) -> Markup:
    """The differences to the baseline along the factor that they may grow with, with 95% intervals.

    Args:
        analysis: Of a study with a trend.
        width: Width of the chart in pixels.

    Returns:
        SVG; empty where nothing is finished.
    """
    along, compare, tone = str(analysis.definition.trend), analysis.definition.compare, tones(analysis)
    points: dict[str, list[tuple[float, float, tuple[float, float]]]] = {}
    for block in analysis.blocks:
        for row in block.rows:
            if row.difference is not None:
                found = row.difference.paired
                place = float(block.circumstances[along])
                ends = found.interval or (found.difference, found.difference)
                points.setdefault(row.combination.levels[compare], []).append((place, found.difference, ends))
    if not points:
        return Markup("")
    left, right, top, bottom = 56.0, (72.0 if width < _NARROW else 96.0), 30.0, 286.0
    every = [point for own in points.values() for point in own]
    y = _Scale(*_padded([0.0, *(v for _, _, ends in every for v in ends)], least=1.0), bottom, top)
    x = _Scale(*_padded([place for place, _, _ in every], least=1e-6), left, width - right)
    parts = []
    for tick in y.ticks(6):
        parts.append(_line(left, y(tick), width - right, y(tick), "grid"))
        parts.append(_text(left - 8, y(tick) + 4, _plain(tick), "tick", "end"))
    parts.append(
        _text(
            0, 13, f"{analysis.definition.compared.name} minus that of {analysis.definition.baseline}, points", "axis"
        )
    )
    parts.append(_line(left, y(0), width - right, y(0), "unit"))
    parts += [_text(x(v), bottom + 20, _plain(v), "tick", "middle") for v in sorted({place for place, _, _ in every})]
    parts.append(_text((left + width - right) / 2, bottom + 42, along, "axis", "middle"))
    ending = []
    for number, (name, own) in enumerate(points.items()):
        shift = 7.0 * (number - (len(points) - 1) / 2)  # intervals at one place stand side by side
        line = " ".join(f"{x(place) + shift:.1f},{y(value):.1f}" for place, value, _ in own)
        parts.append(f'<polyline points="{line}" class="strong {net(tone[name])}"/>')
        for place, value, (low, high) in own:
            at = x(place) + shift
            parts.append(_line(at, y(low), at, y(high), f"interval {net(tone[name])}"))
            parts.append(marker(tone[name], at, y(value), 4.5, f"{name}, {along} {_plain(place)}: {signed(value)}"))
        ending.append(y(own[-1][1]))
    for name, place in zip(points, _apart(ending, 16, top, bottom), strict=True):
        parts.append(_text(width - right + 14, place + 5, name, f"name small {net(tone[name])}"))
    spoken = "; ".join(
        f"{n}: " + ", ".join(f"{signed(v)} at {_plain(p)}" for p, v, _ in own) for n, own in points.items()
    )
    return _svg(width, bottom + 50, f"Differences to {analysis.definition.baseline} along {along}. {spoken}.", parts)


def cost_chart(
    analysis: Analysis, costs: Mapping[str, Mapping[str, Any]], kind: str, label: str, width: float
) -> Markup:
    """The figure against a cost: each combination as a point with its 95% interval.

    A line joins those that no other beats at their cost or less.

    Args:
        analysis: Of a study.
        costs: By the name of a combination, what its network costs.
        kind: Which cost, e.g. "bytes_moved".
        label: What it is, with its unit.
        width: Width of the chart in pixels.

    Returns:
        SVG; empty where nothing is known.
    """
    compare, tone = analysis.definition.compare, tones(analysis)
    rows = [row for row in analysis.rows if row.mean is not None and row.combination.name in costs]
    if not rows:
        return Markup("")
    unit = 1e6
    place = {row.combination.name: costs[row.combination.name][kind] / unit for row in rows}
    ends = [v for row in rows for v in (row.interval or (row.mean or 0.0, row.mean or 0.0))]
    low, high = _padded(ends, least=1.0)
    left, right, top, bottom = 56.0, 20.0, 14.0, 270.0
    y = _Scale(max(low, 0.0), min(high, 100.0), bottom, top)
    spread = max(place.values()) or 1.0
    x = _Scale(*_padded(place.values(), least=0.02 * spread, share=0.12), left, width - right)
    parts = []
    for tick in y.ticks(5):
        parts.append(_line(left, y(tick), width - right, y(tick), "grid"))
        parts.append(_text(left - 8, y(tick) + 4, _plain(tick), "tick", "end"))
    parts += [_text(x(tick), bottom + 20, _plain(tick), "tick", "middle") for tick in x.ticks(5)]
    parts.append(_text((left + width - right) / 2, bottom + 42, label, "axis", "middle"))
    front = _front([(place[row.combination.name], row.mean or 0.0) for row in rows])
    line = " ".join(f"{x(cost):.1f},{y(mean):.1f}" for cost, mean in front)
    parts.append(f'<polyline points="{line}" class="front"/>')
    for row in rows:
        at, mean, number = x(place[row.combination.name]), row.mean or 0.0, tone[row.combination.levels[compare]]
        if row.interval is not None:
            up, down = (min(max(y(v), top), bottom) for v in row.interval)
            parts.append(_line(at, up, at, down, f"interval slim {net(number)}"))
        tip = f"{row.combination.name}: {mean:.2f}% at {place[row.combination.name]:.3g}"
        parts.append(marker(number, at, y(mean), 5, tip))
    names = [row.combination.levels[compare] if len(analysis.blocks) == 1 else row.combination.name for row in rows]
    if len(rows) <= _NAMED:
        heights = _apart([y(row.mean or 0.0) for row in rows], 15, top + 18, bottom)
        for row, name, height in zip(rows, names, heights, strict=True):
            number = tone[row.combination.levels[compare]]
            beyond = x(place[row.combination.name]) > (left + width - right) / 2
            at = x(place[row.combination.name]) + (-10 if beyond else 10)
            parts.append(_text(at, height - 6, name, f"name small label {net(number)}", "end" if beyond else "start"))
    spoken = "; ".join(f"{row.combination.name} {row.mean:.1f} at {place[row.combination.name]:.3g}" for row in rows)
    return _svg(
        width, bottom + 50, f"{analysis.definition.compared.title} in percent against {label}. {spoken}.", parts
    )


def _front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats at their cost or less, from the cheapest."""
    front: list[tuple[float, float]] = []
    for cost, mean in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or mean > front[-1][1]:
            front.append((cost, mean))
    return front


def _plain(value: float) -> str:
    return f"{round(value, 6):g}".replace("-", "−")
