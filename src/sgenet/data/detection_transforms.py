"""How images with boxes and masks are varied for training, as far as torchvision's detectors do not do it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as pixels

from sgenet.data.detection import Target
from sgenet.data.order import Stream, image_hash
from sgenet.errors import ConfigError

__all__ = ["DetectionAugmentation", "DetectionTransform", "flip_horizontally", "resize_short_side"]


@dataclass(frozen=True, kw_only=True)
class DetectionAugmentation:
    """How training images are varied.

    Attributes:
        flip: Probability of a horizontal flip.
        short_sides: Lengths in pixels, one of which the short side is resized to, each as often as the others. Empty
            leaves the size to the detector. A detector that resizes to one length of its own would undo it.
        long_side: What the long side may be at most after that, in pixels.

    Raises:
        ConfigError: If a value is out of range.

    Source:
        The defaults are those of the SGE paper's detectors (arXiv 1905.09646), which resize to 800 pixels themselves.

    Examples:
        >>> DetectionAugmentation(short_sides=(640, 800)).flip
        0.5
    """

    flip: float = 0.5
    short_sides: tuple[int, ...] = ()
    long_side: int = 1333

    def __post_init__(self) -> None:
        object.__setattr__(self, "short_sides", tuple(self.short_sides))
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip={self.flip} must be between 0 and 1")
        if any(side < 1 for side in self.short_sides):
            raise ConfigError(f"short_sides={self.short_sides} must be 1 pixel or more each")
        if self.long_side < max(self.short_sides, default=1):
            raise ConfigError(f"long_side={self.long_side} must not be below the short sides {self.short_sides}")


class DetectionTransform:
    """Varies an image and its objects: what becomes of them is a function of (seed, epoch, index) alone.

    Args:
        augmentation: What is varied, and how far.
        seed: Of the run.

    Examples:
        >>> box = torch.tensor([[1.0, 2.0, 4.0, 5.0]])
        >>> target = Target(box, torch.tensor([0]), torch.tensor([False]), torch.tensor([9.0]))
        >>> transform = DetectionTransform(DetectionAugmentation(flip=1.0), seed=0)
        >>> transform(torch.zeros(3, 8, 10, dtype=torch.uint8), target, epoch=0, index=7)[1].boxes.tolist()
        [[6.0, 2.0, 9.0, 5.0]]
    """

    def __init__(self, augmentation: DetectionAugmentation, seed: int) -> None:
        self.augmentation = augmentation
        self.seed = seed

    def __call__(self, image: Tensor, target: Target, epoch: int, index: int) -> tuple[Tensor, Target]:
        """The image, uint8 (3, H, W), and its objects, varied."""
        augmentation = self.augmentation
        if augmentation.short_sides:
            choice = self._draw(epoch, index, Stream.SCALE) % len(augmentation.short_sides)
            image, target = resize_short_side(image, target, augmentation.short_sides[choice], augmentation.long_side)
        if self._draw(epoch, index, Stream.FLIP) < round(augmentation.flip * (1 << 31)):
            image, target = flip_horizontally(image, target)
        return image, target

    def _draw(self, epoch: int, index: int, stream: Stream) -> int:
        # The same 31 bits as `random_integers`, so that a detector flips the images that a classifier flips.
        return image_hash(self.seed, epoch, index, stream) >> 33


def flip_horizontally(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Swap left and right.

    Args:
        image: (..., H, W).
        target: Its objects.

    Returns:
        Both, flipped. What is given is not changed.
    """
    left, top, right, bottom = target.boxes.unbind(1)
    width = image.shape[-1]
    boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
    masks = None if target.masks is None else target.masks.flip(-1)
    return image.flip(-1), replace(target, boxes=boxes, masks=masks)


def resize_short_side(image: Tensor, target: Target, short_side: int, long_side: int) -> tuple[Tensor, Target]:
    """Resize so that the short side has a given length, or the long side its largest one.

    Args:
        image: uint8 (3, H, W).
        target: Its objects.
        short_side: Pixels.
        long_side: At most this many pixels.

    Returns:
        Both, resized: the image bilinearly, antialiased; the masks by the nearest pixel. Areas grow and shrink along.

    Examples:
        >>> empty = Target(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), torch.zeros(0))
        >>> resize_short_side(torch.zeros(3, 100, 200, dtype=torch.uint8), empty, 80, 120)[0].shape
        torch.Size([3, 60, 120])
    """
    height, width = image.shape[-2:]
    scale = min(short_side / min(height, width), long_side / max(height, width))
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    if size == [height, width]:
        return image, target
    down, across = size[0] / height, size[1] / width
    masks = target.masks
    if masks is not None:
        masks = pixels.resize(masks.to(torch.uint8), size, interpolation=InterpolationMode.NEAREST_EXACT).bool()
    resized: Tensor = pixels.resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    edges = torch.tensor([size[1], size[0]] * 2)
    boxes = torch.minimum(target.boxes * torch.tensor([across, down] * 2), edges)
    return resized, replace(target, boxes=boxes, areas=target.areas * (across * down), masks=masks)
