"""A study's figures as tables: for the report, for Markdown, for a spreadsheet, and for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgenet.bench.table import aligned
from sgenet.study.analysis import Analysis, Difference, Further, Row
from sgenet.study.definition import EPOCH_COLUMNS, Definition
from sgenet.study.kinds import Metric
from sgenet.study.wording import answer, detectable, failures, further, mean_and_spread, signed, span

__all__ = [
    "Cell",
    "Column",
    "cells_csv",
    "columns",
    "further_columns",
    "further_metrics",
    "markdown",
    "plan",
    "rows_csv",
    "summary",
]


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
class Column:
    """A column of the table.

    Attributes:
        title: Its heading.
        note: Its unit, or how it was found.
        detail: What the details of its cells are.
        cells: One a row.
        strong: Whether it is one of the columns to look at first.
    """

    title: str
    note: str
    detail: str
    cells: Sequence[Cell]
    strong: bool = False


def columns(analysis: Analysis, costs: Mapping[str, Mapping[str, Any]]) -> list[Column]:
    """The table, column by column; its rows are `analysis.rows`.

    Args:
        analysis: Of a study.
        costs: By the name of a combination, what its network costs.

    Returns:
        Columns from left to right: levels, the figure, differences, costs, and what the paper has.
    """
    rows, definition = analysis.rows, analysis.definition
    found = _level_columns(analysis)
    figures = [Cell(mean_and_spread(row), _plain_span(row.interval)) for row in rows]
    found += [
        Column(f"{definition.compared.name}, %", "mean ± std", "95% interval", figures, True),
        *([] if analysis.complete else [Column("seeds", "", "", [Cell(str(len(row.results))) for row in rows])]),
        Column(f"minus {definition.baseline}", "points", "95% interval", [_gap(row.difference) for row in rows], True),
        Column("verdict", "", "p, Holm", [_judged(row) for row in rows], True),
        Column("p alone", "paired t", "permutations", [_p(row.difference) for row in rows]),
        Column("all epochs", "points", "p, Holm", [_course(row.course) for row in rows]),
    ]
    if costs:
        found += [
            Column("parameters", "", "MACs, million", [_size(costs, row) for row in rows]),
            Column("memory", "MB an image", definition.kind.counted, [_memory(costs, row) for row in rows]),
        ]
    if definition.paper is not None and definition.paper.figures:
        found.append(Column("paper", definition.paper.metric, "", [Cell(row.paper or "–") for row in rows]))
    return found


def further_columns(analysis: Analysis) -> list[Column]:
    """The table of the other figures of the same trainings, column by column; its rows are `analysis.rows`.

    Args:
        analysis: Of a study.

    Returns:
        Columns from left to right: levels, and two for each figure; nothing where there are no others.
    """
    rows, metrics = analysis.rows, further_metrics(analysis)
    if not metrics:
        return []
    found = _level_columns(analysis)
    for metric in metrics:
        own = [next((f for f in row.further if f.metric == metric), None) for row in rows]
        values = [Cell("–") if f is None else Cell(mean_and_spread(f), _further_gap(f)) for f in own]
        found.append(Column(f"{metric.name}, %", "mean ± std", "difference (p, Holm)", values))
    return found


def further_metrics(analysis: Analysis) -> list[Metric]:
    """The other figures that some training has."""
    known = {figure.metric for row in analysis.rows for figure in row.further}
    return [metric for metric in analysis.definition.kind.metrics if metric in known]


def _level_columns(analysis: Analysis) -> list[Column]:
    definition = analysis.definition
    factors = [*definition.circumstances, definition.factor]
    return [Column(f.name, "", "", [Cell(row.combination.levels[f.name]) for row in analysis.rows]) for f in factors]


def _further_gap(figure: Further) -> str:
    if figure.difference is None:
        return ""
    p = figure.difference.adjusted_p
    return signed(figure.difference.paired.difference) + ("" if p is None else f" ({_number(p)})")


def markdown(table: Sequence[Column]) -> str:
    """A table as Markdown.

    Args:
        table: From `columns` or `further_columns`.

    Returns:
        Its lines.
    """
    heads = [", ".join(filter(None, (c.title, c.note))) + (f" ({c.detail})" if c.detail else "") for c in table]
    lines = [heads, ["---"] * len(heads)]
    for i in range(len(table[0].cells)):
        cells = [c.cells[i] for c in table]
        lines.append([f"{cell.value} ({cell.detail})" if cell.detail else cell.value for cell in cells])
    return "\n".join("| " + " | ".join(_in_a_cell(text) for text in line) + " |" for line in lines)


def rows_csv(analysis: Analysis, costs: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows with all their digits, as CSV."""
    lines = []
    for row in analysis.rows:
        cost = costs.get(row.combination.name, {})
        lines.append(
            {
                **row.combination.levels,
                "seeds": len(row.results),
                f"{row.metric.key}_mean": row.mean,
                f"{row.metric.key}_std": row.spread,
                **_figures("difference", row.difference),
                **_figures("course", row.course),
                "verdict": "" if row.difference is None else row.difference.verdict,
                **_further_figures(analysis, row),
                **{name: cost.get(name) for name in ("parameters", "macs", "elementwise", "bytes_moved")},
                "paper": row.paper,
            }
        )
    return _csv(lines)


