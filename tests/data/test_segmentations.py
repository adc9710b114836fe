"""Masks as COCO's own tools make them."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from sgenet.data.segmentations import Polygons, Runs, Segmentations, parse_segmentation, rectangle

sides = st.integers(1, 40)
corners = st.one_of(st.floats(-20, 60, allow_nan=False), st.integers(-5, 45).map(float))
polygons = st.lists(
    st.integers(3, 8).flatmap(lambda n: st.lists(corners, min_size=2 * n, max_size=2 * n)), min_size=1, max_size=3
)
masks = st.tuples(sides, sides).flatmap(lambda shape: arrays.arrays(bool, shape))


def coco_mask(segmentation, height, width):
    """As pycocotools reads a segmentation of an annotation."""
    if isinstance(segmentation, list):
        rle = coco.merge(coco.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco.decode(rle).astype(bool)


@given(polygons, sides, sides)
def test_polygons_are_filled_as_pycocotools_fills_them(value, height, width):
    parsed = parse_segmentation(value, height, width)
    assert np.array_equal(parsed.mask(height, width), coco_mask(value, height, width))
    assert parsed.to_coco(height, width) == value


@given(masks)
def test_run_lengths_are_those_of_pycocotools(mask):
    height, width = mask.shape
    compressed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = {"size": compressed["size"], "counts": compressed["counts"].decode()}
    for parsed in (parse_segmentation(text, height, width), Runs.of_mask(mask)):
        assert np.array_equal(parsed.mask(height, width), mask)
        plain = parsed.to_coco(height, width)
        assert np.array_equal(coco_mask(plain, height, width), mask)
        assert np.array_equal(parse_segmentation(plain, height, width).mask(height, width), mask)
        assert parsed.box(height, width).tolist() == coco.toBbox(compressed).tolist()


def test_long_runs_are_read_from_compressed_text():
    mask = np.zeros((500, 700), dtype=bool)
    mask[3:480, 100:650] = True
    mask[200, 300] = False
    text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    parsed = parse_segmentation({"size": [500, 700], "counts": text}, 500, 700)
    assert np.array_equal(parsed.mask(500, 700), mask)


@given(st.text(max_size=12), sides, sides)
def test_damaged_text_is_refused_or_is_a_mask(text, height, width):
    try:
        parsed = parse_segmentation({"size": [height, width], "counts": text}, height, width)
    except ValueError:
        return
    assert parsed.mask(height, width).shape == (height, width)


def test_extent_of_polygons():
    two = Polygons([np.array([2.0, 3, 8, 3, 8, 9.5]), np.array([1.0, 5, 2, 5, 2, 6])])
    assert two.box(20, 20).tolist() == [1, 3, 7, 6.5]


@given(st.integers(1, 5), st.integers(1, 5), st.data())
@settings(max_examples=40)
def test_the_box_of_run_lengths_is_that_of_their_mask(height, width, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, height * width), max_size=6)))
    runs = Runs(np.diff([0, *cuts, height * width]).astype(np.float64))
    rows, columns = np.nonzero(runs.mask(height, width))
    extent = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] if len(rows) else [0] * 4
    assert runs.box(height, width).tolist() == extent


def test_the_box_of_run_lengths_takes_no_memory_of_the_image():
    side = 10**6
    runs = parse_segmentation({"size": [side, side], "counts": [side + 3, 4, side**2 - side - 7]}, side, side)
    assert runs.box(side, side).tolist() == [1, 3, 1, 4]


def test_an_empty_mask_has_an_empty_box():
    assert Runs(np.array([12.0])).box(3, 4).tolist() == [0, 0, 0, 0]


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_rectangle_of_whole_pixels_is_filled_exactly(left, top, width, height):
    assume(left + width <= 12)
    assume(top + height <= 12)
    expected = np.zeros((12, 12), dtype=bool)
    expected[top : top + height, left : left + width] = True
    assert np.array_equal(rectangle(left, top, width, height).mask(12, 12), expected)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("abc", "neither"),
        (5, "neither"),
        ([[1, 2, 3, 4]], "three corners"),
        ([[1, 2, 3, 4, 5]], "three corners"),
        ([[0, 0, 5, 5, float("nan"), 5]], "three corners"),
        ([[0, 0, 5, 5, 1e9, 5]], "three corners"),
        ([[0, 0, 5, 5, "x", 5]], "three corners"),
        ([1, 2, 3, 4, 5, 6], "three corners"),
        ({"size": [2, 3]}, "whole numbers"),
        ({"counts": [6]}, "size None"),
        ({"size": [3, 2], "counts": [6]}, "size"),
        ({"size": [2, 3], "counts": [1, 2, 2]}, "5 pixels"),
        ({"size": [2, 3], "counts": [1, -2, 7]}, "whole numbers"),
        ({"size": [2, 3], "counts": [1.5, 4.5]}, "whole numbers"),
        ({"size": [2, 3], "counts": "\x07"}, "characters"),
        ({"size": [2, 3], "counts": "o" * 99}, "characters"),
    ],
)
def test_what_is_no_segmentation_is_refused(value, said):
    with pytest.raises(ValueError, match=said):
        parse_segmentation(value, 2, 3)


def test_polygons_that_are_none_are_left_out_of_several():
    parsed = parse_segmentation([[0, 0, 4, 4], [0, 0, 4, 0, 4, 4]], 9, 9)
    assert parsed.to_coco(9, 9) == [[0, 0, 4, 0, 4, 4]]


@given(st.lists(st.one_of(polygons, masks), max_size=6))
def test_many_are_kept_as_they_are(values):
    given_ = [Runs.of_mask(v) if isinstance(v, np.ndarray) else Polygons([np.array(p) for p in v]) for v in values]
    kept = Segmentations(given_)
    assert len(kept) == len(given_)
    for number, segmentation in enumerate(given_):
        assert type(kept[number]) is type(segmentation)
        assert kept[number].to_coco(5, 5) == segmentation.to_coco(5, 5)
