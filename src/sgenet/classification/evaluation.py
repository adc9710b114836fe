"""Judge a trained network on images with known classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgenet.classification.config import TrainConfig
from sgenet.classification.images import (
    count_workers,
    open_config_data,
    open_other_images,
    prepare_images,
    preprocessing_of,
)
from sgenet.classification.scores import Score
from sgenet.data import BatchLoader, ClassificationData, ImageSource, check_classes, eval_loader
from sgenet.models import checkpoint_folder, load, read_metadata
from sgenet.training.checkpointing import verify
from sgenet.training.devices import autocast, choose_device
from sgenet.training.run_folder import RunFolder

__all__ = ["EvalResult", "evaluate"]


@dataclass(frozen=True)
class EvalResult:
    """How well a network names validation images.

    Attributes:
        top1: Percent.
        top5: Percent.
        loss: Mean cross-entropy.
        images: How many were judged.
        skipped: Those that could not be read, one ``path: reason`` each.
    """

    top1: float
    top5: float
    loss: float
    images: int
    skipped: tuple[str, ...]


def evaluate(
    run: str | Path,
    *,
    data: str | Path | ClassificationData | None = None,
    crops: Literal[1, 10] = 1,
    scales: Sequence[int] | None = None,
    checkpoint: Literal["last", "best"] = "last",
    model: nn.Module | None = None,
) -> EvalResult:
    """Top-1 and top-5 of a run on its validation images.

    With one crop at the run's own scale everything is as in the training's validation, so that the last checkpoint
    gives exactly the top-1 that the training reported. With more, the probabilities of all views are averaged.

    Args:
        run: The folder of the run.
        data: Other images with the same classes, as a folder or opened; the run's own if not given. Of a folder, those
            in ``val/CLASS/``, or all in ``CLASS/`` where there is no ``val``.
        crops: 1 for the centre; 10 for corners and centre, flipped too.
        scales: Short sides, in pixels, that images are resized to; the run's own if not given.
        checkpoint: "last" or "best".
        model: A network to measure instead of the checkpoint's, with as many classes: the same after surgery, say. It
            is put into eval mode.

    Returns:
        The result.

    Raises:
        SgenetError: If the run, its checkpoint or the data cannot be used.

    Examples:
        >>> import tempfile
        >>> from sgenet.classification import make_config, train
        >>> from sgenet.training import SilentProgress
        >>> from sgenet.data import ArraySource
        >>> source = ArraySource(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8) // 4, ["a", "b"])
        >>> data = ClassificationData(source, source, "black")
        >>> with tempfile.TemporaryDirectory() as run:
        ...     config = make_config("cifar", model="resnet8_cifar", epochs=1, batch_size=8, image_size=8, output=run)
        ...     top1 = train(config, data=data, progress=SilentProgress()).top1
        ...     evaluate(run, data=data).top1 == top1
        True

    Source:
        Several crops and scales: arXiv 1709.01507, section 5.1, after arXiv 1512.03385, section 3.4.
    """
    folder = RunFolder.open(run)
    config = folder.read_config(TrainConfig)
    where = checkpoint_folder(folder.path, checkpoint)
    verify(where)
    source, rejected = _validation_images(config, data, read_metadata(where / "model.safetensors")["classes"])
    network = load(where / "model.safetensors") if model is None else model.eval()
    views = _Views(network, config, source)
    if crops == 1 and not scales:
        found = views.score_one()
    else:
        found = views.score_many(crops, list(scales or [preprocessing_of(config).short_side]))
    return replace(found, skipped=rejected + found.skipped)


def _validation_images(
    config: TrainConfig, data: str | Path | ClassificationData | None, classes: list[str]
) -> tuple[ImageSource, tuple[str, ...]]:
    """The images, and the files among them that are none."""
    if isinstance(data, str | Path):
        return open_other_images(config, data, classes)
    opened = open_config_data(config) if data is None else data
    check_classes(opened.name, opened.classes, classes)
    return opened.val, ()  # of those left out nobody says whether they were for validation


class _Views:
    """The passes over the images that an evaluation is made of."""

    def __init__(self, network: nn.Module, config: TrainConfig, source: ImageSource) -> None:
        self._config = config
        self._source = source
        self._device = choose_device(config.accelerator)
        network = network.to(self._device)
        if config.channels_last:
            network = network.to(memory_format=torch.channels_last)
        if config.compile:
            network.compile()
        self._network = network

    def score_one(self) -> EvalResult:
        """The view of the training's validation, image by image."""
        score, skipped = Score(), list[str]()
        for batch in self._batches(crops=1, scale=None):
            skipped += batch.skipped
            if len(batch.labels):
                labels = batch.labels.to(self._device)
                score.add(self._logits(batch.images), labels)
        return EvalResult(score.top1, score.top5, score.loss, score.images, tuple(skipped))

    def score_many(self, crops: int, scales: list[int]) -> EvalResult:
        """The mean of the probabilities of all crops at all scales."""
        total = torch.zeros(len(self._source), len(self._source.classes))
        skipped: dict[str, None] = {}
        read = torch.zeros(len(self._source), dtype=torch.bool)
        for scale in scales:
            for batch in self._batches(crops=crops, scale=scale):
                skipped.update(dict.fromkeys(batch.skipped))
                if len(batch.labels):
                    total[batch.indices] += self._probabilities(batch.images).cpu() / len(scales)
                    read[batch.indices] = True
        score = Score()
        score.add(total[read].clamp_min(1e-12).log(), self._source.labels[read])
        return EvalResult(score.top1, score.top5, score.loss, score.images, tuple(skipped))

    def _batches(self, *, crops: int, scale: int | None) -> BatchLoader:
        config = self._config
        # As many images at once as the training's validation has: the last digits may depend on it.
        size = max(1, config.batch_size // config.accumulate // crops)
        return eval_loader(
            self._source,
            preprocessing_of(config),
            batch_size=size,
            workers=count_workers(config, self._device),
            crops=crops,
            scale=scale,
            pin_memory=self._device.type == "cuda",
        )

    @torch.inference_mode()
    def _logits(self, images: Tensor) -> Tensor:
        with autocast(self._device, self._config.precision):
            logits: Tensor = self._network(prepare_images(images.to(self._device, non_blocking=True), self._config))
        return logits

    def _probabilities(self, images: Tensor) -> Tensor:
        """(B, classes), the mean over the crops of (B, crops, 3, S, S); or of (B, 3, S, S) as they are."""
        logits = self._logits(images.flatten(0, -4))
        return F.softmax(logits.float(), dim=1).reshape(len(images), -1, logits.shape[1]).mean(dim=1)
