"""The parts of torchvision's detectors that compute on feature maps, with float32 boxes at any precision of the maps.

In bf16 a coordinate beyond 512 is a multiple of 4, so that anchors, deltas and scores leave their layers in float32;
where all is float32, they are torchvision's, bit for bit. Names and keys are torchvision's too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from sgenet.detection.features import STRIDES

__all__ = [
    "AgnosticPredictor",
    "Anchors",
    "BoxPredictor",
    "DenseHead",
    "MaskPredictor",
    "ProposalHead",
    "roi_align",
]


class Anchors(AnchorGenerator):
    """Anchors in float32."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Take the anchors of a cell to a device."""
        del dtype  # the maps'
        super().set_cell_anchors(torch.float32, device)


class ProposalHead(RPNHead):
    """The head of a region proposal network."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each level, objectness (B, A, H, W) and deltas (B, 4A, H, W)."""
        scores, deltas = super().forward(x)
        return [s.float() for s in scores], [d.float() for d in deltas]


class BoxPredictor(FastRCNNPredictor):
    """Scores and, for each class, deltas of a region."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, F) to scores (N, classes) and deltas (N, 4 classes)."""
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


class AgnosticPredictor(nn.Module):
    """Scores of a region, and deltas that are the same whatever its class.

    It starts at scores and deltas near 0, so that the regions stay where they are until it has learned.

    Args:
        in_channels: F.
        num_classes: With the background.

    Source:
        Initial weights: arXiv 1504.08083, section 2.3.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4)
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, F) to scores (N, classes) and deltas (N, 4)."""
        return self.cls_score(x).float(), self.bbox_pred(x).float()


class MaskPredictor(MaskRCNNPredictor):
    """A mask of each class."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, 14, 14) to logits (N, classes, 28, 28)."""
        logits: Tensor = super().forward(x)
        return logits.float()


class DenseHead(RetinaNetHead):
    """The head of a RetinaNet."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """`cls_logits` (B, anchors, classes) and `bbox_regression` (B, anchors, 4)."""
        return {name: output.float() for name, output in super().forward(x).items()}


def roi_align(output_size: int, canonical_size: int) -> MultiScaleRoIAlign:
    """Crops of the regions from the pyramid's levels of stride 4 to 32, by the size of the region.

    Args:
        output_size: Positions of a crop in each direction.
        canonical_size: Pixels of the (square) region that is cropped from the level of stride 16; one of half the size
            from stride 8, and so on.

    Returns:
        torchvision's module, which is told the strides instead of guessing them from its first images.

    Source:
        arXiv 1612.03144, equation 1, with 224 pixels.
    """
    align = MultiScaleRoIAlign([str(level) for level in range(len(STRIDES))], output_size, sampling_ratio=2)
    align.scales = [1 / stride for stride in STRIDES]
    align.map_levels = LevelMapper(2, 5, canonical_scale=canonical_size, canonical_level=4)
    return align
