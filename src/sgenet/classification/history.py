"""What an epoch of a classifier's training came to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EpochRow"]


@dataclass(frozen=True)
class EpochRow:
    """The result of one epoch; a line of metrics.csv.

    Attributes:
        epoch: Counted from 1.
        step: Optimisation steps done by the end of the epoch.
        lr: Learning rate of the epoch's last step.
        train_loss: Mean loss over the epoch's images as they were seen: augmented, smoothed, with weights on the move.
        train_top1: Top-1 over the same images, percent; with mixup, of the label with the image's own share.
        val_loss: Mean cross-entropy over the validation images.
        val_top1: Percent.
        val_top5: Percent.
        images_per_second: Training images, over all devices, without validation.
        seconds: Of the epoch, with validation.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    val_top5: float
    images_per_second: float
    seconds: float
