"""Train a detector, and go on with a training that was stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sgenet.data import DetectionData
from sgenet.detection.config import DetectConfig
from sgenet.detection.detectors import create_detector
from sgenet.detection.feed import DetectionFeed
from sgenet.detection.history import DetectRow
from sgenet.detection.images import has_masks, open_config_data
from sgenet.detection.task import DetectionTask
from sgenet.errors import DataError
from sgenet.training.devices import resolve_precision
from sgenet.training.fitting import fit, is_first_process, shown
from sgenet.training.progress import Progress
from sgenet.training.recorder import Recorder
from sgenet.training.resuming import reopen
from sgenet.training.run_folder import RunFolder
from sgenet.training.schedules import steps_per_epoch

__all__ = ["DetectResult", "network_of", "resume_detector", "train_detector"]


@dataclass(frozen=True)
class DetectResult:
    """What a training came to.

    Attributes:
        run: Its folder.
        history: One row an epoch.
    """

    run: Path
    history: list[DetectRow]

    @property
    def ap(self) -> float:
        """AP of the boxes on the validation images after the last epoch, percent."""
        return self.history[-1].ap


def train_detector(
    config: DetectConfig, *, data: DetectionData | None = None, progress: Progress | None = None
) -> DetectResult:
    """Train a detector from the start.

    Args:
        config: Settings.
        data: Images and their objects, where they are opened already; from `config.data` if not given.
        progress: Where to show what happens; the console if not given.

    Returns:
        The folder of the run, and its rows.

    Raises:
        SgenetError: Before any work, if a setting, the data or the output folder cannot be used; RunError later, if
            the numbers break.
        KeyboardInterrupt: If the user stops it; the message says how to go on.
    """
    if is_first_process():
        RunFolder.check(config.output)
    config = _absolute(resolve_precision(config))
    data = open_config_data(config) if data is None else data
    _check_masks(config, data)
    network = network_of(config, len(data.classes))
    name = f"{config.detector}-{config.backbone}-{data.name}"
    return _fit(network, config, data, lambda: RunFolder.create(config, name), None, progress)


def resume_detector(
    run: str | Path,
    *,
    epochs: int | None = None,
    data: DetectionData | None = None,
    progress: Progress | None = None,
) -> DetectResult:
    """Go on with a training that was stopped, from its last checkpoint.

    Args:
        run: The folder of the run.
        epochs: Train until so many are done, where more (or fewer) are wanted than were asked for.
        data: As in `train_detector`.
        progress: As in `train_detector`.

    Returns:
        The folder of the run, and its rows, those from before included.

    Raises:
        SgenetError: Before any work, if the folder is no run, its checkpoint is damaged, the data have changed, or
            nothing is left to do.
        KeyboardInterrupt: If the user stops it; the message says how to go on.
    """
    stopped = reopen(run, DetectConfig, epochs)
    config = stopped.config
    data = open_config_data(config) if data is None else data
    network = stopped.network(config.data, data.classes, lambda: network_of(config, len(data.classes)))
    return _fit(network, config, data, stopped.claim, stopped.checkpoint, progress)


def network_of(config: DetectConfig, classes: int) -> nn.Module:
    """The detector that the settings name, as it is before training; its weights are drawn from the settings' seed.

    Args:
        config: Settings.
        classes: How many, without the background.

    Returns:
        A detector, whose backbone has the weights that the settings name.

    Raises:
        SgenetError: If it cannot be built.
    """
    torch.manual_seed(config.seed)
    return create_detector(
        config.detector,
        config.backbone,
        classes,
        backbone_weights=config.backbone_weights,
        pretrained=config.pretrained,
        attention=config.attention,
        attention_options=config.attention_options or None,
        backbone_options=config.backbone_options,
        image_min_size=config.min_size,
        image_max_size=config.max_size,
        image_mean=config.mean,
        image_std=config.std,
        norm=config.norm,
        norm_eval=config.norm_eval,
        frozen_stages=config.frozen_stages,
        freeze_attention=config.freeze_attention,
        anchor_sizes=config.anchor_sizes,
        fpn_norm=config.fpn_norm,
        fpn_attention=config.fpn_attention,
        **config.detector_options,
    )


def _fit(
    network: nn.Module,
    config: DetectConfig,
    data: DetectionData,
    open_run: Callable[[], RunFolder],
    checkpoint: Path | None,
    progress: Progress | None,
) -> DetectResult:
    progress = shown(progress)
    for line in data.skipped:
        progress.line(f"left out: {line}")
    task = DetectionTask(network, config, data, steps_per_epoch(len(data.train), config))

    def metadata() -> dict[str, Any]:
        return {
            "classes": data.classes,
            "category_ids": data.val.category_ids,
            "data": data.name,
            "epoch": task.epoch,
            "step": task.global_step,
        }

    recorder = Recorder(open_run, progress, f"{config.detector} with {config.backbone} on {data.name}")
    fit(task, DetectionFeed(data, config), recorder, metadata, checkpoint)
    return DetectResult(recorder.run.path, task.history)


def _check_masks(config: DetectConfig, data: DetectionData) -> None:
    if not has_masks(config):
        return
    for which, source in (("training", data.train), ("validation", data.val)):
        if not source.has_masks:
            raise DataError(
                f"the {which} images of '{data.name}' have no masks, which {config.detector} learns and is judged by; "
                "choose a detector without masks"
            )


def _absolute(config: DetectConfig) -> DetectConfig:
    """Paths that mean the same from any working directory, so that a run can be resumed from any."""
    data = config.data if config.data in ("", "shapes") else str(Path(config.data).expanduser().resolve())
    weights = config.backbone_weights
    return replace(
        config, data=data, backbone_weights=None if weights is None else str(Path(weights).expanduser().resolve())
    )
