"""One training step and one validation step of a classifier, and what they count."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgenet.classification.config import TrainConfig
from sgenet.classification.history import EpochRow
from sgenet.classification.images import prepare_images
from sgenet.classification.scores import Score
from sgenet.data import Batch
from sgenet.errors import ConfigError, DataError
from sgenet.surgery import classifier_names, freeze_host, hold_statistics
from sgenet.training.task import TrainingTask, batch_norms

__all__ = ["ClassificationTask", "check_network"]


class ClassificationTask(TrainingTask[EpochRow, TrainConfig]):
    """Trains a network to name the class of an image.

    Args:
        network: Returns logits of shape (B, classes).
        config: Settings.
        classes: Number of classes.
        steps_per_epoch: Optimisation steps in an epoch.

    Raises:
        ConfigError: If the host is to be frozen and the network has no attention.
    """

    command: ClassVar[str] = "sgenet train"
    figure: ClassVar[str] = "top1"
    row = EpochRow

    def __init__(self, network: nn.Module, config: TrainConfig, classes: int, steps_per_epoch: int) -> None:
        trained = freeze_host(network, keep=classifier_names(network)) if config.freeze_host else network
        super().__init__(trained, config, steps_per_epoch)
        self.classes = classes
        self.train_score = Score()
        self.val_score = Score()
        self._mix = _create_mix(config, classes)

    def on_train_epoch_start(self) -> None:
        """Freeze batch normalisation: a frozen host's, and all from the epoch on that the settings name."""
        if self.config.freeze_host:
            hold_statistics(self.network)  # in every epoch anew, since Lightning puts the network in train mode
        super().on_train_epoch_start()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Loss of one batch.

        Returns:
            The loss, or None where no image of the batch could be read, or a single one, of which batch norms take no
            statistics.

        Raises:
            DataError: If there is no loss and other processes wait for this one.
        """
        if self._too_few(batch):
            if self.trainer.world_size > 1:
                raise DataError(f"too little of a batch can be read; remove the damaged images: {batch.skipped[0]}")
            batch.skipped.extend(f"training image {i}: the others of its batch are" for i in batch.indices.tolist())
            return None
        seed = self.seed_pass(batch_idx)
        batch = self._even(batch)
        images = prepare_images(batch.images, self.config)
        targets = batch.labels
        if self._mix is not None and len(targets) > 1:
            np.random.seed(seed % 2**32)  # timm's mixup draws from numpy's global generator
            images, targets = self._mix(images, targets)
        logits = self.network(images)
        smoothing = self.config.label_smoothing if self._mix is None else 0.0  # the mixed targets are smoothed already
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        self.train_score.add(logits, batch.labels, loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to count anew."""
        self.val_score = Score()
        super().on_validation_epoch_start()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch."""
        if len(batch.labels):
            self.val_score.add(self.weights(prepare_images(batch.images, self.config)), batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Add up what all processes counted."""
        self.val_score = self._over_processes(self.val_score)

    @property
    def mean_loss(self) -> float | None:
        """Mean training loss of the epoch so far; None before its first step."""
        return self.train_score.loss if self.train_score.images else None

    @property
    def judged(self) -> int:
        """How many validation images the epoch's validation saw."""
        return self.val_score.images

    def broken(self) -> str | None:
        """Whether the validation loss is no number any more."""
        loss = self.val_score.loss
        return None if math.isfinite(loss) else f"the validation loss is {loss}"

    def finish_epoch(self, images_per_second: float, seconds: float) -> EpochRow:
        """Close the epoch whose last step and validation are done.

        Args:
            images_per_second: For the row.
            seconds: For the row.

        Returns:
            The epoch's row, which is also appended to `history`.
        """
        train, val = self._over_processes(self.train_score), self.val_score
        row = EpochRow(
            epoch=self.epoch,
            step=self.global_step,
            lr=self.last_rate,
            train_loss=train.loss,
            train_top1=train.top1,
            val_loss=val.loss,
            val_top1=val.top1,
            val_top5=val.top5,
            images_per_second=images_per_second,
            seconds=seconds,
        )
        self.history.append(row)
        self.train_score = Score()
        self.follow_plateau(row.val_loss)
        return row

    def judge(self, row: EpochRow) -> float:
        """Top-1 on the validation images."""
        return row.val_top1

    def words(self, row: EpochRow) -> str:
        """The epoch's result in words."""
        return (
            f"train loss {row.train_loss:.3f} top-1 {row.train_top1:5.1f}%  "
            f"val loss {row.val_loss:.3f} top-1 {row.val_top1:6.2f}% top-5 {row.val_top5:6.2f}%"
        )

    def events(self, row: EpochRow) -> Mapping[str, float]:
        """What TensorBoard shows of the epoch, by its tags."""
        return {
            "loss/train": row.train_loss,
            "loss/val": row.val_loss,
            "top1/train": row.train_top1,
            "top1/val": row.val_top1,
            "top5/val": row.val_top5,
        }

    def pack_epoch(self) -> dict[str, Any]:
        """The sums of the epoch under way."""
        # Each process takes an equal part of the sums over again; for a single one that is all of them, unchanged.
        return {"train_score": self._over_processes(self.train_score).sums / self.trainer.world_size}

    def unpack_epoch(self, state: Mapping[str, Any]) -> None:
        """Take over what `pack_epoch` gave."""
        self.train_score = Score(state["train_score"])

    def _too_few(self, batch: Batch) -> bool:
        """Whether damage left nothing of a batch, or one image where batch norms learn."""
        if not batch.skipped or len(batch.labels) > 1:
            return False
        return len(batch.labels) == 0 or any(norm.training for norm in batch_norms(self.network))

    def _even(self, batch: Batch) -> Batch:
        """Without its last image, where an unreadable one left an odd number: mixup pairs images."""
        if self._mix is None or len(batch.labels) % 2 == 0:
            return batch
        kept = slice(0, max(1, len(batch.labels) - 1))
        return batch._replace(images=batch.images[kept], labels=batch.labels[kept], indices=batch.indices[kept])

    def _over_processes(self, score: Score) -> Score:
        if self.trainer.world_size == 1:
            return score
        sums = score.sums.to(self.device).clone()
        torch.distributed.all_reduce(sums)
        return Score(sums)


