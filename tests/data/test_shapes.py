"""The generated faces: the same bits everywhere, and labels, boxes and masks that tell what was drawn."""

import hashlib
import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import masks_to_boxes

from sgenet.data import open_data
from sgenet.data.shapes import CLASSES, MAX_NOISE, PART_NAMES, ShapesSource, render
from sgenet.errors import ConfigError

HEAD, EAR, EYE, MUZZLE, NOSE, MOUTH = (
    PART_NAMES.index(name) for name in ("head", "ear", "eye", "muzzle", "nose", "mouth")
)


def digest(images):
    joined = hashlib.sha256()
    for image in images:
        joined.update(image.contiguous().numpy().tobytes())
    return joined.hexdigest()


# A change of these sums is a change of the data set: results before and after it cannot be compared.
@pytest.mark.parametrize(
    ("image_size", "noise", "checksum"),
    [
        (32, 0.0, "224b9fdf0dc31e9ce6b1895b88f7f0b421d517185a6330eabf9647d8fa9b48a3"),
        (32, 1.0, "814adb00a515ec69cdb1043f72fe6f6fef037e3bcc2bbc7e93b78b252a7f67b0"),
        (64, 1.0, "6e7c63442a77484cfbab1df6183809e1d46e9f1d7d4f5d865d2a37590ae815f0"),
        (64, 2.5, "1255ac8bad6d7a62971f55484502b6f7fe623d7cb11fa1bb061777bfc7b0a1e1"),
    ],
)
def test_pixels_are_the_same_everywhere(image_size, noise, checksum):
    source = ShapesSource("train", 24, image_size=image_size, noise=noise, seed=3)
    assert digest(source.load(i) for i in range(24)) == checksum


def test_crowds_are_the_same_everywhere():
    scenes = [render(5, i, split="val", image_size=160, crowd=True) for i in range(4)]
    assert digest(scene.image for scene in scenes) == "5883bdd00585b8b8fec402309125375b7cad3496eeeeb5f72ef25df712db0070"
    assert digest(scene.parts for scene in scenes) == "4fb76e38392f0e6156b5806dc35f3311b38e6041e7d5e33d93b04b84be20ac38"


def test_load_and_scene_and_render_show_one_picture():
    source = ShapesSource("val", 20, image_size=48, noise=1.5, seed=9)
    for index in (0, 7, 19):
        scene = source.scene(index)
        assert source.load(index).dtype == torch.uint8
        assert torch.equal(source.load(index), scene.image)
        assert torch.equal(scene.image, render(9, index, split="val", image_size=48, noise=1.5).image)
        assert scene.label == source.labels[index]


def test_an_image_does_not_depend_on_those_before_it():
    source = ShapesSource("train", 10)
    alone = source.load(5)
    for index in (9, 3, 5, 0):
        source.load(index)
    assert torch.equal(source.load(5), alone)
    assert torch.equal(pickle.loads(pickle.dumps(source)).load(5), alone)
    assert torch.equal(ShapesSource("train", 1000).load(5), alone)


def test_pictures_that_are_handed_out_are_not_shared():
    source = ShapesSource("train", 3, noise=0.0)
    first = source.load(1)
    kept = first.clone()
    first.zero_()
    assert torch.equal(source.load(1), kept)


def test_no_face_of_a_crowd_is_too_small_to_tell_its_parts():
    boxes = [render(2, i, image_size=size, crowd=True).boxes for size in (64, 96, 128) for i in range(20)]
    heights = [float(height) for own in boxes for height in own[:, 3] - own[:, 1]]
    assert min(heights) >= 13


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_no_picture_appears_twice(noise):
    pictures = {
        (seed, split, index): source.load(index).numpy().tobytes()
        for seed in (0, 1)
        for split in ("train", "val")
        for source in [ShapesSource(split, 50, image_size=16, noise=noise, seed=seed)]
        for index in range(50)
    }
    assert len(set(pictures.values())) == 200


def test_labels_are_balanced_and_those_of_the_scenes():
    source = ShapesSource("train", 100, image_size=16)
    assert source.classes == list(CLASSES)
    assert len(source) == 100
    assert source.labels.dtype == torch.int64
    assert torch.bincount(source.labels).tolist() == [13] * 4 + [12] * 4
    assert [source.scene(i).label for i in range(16)] == source.labels[:16].tolist()


