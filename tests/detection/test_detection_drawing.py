import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from sgenet.data.shapes import CLASSES, render
from sgenet.detection.drawing import Objects, class_colour, draw_objects, truth_and_prediction
from sgenet.errors import ConfigError

NAMES = [f"class {i}" for i in range(100)]
GREY = 60


def canvas(height=640, width=640):
    return torch.full((3, height, width), GREY, dtype=torch.uint8)


def objects(*boxes, labels=None, scores=None, masks=None):
    labels = range(len(boxes)) if labels is None else labels
    return Objects(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(list(labels), dtype=torch.int64),
        None if scores is None else torch.tensor(scores),
        masks,
    )


def of_colour(picture, label):
    """Where a picture has exactly the colour of a class."""
    return (picture == torch.tensor(class_colour(label), dtype=torch.uint8)[:, None, None]).all(dim=0)


def test_a_box_gets_a_line_of_its_colour_and_leaves_the_rest():
    image = canvas()
    before = image.clone()
    picture = draw_objects(image, objects([100, 200, 400, 500], labels=[3]), NAMES)
    assert torch.equal(image, before)
    assert picture.shape == image.shape
    assert picture.dtype == torch.uint8
    coloured = of_colour(picture, 3)
    for row, column in ((200, 250), (500, 250), (350, 100), (350, 400)):
        assert coloured[row, column]
    assert (picture[:, 230:470, 130:370] == GREY).all()  # inside
    assert (picture[:, 510:] == GREY).all()
    assert (picture[:, :, 410:] == GREY).all()
    plate = coloured[150:199, 90:200]  # above its left end
    assert plate.sum() > 300


def test_lines_have_a_seam_that_stands_out_from_a_ground_of_the_same_colour():
    image = torch.tensor(class_colour(3), dtype=torch.uint8)[:, None, None].expand(3, 640, 640).contiguous()
    picture = draw_objects(image, objects([100, 200, 400, 500], labels=[3]), NAMES)
    row = picture[:, 350, 90:110].sum(dim=0)
    assert row.min() < 60
    assert row.max() == sum(class_colour(3))


@pytest.mark.parametrize("corner", list(itertools.product(("low", "middle", "high"), repeat=2)))
def test_names_stay_inside_the_image_and_whole(corner):
    at = {"low": (0, 60), "middle": (290, 350), "high": (580, 640)}
    (left, right), (top, bottom) = (at[place] for place in corner)
    picture = draw_objects(canvas(), objects([left, top, right, bottom], labels=[0], scores=[0.5]), NAMES)
    middle = draw_objects(canvas(), objects([290, 290, 350, 350], labels=[0], scores=[0.5]), NAMES)
    shown, expected = of_colour(picture, 0).sum(), of_colour(middle, 0).sum()
    assert shown > 0.9 * expected  # a part of the line may be below the plate


def test_names_do_not_cover_each_other():
    boxes = [[200 + 8 * i, 300, 260 + 8 * i, 360] for i in range(6)]
    alone = [of_colour(draw_objects(canvas(), objects(box, labels=[i]), NAMES), i).sum() for i, box in enumerate(boxes)]
    together = draw_objects(canvas(), objects(*boxes), NAMES)
    for label, count in enumerate(alone):
        # The plate is much larger than the line, which other objects may cover.
        assert of_colour(together, label).sum() > 0.6 * count


def test_names_without_room_beside_their_boxes_get_a_line_to_them():
    wall = [[0, 0, 640, 290], [0, 330, 640, 640]]
    boxes = [[300 + 12 * i, 300, 310 + 12 * i, 320] for i in range(8)]
    picture = draw_objects(canvas(), objects(*boxes, *wall), NAMES)
    for label, (left, _, right, _) in enumerate(boxes):
        rows, columns = of_colour(picture, label).nonzero(as_tuple=True)
        assert len(rows) > 300  # the plate can be seen,
        near = (columns >= left - 3) & (columns <= right + 3) & (rows >= 290) & (rows <= 330)
        assert near.any()  # and so can the box


def test_names_in_other_letters_are_written():
    try:
        ImageFont.truetype("DejaVuSans.ttf", 12)
    except OSError:
        pytest.skip("no DejaVuSans.ttf on this machine")
    box = objects([100, 100, 300, 300], labels=[0])
    pictures = [draw_objects(canvas(), box, [name]) for name in ("aß", "aé", "a\uffff")]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(pictures, 2))