def check_network(network: nn.Module, config: TrainConfig, classes: int, world: int = 1) -> None:
    """See, before any work, that the network takes such images and gives one logit a class.

    Args:
        network: On the CPU.
        config: Settings.
        classes: Number of classes.
        world: Number of devices, each of which gets its share of the images of a pass.

    Raises:
        ConfigError: If it does not.
    """
    size = config.image_size
    images = min(2, config.batch_size // (world * config.accumulate))
    # A copy, because batch statistics are counted; in training mode, because some networks have more parts there.
    probe = copy.deepcopy(network).train()
    if config.freeze_host:
        hold_statistics(freeze_host(probe, keep=classifier_names(probe)))
    if config.freeze_bn_from_epoch == 1:
        for norm in batch_norms(probe):
            norm.eval()
    try:
        with torch.inference_mode():
            logits = probe(torch.zeros(images, 3, size, size))
    except Exception as error:  # a stranger's network fails in its own ways
        reason = " ".join(str(error).split())
        taken, way_out = ("images", "another") if images > 1 else ("one image a pass", "a larger batch_size, another")
        raise ConfigError(
            f"'{config.model}' cannot take {taken} of image_size={size}: {reason:.200}; choose {way_out} size or model"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (images, classes):
        raise ConfigError(f"'{config.model}' does not return one logit for each of {classes} classes; choose another")


def _create_mix(config: TrainConfig, classes: int) -> Any | None:  # noqa: ANN401  # timm has no types
    if config.mixup == 0 and config.cutmix == 0:
        return None
    from timm.data.mixup import Mixup

    mix: Any = Mixup  # untyped in timm
    return mix(
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.mix_probability,
        label_smoothing=config.label_smoothing,
        num_classes=classes,
    )
