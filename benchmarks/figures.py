"""Print the README's table of speed, and draw its picture, from the rows that `bench_speed.py` has written.

    python benchmarks/figures.py                           the newest results/speed-*.csv
    python benchmarks/figures.py FILE --picture FILE.webp

Of each setting the last measurement counts, among those of the same machine and versions as the file's last row.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from PIL import Image

from speed import Must, Row, Setting, measured, newest, read_rows, settings_for

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "speed.webp"
SAME = ("device", "threads", "torch", "sgenet")  # what the measurements of one table have in common

# On a card of its own, light on every page, as the README is read on white and on black.
PAPER, INK, FAINT, RULE = "#fbfbfa", "#1f2328", "#6e7781", "#d8dee4"
UNFUSED, FUSED = "#b06a2c", "#1a6fb5"
MODULES = {"sge": "SGE", "se": "SE"}


@dataclass(frozen=True)
class Line:
    """A setting of a network in the picture."""

    setting: Setting
    rows: dict[str, Row]  # by form


def main() -> int:
    """Print the table, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", metavar="FILE", help="a CSV file of bench_speed.py")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    file = options.results or max(RESULTS.glob("speed-*.csv"), key=lambda f: f.stat().st_mtime, default=None)
    rows = read_rows(file) if file is not None else []
    if not rows:
        print("figures: there are no rows; run benchmarks/bench_speed.py first", file=sys.stderr)
        return 2
    about = {name: rows[-1][name] for name in SAME}
    settings = [*settings_for("cpu"), *settings_for("cuda")]
    found = [(setting, own) for setting in settings if (own := newest(setting, rows, about))]
    print(markdown(found))
    about_them = caption([row for _, own in found for row in own])
    print(f"\n{about_them}")
    lines = [Line(s, {row["form"]: row for row in own}) for s, own in found if s.options.module is None]
    draw(lines, about_them, options.picture)
    print(f"\n{options.picture} written", file=sys.stderr)
    return 0


def caption(rows: Sequence[Row]) -> str:
    """Where and when it was measured."""
    days = sorted({row["date"] for row in rows})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{rows[-1]['device']}, {rows[-1]['threads']} threads, torch {rows[-1]['torch']}, {when}"


def markdown(found: Sequence[tuple[Setting, Sequence[Row]]]) -> str:
    """A line for each promise: measured in plain torch, measured here, the noise, and the most that it may be."""
    lines = ["| ResNet-50 with SGE | plain torch | here | quartiles | noise | promised |", "|---|---|---|---|---|---|"]
    for setting, rows in found:
        for must in setting.musts:
            if must.form.endswith("unfused"):
                continue
            here, unfused = measured(rows, must), measured(rows, Must(f"{must.form} unfused", 0, must.figure))
            form = "" if must.form == "sge" else f", {must.form}"
            unit = must.unit or (f" to `{baseline_of(rows, must)}`" if form else "")
            lines.append(
                f"| {setting.name}{form}{unit} | {unfused.value:.2f} | **{here.value:.2f}** | {here.spread} "
                f"| {here.noise} | {must.limit:.2f}{'' if here.value <= must.limit else ', missed'} |"
            )
    return "\n".join(lines)


def baseline_of(rows: Sequence[Row], must: Must) -> str:
    """What the form of a promise is compared with."""
    return next(row["baseline"] for row in rows if row["form"] == must.form)


