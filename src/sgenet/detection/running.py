"""A trained detector from its run folder, at work on images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sgenet.data import DetectionData, DetectionSource, check_classes, detection_eval_loader
from sgenet.detection.config import DetectConfig
from sgenet.detection.images import count_workers, open_config_data, prepare_images
from sgenet.detection.results import Result, to_results
from sgenet.errors import CheckpointError
from sgenet.models import checkpoint_folder, load, read_metadata
from sgenet.training.checkpointing import verify
from sgenet.training.devices import autocast, choose_device
from sgenet.training.run_folder import RunFolder

__all__ = ["TrainedDetector", "names_of", "open_run", "results_of", "validation_images"]


@dataclass(frozen=True)
class TrainedDetector:
    """A run, and its network in eval mode on the device that it shall run on.

    Attributes:
        run: The folder.
        config: Its settings.
        network: Takes a list of float images (3, H, W) in 0..1, and gives boxes, labels from 1 on, scores and maybe
            masks of each.
        classes: Names of the classes.
        category_ids: What COCO's files of its training images call them.
        device: Of the network.
        epochs_done: How many epochs the run has behind it, whichever of its checkpoints this is.
    """

    run: Path
    config: DetectConfig
    network: nn.Module
    classes: list[str]
    category_ids: list[int]
    device: torch.device
    epochs_done: int

    @torch.inference_mode()
    def __call__(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Find the objects in images.

        Args:
            images: As `network` takes them.

        Returns:
            One dictionary an image.
        """
        with autocast(self.device, self.config.precision):
            found: list[dict[str, Tensor]] = self.network(images)
        return found


def open_run(run: str | os.PathLike[str], checkpoint: Literal["last", "best"] = "last") -> TrainedDetector:
    """A detector that `train_detector` trained.

    Args:
        run: The folder.
        checkpoint: "last" or "best".

    Returns:
        The detector.

    Raises:
        SgenetError: If the folder is no such run, or its checkpoint is damaged.
    """
    folder = RunFolder.open(run)
    where = checkpoint_folder(folder.path, checkpoint)
    verify(where)
    header = read_metadata(where / "model.safetensors")
    if "category_ids" not in header:
        raise CheckpointError(f"'{run}' holds no detector: `sgenet detect train` did not write it")
    config = folder.read_config(DetectConfig)
    done = read_metadata(folder.path)["epoch"]
    device = choose_device(config.accelerator)
    network = load(where / "model.safetensors").to(device)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return TrainedDetector(folder.path, config, network, header["classes"], header["category_ids"], device, done)


def validation_images(detector: TrainedDetector, data: str | DetectionData | None) -> DetectionSource:
    """The validation images of a run, or others with the same classes.

    Args:
        detector: From `open_run`.
        data: A folder, or opened data; the run's own if not given.

    Returns:
        The images.

    Raises:
        DataError: If they cannot be used, or have other classes.
    """
    opened = data if isinstance(data, DetectionData) else open_config_data(_with_data(detector.config, data))
    check_classes(opened.name, opened.classes, detector.classes)
    return opened.val


def results_of(detector: TrainedDetector, source: DetectionSource) -> tuple[list[Result], list[int], list[str]]:
    """All that a detector finds.

    Args:
        detector: From `open_run`.
        source: The images.

    Returns:
        Results in COCO's form, the ids of the images that were read, and a line for each that could not be.
    """
    config = detector.config
    loader = detection_eval_loader(
        source,
        # As many images at once as the training's validation has: they are padded to one size.
        batch_size=config.batch_size // config.accumulate,
        workers=count_workers(config, detector.device),
        pin_memory=detector.device.type == "cuda",
    )
    results: list[Result] = []
    image_ids: list[int] = []
    skipped: list[str] = []
    for batch in loader:
        skipped += batch.skipped
        if not batch.images:
            continue
        found = detector(prepare_images(batch, detector.device))
        for index, own in zip(batch.indices.tolist(), found, strict=True):
            image_ids.append(source.image_ids[index])
            results += to_results(source.image_ids[index], own, source.category_ids)  # those of its annotations
    return results, image_ids, skipped


def _with_data(config: DetectConfig, data: str | None) -> DetectConfig:
    if data is None:
        return config
    drawn = {name: value for name, value in config.data_options.items() if name == "seed"}
    return replace(config, data=data, data_options=drawn)


def names_of(runs: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Short names of runs: the folders' own, or whole paths where two are the same.

    Examples:
        >>> names_of(["runs/plain", "runs/sge"]), names_of(["a/x", "b/x"])
        (['plain', 'sge'], ['a/x', 'b/x'])
    """
    paths = [Path(run) for run in runs]
    short = [path.name or str(path) for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]
