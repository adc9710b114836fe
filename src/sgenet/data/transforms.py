"""From a decoded image to the pixels a network sees, all in uint8: how images are brought to size, and augmented."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as pixels

from sgenet.data.order import Stream, image_hash, random_integers
from sgenet.errors import ConfigError

__all__ = [
    "Augmentation",
    "EvalTransform",
    "Preprocessing",
    "TrainTransform",
    "Transform",
    "keep_global_generator",
    "shift_and_flip",
]

Triple = tuple[float, float, float]

# Beyond this a resized panorama would fill the memory with pixels that no centre crop shows.
_MAX_ASPECT = 16


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image is brought to the size and range a network takes, the same in training, evaluation and prediction.

    The defaults are ImageNet's usual ones: short side to 256, the centre 224 x 224.

    Attributes:
        image_size: Side of the square that the network sees, in pixels.
        resize: Length the short side is resized to before the centre is cut out, at least `image_size`; None resizes
            to `image_size`, so that only the long side loses pixels.
        interpolation: "bilinear" or "bicubic", both antialiased.
        mean: Of red, green and blue, on the scale from 0 to 1.
        std: Standard deviations, on the same scale.

    Raises:
        ConfigError: If a value is out of range.

    Examples:
        >>> Preprocessing(image_size=32, resize=None).image_size
        32
    """

    image_size: int = 224
    resize: int | None = 256
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        # JSON gives lists; tuples make two equal descriptions compare equal, and can be hashed.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.image_size < 1:
            raise ConfigError(f"image_size={self.image_size} must be 1 or more")
        if self.resize is not None and self.resize < self.image_size:
            raise ConfigError(
                f"resize={self.resize} is below image_size={self.image_size}; "
                f"use {self.image_size} or more, or None to resize to image_size"
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ConfigError(f"interpolation='{self.interpolation}' must be 'bilinear' or 'bicubic'")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(f"mean={self.mean} and std={self.std} must have 3 numbers each, those of std above 0")

    @property
    def short_side(self) -> int:
        """The length the short side is resized to."""
        return self.image_size if self.resize is None else self.resize


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are varied.

    They are cropped, then flipped, rotated, changed in colour, jittered and erased, in this order.

    Attributes:
        crop: "random-resized" cuts a random rectangle and resizes it to the image size; "pad" brings the whole image to
            size as in evaluation, surrounds it with black and cuts out a random square; "none" leaves the
            view of evaluation.
        crop_scale: Least and largest share of the image's area in a random-resized crop.
        crop_ratio: Least and largest width / height of a random-resized crop.
        pad: Width of the black border of "pad", in pixels.
        flip: Probability of a horizontal flip.
        rotation: Largest angle, in degrees, to both sides; corners that come into view show the mean colour.
        jitter: Largest change of each value of each pixel on its own, on the scale to 255. The "pixel jitter" that the
            authors of SENet list with +-20 (its definition is not published; this is the literal reading).
        color_jitter: Largest relative change of brightness, of contrast and of saturation.
        random_erasing: Probability that a random rectangle is painted over with the mean colour.

    Raises:
        ConfigError: If a value is out of range.

    Source:
        The defaults are the ImageNet recipe of SGE (arXiv 1905.09646) and SENet (arXiv 1709.01507).

    Examples:
        >>> Augmentation(crop="pad").in_batches, Augmentation().in_batches
        (True, False)
    """

    crop: Literal["random-resized", "pad", "none"] = "random-resized"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 4
    flip: float = 0.5
    rotation: float = 0.0
    jitter: int = 0
    color_jitter: float = 0.0
    random_erasing: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "crop_scale", tuple(self.crop_scale))
        object.__setattr__(self, "crop_ratio", tuple(self.crop_ratio))
        self._check_crop()
        for name in ("flip", "random_erasing", "color_jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be between 0 and 1")
        if not 0 <= self.rotation <= 180:
            raise ConfigError(f"rotation={self.rotation} must be between 0 and 180 degrees")
        if not 0 <= self.jitter <= 255:
            raise ConfigError(f"jitter={self.jitter} must be between 0 and 255")

    def _check_crop(self) -> None:
        if self.crop not in ("random-resized", "pad", "none"):
            raise ConfigError(f"crop='{self.crop}' must be 'random-resized', 'pad' or 'none'")
        if len(self.crop_scale) != 2 or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ConfigError(f"crop_scale={self.crop_scale} must be two shares, 0 < least <= largest <= 1")
        if len(self.crop_ratio) != 2 or not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ConfigError(f"crop_ratio={self.crop_ratio} must be two ratios, 0 < least <= largest")
        if self.pad < 0:
            raise ConfigError(f"pad={self.pad} must be 0 or more pixels")

    @property
    def in_batches(self) -> bool:
        """Whether it is no more than padded crops and flips, which whole batches of equal size can go through."""
        return self.crop != "random-resized" and not (
            self.rotation or self.jitter or self.color_jitter or self.random_erasing
        )


class Transform(Protocol):
    """What a loader does to its images: first to each on its own, then to those of a batch together."""

    def view(self, image: Tensor, epoch: int, index: int) -> Tensor:
        """What the network sees of one decoded image; may draw from torch's global generator."""
        ...

    def finish(self, images: Tensor, epoch: int, indices: Tensor) -> Tensor:
        """The batch, varied further; may draw from torch's global generator."""
        ...

    def empty(self) -> Tensor:
        """A batch of no images, in the shape of the others."""
        ...


class EvalTransform:
    """The view of evaluation: short side resized, centre cut out; or ten crops.

    Args:
        preprocessing: Sizes and interpolation.
        crops: 1: the centre. 10: the corners and the centre, and all five flipped.
        scale: Short side in pixels in the place of that of `preprocessing`, for evaluation at several scales.

    Raises:
        ConfigError: If `crops` is neither 1 nor 10, or `scale` is below the image size.

    Examples:
        >>> transform = EvalTransform(Preprocessing(image_size=8, resize=10), crops=10)
        >>> transform.view(torch.zeros(3, 20, 30, dtype=torch.uint8)).shape
        torch.Size([10, 3, 8, 8])
    """

    def __init__(self, preprocessing: Preprocessing, *, crops: int = 1, scale: int | None = None) -> None:
        if crops not in (1, 10):
            raise ConfigError(f"crops={crops} must be 1 (the centre) or 10 (corners and centre, flipped too)")
        if scale is not None and scale < preprocessing.image_size:
            raise ConfigError(
                f"scale={scale} is below the image size of the network, {preprocessing.image_size}; "
                f"use {preprocessing.image_size} or more"
            )
        self.preprocessing = preprocessing if scale is None else replace(preprocessing, resize=scale)
        self.crops = crops

    def view(self, image: Tensor, epoch: int = 0, index: int = 0) -> Tensor:
        """uint8 (3, H, W) to (3, S, S), or to (10, 3, S, S) for ten crops; draws nothing."""
        resized = _resized(image, self.preprocessing)
        size = self.preprocessing.image_size
        if self.crops == 10:
            return torch.stack(pixels.ten_crop(resized, [size, size]))
        centre: Tensor = pixels.center_crop(resized, [size, size])
        return centre

    def finish(self, images: Tensor, epoch: int, indices: Tensor) -> Tensor:
        """The images as they are."""
        return images

    def empty(self) -> Tensor:
        """uint8 (0, 3, S, S), or (0, 10, 3, S, S) for ten crops."""
        size = self.preprocessing.image_size
        crops = (10,) if self.crops == 10 else ()
        return torch.empty((0, *crops, 3, size, size), dtype=torch.uint8)


class TrainTransform:
    """The views of training: what an image becomes is a function of (seed, epoch, index) alone.

    Args:
        preprocessing: Sizes and interpolation.
        augmentation: What is varied, and how far.
        seed: Of the run.

    Examples:
        >>> transform = TrainTransform(Preprocessing(image_size=8, resize=None), Augmentation(), seed=0)
        >>> transform.view(torch.zeros(3, 20, 30, dtype=torch.uint8), epoch=0, index=7).shape
        torch.Size([3, 8, 8])
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation, seed: int) -> None:
        self.augmentation = augmentation
        self.seed = seed
        self._whole = EvalTransform(preprocessing)
        size = preprocessing.image_size
        self._crop = v2.RandomResizedCrop(
            (size, size),
            scale=augmentation.crop_scale,
            ratio=augmentation.crop_ratio,
            interpolation=_MODES[preprocessing.interpolation],
            antialias=True,
        )
        self._changes = _changes(augmentation, preprocessing.mean)

    def view(self, image: Tensor, epoch: int, index: int) -> Tensor:
        """uint8 (3, H, W) to (3, S, S), cropped; seeds torch's global generator and draws from it."""
        if self.augmentation.crop != "random-resized":
            return self._whole.view(image)
        self._restart_generator(epoch, index, Stream.CROP)
        cropped: Tensor = self._crop(image)
        return cropped

    def finish(self, images: Tensor, epoch: int, indices: Tensor) -> Tensor:
        """uint8 (B, 3, S, S): shifted, flipped, and the rest; seeds torch's global generator where it draws."""
        images = shift_and_flip(images, self.augmentation, seed=self.seed, epoch=epoch, indices=indices)
        if not self._changes:
            return images
        changed = torch.empty_like(images)
        for position, index in enumerate(indices.tolist()):
            self._restart_generator(epoch, index, Stream.COLOUR)
            image = images[position]
            for change in self._changes:
                image = change(image)
            changed[position] = image
        return changed

    def empty(self) -> Tensor:
        """uint8 (0, 3, S, S)."""
        return self._whole.empty()

    def _restart_generator(self, epoch: int, index: int, stream: Stream) -> None:
        # The generator itself: torch.manual_seed goes on to every other device's generator, ten times as slow.
        torch.default_generator.manual_seed(image_hash(self.seed, epoch, index, stream))


@contextmanager
def keep_global_generator() -> Iterator[None]:
    """Give torch's global CPU generator its state back on leaving.

    Examples:
        >>> before = torch.get_rng_state()
        >>> with keep_global_generator():
        ...     draw = torch.rand(1)
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def shift_and_flip(images: Tensor, augmentation: Augmentation, *, seed: int, epoch: int, indices: Tensor) -> Tensor:
    """Padded random crops and random horizontal flips of a whole batch, on the device where it is.

    Args:
        images: uint8 (B, 3, S, S).
        augmentation: Whose `crop`, `pad` and `flip` are used.
        seed: Of the run.
        epoch: Counted from 0.
        indices: int64 (B,), the numbers of the images in their source, on the device of `images`.

    Returns:
        uint8 (B, 3, S, S).

    Examples:
        >>> images = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
        >>> mirrored = Augmentation(crop="none", flip=1.0)
        >>> shift_and_flip(images, mirrored, seed=0, epoch=0, indices=torch.tensor([7]))[0, 0, 0].tolist()
        [3, 2, 1, 0]
    """
    if augmentation.crop == "pad" and augmentation.pad > 0:
        pad, size = augmentation.pad, images.shape[-1]
        top, left = (random_integers(seed, epoch, indices, stream, 2 * pad + 1) for stream in (Stream.TOP, Stream.LEFT))
        # Every possible crop as a view: picking one an image is then a single gather.
        crops = F.pad(images, [pad] * 4).unfold(2, size, 1).unfold(3, size, 1)
        images = crops[torch.arange(len(images), device=images.device), :, top, left]
    if augmentation.flip > 0:
        draw = random_integers(seed, epoch, indices, Stream.FLIP, 1 << 31)
        flipped = draw < round(augmentation.flip * (1 << 31))
        # Rows of either half are copied whole; torch.where looks at every pixel and takes five times as long.
        both = torch.cat([images, images.flip(3)])
        images = both.index_select(0, torch.arange(len(images), device=images.device) + len(images) * flipped)
    return images


_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


class _PixelJitter(torch.nn.Module):
    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, image: Tensor) -> Tensor:
        shift = torch.randint(-self.reach, self.reach + 1, image.shape, dtype=torch.int16)
        return shift.add_(image).clamp_(0, 255).to(torch.uint8)


def _changes(augmentation: Augmentation, mean: Triple) -> list[torch.nn.Module]:
    """The variations that are drawn image by image, after the crop and the flip."""
    colour = [round(255 * value) for value in mean]
    changes: list[torch.nn.Module] = []
    if augmentation.rotation:
        changes.append(v2.RandomRotation(augmentation.rotation, InterpolationMode.BILINEAR, fill=colour))
    if augmentation.color_jitter:
        changes.append(v2.ColorJitter(*[augmentation.color_jitter] * 3))
    if augmentation.jitter:
        changes.append(_PixelJitter(augmentation.jitter))
    if augmentation.random_erasing:
        changes.append(v2.RandomErasing(augmentation.random_erasing, value=[float(value) for value in colour]))
    return changes


def _resized(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    image = _without_far_ends(image)
    if min(image.shape[1:]) == preprocessing.short_side:
        return image
    mode = _MODES[preprocessing.interpolation]
    resized: Tensor = pixels.resize(image, [preprocessing.short_side], interpolation=mode, antialias=True)
    return resized


def _without_far_ends(image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    longest = _MAX_ASPECT * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return image[:, top : top + longest, left : left + longest]
