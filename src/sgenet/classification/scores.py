"""Loss and accuracy over images, as sums, so that any split of the images gives the same result."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Score"]


class Score:
    """Sums of loss, of top-1 and top-5 hits, and of images.

    Args:
        sums: float64 (4,): loss, top-1 hits, top-5 hits, images; zeros if not given.

    Examples:
        >>> score = Score()
        >>> score.add(torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1]))
        >>> score.top1, score.images
        (50.0, 2)
    """

    def __init__(self, sums: Tensor | None = None) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64) if sums is None else sums

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor | None = None) -> None:
        """Count some images.

        Args:
            logits: (B, classes), of any floating dtype.
            labels: int64 (B,).
            loss: Mean loss over these images; the cross-entropy of logits and labels if not given.
        """
        count = len(labels)
        if count == 0:
            return
        logits = logits.detach().float()
        loss = F.cross_entropy(logits, labels) if loss is None else loss.detach().float()
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        found = torch.stack([loss * count, hits[:, 0].sum(), hits.sum(), loss.new_full((), count)])
        if found.device.type == "mps":
            found = found.cpu()  # Apple's GPUs have no float64
        self.sums = self.sums.to(found.device) + found.to(self.sums.dtype)

    @property
    def images(self) -> int:
        """How many images were counted."""
        return int(self.sums[3].item())

    @property
    def loss(self) -> float:
        """Mean loss; nan without images."""
        return self._mean(0)

    @property
    def top1(self) -> float:
        """Share of images whose highest logit is the label's, percent."""
        return self._mean(1, 100)

    @property
    def top5(self) -> float:
        """Share of images whose label is among the five highest logits, percent."""
        return self._mean(2, 100)

    def _mean(self, index: int, unit: int = 1) -> float:
        total, images = self.sums[index].item(), self.sums[3].item()
        return float(unit * total / images) if images else float("nan")
