"""What a set of images with boxes and masks is to the rest of the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

__all__ = ["DetectionData", "DetectionSource", "Target"]


@dataclass(frozen=True, eq=False)
class Target:
    """The objects of one image. N of them, which may be 0.

    Attributes:
        boxes: float32 (N, 4): left, top, right, bottom in pixels of the image as `DetectionSource.load` gives it. They
            lie inside the image, and right and bottom are above left and top.
        labels: int64 (N,), positions in the classes of the source.
        crowd: bool (N,): regions of many objects, or objects that are too hard. Training ignores them; in evaluation
            what is found there is neither right nor wrong, as with COCO's `iscrowd`.
        areas: float32 (N,), in square pixels: COCO's own `area`, which is that of the segmentation, or that of the box.
        masks: bool (N, H, W), only where they were asked for.

    Examples:
        >>> import torch
        >>> box = torch.tensor([[2.0, 1.0, 6.0, 4.0]])
        >>> target = Target(box, torch.tensor([3]), torch.tensor([False]), torch.tensor([12.0]))
        >>> len(target), target.masks is None
        (1, True)
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    areas: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


class DetectionSource(Protocol):
    """Images and their objects by number: decoded, not resized, not augmented.

    Attributes:
        classes: Names of the classes; a label is a position in this list.
        category_ids: What COCO's files call the classes: ``category_ids[label]``.
        image_ids: What they call the images; each number once.
        sizes: int64 (images, 2), height and width of each image in pixels, known before it is decoded.
        has_masks: Whether the objects have masks.
    """

    classes: list[str]
    category_ids: list[int]
    image_ids: list[int]
    sizes: Tensor
    has_masks: bool

    def __len__(self) -> int:
        """The number of images."""
        ...

    def load(self, index: int) -> Tensor:
        """Image `index`: uint8 (3, H, W), RGB. Raises UnreadableImage where it cannot be decoded."""
        ...

    def target(self, index: int, *, masks: bool = False) -> Target:
        """The objects of image `index`. Raises ConfigError where masks are asked for and there are none."""
        ...

    def path(self, index: int) -> str:
        """The name of image `index` in messages and reports."""
        ...

    def to_coco(self) -> dict[str, Any]:
        """The annotations as the content of a COCO instances file, which evaluation compares with."""
        ...


@dataclass(frozen=True)
class DetectionData:
    """A training and a validation set with the same classes.

    Attributes:
        train: Images to learn from.
        val: Images to judge by; its classes are those of `train`.
        name: Short name for tables and file names.
        skipped: What was left out of the annotations or changed in them: one line each kind, with the number of cases
            and the first one. Whoever opens a set tells its user.
    """

    train: DetectionSource
    val: DetectionSource
    name: str
    skipped: tuple[str, ...] = ()

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return self.train.classes
