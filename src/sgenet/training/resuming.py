"""Going on with a training that was stopped."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from sgenet.errors import RunError
from sgenet.models import build, checkpoint_folder, read_metadata
from sgenet.training.checkpointing import verify
from sgenet.training.run_folder import RunFolder
from sgenet.training.settings import TrainingSettings

__all__ = ["StoppedRun", "reopen"]

S = TypeVar("S", bound=TrainingSettings)


@dataclass(frozen=True)
class StoppedRun(Generic[S]):
    """A run as a stopped training left it.

    Attributes:
        folder: The run.
        config: Its settings, maybe with other epochs.
        checkpoint: The last one; None where the training was stopped before there was one.
    """

    folder: RunFolder
    config: S
    checkpoint: Path | None

    def network(self, data: str, classes: list[str], begin: Callable[[], nn.Module]) -> nn.Module:
        """The network to go on with.

        Args:
            data: Where the images are, for messages.
            classes: Of the images.
            begin: Gives the network of a training that begins.

        Returns:
            What the checkpoint describes, whose weights are loaded later; or what `begin` gives, without a checkpoint.

        Raises:
            RunError: If the images have other classes, or no epoch is left to train.
        """
        if self.checkpoint is None:
            return begin()
        header = read_metadata(self.checkpoint / "model.safetensors")
        if header["classes"] != classes:
            raise RunError(
                f"the classes in '{data}' are not those that '{self.folder.path}' was trained on; restore the data, "
                "or start a new run"
            )
        done = int(header["epoch"])
        if self.config.epochs <= done:
            raise RunError(
                f"'{self.folder.path}' has finished {done} of {self.config.epochs} epochs; give --epochs above {done} "
                "to go on"
            )
        return build(header["network"])

    def claim(self) -> RunFolder:
        """Lock the folder, and write down that the training goes on here, with these settings.

        Raises:
            RunError: If another training is at work in it, or has written a checkpoint since the run was opened.
        """
        self.folder.lock()
        try:
            if self.checkpoint != _last_checkpoint(self.folder):
                raise RunError(f"another training went on with '{self.folder.path}' meanwhile; resume it once more")
            self.folder.write_config(self.config)
            self.folder.add_session()
        except BaseException:
            self.folder.release()
            raise
        return self.folder


def reopen(run: str | os.PathLike[str], kind: type[S], epochs: int | None = None) -> StoppedRun[S]:
    """Open a run to go on with it.

    Args:
        run: The folder.
        kind: Of its settings.
        epochs: Train until so many are done; as its settings say if not given.

    Returns:
        What is there.

    Raises:
        SgenetError: If the folder is no such run, or its checkpoint is damaged.
    """
    folder = RunFolder.open(run)
    config = folder.read_config(kind)
    if epochs is not None:
        config = replace(config, epochs=epochs)
    checkpoint = _last_checkpoint(folder)
    if checkpoint is not None:
        verify(checkpoint)
    return StoppedRun(folder, config, checkpoint)


def _last_checkpoint(folder: RunFolder) -> Path | None:
    begun = (folder.checkpoints / "index.json").exists()
    return checkpoint_folder(folder.path) if begun else None
