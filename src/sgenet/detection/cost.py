"""What a detector's backbone costs, in the convention of the SGE paper's tables of detectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sgenet.cost import Cost, count
from sgenet.detection.features import FeatureTrunk, feature_trunk
from sgenet.models import create_model

__all__ = ["backbone_cost"]


def backbone_cost(backbone: str | FeatureTrunk, size: tuple[int, int] = (800, 1333), **options: Any) -> Cost:  # noqa: ANN401
    """Count one forward pass of a backbone: the classifier up to its pooled features, without the pyramid.

    The image is not padded. Convolutions with a stride of 2 round up, so that 800 x 1333 pixels end in 25 x 42
    positions. Which of the two sides is the height changes nothing.

    Args:
        backbone: A name for `sgenet.create_model`, or the trunk of a detector, `detector.backbone.body`.
        size: Height and width of the image, in pixels.
        **options: Of `sgenet.create_model`, for a name.

    Returns:
        The cost of one image; `paper_gflops` is the paper's figure. Its parameters are those of the classifier without
        the last layer.

    Raises:
        UnknownNameError: If the name is unknown.
        ConfigError: If an option is wrong, or the network has no maps for a detector.

    Source:
        arXiv 1905.09646, the tables of detectors on COCO. Their figure for SE-ResNet-101, 168.3, is not met: it is
        168.104 by the rules that give 88.152 for SE-ResNet-50 and the other nine figures. One operation more on each
        element that SE sees, 0.191, would give it.

    Examples:
        >>> cost = backbone_cost("sge_resnet50")
        >>> cost.parameters, round(cost.paper_gflops, 3)
        (23510080, 88.149)
    """
    if isinstance(backbone, str):
        with torch.device("meta"):
            backbone = feature_trunk(create_model(backbone, **options), name=backbone)
    return count(_Pooled(backbone), (1, 3, *size))


class _Pooled(nn.Module):
    """A trunk and the pooling after it, which the paper's counter has seen."""

    def __init__(self, trunk: FeatureTrunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        *_, last = self.trunk(x).values()
        pooled: Tensor = self.pool(last)
        return pooled
