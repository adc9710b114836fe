"""The report: one HTML file that needs nothing else, not even a network connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sgenet.classification.run_folder import write_whole
from sgenet.demo import charts
from sgenet.demo.answer import headline, number_word, outlook, verdict
from sgenet.demo.pictures import Gallery, Sample
from sgenet.demo.result import NetworkResult
from sgenet.demo.table import figures

__all__ = ["ReportContents", "render", "write_report"]

_WIDE, _NARROW, _PANEL = 940, 340, 460  # pixels that the page's layout gives the charts


@dataclass(frozen=True)
class ReportContents:
    """Everything the report shows.

    Attributes:
        networks: The networks; the first is the plain one.
        samples: Images of every class.
        about_data: What the images show and what their classes are, in words.
        gallery: Masks over validation images; None where no network has any.
        question: What was asked, one or two sentences.
        settings: What was run, by name, in words.
        versions: Versions and machine, by name.
        timing: How the ratios of times were measured, in words.
        date: The day, in words.
        repeat: The command line that repeats the whole demonstration.
    """

    networks: tuple[NetworkResult, ...]
    samples: tuple[Sample, ...]
    about_data: str
    gallery: Gallery | None
    question: str
    settings: Mapping[str, str]
    versions: Mapping[str, str]
    timing: str
    date: str
    repeat: str


def write_report(contents: ReportContents, path: Path) -> Path:
    """Render the report and put it in place at once, so that nobody ever opens half of it.

    Args:
        contents: What it shows.
        path: The file; its folder exists.

    Returns:
        `path`.
    """
    write_whole(path, render(contents))
    return path


def render(contents: ReportContents) -> str:
    """The report as HTML.

    Args:
        contents: What it shows.

    Returns:
        A whole document; every text in it is escaped.
    """
    from jinja2 import Environment, StrictUndefined

    template = resources.files("sgenet.demo").joinpath("template.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters["marker"] = _marker
    page.filters["breakable"] = _breakable
    return page.from_string(template).render(**_variables(contents))


def _variables(contents: ReportContents) -> dict[str, Any]:
    nets = contents.networks
    return {
        "contents": contents,
        "networks": nets,
        "plain": nets[0],
        "others": nets[1:],
        "seeds": len(nets[0].runs),
        "seeds_word": number_word(len(nets[0].runs)),
        "headline": headline(nets),
        "verdicts": [verdict(net, nets[0]) for net in reversed(nets[1:])],
        "outlook": outlook(nets[-1], nets[0]),
        "rows": figures(nets),
        "seed_charts": _both(charts.seed_chart, nets),
        "cost_charts": _both(charts.cost_chart, nets),
        "accuracy_curve": charts.curve_chart(
            nets, lambda row: row.val_top1, "Top-1 on the validation images, percent", _PANEL
        ),
        "loss_curve": charts.curve_chart(nets, lambda row: row.train_loss, "Training loss", _PANEL),
    }


def _both(chart: Any, networks: Sequence[NetworkResult]) -> dict[str, Markup]:  # noqa: ANN401  # a chart function
    return {"wide": chart(networks, _WIDE), "narrow": chart(networks, _NARROW)}


def _marker(index: int) -> Markup:
    shape = charts.marker(index, 8, 8, 5)
    return Markup('<svg class="key" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">{}</svg>').format(
        shape
    )


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line after each underscore."""
    return Markup("_<wbr>").join(name.split("_"))