def draw(lines: Sequence[Line], about: str, file: Path) -> None:
    """The ratios of networks to the plain one, a panel for each module."""
    mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10, "text.color": INK})
    modules = [name for name in MODULES if any(name in line.rows for line in lines)]
    height = 1.9 + 0.36 * len(lines)
    canvas = Canvas(figsize=(10, height), dpi=150, facecolor=PAPER)
    panels = canvas.subplots(1, len(modules), sharex=True, sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, modules, strict=True):
        draw_panel(panel, lines, name)
    panels[0].set_yticks(range(len(lines)), [label(line.setting) for line in lines])
    panels[0].invert_yaxis()
    low, high = panels[0].get_xlim()
    span = high - low
    ends = (low - 0.2 * span, high + 0.06 * span)  # room for what stands beside the first and the last mark
    panels[0].set_xticks([tick for tick in panels[0].get_xticks() if 1.0 <= tick < ends[1] - 0.05])
    panels[0].set_xlim(ends)
    canvas.text(0.02, 1 - 0.3 / height, "ResNet-50 with attention against ResNet-50", weight="bold", fontsize=13)
    canvas.text(0.02, 0.12 / height, about, fontsize=8, color=FAINT)
    place = (0.99, 1 - 0.12 / height)
    canvas.legend(handles=legend(), loc="upper right", bbox_to_anchor=place, ncols=3, frameon=False, fontsize=9)
    canvas.subplots_adjust(left=0.29, right=0.98, top=1 - 0.85 / height, bottom=0.85 / height, wspace=0.08)
    pixels = io.BytesIO()
    canvas.savefig(pixels, format="png", facecolor=PAPER)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.open(pixels).convert("RGB").save(file, quality=90, method=6)


def draw_panel(panel: Axes, lines: Sequence[Line], module: str) -> None:
    """One module: plain torch and the fastest form, joined, over the noise."""
    panel.set_facecolor(PAPER)
    panel.axvline(1.0, color=INK, linewidth=0.8, zorder=1)
    for y, line in enumerate(lines):
        panel.axhline(y, color=RULE, linewidth=0.6, zorder=0)
        if module not in line.rows:
            continue
        noise = line.rows["plain again"]
        low, high = float(noise["lower quartile"]), float(noise["upper quartile"])
        panel.barh(y, high - low, left=low, height=0.6, color=RULE, zorder=1)
        here, unfused = float(line.rows[module]["ratio"]), float(line.rows[f"{module} unfused"]["ratio"])
        panel.plot([here, unfused], [y, y], color=UNFUSED, linewidth=1.2, alpha=0.45, zorder=2)
        panel.plot(unfused, y, "o", markersize=6, markerfacecolor=PAPER, markeredgecolor=UNFUSED, zorder=3)
        panel.plot(here, y, "o", markersize=7, color=FUSED, zorder=4)
        mark(panel, y, here, min(here, unfused, low), side=-1, color=FUSED)
        mark(panel, y, unfused, max(here, unfused, high), side=1, color=UNFUSED)
    panel.set_title(MODULES[module], loc="left", fontsize=10.5, weight="bold", pad=6)
    panel.set_xlabel("time, × plain", fontsize=9, color=FAINT)
    panel.margins(x=0.17, y=0.04)
    panel.tick_params(length=0, colors=INK, labelsize=9)
    panel.spines[:].set_visible(False)


def mark(panel: Axes, y: float, ratio: float, x: float, *, side: int, color: str) -> None:
    """A ratio as a difference in percent, beside `x`."""
    percent = round(100 * (ratio - 1))
    text = f"{percent:+d}%".replace("-", "−") if percent else "0%"
    panel.annotate(
        text, (x, y), xytext=(8 * side, 0), textcoords="offset points", va="center", fontsize=8.5,
        ha="left" if side > 0 else "right", color=color, weight="bold" if side < 0 else "normal",
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip


def label(setting: Setting) -> str:
    """A setting's name, shortened."""
    words = {"optimized, compiled, frozen": "optimized", "bfloat16": "bf16", "float32": "fp32"}
    name = setting.name
    for long, short in words.items():
        name = name.replace(long, short)
    return name


def legend() -> list[Line2D]:
    """What the marks mean."""
    ring = Line2D([], [], marker="o", linestyle="", label="in plain torch")
    ring.set(markerfacecolor=PAPER, markeredgecolor=UNFUSED)
    return [
        Line2D([], [], marker="o", linestyle="", markersize=7, color=FUSED, label="this package"),
        ring,
        Line2D([], [], marker="s", linestyle="", markersize=8, color=RULE, label="noise: plain against plain"),
    ]


if __name__ == "__main__":
    sys.exit(main())