def test_classes_are_all_combinations_of_parts():
    assert set(CLASSES) == {
        "-".join(kinds) for kinds in itertools.product(("pointed", "round"), ("open", "closed"), ("smile", "yawn"))
    }


def upright_extent(mask):
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return (rows[-1] - rows[0] + 1).item(), (columns[-1] - columns[0] + 1).item()


def test_parts_are_those_that_the_class_names():
    """An open eye and a yawn fill what they span; closed eyes and smiles are strokes."""
    filled = {kind: [] for kind in ("open", "closed", "smile", "yawn", "pointed", "round")}
    for index in range(64):
        scene = render(1, index, image_size=256, noise=0.0)
        ears, eyes, mouth = CLASSES[scene.label].split("-")
        for part, kind in ((EYE, eyes), (MOUTH, mouth), (EAR, ears)):
            # One of two: the halves of the picture on either side of the nose.
            mask = scene.parts == part
            if part != MOUTH:
                mask = mask & (torch.arange(256) < (scene.parts == NOSE).nonzero()[:, 1].float().mean())
            height, width = upright_extent(mask)
            filled[kind].append(mask.sum().item() / (height * width))
    assert min(filled["open"]) > max(filled["closed"])
    assert min(filled["yawn"]) > max(filled["smile"])
    assert np.mean(filled["round"]) > np.mean(filled["pointed"]) + 0.05


def test_every_face_has_every_part():
    for index in range(16):
        scene = render(2, index, image_size=64)
        assert set(scene.parts.unique().tolist()) == set(range(len(PART_NAMES)))


@settings(max_examples=25)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 10**9),
    st.sampled_from(["train", "val"]),
    st.integers(64, 200),
    st.floats(0, 2),
    st.booleans(),
)
def test_boxes_and_masks_describe_the_faces(seed, index, split, image_size, noise, crowd):
    scene = render(seed, index, split=split, image_size=image_size, noise=noise, crowd=crowd)
    count = len(scene.classes)
    assert count >= 1 if crowd else count == 1
    assert scene.image.shape == (3, image_size, image_size)
    assert scene.masks.shape == (count, image_size, image_size)
    assert scene.masks.flatten(1).any(1).all()
    corners = masks_to_boxes(scene.masks)
    corners[:, 2:] += 1  # torchvision gives the last pixel, not its edge
    assert torch.equal(scene.boxes, corners)
    assert scene.boxes.min() >= 0
    assert scene.boxes.max() <= image_size
    # Every pixel of a part belongs to one face, and every pixel of a face shows one part.
    assert torch.equal(scene.masks.sum(0), (scene.parts > 0).long())
    assert not (scene.distractors & (scene.parts > 0)).any()
    assert scene.parts.max() < len(PART_NAMES)
    assert 0 <= scene.classes.min() <= scene.classes.max() < len(CLASSES)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(0, 10**6))
def test_faces_keep_their_distance_from_the_edge(seed, index):
    """Whole faces, so that a face cut off by the picture can be no hint."""
    box = render(seed, index, image_size=64, noise=0.0).boxes[0]
    assert box[:2].min() >= 1
    assert box[2:].max() <= 63


@pytest.mark.parametrize("image_size", [256, 320])
def test_faces_of_a_crowd_span_the_size_ranges_of_coco(image_size):
    scenes = [render(0, i, image_size=image_size, noise=0.0, crowd=True) for i in range(40)]
    areas = torch.cat([scene.masks.flatten(1).sum(1) for scene in scenes]).float()
    small, large = (areas < 32**2).float().mean(), (areas > 96**2).float().mean()
    assert small > 0.2
    assert large > 0.05
    assert 1 - small - large > 0.2
    assert torch.tensor([len(scene.boxes) for scene in scenes]).float().mean() > 3
    assert set(torch.cat([scene.classes for scene in scenes]).tolist()) == set(range(len(CLASSES)))


