"""The report of a study: one HTML file that needs nothing else, not even a network connection; and its tables."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sgenet.errors import RunError
from sgenet.study import charts
from sgenet.study.analysis import Analysis
from sgenet.study.definition import Cell
from sgenet.study.kinds.kind import text_of
from sgenet.study.sections import Sections
from sgenet.study.statistics import smallest_difference
from sgenet.study.table import cells_csv, columns, further_columns, further_metrics, markdown, rows_csv
from sgenet.study.wording import (
    PROMISE,
    WIRING,
    answer,
    courses,
    detectable,
    failures,
    further,
    outlook,
    sentences,
)
from sgenet.writing import write_whole

__all__ = ["render", "write_reports"]

_WIDE, _NARROW, _PANEL = 940, 340, 460  # pixels that the page's layout gives the charts
_MOST_SENTENCES = 8

Costs = Mapping[str, Mapping[str, Any]]


def write_reports(analysis: Analysis, costs: Costs, output: Path, sections: Sections | None = None) -> Path:
    """Write `report.html`, `report.md`, `comparisons.csv` and `cells.csv`, each whole or not at all.

    Args:
        analysis: What the study has found so far.
        costs: By the name of a combination, what its network costs.
        output: The folder.
        sections: What the report has besides figures.

    Returns:
        The HTML file.

    Raises:
        RunError: If the folder cannot be written.
    """
    contents = {
        "report.md": _markdown(analysis, costs),
        "comparisons.csv": rows_csv(analysis, costs),
        "cells.csv": cells_csv(analysis),
        "report.html": render(analysis, costs, sections),
    }
    try:
        for name, text in contents.items():
            write_whole(output / name, text)
    except OSError as error:
        raise RunError(f"the report in '{output}' cannot be written: {error.strerror or error}") from error
    return output / "report.html"


def render(analysis: Analysis, costs: Costs, sections: Sections | None = None) -> str:
    """The report as HTML.

    Args:
        analysis: What the study has found so far.
        costs: By the name of a combination, what its network costs.
        sections: What it has besides figures.

    Returns:
        A whole document; every text in it is escaped.
    """
    from jinja2 import Environment, StrictUndefined

    template = resources.files("sgenet.study").joinpath("template.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters["marker"] = _marker
    page.filters["net"] = charts.net
    return page.from_string(template).render(**_variables(analysis, costs, sections or Sections()))


def _variables(analysis: Analysis, costs: Costs, sections: Sections) -> dict[str, Any]:
    definition, now = analysis.definition, datetime.now().astimezone()
    said = sentences(analysis)
    tested = any(row.difference is not None for row in analysis.rows)
    return {
        "analysis": analysis,
        "study": definition,
        "date": f"{now.day} {now:%B %Y}",
        "answer": answer(analysis),
        "promise": PROMISE,
        "wiring": WIRING if definition.wiring else "",
        "sentences": said if len(said) <= _MOST_SENTENCES else [],
        "failures": failures(analysis),
        "outlook": outlook(analysis),
        "detectable": detectable(definition, definition.spread, definition.spread_source),
        "seen": _seen(analysis),
        "columns": columns(analysis, costs),
        "further": further(analysis),
        "further_columns": further_columns(analysis),
        "metric": definition.compared,
        "other_metrics": further_metrics(analysis),
        "levels": len(definition.factors),
        "rows": analysis.rows,
        "tones": charts.tones(analysis),
        "seed_charts": _both(charts.seed_chart, analysis) if analysis.finished else None,
        "difference_charts": _both(charts.difference_chart, analysis) if tested else None,
        "trend_charts": _both(charts.trend_chart, analysis) if definition.trend and tested else None,
        "courses": courses(analysis)[:_MOST_SENTENCES] if len(said) <= _MOST_SENTENCES else [],
        "curves": [_curves(analysis, block) for block in analysis.blocks if any(row.results for row in block.rows)],
        "cost_charts": _cost_charts(analysis, costs),
        "settings": _settings(analysis),
        "varied": {f.name: {level.name: text_of(level.settings) for level in f.levels} for f in definition.factors},
        "machines": _machines(analysis),
        "commands": [(s, r.command) for row in analysis.rows for s, r in sorted(row.results.items())],
        "sections": sections,
    }


def _both(chart: Any, analysis: Analysis) -> dict[str, Markup]:  # noqa: ANN401  # a chart function
    return {"wide": chart(analysis, _WIDE), "narrow": chart(analysis, _NARROW)}


def _curves(analysis: Analysis, block: Any) -> dict[str, Any]:  # noqa: ANN401  # a Block
    metric = analysis.definition.compared
    label = f"{metric.title} on the validation images, percent"
    return {
        "name": block.name,
        "figure": charts.curve_chart(analysis, block, metric.key, label, _PANEL),
        "loss": charts.curve_chart(analysis, block, "train_loss", "Training loss", _PANEL),
    }


def _cost_charts(analysis: Analysis, costs: Costs) -> list[tuple[str, Markup]]:
    each = [[costs.get(row.combination.name) for row in block.rows] for block in analysis.blocks]
    if not costs or not analysis.finished or (len(each) > 1 and all(block == each[0] for block in each)):
        return []  # where circumstances cost nothing, their points would lie on each other
    where = f" in {counted}" if (counted := analysis.definition.kind.counted) else ""
    kinds = (
        ("macs", f"million multiply-adds an image{where}"),
        ("bytes_moved", f"memory traffic{where}, MB an image"),
        ("parameters", "parameters, million"),
    )
    return [(label, charts.cost_chart(analysis, costs, kind, label, _PANEL)) for kind, label in kinds]


def _seen(analysis: Analysis) -> str:
    spread = analysis.seen_spread
    if analysis.definition.wiring or not spread:
        return ""
    smallest = smallest_difference(spread, analysis.definition.seeds, analysis.definition.comparisons)
    return "" if smallest is None else f"With the spread seen here, {spread:.2g} points: {smallest:.1f} points."


def _settings(analysis: Analysis) -> dict[str, str]:
    """What all trainings have in common."""
    definition = analysis.definition
    configs = [definition.config(Cell(combination, 0)) for combination in definition.combinations]
    shown = {"recipe": definition.recipe or "default", **definition.kind.described(configs)}
    if definition.pretraining is not None:
        start = definition.pretraining
        shown["start"] = f"a classifier, trained by the recipe {start.recipe}{text_of(start.settings, ' with ')}"
    return shown | {"seeds": ", ".join(str(seed) for seed in range(definition.seeds))}


def _machines(analysis: Analysis) -> list[dict[str, str]]:
    """Each machine that trained, once, with the versions it had."""
    found: dict[str, dict[str, str]] = {}
    for row in analysis.rows:
        for result in row.results.values():
            machine, versions = result.environment["machine"], result.environment["versions"]
            named = {name: version for name, version in versions.items() if version}
            if machine["gpus"]:
                named["GPU"] = ", ".join(machine["gpus"])
            named["processor"] = f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads used"
            named["system"] = str(machine["platform"])
            found.setdefault(repr(named), named)
    return list(found.values())


def _markdown(analysis: Analysis, costs: Costs) -> str:
    definition = analysis.definition
    parts = [f"# {definition.title}", definition.question, f"**{answer(analysis)}**"]
    parts += [detectable(definition, definition.spread, definition.spread_source), markdown(columns(analysis, costs))]
    parts.append(f"p is corrected (Holm) for all differences of this table together: {PROMISE}")
    if definition.paper is not None:
        paper = definition.paper
        parts.append(f"Paper: {'. '.join(p for p in (paper.source, paper.setting, paper.differs) if p)}")
    if table := further_columns(analysis):
        parts += [f"Other figures of the same trainings. {further(analysis)}", markdown(table)]
    settings = "; ".join(f"{name}: {text}" for name, text in _settings(analysis).items())
    return "\n\n".join([*parts, *failures(analysis), f"Settings: {settings}"]) + "\n"


def _marker(index: int) -> Markup:
    shape = charts.marker(index, 8, 8, 5)
    return Markup('<svg class="key" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">{}</svg>').format(
        shape
    )
