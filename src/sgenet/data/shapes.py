"""The data set `shapes`: drawn animal faces that only their parts tell apart, among loose parts of other faces.

A class is a combination of three kinds of parts: pointed or round ears, open or closed eyes, a smiling or a yawning
mouth. Colour, proportions, place, size and rotation say nothing about it. Around the face lie loose ears, eyes, noses
and mouths of any kind, drawn as those of a face are, on a cluttered, noisy background: what the Spatial Group-wise
Enhance paper says its masks suppress. Several faces of all sizes in one picture, with boxes and masks, make a
detection set.

Nothing is stored: an image is a function of (seed, split, index, image size, noise), down to the last bit, on every
machine. Size and noise change neither the face nor its place.
"""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sgenet.data.drawing import (
    Canvas,
    Colour,
    Draws,
    Frame,
    Patch,
    hash_key,
    hue,
    mix_colours,
    pixel_noise,
    smooth_noise,
)
from sgenet.errors import ConfigError

__all__ = ["CLASSES", "DEFAULT_NOISE", "MAX_NOISE", "PART_NAMES", "Scene", "ShapesSource", "render"]

Split: TypeAlias = Literal["train", "val"]
_Place: TypeAlias = tuple[float, float]  # in image sides
_Circle: TypeAlias = tuple[float, float, float]  # place and radius, in image sides

EARS = ("pointed", "round")
EYES = ("open", "closed")
MOUTHS = ("smile", "yawn")

CLASSES = tuple("-".join(kinds) for kinds in itertools.product(EARS, EYES, MOUTHS))
"""Names of the classes, ears-eyes-mouth; a label is a position in this tuple."""

PART_NAMES = ("background", "head", "ear", "eye", "muzzle", "nose", "mouth")
"""Names of the values in `Scene.parts`."""

_LOOSE = 255  # among the labels of a canvas: a part that belongs to no face
_HEAD, _EAR, _EYE, _MUZZLE, _NOSE, _MOUTH = range(1, len(PART_NAMES))

DEFAULT_NOISE = 1.0
MAX_NOISE = 4.0

# What `noise` scales, and what makes DEFAULT_NOISE the usual task. The figures were fixed by a plain network alone: at
# 64 pixels it was to reach from 80% to 95% top-1, whatever its seed. It is a 3x3 convolution of stride 2 and three
# stages of one basic block of 16, 32 and 64 channels, trained on 4,000 pictures for 10 epochs as the recipe `shapes`
# says. On 1,000 others `sgenet train --recipe shapes --model resnet8_cifar --seed N` printed 89.4%, 90.8% and 89.0%
# for N = 0, 1 and 2.
# Most pictures are easy, with a tail of small faces and strong grain, and the parts are large. Where all pictures are
# hard, or the parts small, some seeds find the parts too late, and top-1 says no more than how early they were found.
_LOOSE_PARTS = (0.0, 14.0)  # how many lie about: each picture has its own number
_GRAIN = 70.0  # pixel noise: largest standard deviation, of 255; each picture has its own
_BLOBS = 4.0  # how many coloured patches the background has
_TEXTURE = 16.0  # soft spots of the background: largest deviation, of 255

_SMALLEST_IMAGE = 16
_SMALLEST_CROWD = 64  # below it the smallest faces of a crowd would be no more than specks

# A face's unit, about half its extent, in image sides. A crowd's three ranges give areas below 32^2, between 32^2 and
# 96^2, and above 96^2 pixels (COCO's small, medium and large) at every image size from 256 to 320.
_PORTRAIT_SCALES = (0.11, 0.36)  # half of them above 0.29
_CROWD_SCALES = ((0.04, 0.06), (0.09, 0.18), (0.275, 0.32))
_LEAST_UNIT = 9.0  # pixels of a crowd's face; in a smaller one nobody could tell open eyes from closed ones