def test_masks_of_the_same_scene_agree_between_sizes():
    small, large = render(4, 11, image_size=64, noise=0.0), render(4, 11, image_size=256, noise=0.0)
    assert torch.allclose(small.boxes * 4, large.boxes, atol=6)
    shrunk = torch.nn.functional.avg_pool2d(large.image.float(), 4)
    assert (shrunk - small.image.float()).abs().mean() < 3


def test_clean_pictures_have_no_distractors_and_noisy_ones_do():
    clean = [render(6, i, noise=0.0).distractors.sum().item() for i in range(20)]
    usual = [render(6, i).distractors.sum().item() for i in range(20)]
    assert clean == [0] * 20
    assert sum(usual) > 20 * 100


def test_noise_moves_no_face_and_only_adds_loose_parts():
    for index in range(6):
        scenes = [render(8, index, noise=noise) for noise in (0.0, 0.5, 1.0, 2.0)]
        for fewer, more in itertools.pairwise(scenes):
            assert torch.equal(fewer.parts, more.parts)
            assert not (fewer.distractors & ~more.distractors).any()


def test_noise_raises_the_energy_of_the_background():
    def roughness(noise):
        total = 0.0
        for index in range(12):
            scene = render(7, index, noise=noise)
            ground = scene.image.float()
            steps = (ground[:, :, 1:] - ground[:, :, :-1]).abs().sum(0)
            outside = (scene.parts[:, 1:] == 0) & (scene.parts[:, :-1] == 0)
            total += float(steps[outside].mean())
        return total

    levels = [roughness(noise) for noise in (0.0, 0.25, 0.5, 1.0, 2.0)]
    assert levels == sorted(levels)
    assert levels[0] * 5 < levels[3]


def test_colour_says_nothing_about_the_class():
    # The mean colour of 40 heads of each class: three standard errors are about 25 of 255.
    for bit in (4, 2, 1):
        heads = {0: [], bit: []}
        for index in range(320):
            scene = render(0, index, image_size=32, noise=0.0)
            heads[scene.label & bit].append(scene.image[:, scene.parts == HEAD].float().mean(1))
        assert (torch.stack(heads[0]).mean(0) - torch.stack(heads[bit]).mean(0)).abs().max() < 15


def test_names_of_images():
    assert ShapesSource("train", 20, image_size=16).path(12) == "shapes/train/000012"
    assert ShapesSource("val", 20, image_size=16).path(3) == "shapes/val/000003"


def test_it_opens_by_name():
    data = open_data("shapes", seed=2, options={"image_size": 32, "train_size": 16, "val_size": 8})
    assert (len(data.train), len(data.val), data.classes) == (16, 8, list(CLASSES))
    assert torch.equal(data.val.load(3), ShapesSource("val", 8, image_size=32, seed=2).load(3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "test"}, "no split 'test'; it has train and val"),
        ({"size": 0}, "size=0"),
        ({"size": 2.5}, "size=2.5 must be a whole number"),
        ({"image_size": 15}, "image_size=15.*at least 16"),
        ({"image_size": "64"}, "image_size='64' must be a whole number"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"noise": float("inf")}, "noise=inf"),
        ({"noise": "high"}, "noise='high'"),
        ({"noise": MAX_NOISE + 1}, "from 0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**64}, "seed=18446744073709551616"),
        ({"seed": 0.5}, "seed=0.5 must be a whole number"),
    ],
)
def test_bad_settings_are_told(change, words):
    settings = {"split": "train", "size": 4} | change
    with pytest.raises(ConfigError, match=words) as caught:
        ShapesSource(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", [-1, 4, 100])
def test_images_that_are_not_there(index):
    source = ShapesSource("val", 4, image_size=16)
    for look in (source.load, source.scene, source.path):
        with pytest.raises(IndexError, match=f"val images 0 to 3, not {index}"):
            look(index)


def test_render_tells_what_it_cannot_draw():
    with pytest.raises(IndexError, match="from 0 on, not -1"):
        render(0, -1)
    with pytest.raises(ConfigError, match="several faces need at least 64 pixels"):
        render(0, 0, image_size=63, crowd=True)
    with pytest.raises(ConfigError, match="no split 'all'"):
        render(0, 0, split="all")
