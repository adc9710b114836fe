"""How a detector resizes the images that it is given."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

__all__ = ["Resizing"]


class Resizing(GeneralizedRCNNTransform):
    """torchvision's, for every image: one so thin that a side would vanish keeps a pixel there."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """An image and its objects at the size that the detector works at."""
        height, width = image.shape[-2:]
        scale = min(min(self.min_size) / min(height, width), self.max_size / max(height, width))
        least = math.floor(1 / scale) + 1
        if min(height, width) < least:
            size = max(height, least), max(width, least)
            image = F.interpolate(image[None], size=size)[0]
            if target is not None:
                target = {**target, "boxes": resize_boxes(target["boxes"], (height, width), size)}
                if "masks" in target:
                    target["masks"] = F.interpolate(target["masks"][None].float(), size=size)[0].byte()
        resized: tuple[Tensor, dict[str, Tensor] | None] = super().resize(image, target)
        return resized
