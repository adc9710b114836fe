"""Let Lightning train a task, in our words and with our files."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.rank_zero import rank_zero_only
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.utilities.exceptions import SIGTERMException

from sgenet.errors import ConfigError, RunError
from sgenet.training.progress import ConsoleProgress, Progress, SilentProgress
from sgenet.training.recorder import Recorder
from sgenet.training.settings import TrainingSettings
from sgenet.training.task import FolderCheckpointIO, TrainingTask

__all__ = ["fit", "is_first_process", "shown"]

_PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def fit(
    task: TrainingTask[Any, Any],
    feed: pl.LightningDataModule,
    recorder: Recorder,
    metadata: Callable[[], dict[str, Any]],
    checkpoint: Path | None = None,
    check: Callable[[int], None] = lambda world: None,
) -> None:
    """Train until the last epoch.

    Args:
        task: What a step does.
        feed: Its batches.
        recorder: Writes the run folder and shows progress.
        metadata: Called at each save; kept beside the network's description.
        checkpoint: Where to go on from; None begins.
        check: Called with the number of processes before they begin; raises where the settings do not suit it.

    Raises:
        ConfigError: If accelerator, devices or precision cannot be used here, or the batch cannot be shared.
        RunError: If the numbers break, or the system ends the training.
        KeyboardInterrupt: If the user stops it; the message says how to go on.
    """
    config = task.config
    if config.channels_last:
        for network in (task.network, task.weights):
            network.to(memory_format=torch.channels_last)
    if config.compile:
        task.network.compile()
    with _quiet():
        trainer = _trainer(config, recorder, FolderCheckpointIO(task, metadata))
        _check_shares(config, trainer.world_size)
        check(trainer.world_size)
        with _stoppable(recorder):
            trainer.fit(task, datamodule=feed, ckpt_path=checkpoint)


def shown(progress: Progress | None) -> Progress:
    """Where this process shows its progress: the console if not given, nowhere if it is not the first process."""
    if not is_first_process():
        return SilentProgress()
    return ConsoleProgress() if progress is None else progress


def is_first_process() -> bool:
    """Whether this is the process that writes and shows, of those that train together.

    Examples:
        >>> is_first_process()
        True
    """
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def _trainer(config: TrainingSettings, recorder: Recorder, checkpoints: FolderCheckpointIO) -> pl.Trainer:
    plugins: list[Any] = [checkpoints]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # `--resume` goes on; Lightning's own way cannot
    try:
        return pl.Trainer(
            accelerator=config.accelerator,
            devices=_devices(config.devices),
            num_nodes=config.nodes,
            precision=_PRECISIONS[config.precision],
            max_epochs=config.epochs,
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.clip_norm,
            callbacks=[recorder],
            plugins=plugins,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
        )
    except (MisconfigurationException, ImportError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"accelerator={config.accelerator!r} devices={config.devices!r} precision={config.precision!r} cannot be "
            f"used on this machine: {reason:.300}"
        ) from error


@contextmanager
def _stoppable(recorder: Recorder) -> Iterator[None]:
    """Turn the ways in which Lightning ends a stopped training into one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:  # a SIGTERMException is one too
        if not recorder.interrupted and not isinstance(error, SIGTERMException):
            raise
        raise KeyboardInterrupt(recorder.way_on) from error
    except torch.OutOfMemoryError as error:
        raise RunError("the device's memory is too small; lower batch_size, or raise accumulate") from error
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise RunError(f"training ended by the system: {reason}; {recorder.way_on}") from error
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notes to itself; what matters here is said in our words."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for module in (r"pytorch_lightning\..*", r"lightning_fabric\..*", r"torch\.optim\.lr_scheduler"):
                warnings.filterwarnings("ignore", module=module)
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_shares(config: TrainingSettings, world: int) -> None:
    if config.batch_size % (world * config.accumulate):
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be shared by {world} devices in accumulate={config.accumulate} "
            f"passes; choose a multiple of {world * config.accumulate}"
        )


def _devices(text: str) -> int | str | list[int]:
    if "," in text:
        return [int(part) for part in text.split(",") if part]
    return int(text) if text.lstrip("-").isdigit() else text
