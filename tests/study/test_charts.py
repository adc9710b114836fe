"""Charts: everything inside its frame, at the place that the figures say, readable without colour."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from made_up_studies import ALONG_NOISE, TOP1, along_noise, analysed, costs, of_two_lengths

from sgenet.study.charts import (
    COLOURS,
    cost_chart,
    curve_chart,
    difference_chart,
    marker,
    net,
    seed_chart,
    tones,
    trend_chart,
)

EXTREMES = {"none": [0.0, 0.0], "se": [100.0, 100.0], "sge": [50.0, 99.9]}
SINGLE = {"none": [12.5], "se": [12.5], "sge": [12.5]}
MANY = {"none": [80.0, 81.0], **{str(2**i): [80.0 + i / 7, 81.0 + i / 5] for i in range(11)}}


def draw(chart, analysis, width):
    if chart is curve_chart:
        return ET.fromstring(chart(analysis, analysis.blocks[0], "val_top1", "Top-1", width))
    if chart is cost_chart:
        return ET.fromstring(chart(analysis, costs(analysis.definition), "bytes_moved", "memory, MB", width))
    return ET.fromstring(chart(analysis, width))


def numbers(svg, *names):
    found = [shape.get(name) for shape in svg.iter() for name in names]
    return [float(value) for value in found if value is not None]


def points(svg):
    return [
        tuple(float(v) for v in pair.split(",")) for shape in svg.iter() for pair in (shape.get("points") or "").split()
    ]


def inside(svg, width):
    """Whether no place of anything drawn lies beyond the frame; the browser's test knows how wide letters are."""
    _, _, right, bottom = (float(v) for v in svg.get("viewBox").split())
    across = numbers(svg, "x", "x1", "x2", "cx") + [x for x, _ in points(svg)]
    down = numbers(svg, "y", "y1", "y2", "cy") + [y for _, y in points(svg)]
    return right == width and min(across) >= 0 and max(across) <= right and min(down) >= 0 and max(down) <= bottom


def axis(svg, upright=False):
    """What an axis says about pixels and values: the value at a pixel."""
    place, anchor = ("y", "end") if upright else ("x", "middle")
    ticks = [t for t in svg.iter("text") if t.get("class") == "tick" and t.get("text-anchor") == anchor]
    known = sorted((float(t.text.replace("−", "-")), float(t.get(place))) for t in ticks)
    if upright:  # letters stand a little lower than the line that they name
        lines = [
            float(s.get("y1")) for s in svg.iter("line") if s.get("class") == "grid" and s.get("y1") == s.get("y2")
        ]
        known = [(value, min(lines, key=lambda line, at=at: abs(line - at))) for value, at in known]
    (low, start), (high, end) = known[0], known[-1]
    return lambda pixel: low + (pixel - start) * (high - low) / (end - start)


def marks(svg, tone):
    """Centres and tips of the round or square markers of a tone."""
    found = []
    for shape in svg.iter():
        if f"net{tone}" in (shape.get("class") or "").split() and "mark" in shape.get("class").split():
            if shape.tag == "circle":
                x, y = float(shape.get("cx")), float(shape.get("cy"))
            elif shape.tag == "rect":
                half = float(shape.get("width")) / 2
                x, y = float(shape.get("x")) + half, float(shape.get("y")) + half
            else:
                continue
            found.append((x, y, shape[0].text if len(shape) else ""))
    return found


@pytest.mark.parametrize("chart", [seed_chart, difference_chart, curve_chart, cost_chart])
@pytest.mark.parametrize("width", [340, 460, 940])
@pytest.mark.parametrize("top1", [TOP1, EXTREMES, SINGLE, MANY], ids=["spread", "extremes", "single", "many"])
def test_nothing_lies_outside_the_frame(chart, width, top1):
    assert inside(draw(chart, analysed(top1, levels=tuple(top1)), width), width)


@pytest.mark.parametrize("chart", [seed_chart, difference_chart, trend_chart])
@pytest.mark.parametrize("width", [340, 644, 940])
def test_nothing_of_a_study_along_a_factor_lies_outside_either(chart, width):
    assert inside(draw(chart, along_noise(), width), width)


def test_every_seed_stands_where_the_axis_says():
    svg = draw(seed_chart, analysed(TOP1), 940)
    at = axis(svg)
    for tone, name in enumerate(("none", "se")):
        shown = marks(svg, tone)
        assert sorted(tip for _, _, tip in shown) == sorted(f"seed {s}: {v:.2f}%" for s, v in enumerate(TOP1[name]))
        for x, _, tip in shown:
            assert at(x) == pytest.approx(float(re.search(r"([\d.]+)%", tip)[1]), abs=0.01)


def test_every_seeds_difference_stands_where_the_axis_says():
    svg = draw(difference_chart, analysed(TOP1), 940)
    at = axis(svg)
    gaps = [a - b for a, b in zip(TOP1["se"], TOP1["none"], strict=True)]
    assert sorted(at(x) for x, _, _ in marks(svg, 1)) == pytest.approx(sorted(gaps), abs=0.01)
    assert marks(svg, 0) == []  # the baseline's to itself
    (zero,) = (float(line.get("x1")) for line in svg.iter("line") if line.get("class") == "unit")
    assert at(zero) == pytest.approx(0, abs=0.01)


