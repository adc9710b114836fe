"""Charts: everything inside its frame, at the place that the figures say, readable without colour."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from made_up_networks import make_networks

from sgenet.demo.charts import cost_chart, curve_chart, seed_chart

SPREAD = ([87.9, 89.0, 87.6], [88.8, 89.4, 87.1], [89.1, 88.7, 88.4])
EXTREMES = ([0.0, 0.0], [100.0, 100.0], [50.0, 99.9])
SINGLE = ([12.5], [12.5], [12.5])


def draw(chart, networks, width):
    if chart is curve_chart:
        return ET.fromstring(chart(networks, lambda row: row.val_top1, "Top-1", width))
    return ET.fromstring(chart(networks, width))


def numbers(svg, *names):
    found = [shape.get(name) for shape in svg.iter() for name in names]
    return [float(value) for value in found if value is not None]


def points(svg):
    return [
        tuple(float(v) for v in pair.split(",")) for shape in svg.iter() for pair in (shape.get("points") or "").split()
    ]


@pytest.mark.parametrize("chart", [seed_chart, curve_chart, cost_chart])
@pytest.mark.parametrize("width", [340, 940])
@pytest.mark.parametrize("top1", [SPREAD, EXTREMES, SINGLE], ids=["spread", "extremes", "single"])
def test_nothing_lies_outside_the_frame(chart, width, top1):
    svg = draw(chart, make_networks(*top1), width)
    _, _, right, bottom = (float(v) for v in svg.get("viewBox").split())
    across = numbers(svg, "x", "x1", "x2", "cx") + [x for x, _ in points(svg)]
    down = numbers(svg, "y", "y1", "y2", "cy") + [y for _, y in points(svg)]
    assert right == width
    assert min(across) >= 0
    assert max(across) <= right
    assert min(down) >= 0
    assert max(down) <= bottom


def test_dots_stand_where_the_axis_says():
    svg = draw(seed_chart, make_networks(*SPREAD), 940)
    ticks = {t.text: float(t.get("x")) for t in svg.iter("text") if t.get("class") == "tick"}
    low, high = sorted(ticks, key=float)[0], sorted(ticks, key=float)[-1]
    dots = [(float(c.get("cx")), float(re.search(r"([\d.]+)%", c[0].text)[1])) for c in svg.iter("circle")]
    assert sorted(value for _, value in dots) == sorted(SPREAD[0])
    scale = (ticks[high] - ticks[low]) / (float(high) - float(low))
    for x, value in dots:
        assert x == pytest.approx(ticks[low] + (value - float(low)) * scale, abs=0.2)


def test_networks_differ_in_shape_and_not_only_in_colour():
    svg = draw(seed_chart, make_networks(*SPREAD), 940)
    shapes = {mark.tag for mark in svg.iter() if "mark" in (mark.get("class") or "").split()}
    assert shapes == {"circle", "rect", "polygon"}


def test_names_at_the_end_of_curves_do_not_cover_each_other():
    svg = draw(curve_chart, make_networks([88.0, 88.0], [88.0, 88.0], [88.0, 88.1]), 460)
    heights = sorted(float(t.get("y")) for t in svg.iter("text") if (t.get("class") or "").startswith("name"))
    assert len(heights) == 3
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 15


def test_every_run_is_a_thin_line_and_every_network_a_strong_one():
    svg = draw(curve_chart, make_networks(*SPREAD), 460)
    kinds = [line.get("class").split()[0] for line in svg.iter("polyline")]
    assert (kinds.count("thin"), kinds.count("strong")) == (9, 3)


def test_costs_are_spoken_as_multiples_of_the_first_network():
    label = draw(cost_chart, make_networks(*SPREAD), 940).get("aria-label")
    assert "elementwise operations: plain 1.00, SE 2.00, SGE 3.00" in label
    assert "time, forward: plain 1.00, SE 1.12, SGE 1.61" in label
