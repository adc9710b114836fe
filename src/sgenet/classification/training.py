"""Train a classifier, and go on with a training that was stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sgenet.classification.config import TrainConfig
from sgenet.classification.feed import ImageFeed
from sgenet.classification.history import EpochRow
from sgenet.classification.images import augmentation_of, open_config_data, preprocessing_of
from sgenet.classification.task import ClassificationTask, check_network
from sgenet.data import ClassificationData
from sgenet.errors import ConfigError
from sgenet.models import create_model, load_weights
from sgenet.training.devices import resolve_precision
from sgenet.training.fitting import fit, is_first_process, shown
from sgenet.training.progress import Progress
from sgenet.training.recorder import Recorder
from sgenet.training.resuming import reopen
from sgenet.training.run_folder import RunFolder
from sgenet.training.schedules import steps_per_epoch

__all__ = ["TrainResult", "create_network", "resume", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        run: Its folder.
        history: One row an epoch.
    """

    run: Path
    history: list[EpochRow]

    @property
    def top1(self) -> float:
        """Validation top-1 of the LAST epoch, percent: the figure to report."""
        return self.history[-1].val_top1

    @property
    def best_top1(self) -> float:
        """Validation top-1 of the best epoch, percent: chosen on the validation set, and so a little too good."""
        return max(row.val_top1 for row in self.history)


def train(
    config: TrainConfig, *, data: ClassificationData | None = None, progress: Progress | None = None
) -> TrainResult:
    """Train a network from the start.

    Args:
        config: Settings.
        data: Images, where they are in memory already; opened from `config.data` if not given.
        progress: Where to show what happens; the console if not given.

    Returns:
        The folder of the run, and its rows.

    Raises:
        SgenetError: Before any work, if a setting, the data or the output folder cannot be used; RunError later, if
            the numbers break.
        KeyboardInterrupt: If the user stops it; the message says how to go on.

    Examples:
        >>> import tempfile
        >>> from sgenet.classification import make_config
        >>> from sgenet.data import ArraySource
        >>> from sgenet.training import SilentProgress
        >>> images = torch.arange(8, dtype=torch.uint8).mul(32).view(8, 1, 1, 1).expand(8, 3, 8, 8)
        >>> source = ArraySource(images, torch.arange(8) // 4, ["dark", "light"])
        >>> data = ClassificationData(source, source, "greys")
        >>> with tempfile.TemporaryDirectory() as output:
        ...     config = make_config(
        ...         "cifar", model="resnet8_cifar", epochs=2, batch_size=4, image_size=8, output=output
        ...     )
        ...     result = train(config, data=data, progress=SilentProgress())
        >>> [row.epoch for row in result.history]
        [1, 2]
    """
    preprocessing_of(config), augmentation_of(config)  # sizes that do not fit together are found here
    if is_first_process():
        RunFolder.check(config.output)
    config = _absolute(resolve_precision(config))
    data = open_config_data(config) if data is None else data
    network = _prepared(config, data)
    return _fit(network, config, data, lambda: RunFolder.create(config, _run_name(config, data.name)), None, progress)


def resume(
    run: str | Path,
    *,
    epochs: int | None = None,
    data: ClassificationData | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Go on with a training that was stopped, from its last checkpoint; on a CPU the result is the same, bit for bit.

    Args:
        run: The folder of the run.
        epochs: Train until so many are done, where more (or fewer) are wanted than were asked for. A cosine then falls
            over the new length from here on.
        data: As in `train`.
        progress: As in `train`.

    Returns:
        The folder of the run, and its rows, those from before included.

    Raises:
        SgenetError: Before any work, if the folder is no run, its checkpoint is damaged, the data have changed, or
            nothing is left to do.
        KeyboardInterrupt: If the user stops it; the message says how to go on.
    """
    stopped = reopen(run, TrainConfig, epochs)
    config = stopped.config
    data = open_config_data(config) if data is None else data
    network = stopped.network(config.data, data.classes, lambda: _prepared(config, data))
    return _fit(network, config, data, stopped.claim, stopped.checkpoint, progress)


def _fit(
    network: nn.Module,
    config: TrainConfig,
    data: ClassificationData,
    open_run: Callable[[], RunFolder],
    checkpoint: Path | None,
    progress: Progress | None,
) -> TrainResult:
    progress = shown(progress)
    for name in data.rejected[:10]:
        progress.line(f"left out, no image: {name}")
    if len(data.rejected) > 10:
        progress.line(f"and {len(data.rejected) - 10} more files that are no images were left out")
    task = ClassificationTask(network, config, len(data.classes), steps_per_epoch(len(data.train), config))

    def metadata() -> dict[str, Any]:
        return {
            "classes": data.classes,
            "preprocessing": asdict(preprocessing_of(config)),
            "data": data.name,
            "epoch": task.epoch,
            "step": task.global_step,
        }

    recorder = Recorder(open_run, progress, f"{config.model} on {data.name}")
    fit(
        task,
        ImageFeed(data, config, progress),
        recorder,
        metadata,
        checkpoint,
        check=lambda world: _check_shares(network, config, len(data.classes), world),
    )
    return TrainResult(recorder.run.path, task.history)


def create_network(config: TrainConfig, classes: int) -> nn.Module:
    """The network that the settings name, as it is before training; its weights are drawn from the settings' seed.

    Args:
        config: Settings.
        classes: How many.

    Returns:
        A network, with the weights of a zoo where `pretrained` asks for them.

    Raises:
        SgenetError: If it cannot be built, or has another input size or number of classes.

    Examples:
        >>> from sgenet.classification import make_config
        >>> type(create_network(make_config("cifar"), 10)).__name__
        'CifarResNet'
    """
    torch.manual_seed(config.seed)
    network = create_model(
        config.model,
        num_classes=classes,
        pretrained=config.pretrained,
        attention=config.attention,
        attention_options=config.attention_options,
        **config.model_options,
    )
    check_network(network, config, classes)
    return network


def _prepared(config: TrainConfig, data: ClassificationData) -> nn.Module:
    network = create_network(config, len(data.classes))
    if config.weights is not None:
        load_weights(network, config.weights, classes=data.classes)
    return network


def _run_name(config: TrainConfig, data: str) -> str:
    attention = f"{config.attention}-" if config.attention not in (None, "none") else ""
    return f"{attention}{config.model}-{data}"


def _check_shares(network: nn.Module, config: TrainConfig, classes: int, world: int) -> None:
    share = config.batch_size // (world * config.accumulate)
    if world > 1 and share == 1:
        check_network(network, config, classes, world)
    if (config.mixup or config.cutmix) and share % 2:
        raise ConfigError(f"mixup and cutmix pair images, but a device gets {share} of them; change batch_size")


def _absolute(config: TrainConfig) -> TrainConfig:
    """Paths that mean the same from any working directory, so that a run can be resumed from any."""
    data = config.data if config.data in ("", "shapes") else str(Path(config.data).expanduser().resolve())
    labels, weights = (
        None if p is None else str(Path(p).expanduser().resolve()) for p in (config.labels, config.weights)
    )
    return replace(config, data=data, labels=labels, weights=weights)