def cells_csv(analysis: Analysis) -> str:
    """Every training as a line of CSV: levels, seed, figures of its last epoch, and the command that repeats it."""
    lines = []
    for row in analysis.rows:
        for seed, result in sorted(row.results.items()):
            last = result.history[-1]
            lines.append(
                {
                    **row.combination.levels,
                    "seed": seed,
                    **{name: value for name, value in last.items() if name not in EPOCH_COLUMNS},
                    "seconds": round(sum(epoch["seconds"] for epoch in result.history), 1),
                    "command": result.command,
                }
            )
    return _csv(lines)


def summary(analysis: Analysis) -> str:
    """The table and the answer, as text for a terminal."""
    rows, definition = analysis.rows, analysis.definition
    factors = [*definition.circumstances, definition.factor]
    heads = [
        *(f.name for f in factors),
        f"{definition.compared.name}, %",
        "seeds",
        f"minus {definition.baseline}",
        "95% interval",
        "p (Holm)",
    ]
    lines = [[*heads, "verdict"]]
    for row in rows:
        gap, judged = _gap(row.difference), _judged(row)
        levels = [row.combination.levels[f.name] for f in factors]
        figures = [mean_and_spread(row), str(len(row.results)), gap.value, gap.detail or "–", judged.detail or "–"]
        lines.append([*levels, *figures, judged.value])
    said = [answer(analysis), *filter(None, [further(analysis)]), *failures(analysis)]
    return "\n".join([aligned(lines[0], lines[1:], len(factors)), "", *said])


def plan(definition: Definition) -> str:
    """What a study asks, before it runs: its grid, what the paper has, and what it can find.

    Args:
        definition: The study.

    Returns:
        Text for a terminal.
    """
    lines = [definition.title, definition.question, ""]
    for factor in definition.factors:
        lines.append(f"{factor.name}:")
        for level in factor.levels:
            baseline = "  (baseline)" if (factor.name, level.name) == (definition.compare, definition.baseline) else ""
            settings = ", ".join(f"{name}: {value}" for name, value in level.settings.items())
            lines.append(f"  {level.name:<14}{settings}{baseline}")
    shared = ", ".join(f"{name}: {value}" for name, value in definition.settings.items())
    lines += [f"recipe: {definition.recipe or 'default'}", f"settings: {shared}", f"seeds: {definition.seeds}"]
    if definition.pretraining is not None:
        before = ", ".join(f"{name}: {value}" for name, value in definition.pretraining.settings.items())
        recipe = f"each starts from a classifier trained first, recipe: {definition.pretraining.recipe or 'default'}"
        lines.append(", ".join(filter(None, (recipe, before))))
    lines.append("")
    if definition.paper is not None:
        paper = definition.paper
        lines.append(". ".join(part for part in (f"paper: {paper.source}", paper.setting, paper.differs) if part))
        lines += [f"  {name:<24}{figure}" for name, figure in paper.figures.items()]
        lines.append("")
    lines.append(definition.needs or detectable(definition, definition.spread, definition.spread_source))
    return "\n".join(lines)


def _plain_span(interval: tuple[float, float] | None) -> str:
    """An interval of a share, which cannot leave 0 to 100% though Student's t does not know that."""
    return "–" if interval is None else f"{max(interval[0], 0):.2f} to {min(interval[1], 100):.2f}"


def _gap(difference: Difference | None) -> Cell:
    if difference is None:
        return Cell("–")
    interval = difference.paired.interval
    return Cell(signed(difference.paired.difference), "" if interval is None else span(interval))


def _p(difference: Difference | None) -> Cell:
    if difference is None or difference.paired.p is None:
        return Cell("–")
    exact = difference.paired.exact_p
    return Cell(_number(difference.paired.p), "" if exact is None else _number(exact))


def _judged(row: Row) -> Cell:
    p = None if row.difference is None else row.difference.adjusted_p
    return Cell(_verdict(row), "" if p is None else _number(p))


def _course(difference: Difference | None) -> Cell:
    if difference is None:
        return Cell("–")
    p = difference.adjusted_p
    return Cell(signed(difference.paired.difference), "" if p is None else _number(p))


def _further_figures(analysis: Analysis, row: Row) -> dict[str, Any]:
    """Of every figure that some row has, so that all lines have the same columns."""
    found: dict[str, Any] = {}
    for metric in further_metrics(analysis):
        own = next((further for further in row.further if further.metric == metric), None)
        found |= {
            f"{metric.key}_mean": None if own is None else own.mean,
            f"{metric.key}_std": None if own is None else own.spread,
            **_figures(f"{metric.key}_difference", None if own is None else own.difference),
        }
    return found


def _number(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _verdict(row: Row) -> str:
    if row.baseline:
        return "baseline"
    return "–" if row.difference is None else row.difference.verdict


def _size(costs: Mapping[str, Mapping[str, Any]], row: Row) -> Cell:
    cost = costs.get(row.combination.name)
    return Cell("–") if cost is None else Cell(f"{cost['parameters']:,}", f"{cost['macs'] / 1e6:,.2f}")


def _memory(costs: Mapping[str, Mapping[str, Any]], row: Row) -> Cell:
    cost = costs.get(row.combination.name)
    return Cell("–" if cost is None else f"{cost['bytes_moved'] / 1e6:,.2f}")


def _in_a_cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _figures(name: str, difference: Difference | None) -> dict[str, Any]:
    pair = None if difference is None else difference.paired
    low, high = (None, None) if pair is None or pair.interval is None else pair.interval
    return {
        f"{name}": None if pair is None else pair.difference,
        f"{name}_std": None if pair is None else pair.spread,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_p": None if pair is None else pair.p,
        f"{name}_p_exact": None if pair is None else pair.exact_p,
        f"{name}_p_holm": None if difference is None else difference.adjusted_p,
    }


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    if not lines:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
