import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from sgenet.data import Augmentation, EvalTransform, Preprocessing, TrainTransform
from sgenet.data.transforms import shift_and_flip
from sgenet.errors import ConfigError


def noise(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def smooth(height, width):
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return torch.from_numpy(np.array(small.resize((width, height), Image.Resampling.BICUBIC))).permute(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), [(100, 80), (80, 100), (33, 61), (20, 20)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_shows_what_pillow_would(height, width, interpolation):
    image = smooth(height, width)
    view = EvalTransform(Preprocessing(image_size=28, resize=32, interpolation=interpolation)).view(image)
    modes = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    short = min(height, width)
    size = (32 * width // short, 32 * height // short)
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size, modes[interpolation])
    left, top = round((size[0] - 28) / 2), round((size[1] - 28) / 2)
    expected = np.array(resized.crop((left, top, left + 28, top + 28)))
    assert view.shape == (3, 28, 28)
    assert np.abs(view.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_an_image_of_the_right_size_is_left_alone():
    image = noise(32, 32)
    assert torch.equal(EvalTransform(Preprocessing(image_size=32, resize=None)).view(image), image)
    assert torch.equal(EvalTransform(Preprocessing(image_size=24, resize=32)).view(image), image[:, 4:28, 4:28])


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (300, 2), (3, 40_000)])
def test_any_size_comes_to_the_size_of_the_network(size):
    image = torch.full((3, *size), 77, dtype=torch.uint8)
    preprocessing = Preprocessing(image_size=28, resize=32)
    views = [
        EvalTransform(preprocessing).view(image),
        TrainTransform(preprocessing, Augmentation(), seed=0).view(image, epoch=0, index=0),
    ]
    for view in views:
        assert view.shape == (3, 28, 28)
        assert view.unique().tolist() == [77]


def test_a_panorama_shows_the_same_centre_as_without_the_limit():
    image = smooth(20, 20 * 41)
    view = EvalTransform(Preprocessing(image_size=10, resize=None)).view(image)
    full = v2.functional.resize(image, [10], antialias=True)
    assert (view.int() - v2.functional.center_crop(full, [10, 10]).int()).abs().max() <= 1


def test_ten_crops_are_corners_and_centre_and_their_mirror_images():
    image = noise(32, 36)
    crops = EvalTransform(Preprocessing(image_size=28, resize=32), crops=10).view(image)
    places = [(0, 0), (0, 8), (4, 0), (4, 8), (2, 4)]
    plain = [image[:, top : top + 28, left : left + 28] for top, left in places]
    assert crops.shape == (10, 3, 28, 28)
    expected = {crop.numpy().tobytes() for crop in plain} | {crop.flip(2).numpy().tobytes() for crop in plain}
    assert {crop.numpy().tobytes() for crop in crops} == expected


def test_scale_takes_the_place_of_resize():
    image = smooth(80, 90)
    scaled = EvalTransform(Preprocessing(image_size=28, resize=32), scale=40).view(image)
    assert torch.equal(scaled, EvalTransform(Preprocessing(image_size=28, resize=40)).view(image))


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(crop="pad"),
        Augmentation(rotation=10, jitter=20),
        Augmentation(crop="none", color_jitter=0.4, random_erasing=1.0),
    ],
)
def test_augmentation_depends_on_seed_epoch_and_index_alone(augmentation):
    images = torch.stack([noise(28, 28, seed=i) for i in range(6)])

    def augmented(seed, epoch, order):
        transform = TrainTransform(Preprocessing(image_size=28, resize=None), augmentation, seed)
        batch = torch.stack([transform.view(images[i], epoch, i) for i in order])
        done = transform.finish(batch, epoch, torch.tensor(order))
        return {i: image.numpy().tobytes() for i, image in zip(order, done, strict=True)}

    torch.manual_seed(1)
    first = augmented(0, 3, [0, 1, 2, 3, 4, 5])
    torch.manual_seed(2)
    later = augmented(0, 3, [4, 2, 0])
    assert later == {i: first[i] for i in (4, 2, 0)}
    assert augmented(1, 3, [0, 1, 2, 3, 4, 5]) != first
    assert augmented(0, 4, [0, 1, 2, 3, 4, 5]) != first


def test_padded_crop_shows_the_image_shifted_over_black():
    image = noise(6, 6) | 1  # no black of its own
    indices = torch.arange(2000)
    augmentation = Augmentation(crop="pad", pad=2, flip=0.0)
    done = shift_and_flip(image.expand(2000, -1, -1, -1), augmentation, seed=0, epoch=0, indices=indices)
    framed = np.zeros((3, 10, 10), dtype=np.uint8)
    framed[:, 2:8, 2:8] = image.numpy()
    possible = {framed[:, y : y + 6, x : x + 6].tobytes(): (y, x) for y in range(5) for x in range(5)}
    seen = [possible[crop.numpy().tobytes()] for crop in done]
    counts = np.bincount([5 * y + x for y, x in seen], minlength=25)
    # 80 expected at each of the 25 places, standard deviation 9.
    assert counts.min() > 40
    assert counts.max() < 130


