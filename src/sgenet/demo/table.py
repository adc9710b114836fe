"""The figures of a demonstration as one table: networks side by side, for the report and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sgenet.demo.answer import compare, headline, mean_and_std, mean_interval, signed

if TYPE_CHECKING:
    from sgenet.demo.result import DemoResult, NetworkResult
    from sgenet.timing import Ratio

__all__ = ["Cell", "TableRow", "figures", "summary"]


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        value: The figure.
        detail: What belongs to it, e.g. its interval.
    """

    value: str
    detail: str = ""


@dataclass(frozen=True)
class TableRow:
    """One kind of figure for all networks.

    Attributes:
        label: What it is.
        note: Its unit, or how it was found.
        detail: What the cells' details are.
        cells: One a network.
        strong: Whether it is one of the rows to look at first.
    """

    label: str
    note: str
    detail: str
    cells: Sequence[Cell]
    strong: bool = False


def figures(networks: Sequence[NetworkResult]) -> list[TableRow]:
    """All figures of the table.

    Args:
        networks: Networks; the first is the one that the others are compared with.

    Returns:
        The rows from top to bottom.
    """
    multiple = f"× {networks[0].title}"
    return [
        *_accuracy(networks),
        TableRow("Parameters", "", "", [Cell(f"{net.cost.parameters:,}") for net in networks]),
        TableRow("MACs", "million an image", "", [_millions(net.cost.macs) for net in networks]),
        TableRow("Elementwise", "million an image", "", [_millions(net.cost.elementwise) for net in networks]),
        TableRow("Memory traffic", "MB an image", "", [_millions(net.cost.bytes_moved) for net in networks]),
        TableRow("Time, forward", multiple, "quartiles", [_time(net.inference) for net in networks], True),
        TableRow("Time, with backward", multiple, "quartiles", [_time(net.training) for net in networks], True),
    ]


def _accuracy(networks: Sequence[NetworkResult]) -> list[TableRow]:
    plain = networks[0]
    several = len(plain.runs) > 1
    interval = "95% interval" if several else ""
    top1 = [Cell(mean_and_std(net), _span(mean_interval(net.top1))) for net in networks]
    gaps = [Cell("–"), *(_gap(net, plain) for net in networks[1:])]
    by_seed = [
        TableRow(f"seed {run.seed}", "", "", [Cell(f"{net.top1[i]:.1f}") for net in networks])
        for i, run in enumerate(plain.runs)
    ]
    return [
        TableRow("Top-1, %", "mean ± std" if several else "one seed", interval, top1, True),
        *(by_seed if several else []),
        TableRow(f"Against {plain.title}", "points", interval, gaps, True),
    ]


def _millions(number: int) -> Cell:
    return Cell(f"{number / 1e6:.2f}")


def _span(interval: tuple[float, float] | None) -> str:
    """An interval of a share, which cannot leave 0 to 100% though Student's t does not know that."""
    return "" if interval is None else f"{max(interval[0], 0):.1f} to {min(interval[1], 100):.1f}"


def _gap(net: NetworkResult, plain: NetworkResult) -> Cell:
    difference = compare(net.top1, plain.top1)
    if difference.interval is None:
        return Cell(signed(difference.points))
    low, high = difference.interval
    return Cell(signed(difference.points), f"{signed(low)} to {signed(high)}")


def _time(ratio: Ratio) -> Cell:
    return Cell(f"{ratio.median:.2f}", f"{ratio.lower:.2f} to {ratio.upper:.2f}")


def summary(result: DemoResult) -> str:
    """The table, the answer in one sentence, and where the report is, as text for a terminal.

    Args:
        result: A finished demonstration.

    Returns:
        Lines of at most 80 characters but for the last two.
    """
    lines = [("", [net.title for net in result.networks])]
    for row in figures(result.networks):
        lines.append((f"{row.label} ({row.note})" if row.note else row.label, [cell.value for cell in row.cells]))
        if row.detail:
            lines.append((f"  {row.detail}", [cell.detail for cell in row.cells]))
    first = max(len(label) for label, _ in lines)
    width = max(len(value) for _, values in lines for value in values)
    table = [label.ljust(first) + "".join("  " + value.rjust(width) for value in values) for label, values in lines]
    note = f"Times of {result.networks[0].title}: a second copy of it against the first, the noise of the measurement."
    return "\n".join([*table, note, "", headline(result.networks), f"Report: {result.report}"])
