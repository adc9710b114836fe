from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from sgenet.data import DetectionAugmentation, DetectionTransform, Target
from sgenet.data.detection_transforms import flip_horizontally, resize_short_side
from sgenet.data.order import Stream, random_integers
from sgenet.errors import ConfigError


@st.composite
def scenes(draw, fractions=True):
    """An image and some objects in it; boxes on whole pixels, or on any numbers."""
    height, width = draw(st.integers(2, 40)), draw(st.integers(2, 40))
    count = draw(st.integers(0, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    first = torch.rand(count, 2, generator=generator)
    last = first + (1 - first) * (0.01 + 0.99 * torch.rand(count, 2, generator=generator))
    size = torch.tensor([width, height])
    boxes = torch.cat([first * size, torch.minimum(last * size, size)], dim=1)
    if not fractions:
        boxes = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1)
    masks = torch.rand(count, height, width, generator=generator) < 0.5
    labels = torch.arange(count)
    return image, Target(boxes, labels, labels % 2 == 0, (boxes[:, 2:] - boxes[:, :2]).prod(1), masks)


def same(one, other):
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Target))


def is_inside(boxes, canvas):
    low, high = boxes[:, :2], boxes[:, 2:]
    return bool((low >= 0).all() and (high > low).all() and (high <= torch.tensor(canvas[::-1])).all())


@given(scenes(fractions=False))
def test_flipped_twice_is_what_it_was(scene):
    image, target = scene
    before = image.clone()
    once = flip_horizontally(image, target)
    twice = flip_horizontally(*once)
    assert torch.equal(twice[0], image)
    assert same(twice[1], target)
    assert torch.equal(image, before)


@given(scenes())
def test_flips_are_those_of_torchvision(scene):
    image, target = scene
    flipped, there = flip_horizontally(image, target)
    canvas = tuple(image.shape[1:])
    boxes = tv_tensors.BoundingBoxes(target.boxes, format="XYXY", canvas_size=canvas)
    assert torch.equal(flipped, v2.functional.horizontal_flip(image))
    assert torch.equal(there.masks, v2.functional.horizontal_flip(target.masks))
    torch.testing.assert_close(there.boxes, v2.functional.horizontal_flip(boxes).as_subclass(torch.Tensor))
    assert is_inside(there.boxes, canvas)
    assert same(replace(there, boxes=target.boxes, masks=target.masks), target)


@given(scenes(), st.integers(4, 60), st.integers(0, 60))
def test_resized_objects_are_those_of_torchvision(scene, short, more):
    image, target = scene
    height, width = image.shape[1:]
    resized, there = resize_short_side(image, target, short, short + more)
    scale = min(short / min(height, width), (short + more) / max(height, width))
    canvas = (max(1, round(height * scale)), max(1, round(width * scale)))
    boxes = tv_tensors.BoundingBoxes(target.boxes, format="XYXY", canvas_size=(height, width))
    assert torch.equal(resized, v2.functional.resize(image, canvas, antialias=True))
    assert resized.dtype == torch.uint8
    assert there.masks.dtype == torch.bool
    assert there.masks.shape == (len(target), *canvas)
    torch.testing.assert_close(there.boxes, v2.functional.resize(boxes, canvas).as_subclass(torch.Tensor))
    torch.testing.assert_close(there.areas, target.areas * (canvas[0] * canvas[1] / (height * width)))
    assert is_inside(there.boxes, canvas)
    assert torch.equal(there.labels, target.labels)
    assert torch.equal(there.crowd, target.crowd)


def test_masks_and_boxes_stay_together():
    masks = torch.zeros(2, 30, 50, dtype=torch.bool)
    masks[0, 4:20, 10:48] = masks[1, 29, 0] = True
    boxes = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
    target = Target(boxes, torch.zeros(2), torch.zeros(2), torch.zeros(2), masks)
    for image, there in (
        flip_horizontally(torch.zeros(3, 30, 50, dtype=torch.uint8), target),
        resize_short_side(torch.zeros(3, 30, 50, dtype=torch.uint8), target, 90, 150),
    ):
        assert there.masks.shape[1:] == image.shape[1:]
        assert torch.equal(masks_to_boxes(there.masks) + torch.tensor([0, 0, 1, 1]), there.boxes)


def test_targets_without_masks():
    target = Target(torch.ones(0, 4), torch.zeros(0), torch.zeros(0), torch.zeros(0))
    image = torch.zeros(3, 8, 9, dtype=torch.uint8)
    assert flip_horizontally(image, target)[1].masks is None
    assert resize_short_side(image, target, 16, 99)[1].masks is None


@given(st.integers(0, 2**40), st.integers(0, 100), st.floats(0, 1))
def test_the_images_that_a_classifier_flips_are_flipped(seed, epoch, chance):
    transform = DetectionTransform(DetectionAugmentation(flip=chance), seed)
    image = torch.tensor([1, 2], dtype=torch.uint8).expand(3, 1, 2)
    target = Target(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), torch.zeros(0))
    flipped = [transform(image, target, epoch, index)[0][0, 0, 0] == 2 for index in range(20)]
    drawn = random_integers(seed, epoch, torch.arange(20), Stream.FLIP, 1 << 31)
    assert flipped == (drawn < round(chance * (1 << 31))).tolist()


def test_short_sides_are_drawn_evenly_and_without_regard_to_flips():
    transform = DetectionTransform(DetectionAugmentation(short_sides=(4, 6, 8), long_side=99), seed=1)
    image = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(4).expand(3, 8, 8)
    target = Target(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), torch.zeros(0))
    seen = Counter()
    for index in range(900):
        view = transform(image, target, 0, index)[0]
        seen[view.shape[1], bool(view[0, 0, 0] > 128)] += 1
        assert torch.equal(view, transform(image, target, 0, index)[0])
    # 150 expected of each, standard deviation 11.
    assert set(seen) == {(side, flipped) for side in (4, 6, 8) for flipped in (False, True)}
    assert all(95 < count < 205 for count in seen.values())
    epochs = [[transform(image, target, epoch, index)[0].shape for index in range(20)] for epoch in (0, 1)]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"flip": 1.1}, "flip=1.1"),
        ({"short_sides": (0, 5)}, "short_sides="),
        ({"short_sides": (640, 800), "long_side": 700}, "long_side=700"),
    ],
)
def test_impossible_augmentations_are_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        DetectionAugmentation(**arguments)


def test_lists_become_tuples():
    assert DetectionAugmentation(short_sides=[4, 5]) == DetectionAugmentation(short_sides=(4, 5))
