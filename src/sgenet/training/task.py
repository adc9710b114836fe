"""The network's side of any training: weights and their average, the optimiser, and the state that resuming needs."""

from __future__ import annotations

import dataclasses
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sgenet.errors import DataError
from sgenet.training.checkpointing import read_checkpoint, write_checkpoint
from sgenet.training.optimisation import create_optimizer, create_plateau
from sgenet.training.run_folder import Row
from sgenet.training.schedules import learning_rate_factor
from sgenet.training.settings import TrainingSettings

__all__ = ["FolderCheckpointIO", "TrainingTask", "batch_norms", "step_seed"]

_STATE = "sgenet"

R = TypeVar("R", bound=Row)
C = TypeVar("C", bound=TrainingSettings)


class TrainingTask(pl.LightningModule, Generic[R, C]):
    """What all trainings share; a job says what a step computes, and what an epoch came to.

    The network's own randomness is a function of (seed, forward pass, rank), and everything that a step depends on is
    in the checkpoint, so that a resumed training is the same training, bit for bit, on a CPU.

    Args:
        network: To train.
        config: Settings.
        steps_per_epoch: Optimisation steps in an epoch.

    Attributes:
        command: What a user types to train so.
        figure: What `judge` gives, by its usual name.
        row: The kind of `history`.
        history: One row an epoch.
    """

    command: ClassVar[str]
    figure: ClassVar[str]
    row: type[R]

    def __init__(self, network: nn.Module, config: C, steps_per_epoch: int) -> None:
        super().__init__()
        self.network = network
        self.average = _create_average(network, config)
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.history: list[R] = []
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None  # read before the optimiser exists

    # ------------------------------------------------------------------------------------- what a job says

    @property
    @abstractmethod
    def mean_loss(self) -> float | None:
        """Mean training loss of the epoch so far; None before its first step."""

    @property
    @abstractmethod
    def judged(self) -> int:
        """How many validation images the epoch's validation saw."""

    @abstractmethod
    def finish_epoch(self, images_per_second: float, seconds: float) -> R:
        """Close the epoch whose last step and validation are done.

        Args:
            images_per_second: For the row.
            seconds: For the row.

        Returns:
            The epoch's row, which is also appended to `history`.
        """

    @abstractmethod
    def judge(self, row: R) -> float:
        """The figure by which the best epoch is told; larger is better."""

    @abstractmethod
    def broken(self) -> str | None:
        """What is no number any more in the validation's result, in words; None where all is well."""

    @abstractmethod
    def words(self, row: R) -> str:
        """The epoch's result in words."""

    @abstractmethod
    def events(self, row: R) -> Mapping[str, float]:
        """What TensorBoard shows of the epoch, by its tags."""

    @property
    def look_every(self) -> int:
        """Steps between two looks at the loss; where a device has to be waited for, they are rare."""
        return 1 if self.device.type == "cpu" else 20

    def where(self) -> str:
        """What the last step saw, in words that follow a step's number; empty where that tells nothing."""
        return ""

    def draw(self, writer: Any, row: R) -> None:  # noqa: ANN401  # TensorBoard's writer has no types
        """Add pictures of the epoch to the event file, where a job has any."""

    @abstractmethod
    def pack_epoch(self) -> dict[str, Any]:
        """The state of the epoch under way, for a checkpoint: values that `checkpointing.pack` takes."""

    @abstractmethod
    def unpack_epoch(self, state: Mapping[str, Any]) -> None:
        """Take over what `pack_epoch` gave."""

    # ------------------------------------------------------------------------------------- what all share

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

    @property
    def last_rate(self) -> float:
        """The learning rate of the last step."""
        if self._plateau is not None:
            return float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return self.config.peak_lr * self._rate_factor(self.global_step - 1)

    def configure_optimizers(self) -> Any:  # noqa: ANN401  # one of Lightning's many forms
        """The optimiser, with the learning rate as a function of the step."""
        optimizer = create_optimizer(self.network, self.config)
        self._plateau = create_plateau(optimizer, self.config)
        if self._plateau is not None:
            if self._plateau_state is not None:
                self._plateau.load_state_dict(self._plateau_state)
            return optimizer

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Begin at the schedule's rate: a checkpoint holds that of the schedule it was written under."""
        if self._plateau is None:
            for group in self.optimizers().param_groups:  # type: ignore[union-attr]
                group["lr"] = group["initial_lr"] * self._rate_factor(self.global_step)

    def on_train_epoch_start(self) -> None:
        """Freeze batch normalisation from the epoch on that the settings name."""
        first = self.config.freeze_bn_from_epoch
        if first is not None and self.epoch + 1 >= first:
            for norm in batch_norms(self.network):
                norm.eval()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # Lightning's own arguments
        """The optimiser's step, and the average's after it."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.network)

    def on_validation_epoch_start(self) -> None:
        """Let all processes use the statistics of the first one."""
        if self.trainer.world_size > 1:
            for buffer in self.weights.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def _rate_factor(self, step: int) -> float:
        return learning_rate_factor(self.config, step, self.steps_per_epoch)

    def seed_pass(self, batch_idx: int) -> int:
        """Seed the network's own randomness for the forward pass of a batch.

        Args:
            batch_idx: As Lightning counts it.

        Returns:
            The seed.
        """
        passes = self.global_step * self.config.accumulate + batch_idx % self.config.accumulate
        seed = step_seed(self.config.seed, passes, self.global_rank)
        torch.manual_seed(seed)
        return seed

    def follow_plateau(self, loss: float) -> None:
        """Let a plateau schedule see an epoch's validation loss."""
        if self._plateau is not None:
            self._plateau.step(loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put our own state in, and take Lightning's count of batches out, which cannot be resumed within an epoch."""
        checkpoint.pop("loops")
        checkpoint.pop("callbacks", None)
        checkpoint[_STATE] = {
            "step": self.global_step,
            "steps_per_epoch": self.steps_per_epoch,
            "history": [dataclasses.asdict(row) for row in self.history],
            "epoch": self.pack_epoch(),
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
        self.history = [self.row(**row) for row in state["history"]]
        self.unpack_epoch(state["epoch"])
        self._plateau_state = state["plateau"]
        loop: Any = self.trainer.fit_loop
        epoch = state["step"] // self.steps_per_epoch
        for counts in (loop.epoch_progress.current, loop.epoch_progress.total):
            counts.ready = counts.started = counts.processed = counts.completed = epoch
        steps = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        steps.ready = steps.completed = state["step"]


class FolderCheckpointIO(CheckpointIO):
    """Lets Lightning write and read a task's checkpoints as folders of files that run no code.

    Args:
        task: Whose weights are written as the network to use.
        metadata: Called at each save; kept beside the network's description.
    """

    def __init__(self, task: TrainingTask[Any, Any], metadata: Callable[[], dict[str, Any]]) -> None:
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


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms of a network.

    Examples:
        >>> [norm.num_features for norm in batch_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))]
        [8]
    """
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


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


def _create_average(network: nn.Module, config: TrainingSettings) -> AveragedModel | None:
    if config.ema == 0:
        return None
    ema: Any = get_ema_multi_avg_fn  # untyped in torch
    average = AveragedModel(network, multi_avg_fn=ema(config.ema), use_buffers=True)
    return average.requires_grad_(False)  # or distributed training would wait for its gradients
