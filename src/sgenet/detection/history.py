"""What an epoch of a detector's training came to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DetectRow"]


@dataclass(frozen=True)
class DetectRow:
    """The result of one epoch; a line of metrics.csv.

    Average precisions are in percent, by COCO's rules, of the boxes on the validation images; nan where there is
    nothing to find.

    Attributes:
        epoch: Counted from 1.
        step: Optimisation steps done by the end of the epoch.
        lr: Learning rate of the epoch's last step.
        train_loss: Mean over the epoch's steps of the sum of all losses.
        ap: Over IoU 0.5 to 0.95.
        ap50: At IoU 0.5.
        ap75: At IoU 0.75.
        ap_small: Of objects below 32^2 pixels.
        ap_medium: Of objects from 32^2 to 96^2 pixels.
        ap_large: Of larger objects.
        mask_ap: Of the masks, over IoU 0.5 to 0.95; nan for detectors without masks, as the next.
        mask_ap50: Of the masks, at IoU 0.5.
        images_per_second: Training images, over all devices, without validation.
        seconds: Of the epoch, with validation.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    mask_ap: float
    mask_ap50: float
    images_per_second: float
    seconds: float