def test_long_names_are_shortened():
    picture = draw_objects(canvas(), objects([100, 100, 300, 300], labels=[0]), ["name " * 100])
    assert picture.shape == (3, 640, 640)
    assert of_colour(picture, 0)[80:100].any(dim=0).sum() > 600


def test_a_name_of_two_lines_is_written_in_one():
    box = objects([100, 100, 300, 300], labels=[0])
    assert torch.equal(draw_objects(canvas(), box, ["traffic\nlight"]), draw_objects(canvas(), box, ["traffic light"]))


def test_letters_and_lines_grow_with_the_image():
    small = draw_objects(canvas(640, 640), objects([160, 160, 480, 480], labels=[0]), NAMES)
    large = draw_objects(canvas(2560, 2560), objects([640, 640, 1920, 1920], labels=[0]), NAMES)
    ratio = of_colour(large, 0).sum() / of_colour(small, 0).sum()
    assert 10 < ratio < 22  # 16 times the pixels


@pytest.mark.parametrize(("size", "times"), [((128, 128), 5), ((64, 100), 6), ((500, 375), 2), ((600, 20), 1)])
def test_small_images_are_enlarged(size, times):
    picture = draw_objects(canvas(*size), objects([4, 4, 16, 16], labels=[0]), NAMES)
    assert picture.shape == (3, times * size[0], times * size[1])
    assert of_colour(picture, 0)[10 * times, 4 * times]


def test_nothing_to_draw_leaves_the_image():
    image = torch.randint(0, 256, (3, 600, 400), dtype=torch.uint8)
    assert torch.equal(draw_objects(image, objects(), NAMES), image)


def test_masks_are_tinted_and_their_surroundings_are_not():
    masks = torch.zeros(1, 640, 640, dtype=torch.bool)
    masks[:, 200:400, 200:400] = True
    picture = draw_objects(canvas(), objects([200, 200, 400, 400], labels=[6], masks=masks), NAMES)
    tint = torch.tensor(class_colour(6)) * 0.35 + GREY * 0.65
    assert (picture[:, 220:380, 220:380].float() - tint[:, None, None]).abs().max() < 1.5
    assert (picture[:, 420:, :] == GREY).all()
    assert not torch.equal(picture, draw_objects(canvas(), objects([200, 200, 400, 400], labels=[6]), NAMES))


def test_masks_of_small_images_grow_with_them():
    scene = render(0, 3, image_size=128, crowd=True)
    drawn = Objects(scene.boxes, scene.classes, masks=scene.masks)
    picture = draw_objects(scene.image, drawn, CLASSES)
    plain = draw_objects(scene.image, Objects(scene.boxes, scene.classes), CLASSES)
    changed = (picture.int() - plain.int()).abs().amax(dim=0) > 8
    inside = scene.masks.any(dim=0).repeat_interleave(5, 0).repeat_interleave(5, 1)
    assert changed[inside].float().mean() > 0.8
    assert changed[~inside].float().mean() < 0.1


def test_empty_masks_are_drawn_as_nothing():
    box = [200, 200, 400, 400]
    empty = objects(box, masks=torch.zeros(1, 640, 640, dtype=torch.bool))
    assert torch.equal(draw_objects(canvas(), empty, NAMES), draw_objects(canvas(), objects(box), NAMES))


edges = st.one_of(st.floats(-50, 700, width=32), st.sampled_from([0.0, 64.0, 639.5]))