@pytest.mark.parametrize("flip", [0.0, 0.3, 1.0])
def test_flips_come_as_often_as_asked(flip):
    image = noise(4, 4)
    augmentation = Augmentation(crop="none", flip=flip)
    done = shift_and_flip(image.expand(4000, -1, -1, -1), augmentation, seed=0, epoch=0, indices=torch.arange(4000))
    mirrored = (done == image.flip(2)).flatten(1).all(1)
    assert torch.equal(mirrored, ~(done == image).flatten(1).all(1))
    # Standard deviation of the share at most 0.008.
    assert abs(mirrored.float().mean().item() - flip) < (0.04 if 0 < flip < 1 else 1e-9)


def test_shift_and_flip_takes_an_empty_batch():
    empty = torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    indices = torch.empty(0, dtype=torch.int64)
    assert shift_and_flip(empty, Augmentation(crop="pad"), seed=0, epoch=0, indices=indices).shape == (0, 3, 8, 8)


def test_random_resized_crops_cover_the_areas_asked_for():
    # The value of a pixel is its column: a crop's spread of values tells how wide it was cut.
    image = torch.arange(200, dtype=torch.uint8).expand(3, 200, 200)
    preprocessing = Preprocessing(image_size=32, resize=None)
    wide = TrainTransform(preprocessing, Augmentation(crop_scale=(0.9, 1.0), crop_ratio=(1, 1)), seed=0)
    narrow = TrainTransform(preprocessing, Augmentation(crop_scale=(0.08, 0.1), crop_ratio=(1, 1)), seed=0)

    def widths(transform):
        views = torch.stack([transform.view(image, 0, i) for i in range(40)]).flatten(1).int()
        return views.amax(1) - views.amin(1)

    assert widths(wide).min() > 170
    assert widths(narrow).max() < 75


def test_jitter_stays_within_its_reach_and_reaches_it():
    image = torch.full((1, 3, 40, 40), 100, dtype=torch.uint8)
    transform = TrainTransform(
        Preprocessing(image_size=40, resize=None), Augmentation(crop="none", flip=0, jitter=20), seed=0
    )
    values = transform.finish(image, 0, torch.tensor([0])).unique()
    assert values.tolist() == list(range(80, 121))
    white = transform.finish(torch.full((1, 3, 40, 40), 250, dtype=torch.uint8), 0, torch.tensor([0]))
    assert int(white.min()) == 230
    assert int(white.max()) == 255


def test_rotation_and_erasing_fill_with_the_mean_colour():
    preprocessing = Preprocessing(image_size=40, resize=None, mean=(0.2, 0.4, 0.6))
    image = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    for augmentation in (
        Augmentation(crop="none", rotation=180),
        Augmentation(crop="none", random_erasing=1.0),
    ):
        transform = TrainTransform(preprocessing, augmentation, seed=0)
        done = torch.cat([transform.finish(image, 0, torch.tensor([i])) for i in range(4)])
        assert done.amax((0, 2, 3)).tolist() == [51, 102, 153]


def test_color_jitter_changes_the_brightness():
    image = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    transform = TrainTransform(
        Preprocessing(image_size=8, resize=None), Augmentation(crop="none", color_jitter=0.5), seed=0
    )
    means = torch.stack([transform.finish(image, 0, torch.tensor([i])).float().mean() for i in range(30)])
    assert means.min() < 80
    assert means.max() > 120


def test_descriptions_from_json_equal_the_originals():
    assert Preprocessing(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]) == Preprocessing()  # type: ignore
    assert Augmentation(crop_scale=[0.08, 1.0], crop_ratio=[3 / 4, 4 / 3]) == Augmentation()  # type: ignore


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (Preprocessing, {"image_size": 0}, "image_size=0"),
        (Preprocessing, {"image_size": 64, "resize": 32}, "resize=32"),
        (Preprocessing, {"interpolation": "magic"}, "'bilinear' or 'bicubic'"),
        (Preprocessing, {"std": (0.1, 0.0, 0.1)}, "above 0"),
        (Preprocessing, {"mean": (0.1,)}, "3 numbers"),
        (Augmentation, {"crop": "centre"}, "crop='centre'"),
        (Augmentation, {"crop_scale": (0.5, 0.2)}, "crop_scale"),
        (Augmentation, {"crop_scale": (0.0, 1.0)}, "crop_scale"),
        (Augmentation, {"crop_ratio": (0.0, 1.0)}, "crop_ratio"),
        (Augmentation, {"pad": -1}, "pad=-1"),
        (Augmentation, {"flip": 1.5}, "flip=1.5"),
        (Augmentation, {"flip": float("nan")}, "flip=nan"),
        (Augmentation, {"rotation": -5}, "rotation=-5"),
        (Augmentation, {"jitter": 300}, "jitter=300"),
        (Augmentation, {"color_jitter": -0.1}, "color_jitter"),
        (Augmentation, {"random_erasing": 2}, "random_erasing"),
    ],
)
def test_impossible_values_are_refused(kind, values, said):
    with pytest.raises(ConfigError, match=said):
        kind(**values)


@pytest.mark.parametrize(("values", "said"), [({"crops": 5}, "crops=5"), ({"scale": 100}, "scale=100")])
def test_impossible_evaluations_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        EvalTransform(Preprocessing(), **values)
