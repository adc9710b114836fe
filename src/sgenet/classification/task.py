"""One training step, one validation step, and the state that resuming needs: the network's side of a training."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sgenet.classification.checkpointing import read_checkpoint, write_checkpoint
from sgenet.classification.config import TrainConfig
from sgenet.classification.images import prepare_images
from sgenet.classification.optimisation import create_optimizer, create_plateau
from sgenet.classification.run_folder import EpochRow
from sgenet.classification.schedules import learning_rate_factor
from sgenet.classification.scores import Score
from sgenet.data import Batch
from sgenet.errors import ConfigError, DataError
from sgenet.surgery import classifier_names, freeze_host, hold_statistics

__all__ = ["ClassificationTask", "FolderCheckpointIO", "check_network", "step_seed"]

_STATE = "sgenet"


class ClassificationTask(pl.LightningModule):
    """Trains a network to name the class of an image.

    The network's own randomness (dropout, mixup) is a function of (seed, forward pass, rank), and everything that a
    step depends on is in the checkpoint, so that a resumed training is the same training, bit for bit, on a CPU.

    Args:
        network: Returns logits of shape (B, classes).
        config: Settings.
        classes: Number of classes.
        steps_per_epoch: Optimisation steps in an epoch.

    Raises:
        ConfigError: If the host is to be frozen and the network has no attention.
    """

    def __init__(self, network: nn.Module, config: TrainConfig, classes: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.network = freeze_host(network, keep=classifier_names(network)) if config.freeze_host else network
        self.average = _create_average(network, config)
        self.config = config
        self.classes = classes
        self.steps_per_epoch = steps_per_epoch
        self.history: list[EpochRow] = []
        self.train_score = Score()
        self.val_score = Score()
        self._mix = _create_mix(config, classes)
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None  # read before the optimiser exists

    @property
    def weights(self) -> nn.Module:
        """The network to validate, to save and to use: the averaged one where averaging is on."""
        return self.network if self.average is None else self.average.module

    @property
    def weights_prefix(self) -> str:
        """What the keys of `weights` begin with in this module's state_dict."""
        return "network." if self.average is None else "average.module."

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to, from 0."""
        return self.global_step // self.steps_per_epoch

    def configure_optimizers(self) -> Any:  # noqa: ANN401  # one of Lightning's many forms
        """The optimiser, with the learning rate as a function of the step."""
        optimizer = create_optimizer(self.network, self.config)
        self._plateau = create_plateau(optimizer, self.config)
        if self._plateau is not None:
            if self._plateau_state is not None:
                self._plateau.load_state_dict(self._plateau_state)
            return optimizer

        def factor(step: int) -> float:
            return learning_rate_factor(self.config, step, self.steps_per_epoch)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Freeze batch normalisation: a frozen host's, and all from the epoch on that the settings name."""
        if self.config.freeze_host:
            hold_statistics(self.network)  # in every epoch anew, since Lightning puts the network in train mode
        first = self.config.freeze_bn_from_epoch
        if first is not None and self.epoch + 1 >= first:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Loss of one batch.

        Returns:
            The loss, or None where no image of the batch could be read.

        Raises:
            DataError: If no image could be read and other processes wait for this one.
        """
        if len(batch.labels) == 0:
            if self.trainer.world_size > 1:
                raise DataError(f"no image of a batch can be read; remove the damaged ones: {batch.skipped[0]}")
            return None
        passes = self.global_step * self.config.accumulate + batch_idx % self.config.accumulate
        seed = step_seed(self.config.seed, passes, self.global_rank)
        torch.manual_seed(seed)
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

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # Lightning's own arguments
        """The optimiser's step, and the average's after it."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.network)

    def on_validation_epoch_start(self) -> None:
        """Begin to count anew; let all processes use the statistics of the first one."""
        self.val_score = Score()
        if self.trainer.world_size > 1:
            for buffer in self.weights.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch."""
        if len(batch.labels):
            self.val_score.add(self.weights(prepare_images(batch.images, self.config)), batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Add up what all processes counted."""
        self.val_score = self._over_processes(self.val_score)

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
            lr=self._last_rate(),
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
        if self._plateau is not None:
            self._plateau.step(row.val_loss)
        return row

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put our own state in, and take Lightning's count of batches out, which cannot be resumed within an epoch."""
        # Each process takes an equal part of the sums over again; for a single one that is all of them, unchanged.
        train = self._over_processes(self.train_score).sums / self.trainer.world_size
        checkpoint.pop("loops")
        checkpoint.pop("callbacks", None)
        checkpoint[_STATE] = {
            "step": self.global_step,
            "steps_per_epoch": self.steps_per_epoch,
            "history": [dataclasses.asdict(row) for row in self.history],
            "train_score": train,
            "plateau": None if self._plateau is None else self._plateau.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take our own state over, and tell Lightning where it stands: at the start of a, maybe shorter, epoch."""
        state = checkpoint[_STATE]
        if state["steps_per_epoch"] != self.steps_per_epoch:
            raise DataError(
                f"the training images have changed: an epoch was {state['steps_per_epoch']} steps and is "
                f"{self.steps_per_epoch} now; restore them, or start a new run"
            )
        self.history = [EpochRow(**row) for row in state["history"]]
        self.train_score = Score(state["train_score"])
        self._plateau_state = state["plateau"]
        loop: Any = self.trainer.fit_loop
        epoch = state["step"] // self.steps_per_epoch
        for counts in (loop.epoch_progress.current, loop.epoch_progress.total):
            counts.ready = counts.started = counts.processed = counts.completed = epoch
        steps = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        steps.ready = steps.completed = state["step"]

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

    def _last_rate(self) -> float:
        if self._plateau is not None:
            return float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return self.config.lr * learning_rate_factor(self.config, self.global_step - 1, self.steps_per_epoch)


class FolderCheckpointIO(CheckpointIO):
    """Lets Lightning write and read a task's checkpoints as folders of files that run no code.

    Args:
        task: Whose weights are written as the network to use.
        metadata: Called at each save; kept beside the network's description.
    """

    def __init__(self, task: ClassificationTask, metadata: Callable[[], dict[str, Any]]) -> None:
        self._task = task
        self._metadata = metadata

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,  # noqa: ANN401  # Lightning's signature
    ) -> None:
        """Write a folder, whole or not at all."""
        task = self._task
        write_checkpoint(Path(path), task.weights, task.weights_prefix, self._metadata(), checkpoint)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,  # noqa: ANN401  # Lightning's signature
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a folder to the CPU."""
        return read_checkpoint(Path(path), self._task.weights_prefix)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a folder."""
        shutil.rmtree(path, ignore_errors=True)


def step_seed(seed: int, forward_pass: int, rank: int) -> int:
    """Seed of the network's own randomness in one forward pass.

    Args:
        seed: Of the run.
        forward_pass: Counted from 0 over the whole training.
        rank: Of the process.

    Returns:
        64 bits that look random.

    Examples:
        >>> step_seed(0, 5, 0) == step_seed(0, 5, 0), step_seed(0, 5, 0) == step_seed(0, 5, 1)
        (True, False)
    """
    return int(np.random.SeedSequence([seed, forward_pass, rank]).generate_state(1, np.uint64)[0])


def check_network(network: nn.Module, config: TrainConfig, classes: int) -> None:
    """See, before any work, that the network takes such images and gives one logit a class.

    Args:
        network: On the CPU.
        config: Settings.
        classes: Number of classes.

    Raises:
        ConfigError: If it does not.
    """
    size = config.image_size
    # A copy, because batch statistics are counted; in training mode, because some networks have more parts there.
    probe = copy.deepcopy(network).train()
    try:
        with torch.inference_mode():
            logits = probe(torch.zeros(2, 3, size, size))
    except Exception as error:  # a stranger's network fails in its own ways
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"'{config.model}' cannot take images of image_size={size}: {reason:.200}; choose another size or model"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        raise ConfigError(f"'{config.model}' does not return one logit for each of {classes} classes; choose another")


def _create_average(network: nn.Module, config: TrainConfig) -> AveragedModel | None:
    if config.ema == 0:
        return None
    ema: Any = get_ema_multi_avg_fn  # untyped in torch
    average = AveragedModel(network, multi_avg_fn=ema(config.ema), use_buffers=True)
    return average.requires_grad_(False)  # or distributed training would wait for its gradients


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
