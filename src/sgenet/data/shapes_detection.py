"""The data set `shapes` for detectors: several faces in each picture, with boxes and masks."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from sgenet.data.annotations import coco_content, coco_object
from sgenet.data.detection import Target
from sgenet.data.segmentations import Runs
from sgenet.data.shapes import CLASSES, DEFAULT_NOISE, Scene, Split, render
from sgenet.errors import ConfigError

__all__ = ["ShapesDetectionSource"]


class ShapesDetectionSource:
    """Pictures with up to eight faces each, as a source of images with objects.

    Nothing is stored: a picture and its objects are drawn when they are asked for, from (seed, split, index). The loose
    parts that lie about belong to no face, so that they are no objects. Faces are small, medium or large in the sense
    of COCO at image sizes from 256 to 320; in smaller pictures most are small, though never too small to tell the parts
    by which classes differ.

    Args:
        split: "train" or "val". They share no picture.
        size: How many images.
        image_size: Pixels a side, at least 64.
        noise: How hard it is: 0 has no loose parts and a plain background, 1 is the usual task, more is harder.
        seed: Another seed gives other pictures. From 0 to 2^64 - 1.

    Attributes:
        classes: The names of `sgenet.data.shapes.CLASSES`.
        category_ids: 1 for the first class, and so on.
        image_ids: 1 for the first image, and so on.
        sizes: int64 (size, 2).
        has_masks: True.

    Raises:
        ConfigError: If an argument has a value that cannot be used.

    Examples:
        >>> source = ShapesDetectionSource("train", 10)
        >>> source.load(3).shape, source.path(3)
        (torch.Size([3, 128, 128]), 'shapes/train/000003')
        >>> target = source.target(3, masks=True)
        >>> target.boxes.shape, target.masks.shape
        (torch.Size([4, 4]), torch.Size([4, 128, 128]))
    """

    def __init__(
        self, split: Split, size: int, *, image_size: int = 128, noise: float = DEFAULT_NOISE, seed: int = 0
    ) -> None:
        if not isinstance(size, int) or size < 1:
            raise ConfigError(f"size={size!r}: shapes needs a whole number of images, 1 or more")
        self._settings: dict[str, Any] = {"split": split, "image_size": image_size, "noise": noise, "crowd": True}
        self._seed = seed
        self._drawn: tuple[int, Scene] = (0, render(seed, 0, **self._settings))  # checks the settings too
        self.classes = list(CLASSES)
        self.category_ids = list(range(1, len(CLASSES) + 1))
        self.image_ids = list(range(1, size + 1))
        self.sizes = torch.full((size, 2), image_size)
        self.has_masks = True

    def __len__(self) -> int:
        return len(self.image_ids)

    def load(self, index: int) -> Tensor:
        """Image `index`: uint8 (3, image_size, image_size)."""
        return self._scene(index).image.clone()

    def target(self, index: int, *, masks: bool = False) -> Target:
        """The faces of image `index`; none is a crowd."""
        scene = self._scene(index)
        return Target(
            boxes=scene.boxes.clone(),
            labels=scene.classes.clone(),
            crowd=torch.zeros(len(scene.classes), dtype=torch.bool),
            areas=scene.masks.sum((1, 2)).float(),
            masks=scene.masks.clone() if masks else None,
        )

    def path(self, index: int) -> str:
        """``shapes/SPLIT/NUMBER``."""
        return f"shapes/{self._settings['split']}/{self._check_index(index):06d}"

    def to_coco(self) -> dict[str, Any]:
        """All annotations as a COCO file says them; draws every picture once, about 5 ms each."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, number in enumerate(self.image_ids):
            height, width = self.sizes[index].tolist()
            images.append({"id": number, "file_name": self.path(index), "height": height, "width": width})
            scene = self._scene(index)
            for label, box, mask in zip(scene.classes.tolist(), scene.boxes, scene.masks.numpy(), strict=True):
                annotations.append(
                    coco_object(
                        len(annotations) + 1,
                        number,
                        self.category_ids[label],
                        [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                        float(mask.sum()),
                        False,
                        Runs.of_mask(mask).to_coco(height, width),
                    )
                )
        return coco_content(images, annotations, self.classes, self.category_ids)

    def _scene(self, index: int) -> Scene:
        # Kept until the next one: an image is most often asked for together with its target.
        if self._drawn[0] != self._check_index(index):
            self._drawn = (index, render(self._seed, index, **self._settings))
        return self._drawn[1]

    def _check_index(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"shapes has the {self._settings['split']} images 0 to {len(self) - 1}, not {index}")
        return operator.index(index)
