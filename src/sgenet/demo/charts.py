"""The report's charts, as SVG that takes its colours and fonts from the page around it.

Networks are told apart by colour (classes `net0`, `net1`, ...), and by the shape of their markers for whoever does not
see the colours. Each chart is drawn for one width, so that its letters keep their size; the page holds a wide and a
narrow one and shows the one that fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from sgenet.demo.answer import mean_and_std, mean_interval

if TYPE_CHECKING:
    from sgenet.classification.run_folder import EpochRow
    from sgenet.cost import Cost
    from sgenet.demo.result import NetworkResult
    from sgenet.timing import Ratio

__all__ = ["cost_chart", "curve_chart", "marker", "seed_chart"]


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
    """The marker of network number `index`: a circle, a square, a diamond, in turn.

    Args:
        index: Position of the network among the networks of the report.
        x: Centre, in pixels.
        y: Centre, in pixels.
        size: Half its height, in pixels.
        tip: What a pointer over it shows.

    Returns:
        SVG of one shape.
    """
    css = f'class="mark net{index}"'
    inner = f"<title>{escape(tip)}</title>" if tip else ""
    shape = index % 3
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


def seed_chart(networks: Sequence[NetworkResult], width: float) -> Markup:
    """Every seed's last-epoch top-1 as a dot, with the mean and its 95% interval.

    Args:
        networks: Networks from top to bottom.
        width: Width of the chart in pixels.

    Returns:
        SVG.
    """
    narrow = width < 500
    row, top, left, right = 58.0, 8.0, (14.0 if narrow else 74.0), (14.0 if narrow else 132.0)
    intervals = [mean_interval(net.top1) for net in networks]
    shown = [v for net in networks for v in net.top1] + [v for pair in intervals if pair for v in pair]
    low, high = _padded(shown, least=1.0)
    scale = _Scale(max(low, 0.0), min(high, 100.0), left, width - right)
    bottom = top + row * len(networks)
    parts = _bottom_axis(
        scale, top, bottom, "top-1 on the validation images, last epoch (%)", 4 if narrow else 7, _plain
    )
    for i, (net, interval) in enumerate(zip(networks, intervals, strict=True)):
        y = top + row * (i + 0.5) + (8 if narrow else 0)
        if interval:
            ends = [min(max(scale(v), scale.start), scale.end) for v in interval]
            parts.append(_line(ends[0], y, ends[1], y, f"interval net{i}"))
        parts.append(_line(scale(net.mean), y - 13, scale(net.mean), y + 13, f"mean net{i}"))
        parts += [marker(i, scale(r.top1), y, 5, f"seed {r.seed}: {r.top1:.1f}%") for r in net.runs]
        value = mean_and_std(net)
        if narrow:
            parts.append(_text(left, y - 20, net.title, f"name net{i}"))
            parts.append(_text(width - right, y - 20, f"{value}%", "value", "end"))
        else:
            parts.append(_text(left - 12, y + 5, net.title, f"name net{i}", "end"))
            parts.append(_text(width - right + 14, y + 5, f"{value}%", "value"))
    spoken = "; ".join(f"{n.title}: " + ", ".join(f"{v:.1f}" for v in n.top1) for n in networks)
    return _svg(width, bottom + 48, f"Last-epoch top-1 of every seed in percent. {spoken}.", parts)


def curve_chart(
    networks: Sequence[NetworkResult],
    value: Callable[[EpochRow], float],
    label: str,
    width: float,
) -> Markup:
    """One figure over the epochs: the mean of the seeds as a strong line, every seed as a thin one.

    Args:
        networks: Networks; all runs have the same number of epochs.
        value: Takes the figure from an epoch's row.
        label: What the figure is, with its unit.
        width: Width of the chart in pixels.

    Returns:
        SVG.
    """
    left, right, top, bottom = 44.0, 52.0, 14.0, 250.0
    seeds = [[[value(row) for row in run.history] for run in net.runs] for net in networks]
    epochs = min(len(history) for net in seeds for history in net)
    means = [[fmean(history[e] for history in net) for e in range(epochs)] for net in seeds]
    low, high = _padded((v for net in seeds for history in net for v in history), least=1e-3)
    y = _Scale(low, high, bottom, top)
    x = _Scale(1, max(epochs, 2), left, width - right)
    parts = []
    for tick in y.ticks(5):
        parts.append(_line(left, y(tick), width - right, y(tick), "grid"))
        parts.append(_text(left - 8, y(tick) + 4, _plain(tick), "tick", "end"))
    whole = [tick for tick in x.ticks(min(epochs, 10)) if tick == int(tick)]
    parts += [_text(x(tick), bottom + 20, _plain(tick), "tick", "middle") for tick in whole]
    parts.append(_text((left + width - right) / 2, bottom + 42, "epoch", "axis", "middle"))
    for i, (histories, mean) in enumerate(zip(seeds, means, strict=True)):
        parts += [_path(x, y, history, f"thin net{i}") for history in histories]
        parts.append(_path(x, y, mean, f"strong net{i}"))
        parts.append(marker(i, x(epochs), y(mean[-1]), 4))
    heights = _apart([y(mean[-1]) for mean in means], 17)
    for i, (net, height) in enumerate(zip(networks, heights, strict=True)):
        parts.append(_text(x(epochs) + 10, height + 5, net.title, f"name net{i}"))
    spoken = "; ".join(f"{n.title} {m[0]:.2f} to {m[-1]:.2f}" for n, m in zip(networks, means, strict=True))
    return _svg(width, bottom + 50, f"{label} over {epochs} epochs, means from first to last: {spoken}.", parts)


def _path(x: _Scale, y: _Scale, values: Sequence[float], css: str) -> str:
    points = " ".join(f"{x(epoch):.1f},{y(v):.1f}" for epoch, v in enumerate(values, start=1))
    return f'<polyline points="{points}" class="{css}"/>'


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Move labels just as far as they need to stand `least` pixels apart."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = [heights[i] for i in order]
    for _ in range(50):
        for upper in range(len(placed) - 1):
            lack = least - (placed[upper + 1] - placed[upper])
            if lack > 0:
                placed[upper] -= lack / 2
                placed[upper + 1] += lack / 2
    result = list(heights)
    for position, i in enumerate(order):
        result[i] = placed[position]
    return result


def cost_chart(networks: Sequence[NetworkResult], width: float) -> Markup:
    """Counted and measured costs as multiples of the first network's.

    Args:
        networks: Networks; the first is the one the others are divided by.
        width: Width of the chart in pixels.

    Returns:
        SVG.
    """
    narrow = width < 500
    costs = _multiples(networks)
    row, top = (62.0, 4.0) if narrow else (48.0, 8.0)
    left, right = (14.0, 18.0) if narrow else (206.0, 24.0)
    ends = [v for entries in costs.values() for entry in entries for v in (entry.lower, entry.upper)]
    scale = _Scale(*_padded(ends, least=0.2), left, width - right)
    bottom = top + row * len(costs)
    label = f"multiple of {networks[0].title}"
    parts = _bottom_axis(scale, top, bottom, label, 4 if narrow else 6, lambda v: f"{_plain(v)}×")
    parts.append(_line(scale(1.0), top, scale(1.0), bottom, "unit"))
    for number, (name, entries) in enumerate(costs.items()):
        start = top + row * number
        if number:
            parts.append(_line(0, start, width, start, "rule"))
        y = start + row / 2 + (8 if narrow else 0)
        parts.append(_text(left, start + 17, name, "label") if narrow else _text(0, y + 5, name, "label"))
        for i, (net, entry) in enumerate(zip(networks, entries, strict=True)):
            height = y + 12 * (i - (len(networks) - 1) / 2)
            parts.append(_line(scale(entry.lower), height, scale(entry.upper), height, f"interval net{i}"))
            parts.append(marker(i, scale(entry.value), height, 4.5, f"{net.title}, {name}: {entry.value:.3f}×"))
    spoken = "; ".join(
        f"{name}: " + ", ".join(f"{net.title} {e.value:.2f}" for net, e in zip(networks, entries, strict=True))
        for name, entries in costs.items()
    )
    return _svg(width, bottom + 48, f"Costs as multiples of {networks[0].title}. {spoken}.", parts)


@dataclass(frozen=True)
class _Multiple:
    value: float
    lower: float
    upper: float


def _multiples(networks: Sequence[NetworkResult]) -> dict[str, list[_Multiple]]:
    """By the name of a cost, how many times the first network's each network has."""
    plain = networks[0].cost

    def counted(of: Callable[[Cost], int]) -> list[_Multiple]:
        shares = [of(net.cost) / of(plain) for net in networks]
        return [_Multiple(share, share, share) for share in shares]

    def measured(of: Callable[[NetworkResult], Ratio]) -> list[_Multiple]:
        return [_Multiple(of(net).median, of(net).lower, of(net).upper) for net in networks]

    return {
        "parameters": counted(lambda cost: cost.parameters),
        "MACs": counted(lambda cost: cost.macs),
        "elementwise operations": counted(lambda cost: cost.elementwise),
        "memory traffic": counted(lambda cost: cost.bytes_moved),
        "time, forward": measured(lambda net: net.inference),
        "time, forward and backward": measured(lambda net: net.training),
    }


def _plain(value: float) -> str:
    return f"{round(value, 6):g}".replace("-", "−")