# Parts of one kind differ, so that kinds come near each other: nearly closed eyes, small yawns.
_EYE_HEIGHTS = (0.6, 1.1)
_MOUTH_SIZES = (0.6, 1.1)

# Circles that hold what is placed, in a face's units.
_FACE_REACH = 1.3
_LOOSE_REACH = (0.68, 0.36, 0.44)  # ear, eye, mouth
_FACE_TRIES = 40
_LOOSE_TRIES = 4  # a place for each of them is not worth the time

_INK: Colour = (52.0, 38.0, 58.0)
_WHITE: Colour = (255.0, 253.0, 248.0)
_BLUSH: Colour = (245.0, 120.0, 130.0)
_INNER_EAR: Colour = (248.0, 150.0, 150.0)
_THROAT: Colour = (120.0, 30.0, 52.0)
_TONGUE: Colour = (238.0, 112.0, 126.0)
_OUTLINE = 0.05


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and everything that is known about it. N is the number of faces, S the image size.

    Attributes:
        image: uint8 (3, S, S), RGB.
        classes: int64 (N,), positions in `CLASSES`.
        boxes: float32 (N, 4): left, top, right, bottom in pixels; right and bottom are the first pixel edge outside.
        masks: bool (N, S, S), the pixels of each face. Faces do not overlap.
        parts: uint8 (S, S), positions in `PART_NAMES`: the part of a face that each pixel shows, 0 off the faces.
        distractors: bool (S, S), the pixels of loose parts. They lie on no face.
    """

    image: Tensor
    classes: Tensor
    boxes: Tensor
    masks: Tensor
    parts: Tensor
    distractors: Tensor

    @property
    def label(self) -> int:
        """The class of the first face: of a picture with one face, its class."""
        return int(self.classes[0])


class ShapesSource:
    """Pictures with one face each, as a source of labelled images.

    Image i has the class ``i % 8``: all classes are equally frequent in every split of any size, and a longer source
    begins with the images of a shorter one.

    Args:
        split: "train" or "val". They share no picture.
        size: How many images.
        image_size: Pixels a side, at least 16.
        noise: How hard it is: 0 has no loose parts and a plain background, `DEFAULT_NOISE` is the usual task, more
            (up to `MAX_NOISE`) is harder.
        seed: Another seed gives other pictures. From 0 to 2^64 - 1.

    Attributes:
        classes: The names in `CLASSES`.
        labels: int64 (size,).

    Raises:
        ConfigError: If an argument has a value that cannot be used.

    Examples:
        >>> source = ShapesSource("train", 100, image_size=32)
        >>> source.load(12).shape, source.classes[source.labels[12]], source.path(12)
        (torch.Size([3, 32, 32]), 'round-open-smile', 'shapes/train/000012')
    """

    def __init__(
        self, split: Split, size: int, *, image_size: int = 64, noise: float = DEFAULT_NOISE, seed: int = 0
    ) -> None:
        if _whole("size", size) < 1:
            raise ConfigError(f"size={size}: shapes needs at least 1 image")
        _check_picture(seed, split, image_size, noise)
        self.classes = list(CLASSES)
        self.labels = torch.arange(size) % len(CLASSES)
        self._split: Split = split
        self._image_size = int(image_size)
        self._noise = float(noise)
        self._seed = int(seed)

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Tensor:
        """Image `index`: uint8 (3, image_size, image_size)."""
        plan = _plan(self._seed, self._split, self._check_index(index))
        return _paint(plan, self._image_size, self._noise)

    def scene(self, index: int) -> Scene:
        """Image `index` with its boxes and masks."""
        return render(
            self._seed,
            self._check_index(index),
            split=self._split,
            image_size=self._image_size,
            noise=self._noise,
        )

    def path(self, index: int) -> str:
        """``shapes/SPLIT/NUMBER``."""
        return f"shapes/{self._split}/{self._check_index(index):06d}"

    def _check_index(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"shapes has the {self._split} images 0 to {len(self) - 1}, not {index}")
        return operator.index(index)


def render(
    seed: int,
    index: int,
    *,
    split: Split = "train",
    image_size: int = 64,
    noise: float = DEFAULT_NOISE,
    crowd: bool = False,
) -> Scene:
    """Draw one picture, with its boxes and masks.

    Args:
        seed: From 0 to 2^64 - 1.
        index: Which picture of the split, from 0 on. The first face has the class ``index % 8``.
        split: "train" or "val".
        image_size: Pixels a side, at least 16; at least 64 for a crowd.
        noise: How hard it is, 0 to `MAX_NOISE`.
        crowd: False draws one face, most often a large one. True draws up to eight that do not overlap; they are small,
            medium or large in the sense of COCO (area under 32^2, up to 96^2, above) at image sizes from 256 to 320,
            and none is less than about 15 pixels high at any size.

    Returns:
        The picture and what is known about it.

    Raises:
        ConfigError: If a setting has a value that cannot be used.
        IndexError: If `index` is negative.

    Examples:
        >>> scene = render(0, 5)
        >>> CLASSES[scene.label], scene.image.shape, scene.masks.shape
        ('round-open-yawn', torch.Size([3, 64, 64]), torch.Size([1, 64, 64]))
        >>> len(render(0, 5, image_size=256, crowd=True).boxes) >= 1
        True
    """
    _check_picture(seed, split, image_size, noise)
    if crowd and image_size < _SMALLEST_CROWD:
        raise ConfigError(f"image_size={image_size}: several faces need at least {_SMALLEST_CROWD} pixels a side")
    if _whole("index", index) < 0:
        raise IndexError(f"shapes has pictures from 0 on, not {index}")
    plan = _plan(int(seed), split, int(index), crowd=int(image_size) if crowd else 0)
    labels = np.zeros((image_size, image_size), dtype=np.uint8)
    image = _paint(plan, image_size, noise, labels)
    return _describe(plan, image, torch.from_numpy(labels))


# --- what a picture shows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Face:
    kind: int
    frame: Frame
    fur: Colour
    width: float
    ear_size: float
    eye_gap: float
    eye_height: float
    mouth_size: float


@dataclass(frozen=True)
class _Plan:
    key: int
    grain: float
    loose_parts: float
    faces: list[_Face]


# Numbers of the keys that a picture's key gives: what is drawn from one does not depend on how much another was used.
_FACES, _GROUND, _SCATTER, _SPOTS, _GRAINS = range(5)


def _plan(seed: int, split: Split, index: int, *, crowd: int = 0) -> _Plan:
    """One face, or, with the size of the picture in pixels as `crowd`, several."""
    # Even numbers for one split and odd ones for the other: distinct numbers give distinct keys.
    key = hash_key(hash_key(0, seed), 2 * index + get_args(Split).index(split))
    draws = Draws(hash_key(key, _FACES))
    share, loose_parts = draws.between(0, 1), draws.between(*_LOOSE_PARTS)
    grain = _GRAIN * share * share  # squared: little in most pictures
    scales = _crowd_scales(draws, crowd) if crowd else [_portrait_scale(draws)]
    faces: list[_Face] = []
    taken: list[_Circle] = []
    for scale in scales:
        kind = draws.below(len(CLASSES)) if faces else index % len(CLASSES)
        reach = _FACE_REACH * scale
        place = _free_place(draws, reach, taken, margin=reach, tries=_FACE_TRIES)
        if place is not None:
            taken.append((*place, reach))
            faces.append(_draw_lots(draws, kind, Frame(*place, scale, draws.between(-0.2, 0.2))))
    return _Plan(key, grain, loose_parts, faces)


def _portrait_scale(draws: Draws) -> float:
    smallest, largest = _PORTRAIT_SCALES
    share = draws.between(0, 1)  # squared: most faces are large
    return largest - (largest - smallest) * share * share


def _crowd_scales(draws: Draws, size: int) -> list[float]:
    small, medium, large = _CROWD_SCALES
    scales = [draws.between(*large) for _ in range(draws.below(2))]
    scales += [draws.between(*medium) for _ in range(1 + draws.below(3))]
    scales += [draws.between(*small) for _ in range(1 + draws.below(4))]
    # The large ones come first: later they would find no room.
    return [max(scale, _LEAST_UNIT / size) for scale in scales]


def _draw_lots(draws: Draws, kind: int, frame: Frame) -> _Face:
    return _Face(
        kind=kind,
        frame=frame,
        fur=_fur(draws),
        width=draws.between(0.92, 1.08),
        ear_size=draws.between(1.0, 1.15),
        eye_gap=draws.between(0.31, 0.38),
        eye_height=draws.between(*_EYE_HEIGHTS),
        mouth_size=draws.between(*_MOUTH_SIZES),
    )


def _fur(draws: Draws) -> Colour:
    return hue(draws.between(0, 6), draws.between(0.2, 0.6), draws.between(0.75, 1.0))


def _free_place(draws: Draws, radius: float, taken: list[_Circle], margin: float, tries: int) -> _Place | None:
    """A middle for a circle that overlaps no other, `margin` or more inside the picture; None if none was found."""
    for _ in range(tries):
        x, y = draws.between(margin, 1 - margin), draws.between(margin, 1 - margin)
        if all((x - a) * (x - a) + (y - b) * (y - b) >= (radius + r) * (radius + r) for a, b, r in taken):
            return x, y
    return None


def _in_pixels(frame: Frame, size: int) -> Frame:
    return Frame(frame.x * size, frame.y * size, frame.scale * size, frame.turn)


# --- painting ---------------------------------------------------------------------------------------------------------


def _paint(plan: _Plan, size: int, noise: float, labels: npt.NDArray[np.uint8] | None = None) -> Tensor:
    canvas = Canvas(size, labels)
    _paint_ground(canvas, plan.key, noise)
    _scatter_loose_parts(canvas, plan, noise)
    for face in plan.faces:
        _paint_face(canvas, face)
    pixels = canvas.pixels
    if noise:
        pixels += pixel_noise(hash_key(plan.key, _GRAINS), size) * (plan.grain * noise)
    pixels += 0.5
    np.maximum(pixels, 0.0, out=pixels)
    np.minimum(pixels, 255.0, out=pixels)
    return torch.from_numpy(pixels.astype(np.uint8))


def _paint_ground(canvas: Canvas, key: int, noise: float) -> None:
    draws = Draws(hash_key(key, _GROUND))
    first, second = (hue(draws.between(0, 6), draws.between(0.15, 0.5), draws.between(0.5, 0.95)) for _ in range(2))
    slope = Frame(canvas.size / 2, canvas.size / 2, canvas.size * 1.5, draws.between(-1, 1))
    everywhere = canvas.patch(slope, reach=1.0)
    place = everywhere.u * (1 / everywhere.scale) + 0.5
    for channel, low, high in zip(canvas.pixels, first, second, strict=True):
        np.multiply(place, high - low, out=channel)
        channel += low
    if not noise:
        return
    canvas.pixels += smooth_noise(hash_key(key, _SPOTS), canvas.size, 7) * (_TEXTURE * noise)
    for _ in range(_count(_BLOBS * noise)):
        frame = Frame(draws.between(0, 1), draws.between(0, 1), draws.between(0.05, 0.2), draws.between(-1, 1))
        patch = canvas.patch(_in_pixels(frame, canvas.size), reach=1.1)
        colour = hue(draws.between(0, 6), draws.between(0.1, 0.6), draws.between(0.4, 1.0))
        patch.fill(patch.disc(1.0, height=draws.between(0.3, 1.0)), colour, opacity=draws.between(0.3, 0.8))


def _count(expected: float) -> int:
    return math.floor(expected + 0.5)


def _scatter_loose_parts(canvas: Canvas, plan: _Plan, noise: float) -> None:
    draws = Draws(hash_key(plan.key, _SCATTER))
    taken = [(face.frame.x, face.frame.y, _FACE_REACH * face.frame.scale) for face in plan.faces]
    for _ in range(_count(plan.loose_parts * noise)):
        scale = plan.faces[draws.below(len(plan.faces))].frame.scale * draws.between(0.85, 1.15)
        part, kind, fur, turn = draws.below(3), draws.below(2), _fur(draws), draws.between(-0.4, 0.4)
        reach = _LOOSE_REACH[part]
        place = _free_place(draws, reach * scale, taken, margin=0.0, tries=_LOOSE_TRIES)
        if place is not None:
            taken.append((*place, reach * scale))
            frame = _in_pixels(Frame(*place, scale, turn), canvas.size)
            if part == 0:
                _paint_ear(canvas, frame, kind, fur, size=1.1, label=_LOOSE)
            elif part == 1:
                # Fur around it: its surroundings must not tell it from an eye of the face.
                patch = canvas.patch(frame, reach)
                patch.fill(patch.disc(0.33), fur, label=_LOOSE)
                _paint_eye(patch, kind, draws.between(*_EYE_HEIGHTS), label=_LOOSE)
            else:
                _paint_muzzle(canvas, frame, kind, fur, draws.between(*_MOUTH_SIZES), loose=True)


def _paint_face(canvas: Canvas, face: _Face) -> None:
    ears, eyes, mouth = face.kind >> 2, face.kind >> 1 & 1, face.kind & 1
    frame = _in_pixels(face.frame, canvas.size)
    for side in (-1, 1):
        _paint_ear(canvas, frame.at(side * 0.52 * face.width, -0.42), ears, face.fur, side, face.ear_size, label=_EAR)
    _paint_head(canvas, frame.at(0.0, 0.2), face)
    for side in (-1, 1):
        eye = canvas.patch(frame.at(side * face.eye_gap, -0.02), reach=0.34)
        _paint_eye(eye, eyes, face.eye_height, label=_EYE)
    _paint_muzzle(canvas, frame.at(0.0, 0.48), mouth, face.fur, face.mouth_size, loose=False)


def _paint_head(canvas: Canvas, frame: Frame, face: _Face) -> None:
    patch = canvas.patch(frame, reach=0.95)
    distance = patch.disc(0.78 * face.width, height=0.84 / face.width)
    patch.fill(distance, mix_colours(face.fur, _INK, 0.75), grow=_OUTLINE, label=_HEAD)
    patch.fill(distance, face.fur)
    patch.fill(patch.disc(0.12, (0.55, 0.16), height=0.7, mirrored=True), _BLUSH, opacity=0.45)


def _half_planes(*corners: tuple[float, float]) -> list[tuple[float, float, float]]:
    """Of a polygon with corners in clockwise order as seen: for each side, how u, v and 1 add to the distance."""
    planes = []
    for (u, v), (next_u, next_v) in itertools.pairwise([*corners, corners[0]]):
        length = math.sqrt((next_u - u) * (next_u - u) + (next_v - v) * (next_v - v))
        normal_u, normal_v = (next_v - v) / length, (u - next_u) / length
        planes.append((normal_u, normal_v, -(normal_u * u + normal_v * v)))
    return planes


_EAR_SIDES = _half_planes((0.12, -0.56), (0.17, 0.32), (-0.42, 0.1))


def _paint_ear(
    canvas: Canvas, frame: Frame, kind: int, fur: Colour, side: int = 1, size: float = 1.0, *, label: int
) -> None:
    frame = frame._replace(scale=frame.scale * size)
    patch = canvas.patch(frame, reach=0.62)
    if kind:
        distance = patch.disc(0.32)
    else:
        # The disc cuts the tip, which would else be drawn out by the outline.
        distance = patch.disc(0.52)
        for across, down, offset in _EAR_SIDES:
            beyond = patch.u * (side * across) + patch.v * down
            beyond += offset * frame.scale
            np.maximum(distance, beyond, out=distance)
    patch.fill(distance, mix_colours(fur, _INK, 0.75), grow=_OUTLINE, label=label)
    patch.fill(distance, fur)
    patch.fill(distance, mix_colours(fur, _INNER_EAR, 0.75), grow=-0.1)


def _paint_eye(patch: Patch, kind: int, height: float, *, label: int) -> None:
    if kind:
        patch.fill(patch.arc(0.2, 0.1, (0.0, -0.08)), _INK, label=label)
        return
    patch.fill(patch.disc(0.23, height=1.1 * height), _WHITE, label=label)
    patch.fill(patch.disc(0.16, height=height), _INK)
    patch.fill(patch.disc(0.055, (0.06, -0.065 * height), height=height), _WHITE)


def _paint_muzzle(canvas: Canvas, frame: Frame, mouth: int, fur: Colour, size: float, *, loose: bool) -> None:
    patch = canvas.patch(frame, reach=0.45)
    patch.fill(patch.disc(0.42, height=0.8), mix_colours(fur, _WHITE, 0.4), label=_LOOSE if loose else _MUZZLE)
    patch.fill(patch.disc(0.1, (0.0, -0.19), height=0.75), _INK, label=_LOOSE if loose else _NOSE)
    label = _LOOSE if loose else _MOUTH
    if not mouth:
        patch.fill(patch.arc(0.24 * size, 0.1, (0.0, -0.08)), _INK, label=label)
        return
    throat = patch.disc(0.2 * size, (0.0, 0.08))
    patch.fill(throat, _THROAT, label=label)
    patch.fill(np.maximum(patch.disc(0.15 * size, (0.0, 0.08 + 0.15 * size)), throat), _TONGUE)


# --- what is known about a picture ------------------------------------------------------------------------------------


def _describe(plan: _Plan, image: Tensor, labels: Tensor) -> Scene:
    distractors = labels == _LOOSE
    parts = labels.masked_fill(distractors, 0)
    masks = torch.stack([(parts > 0) & _around(face.frame, len(parts)) for face in plan.faces])
    return Scene(
        image=image,
        classes=torch.tensor([face.kind for face in plan.faces]),
        boxes=torch.stack([_box(mask) for mask in masks]),
        masks=masks,
        parts=parts,
        distractors=distractors,
    )


def _around(frame: Frame, size: int) -> Tensor:
    middles = torch.arange(size, dtype=torch.float64) + 0.5
    across, down = middles - frame.x * size, middles - frame.y * size
    reach = _FACE_REACH * frame.scale * size
    return (across * across + (down * down)[:, None]) <= reach * reach


def _box(mask: Tensor) -> Tensor:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return torch.cat(edges).float()


def _check_picture(seed: int, split: str, image_size: int, noise: float) -> None:
    if split not in get_args(Split):
        raise ConfigError(f"shapes has no split '{split}'; it has {' and '.join(get_args(Split))}")
    if _whole("image_size", image_size) < _SMALLEST_IMAGE:
        raise ConfigError(f"image_size={image_size}: shapes needs at least {_SMALLEST_IMAGE} pixels a side")
    if not isinstance(noise, (int, float)) or not 0 <= noise <= MAX_NOISE:
        raise ConfigError(
            f"noise={noise!r} must be a number from 0 (clean) to {MAX_NOISE:g}; the usual task is {DEFAULT_NOISE:g}"
        )
    if not 0 <= _whole("seed", seed) < 2**64:
        raise ConfigError(f"seed={seed} must be from 0 to 2^64 - 1")


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name}={value!r} must be a whole number") from None
