"""The faces as a detection set: boxes, masks and their COCO form tell what is drawn."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from torchvision.ops import masks_to_boxes

from sgenet.data.shapes import CLASSES, render
from sgenet.data.shapes_detection import ShapesDetectionSource
from sgenet.errors import ConfigError


def test_images_and_objects_are_those_of_a_crowd():
    source = ShapesDetectionSource("val", 6, image_size=96, noise=0.5, seed=4)
    assert source.classes == list(CLASSES)
    assert source.category_ids == list(range(1, len(CLASSES) + 1))
    assert source.image_ids == [1, 2, 3, 4, 5, 6]
    assert source.sizes.tolist() == [[96, 96]] * 6
    assert source.has_masks
    for index in (5, 0):
        scene = render(4, index, split="val", image_size=96, noise=0.5, crowd=True)
        target = source.target(index, masks=True)
        assert torch.equal(source.load(index), scene.image)
        assert torch.equal(target.boxes, scene.boxes)
        assert torch.equal(target.labels, scene.classes)
        assert torch.equal(target.masks, scene.masks)
        assert source.target(index).masks is None


@settings(max_examples=25)
@given(st.integers(0, 2**64 - 1), st.sampled_from(["train", "val"]), st.integers(0, 50), st.sampled_from([64, 96, 128]))
def test_boxes_hold_the_masks_and_lie_in_the_image(seed, split, index, size):
    target = ShapesDetectionSource(split, 51, image_size=size, seed=seed).target(index, masks=True)
    assert 1 <= len(target) <= 8
    assert [t.dtype for t in (target.boxes, target.labels, target.crowd, target.areas, target.masks)] == [
        torch.float32,
        torch.int64,
        torch.bool,
        torch.float32,
        torch.bool,
    ]
    torch.testing.assert_close(target.boxes - torch.tensor([0.0, 0, 1, 1]), masks_to_boxes(target.masks))
    assert 0 <= target.boxes.min() <= target.boxes.max() <= size
    assert torch.equal(target.areas, target.masks.flatten(1).sum(1).float())
    assert not target.crowd.any()
    assert target.masks.sum(0).max() == 1


def test_the_coco_form_says_the_same():
    source = ShapesDetectionSource("train", 8, image_size=64)
    content = source.to_coco()
    assert [row["id"] for row in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    assert [row["id"] for row in content["images"]] == source.image_ids
    for index, number in enumerate(source.image_ids):
        target = source.target(index, masks=True)
        rows = [row for row in content["annotations"] if row["image_id"] == number]
        masks = [coco_masks.decode(coco_masks.frPyObjects(row["segmentation"], 64, 64)).astype(bool) for row in rows]
        assert np.array_equal(np.stack(masks), target.masks.numpy())
        assert [row["bbox"] for row in rows] == [[x, y, r - x, b - y] for x, y, r, b in target.boxes.tolist()]
        assert [row["area"] for row in rows] == target.areas.tolist()
        assert [row["category_id"] - 1 for row in rows] == target.labels.tolist()
        assert {row["iscrowd"] for row in rows} == {0}


def test_what_is_handed_out_is_not_shared():
    source = ShapesDetectionSource("train", 2)
    first = source.load(0)
    kept = first.clone()
    target = source.target(0, masks=True)
    for tensor in (first, target.boxes, target.labels, target.masks):
        tensor.zero_()
    assert torch.equal(source.load(0), kept)
    assert source.target(0, masks=True).boxes.sum() > 0
    assert source.target(0, masks=True).masks.any()


def test_an_image_does_not_depend_on_those_before_it():
    source = ShapesDetectionSource("train", 10, seed=2)
    alone = source.load(5)
    for index in (9, 5, 0):
        source.target(index)
    assert torch.equal(source.load(5), alone)
    assert torch.equal(pickle.loads(pickle.dumps(source)).load(5), alone)
    assert torch.equal(ShapesDetectionSource("train", 1000, seed=2).load(5), alone)
    assert not torch.equal(ShapesDetectionSource("val", 10, seed=2).load(5), alone)


def test_names_and_ends():
    source = ShapesDetectionSource("val", 3)
    assert (len(source), source.path(2)) == (3, "shapes/val/000002")
    for index in (-1, 3):
        for ask in (source.load, source.target, source.path):
            with pytest.raises(IndexError, match="images 0 to 2"):
                ask(index)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 0}, "size=0"),
        ({"size": 2.5}, "size=2.5"),
        ({"image_size": 63}, "image_size=63"),
        ({"image_size": 64.5}, "image_size=64.5"),
        ({"noise": -1}, "noise=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"split": "test"}, "split 'test'"),
    ],
)
def test_impossible_settings_are_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        ShapesDetectionSource(**{"split": "train", "size": 4, **arguments})
