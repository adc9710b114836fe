"""The images' side of a training: the batches of each epoch, from the place where it stands, and of which images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sized
from functools import cached_property
from typing import Any, Protocol

import pytorch_lightning as pl
import torch

from sgenet.errors import DataError
from sgenet.training.batches import Batches
from sgenet.training.schedules import steps_per_epoch
from sgenet.training.settings import TrainingSettings

__all__ = ["EvalLoader", "Feed", "TrainLoader"]


class EvalLoader(Protocol):
    """A process's batches of validation images."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class TrainLoader(EvalLoader, Protocol):
    """A process's batches of the training images of an epoch."""

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Go to a batch of an epoch."""
        ...


class Feed(pl.LightningDataModule):
    """Gives Lightning the batches of each epoch, from the place where the training stands.

    Args:
        name: Of the data, for messages.
        train: Training images.
        val: Validation images.
        config: Settings.
    """

    def __init__(self, name: str, train: Sized, val: Sized, config: TrainingSettings) -> None:
        super().__init__()
        self._name = name
        self._images = {"training": train, "validation": val}
        self._settings = config
        self._train: TrainLoader | None = None
        self._val: EvalLoader | None = None

    @abstractmethod
    def open_train(self, rank: int, world: int, device: torch.device) -> TrainLoader:
        """The loader of training images of one of `world` processes."""

    @abstractmethod
    def open_val(self, rank: int, world: int, device: torch.device) -> EvalLoader:
        """The loader of validation images of one of `world` processes."""

    @abstractmethod
    def fingerprint(self, images: Any) -> str:  # noqa: ANN401  # each kind of training has its own
        """What tells images from others, in words."""

    def train_dataloader(self) -> Batches:
        """The batches that are left in the current epoch."""
        trainer, accumulate = self._attached(), self._settings.accumulate
        if self._train is None:
            self._train = self.open_train(trainer.global_rank, trainer.world_size, trainer.strategy.root_device)
        steps = steps_per_epoch(len(self._images["training"]), self._settings)
        epoch, step = divmod(trainer.global_step, steps)
        first = step * accumulate
        self._train.set_epoch(epoch, first)
        # A step is never made of fewer passes than the others: what is left at the end of an epoch is left out.
        return Batches(self._train, min(len(self._train), steps * accumulate - first))

    def val_dataloader(self) -> Batches:
        """Every validation image once, over all processes."""
        trainer = self._attached()
        if self._val is None:
            self._val = self.open_val(trainer.global_rank, trainer.world_size, trainer.strategy.root_device)
        return Batches(self._val, len(self._val))

    def state_dict(self) -> dict[str, str]:
        """What a checkpoint keeps of the images, by which `load_state_dict` tells that they are others."""
        return dict(self._fingerprints)

    def load_state_dict(self, state_dict: dict[str, str]) -> None:
        """See that the images are those that the training began with.

        Raises:
            DataError: If they are not.
        """
        for which, now in self._fingerprints.items():
            if state_dict[which] != now:
                raise DataError(
                    f"the {which} images of '{self._name}' have changed: they were {state_dict[which]}, and are {now}; "
                    "restore them, or start a new run"
                )

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        return {which: self.fingerprint(images) for which, images in self._images.items()}

    def _attached(self) -> pl.Trainer:
        if self.trainer is None:
            msg = "the feed belongs to no trainer yet"
            raise RuntimeError(msg)
        return self.trainer