def test_a_bar_reaches_over_the_means_interval():
    analysis = analysed(TOP1)
    svg = draw(difference_chart, analysis, 940)
    at = axis(svg)
    (bar,) = (line for line in svg.iter("line") if line.get("class") == "interval net1")
    low, high = analysis.rows[1].difference.paired.interval
    assert (at(float(bar.get("x1"))), at(float(bar.get("x2")))) == pytest.approx((low, high), abs=0.01)


def test_differences_along_a_factor_stand_over_their_level():
    svg = draw(trend_chart, along_noise(), 644)
    across, up = axis(svg), axis(svg, upright=True)
    shown = sorted(marks(svg, 1))
    for noise, (x, y, tip) in zip(("0", "1", "2"), shown, strict=True):
        own, base = ALONG_NOISE[f"se / {noise}"], ALONG_NOISE[f"none / {noise}"]
        gap = sum(own) / 4 - sum(base) / 4
        assert across(x) == pytest.approx(float(noise), abs=0.05)  # moved a little, for those beside it
        assert up(y) == pytest.approx(gap, abs=0.02)
        assert tip.startswith(f"se, noise {noise}: ")


def test_levels_differ_in_shape_and_not_only_in_colour():
    svg = draw(seed_chart, analysed(TOP1), 940)
    shapes = {mark.tag for mark in svg.iter() if "mark" in (mark.get("class") or "").split()}
    assert shapes == {"circle", "rect", "polygon"}


def test_colours_are_each_levels_own_as_long_as_they_suffice():
    few = tones(analysed(TOP1, baseline="sge"))
    assert few == {"sge": 0, "none": 1, "se": 2}
    many = tones(analysed(MANY, levels=tuple(MANY)))
    assert len(many) == 12
    assert [name for name, tone in many.items() if tone == 0] == ["none"]
    assert len({net(tone) for tone in list(many.values())[:COLOURS]}) == COLOURS
    looks = {(net(tone), marker(tone, 0, 0).split(" ")[0]) for tone in many.values()}
    assert len(looks) == 12, "where colours begin again, shapes differ"


def test_names_at_the_end_of_curves_do_not_cover_each_other():
    svg = draw(curve_chart, analysed({"none": [88.0, 88.0], "se": [88.0, 88.0], "sge": [88.0, 88.1]}), 460)
    heights = sorted(float(t.get("y")) for t in svg.iter("text") if (t.get("class") or "").startswith("name"))
    assert len(heights) == 3
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 15


def test_every_level_is_a_line_with_a_band_of_its_spread():
    svg = draw(curve_chart, analysed(TOP1), 460)
    assert [line.get("class") for line in svg.iter("polyline")] == ["strong net0", "strong net1", "strong net2"]
    assert sum((band.get("class") or "").startswith("band") for band in svg.iter("polygon")) == 3
    alone = draw(curve_chart, analysed(SINGLE), 460)
    assert not any((band.get("class") or "").startswith("band") for band in alone.iter("polygon"))


def test_curves_end_at_the_means_of_the_last_epoch():
    svg = draw(curve_chart, analysed(TOP1), 460)
    up = axis(svg, upright=True)
    for tone, name in enumerate(("none", "se")):
        ((_, y, _),) = marks(svg, tone)
        assert up(y) == pytest.approx(sum(TOP1[name]) / 3, abs=0.2)


def test_every_curve_is_drawn_to_its_own_end():
    svg = draw(curve_chart, of_two_lengths(), 460)
    assert [len(line.get("points").split()) for line in svg.iter("polyline")] == [4, 4, 8]
    assert inside(svg, 460)


def test_points_stand_at_their_cost_and_mean():
    analysis = analysed(TOP1)
    svg = draw(cost_chart, analysis, 460)
    across, up = axis(svg), axis(svg, upright=True)
    for tone, name in enumerate(("none", "se")):
        ((x, y, _),) = marks(svg, tone)
        assert across(x) == pytest.approx(costs(analysis.definition)[name]["bytes_moved"] / 1e6, abs=0.05)
        assert up(y) == pytest.approx(sum(TOP1[name]) / 3, abs=0.02)


def test_the_front_joins_what_nothing_beats_at_its_cost():
    # se costs more than none and is worse
    svg = draw(cost_chart, analysed({"none": [80.0, 81.0], "se": [79.0, 80.5], "sge": [82.0, 83.0]}), 460)
    (front,) = (line for line in svg.iter("polyline") if line.get("class") == "front")
    assert len(front.get("points").split()) == 2


def test_charts_say_their_figures_in_words():
    analysis = analysed(TOP1)
    assert "sge: 89.1, 88.7, 88.4" in draw(seed_chart, analysis, 940).get("aria-label")
    assert "se +0.27; sge +0.57" in draw(difference_chart, analysis, 940).get("aria-label")
    assert "none 88.2 at 2.54; se 88.4 at 5.08" in draw(cost_chart, analysis, 460).get("aria-label")
    assert re.search(r"sge: \+0\.1[23] at 0, ", draw(trend_chart, along_noise(), 460).get("aria-label"))


@pytest.mark.parametrize("chart", [curve_chart, cost_chart, trend_chart])
def test_without_results_there_is_no_chart(chart):
    analysis = along_noise({name: [] for name in ALONG_NOISE})
    if chart is curve_chart:
        assert chart(analysis, analysis.blocks[0], "val_top1", "Top-1", 460) == ""
    elif chart is cost_chart:
        assert chart(analysis, costs(analysis.definition), "macs", "MACs", 460) == ""
    else:
        assert chart(analysis, 460) == ""