@settings(max_examples=25)
@given(st.lists(st.tuples(edges, edges, edges, edges), max_size=6), st.sampled_from([(64, 90), (700, 3), (640, 601)]))
def test_any_boxes_can_be_drawn(boxes, size):
    image = canvas(*size)
    times = -(-600 // max(size))
    assert draw_objects(image, objects(*boxes), NAMES).shape == (3, size[0] * times, size[1] * times)


def luminance(colour):
    parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("label", range(0, 100, 3))
def test_names_stand_out_from_their_plates(label):
    picture = draw_objects(canvas(), objects([100, 200, 500, 500], labels=[label]), NAMES)
    plate = picture[:, 170:198, 104:160].reshape(3, -1).T.tolist()
    colour = class_colour(label)
    assert list(colour) in plate
    light = luminance(colour)
    contrast = max(
        (max(light, other) + 0.05) / (min(light, other) + 0.05)
        for other in (luminance(pixel) for pixel in plate if max(pixel) - min(pixel) < 2 and pixel[0] != GREY)
    )
    assert contrast > 4.5  # what WCAG 2 asks of text


def test_colours_of_classes_differ():
    colours = np.array([class_colour(label) for label in range(90)], dtype=float)
    assert colours.min() >= 0
    assert colours.max() <= 255
    gaps = np.linalg.norm(colours[:, None] - colours, axis=-1) + 1000 * np.eye(90)
    assert gaps[:7, :7].min() > 60
    assert gaps.min() > 3
    # To a reader without green cones (Machado, Oliveira, Fernandes, 2009) the first seven still do.
    seen_by = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    linear = (colours[:7] / 255) ** 2.2 @ seen_by.T
    seen = 255 * linear.clip(0, 1) ** (1 / 2.2)
    assert (np.linalg.norm(seen[:, None] - seen, axis=-1) + 1000 * np.eye(7)).min() > 30


def test_objects_of_a_detector():
    found = {
        "boxes": torch.arange(16.0).reshape(4, 4),
        "labels": torch.tensor([1, 2, 3, 4]),
        "scores": torch.tensor([0.2, 0.9, 0.5, 0.7], requires_grad=True),
        "masks": torch.rand(4, 1, 6, 5),
    }
    own = Objects.of_detector(found, threshold=0.5, mask_threshold=0.3)
    assert own.labels.tolist() == [1, 3, 2]
    assert own.scores.tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert torch.equal(own.boxes, found["boxes"][[1, 3, 2]])
    assert torch.equal(own.masks, found["masks"][[1, 3, 2], 0] > 0.3)
    assert len(Objects.of_detector(found, threshold=0.95).boxes) == 0
    assert draw_objects(canvas(6, 5), own, NAMES).shape == (3, 600, 500)


def test_objects_to_find():
    target = {"boxes": torch.zeros(2, 4), "labels": torch.tensor([2, 1]), "masks": torch.ones(2, 6, 5) > 0}
    own = Objects.of_detector(target)
    assert own.labels.tolist() == [1, 0]
    assert own.scores is None
    assert torch.equal(own.masks, target["masks"])


@pytest.mark.parametrize(("size", "beside"), [((640, 480), True), ((640, 640), True), ((300, 640), False)])
def test_truth_and_prediction_stand_beside_or_below_each_other(size, beside):
    truth, found = objects([50, 50, 200, 200], labels=[0]), objects([60, 60, 210, 210], labels=[1], scores=[0.8])
    both = truth_and_prediction(canvas(*size), truth, found, NAMES)
    assert both.dtype == torch.uint8
    height, width = both.shape[1:]
    assert (width > 2 * size[1]) == beside
    assert (height > 2 * size[0]) != beside
    pictures = [draw_objects(canvas(*size), own, NAMES) for own in (truth, found)]
    below = [both[:, -size[0] :, : size[1]], both[:, -size[0] :, -size[1] :]]
    if beside:
        assert torch.equal(below[0], pictures[0])
    assert torch.equal(below[1], pictures[1])


def test_headings_say_how_many_there_are():
    image, box = canvas(), objects([50, 50, 200, 200])
    one, none = (truth_and_prediction(image, box, found, NAMES) for found in (box, objects()))
    top = one.shape[1] - 640
    assert one.shape == none.shape
    assert not torch.equal(one[:, :top], none[:, :top])
    assert torch.equal(one[:, :, :640], none[:, :, :640])


def test_what_cannot_be_drawn():
    with pytest.raises(ConfigError, match=r"uint8 \(3, H, W\), not torch.float32"):
        draw_objects(torch.zeros(3, 8, 8), objects(), NAMES)
    with pytest.raises(ConfigError, match="label 2 has no name: there are 2 classes"):
        draw_objects(canvas(), objects([0, 0, 9, 9], labels=[2]), ["a", "b"])
    with pytest.raises(ConfigError, match="label -1 has no name"):
        draw_objects(canvas(), objects([0, 0, 9, 9], labels=[-1]), ["a", "b"])
