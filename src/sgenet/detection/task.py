"""One training step and one validation step of a detector, and what they count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sgenet.data import DetectionBatch, DetectionData
from sgenet.detection.config import DetectConfig
from sgenet.detection.drawing import Objects, truth_and_prediction
from sgenet.detection.evaluation import Evaluation, evaluate
from sgenet.detection.gathering import gather_results
from sgenet.detection.ground_truth import GroundTruth, read_ground_truth
from sgenet.detection.history import DetectRow
from sgenet.detection.images import has_masks, prepare_images, prepare_targets
from sgenet.detection.results import Result, to_results
from sgenet.errors import DataError
from sgenet.training.task import TrainingTask

__all__ = ["DetectionTask"]

_PICTURES = 4  # validation images that are drawn after each epoch


class DetectionTask(TrainingTask[DetectRow, DetectConfig]):
    """Trains a detector to find objects.

    Args:
        network: From `create_detector`.
        config: Settings.
        data: Training and validation images; the annotations of these are what results are judged by.
        steps_per_epoch: Optimisation steps in an epoch.

    Attributes:
        results: What the last validation found, in COCO's results form.
    """

    command: ClassVar[str] = "sgenet detect train"
    figure: ClassVar[str] = "ap"
    row = DetectRow

    def __init__(self, network: nn.Module, config: DetectConfig, data: DetectionData, steps_per_epoch: int) -> None:
        super().__init__(network, config, steps_per_epoch)
        self.results: list[Result] = []
        self._train, self._val = data.train, data.val
        self._truth: GroundTruth | None = None
        self._losses = torch.zeros(2, dtype=torch.float64)  # their sum, and how many
        self._seen: list[int] = []
        self._boxes: Evaluation | None = None
        self._masks: Evaluation | None = None
        self._last: list[int] = []
        self._pictures: list[Tensor] = []

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor | None:
        """The sum of the detector's losses over a batch.

        Returns:
            The loss, or None where no image of the batch could be read.

        Raises:
            DataError: If no image could be read and other processes wait for this one.
        """
        if not batch.images:
            if self.trainer.world_size > 1:
                raise DataError(f"no image of a batch can be read; remove the damaged ones: {batch.skipped[0]}")
            return None
        self.seed_pass(batch_idx)
        self._last = batch.indices.tolist()
        losses = self.network(prepare_images(batch, self.device), prepare_targets(batch.targets, self.device))
        loss: Tensor = torch.stack([value.float() for value in losses.values()]).sum()
        self._losses = self._losses + torch.stack([loss.detach().double().cpu(), torch.ones((), dtype=torch.float64)])
        return loss

    def transfer_batch_to_device(
        self, batch: DetectionBatch, device: torch.device, dataloader_idx: int
    ) -> DetectionBatch:
        """Nothing: a step moves what it needs."""
        return batch

    def on_validation_epoch_start(self) -> None:
        """Begin anew."""
        self.results, self._seen, self._pictures = [], [], []
        super().on_validation_epoch_start()

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Find the objects of one batch."""
        if not batch.images:
            return
        found = self.weights(prepare_images(batch, self.device))
        for number, index in enumerate(batch.indices.tolist()):
            image_id = self._val.image_ids[index]
            self.results += to_results(image_id, found[number], self._val.category_ids)
            self._seen.append(image_id)
            if len(self._pictures) < _PICTURES and self.global_rank == 0:
                self._pictures.append(self._picture(batch, number, found[number]))

    def on_validation_epoch_end(self) -> None:
        """Judge what all processes found."""
        self.results, self._seen = gather_results(self.results, self._seen)
        if self._truth is None:
            self._truth = read_ground_truth(self._val.to_coco())
        self._boxes = evaluate(self._truth, self.results, "bbox", image_ids=self._seen)
        if has_masks(self.config):
            self._masks = evaluate(self._truth, self.results, "segm", image_ids=self._seen)

    @property
    def mean_loss(self) -> float | None:
        """Mean training loss of the epoch so far; None before its first step."""
        total, steps = self._losses.tolist()
        return total / steps if steps else None

    @property
    def judged(self) -> int:
        """How many validation images the epoch's validation saw."""
        return len(self._seen)

    @property
    def look_every(self) -> int:
        """Every step: the detector's own assignments wait for the device anyway."""
        return 1

    def where(self) -> str:
        """The images of the last step."""
        return ", images " + ", ".join(str(self._train.image_ids[index]) for index in self._last)

    def broken(self) -> str | None:
        """Figures of results are always numbers."""
        return None

    def finish_epoch(self, images_per_second: float, seconds: float) -> DetectRow:
        """Close the epoch whose last step and validation are done.

        Args:
            images_per_second: For the row.
            seconds: For the row.

        Returns:
            The epoch's row, which is also appended to `history`.
        """
        losses = self._over_processes(self._losses)
        row = DetectRow(
            epoch=self.epoch,
            step=self.global_step,
            lr=self.last_rate,
            train_loss=float(losses[0] / losses[1].clamp_min(1)),
            ap=_percent(self._boxes, "AP"),
            ap50=_percent(self._boxes, "AP50"),
            ap75=_percent(self._boxes, "AP75"),
            ap_small=_percent(self._boxes, "APs"),
            ap_medium=_percent(self._boxes, "APm"),
            ap_large=_percent(self._boxes, "APl"),
            mask_ap=_percent(self._masks, "AP"),
            mask_ap50=_percent(self._masks, "AP50"),
            images_per_second=images_per_second,
            seconds=seconds,
        )
        self.history.append(row)
        self._losses = torch.zeros(2, dtype=torch.float64)
        return row

    def judge(self, row: DetectRow) -> float:
        """AP of the boxes; without any object to find, nothing is better than anything."""
        return row.ap if math.isfinite(row.ap) else -math.inf

    def words(self, row: DetectRow) -> str:
        """The epoch's result in words."""
        masks = f"  masks AP {row.mask_ap:5.2f} AP50 {row.mask_ap50:5.2f}" if has_masks(self.config) else ""
        return f"train loss {row.train_loss:.3f}  AP {row.ap:5.2f} AP50 {row.ap50:5.2f} AP75 {row.ap75:5.2f}{masks}"

    def events(self, row: DetectRow) -> Mapping[str, float]:
        """What TensorBoard shows of the epoch, by its tags."""
        found = {"loss/train": row.train_loss, "AP/boxes": row.ap, "AP50/boxes": row.ap50, "AP75/boxes": row.ap75}
        found |= {"AP/small": row.ap_small, "AP/medium": row.ap_medium, "AP/large": row.ap_large}
        if has_masks(self.config):
            found |= {"AP/masks": row.mask_ap, "AP50/masks": row.mask_ap50}
        return {tag: value for tag, value in found.items() if math.isfinite(value)}

    def draw(self, writer: Any, row: DetectRow) -> None:  # noqa: ANN401  # TensorBoard's writer has no types
        """The first validation images, with their true objects and those found."""
        for number, picture in enumerate(self._pictures):
            writer.add_image(f"validation/{number}", picture, row.step)

    def pack_epoch(self) -> dict[str, Any]:
        """The sums of the epoch under way."""
        # Each process takes an equal part of the sums over again; for a single one that is all of them, unchanged.
        return {"losses": self._over_processes(self._losses) / self.trainer.world_size}

    def unpack_epoch(self, state: Mapping[str, Any]) -> None:
        """Take over what `pack_epoch` gave."""
        self._losses = state["losses"]

    def _picture(self, batch: DetectionBatch, number: int, found: Mapping[str, Tensor]) -> Tensor:
        (true,) = prepare_targets(batch.targets[number : number + 1], torch.device("cpu"))
        objects = Objects.of_detector(true), Objects.of_detector(found)
        return truth_and_prediction(batch.images[number].cpu(), *objects, self._val.classes)

    def _over_processes(self, sums: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return sums
        total = sums.to(self.device).clone()
        torch.distributed.all_reduce(total)
        return total.cpu()


def _percent(evaluation: Evaluation | None, figure: str) -> float:
    value = None if evaluation is None else evaluation.figures[figure]
    return math.nan if value is None else 100 * value
