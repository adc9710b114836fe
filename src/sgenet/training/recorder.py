"""What happens around the steps of a training: progress, checkpoints, tables, and the watch for broken numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from sgenet.data.loaders import nothing_readable
from sgenet.errors import RunError
from sgenet.training.checkpointing import publish
from sgenet.training.progress import Progress
from sgenet.training.run_folder import Row, RunFolder
from sgenet.training.task import TrainingTask

__all__ = ["Recorder"]


class Recorder(pl.Callback):
    """Writes the run folder and shows progress. Every process has one; only the first one's writes and shows.

    Args:
        open_run: Makes or claims the run folder; called by the first process alone, when the first batch is at hand, so
            that a training that cannot begin leaves nothing behind.
        progress: Where to show.
        title: Of the progress.
    """

    def __init__(self, open_run: Callable[[], RunFolder], progress: Progress, title: str) -> None:
        self._run: RunFolder | None = None
        self.interrupted = False
        self._open_run = open_run
        self._progress = progress
        self._title = title
        self._best = -math.inf
        self._command = ""
        self._skipped: dict[str, None] = {}
        self._told = 0
        self._metrics: dict[str, float] = {}
        self._step = 0
        self._writer: Any = None
        self._clock = _Clock()

    @property
    def run(self) -> RunFolder:
        """The folder, once the training has begun."""
        if self._run is None:
            msg = "the training has not begun"
            raise RuntimeError(msg)
        return self._run

    @property
    def way_on(self) -> str:
        """How to go on with a training that is stopped now."""
        if self._run is None:
            return "stopped before the training began"
        return f"stopped; go on with `{self._command} --resume {self._run.path}`"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show where the training stands; open the event file."""
        task = _task(pl_module)
        opened = self._open_run() if trainer.is_global_zero else None
        path = trainer.strategy.broadcast("" if opened is None else str(opened.path))
        self._run = RunFolder(path) if opened is None else opened
        self._step = task.global_step
        self._command = task.command
        self._best = max((task.judge(row) for row in task.history), default=-math.inf)
        if task.history:
            self._metrics[task.figure] = task.judge(task.history[-1])
        self._progress.start(self._title, task.config.epochs * task.steps_per_epoch, task.global_step)
        if trainer.is_global_zero:
            from torch.utils.tensorboard import SummaryWriter

            writer: Any = SummaryWriter  # untyped in torch
            # Events of steps after the checkpoint, from before an interruption, are hidden.
            self._writer = writer(str(self.run.tensorboard), purge_step=task.global_step + 1)
            self.run.write_metrics(task.row, task.history)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._clock.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401  # Lightning's signature
        batch: Any,  # noqa: ANN401  # of the job: it has indices, and names in `skipped`
        batch_idx: int,
    ) -> None:
        """After an optimisation step: progress, the look at the loss, a checkpoint where one is due."""
        task = _task(pl_module)
        self._skipped.update(dict.fromkeys(batch.skipped))
        self._clock.images += len(batch.indices) * trainer.world_size
        step = task.global_step
        if step == self._step:
            return  # a step of several passes is not done yet
        self._step = step
        if step % task.look_every == 0:
            self._look(task)
        self._progress.advance(self._metrics)
        every = task.config.checkpoint_every_steps
        # The end of an epoch has its own checkpoint, after the validation.
        if every is not None and step % every == 0 and step % task.steps_per_epoch:
            self._save(trainer, task, best=False)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the training part."""
        self._clock.pause()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401  # Lightning's signature
        batch: Any,  # noqa: ANN401  # of the job: it has indices, and names in `skipped`
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note the images that could not be read."""
        self._skipped.update(dict.fromkeys(batch.skipped))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the epoch: row, checkpoint, table, events, one line."""
        task = _task(pl_module)
        if (task.mean_loss is None or task.judged == 0) and self._skipped:
            raise nothing_readable(list(self._skipped))
        self._look(task)
        broken = task.broken()
        if broken is not None:
            raise self._broken(f"{broken} after epoch {task.epoch}")
        row = task.finish_epoch(self._clock.rate(), self._clock.seconds())
        best = task.judge(row) > self._best
        self._best = max(self._best, task.judge(row))
        self._save(trainer, task, best=best)
        self._metrics[task.figure] = task.judge(row)
        if trainer.is_global_zero:
            self.run.write_metrics(task.row, task.history)
            self._write_events(task, row)
        self._tell(task, row)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remember why training ended; Lightning calls no `teardown` then."""
        self.interrupted = isinstance(exception, KeyboardInterrupt)
        self._close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close what is open."""
        self._close()

    def _close(self) -> None:
        self._progress.stop()
        if self._run is not None:
            self._run.release()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _look(self, task: TrainingTask[Any, Any]) -> None:
        """Read the loss, which waits for the device, and stop where it is no number any more."""
        loss = task.mean_loss
        step = task.global_step
        if loss is not None and not math.isfinite(loss):
            raise self._broken(
                f"the training loss is {loss} at step {step} (epoch {_epoch_of(step, task)}){task.where()}"
            )
        self._metrics = {
            "epoch": _epoch_of(step, task),
            **({} if loss is None else {"loss": loss}),
            **{name: value for name, value in self._metrics.items() if name == task.figure},
            "images_per_second": self._clock.rate(),
        }

    def _broken(self, what: str) -> RunError:
        begun = (self.run.checkpoints / "index.json").exists()
        kept = f"the last good checkpoint is kept in '{self.run.path}'" if begun else "there is no checkpoint yet"
        return RunError(
            f"{what}: training stopped; {kept}; a lower lr, a longer warm-up, clip_norm=1 or precision=32 may help"
        )

    def _save(self, trainer: pl.Trainer, task: TrainingTask[Any, Any], *, best: bool) -> None:
        self._look(task)
        if not all(bool(torch.isfinite(p).all()) for p in task.network.parameters()):
            raise self._broken(f"weights are not finite any more after step {task.global_step}")
        name = f"step-{task.global_step:08d}"
        trainer.save_checkpoint(self.run.checkpoints / name)
        if trainer.is_global_zero:
            publish(self.run.checkpoints, name, best=best)

    def _write_events(self, task: TrainingTask[Any, Any], row: Row) -> None:
        for tag, value in {**task.events(row), "lr": row.lr, "images_per_second": row.images_per_second}.items():
            self._writer.add_scalar(tag, value, row.step)
        task.draw(self._writer, row)
        self._writer.flush()

    def _tell(self, task: TrainingTask[Any, Any], row: Row) -> None:
        epochs = task.config.epochs
        self._progress.epoch(row)
        self._progress.line(
            f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  {task.words(row)}  "
            f"{row.images_per_second:,.0f} images/s  {row.seconds:.0f} s"
        )
        new = list(self._skipped)[self._told :]
        self._told = len(self._skipped)
        for name in new[:10]:
            self._progress.line(f"  left out, unreadable: {name}")
        if len(new) > 10:
            self._progress.line(f"  and {len(new) - 10} more unreadable images were left out")


class _Clock:
    """Seconds of an epoch, and images a second of its training part."""

    def __init__(self) -> None:
        self.images = 0
        self._begin = 0.0
        self._pause: float | None = None

    def start(self) -> None:
        self.images, self._begin, self._pause = 0, time.perf_counter(), None

    def pause(self) -> None:
        self._pause = time.perf_counter()

    def rate(self) -> float:
        end = time.perf_counter() if self._pause is None else self._pause
        return self.images / max(end - self._begin, 1e-9)

    def seconds(self) -> float:
        return time.perf_counter() - self._begin


def _task(module: pl.LightningModule) -> TrainingTask[Any, Any]:
    if not isinstance(module, TrainingTask):
        msg = f"the recorder belongs to a TrainingTask, not to {type(module).__name__}"
        raise TypeError(msg)
    return module


def _epoch_of(step: int, task: TrainingTask[Any, Any]) -> int:
    """The epoch, from 1, that a step done belongs to."""
    return max(0, step - 1) // task.steps_per_epoch + 1
