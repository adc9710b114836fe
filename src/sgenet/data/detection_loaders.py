"""Batches of images with boxes and masks, from any source, in one process or many."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sgenet.data.detection import DetectionSource, Target
from sgenet.data.detection_transforms import DetectionAugmentation, DetectionTransform
from sgenet.data.loaders import Place, PlannedLoader
from sgenet.data.order import AspectRatioPlan, BatchPlan
from sgenet.data.source import UnreadableImage
from sgenet.errors import ConfigError

__all__ = ["DetectionBatch", "DetectionLoader", "detection_eval_loader", "detection_train_loader"]


class DetectionBatch(NamedTuple):
    """Some images and their objects.

    Attributes:
        images: uint8 (3, H, W) each, RGB, of sizes of their own. There are none where no image could be read, and for a
            rank that has no share of an incomplete last batch.
        targets: The objects of each.
        indices: int64 (B,), the numbers of the images in their source.
        skipped: The images that belong here and cannot be read, one ``path: reason`` each.
    """

    images: list[Tensor]
    targets: list[Target]
    indices: Tensor
    skipped: list[str]


class DetectionLoader(PlannedLoader[DetectionBatch]):
    """A loader of ready batches, made by `detection_train_loader` or `detection_eval_loader`.

    Args:
        source: The images and their objects.
        transform: What is done to them; None leaves them as they are.
        plan: Which images make up which batch.
        masks: Whether the targets shall have masks.
        workers: Processes that decode; 0 decodes in this one.
        pin_memory: Put images where copying to a CUDA device is fast.

    Raises:
        ConfigError: If `workers` is negative, or masks are asked for and there are none.
    """

    def __init__(
        self,
        source: DetectionSource,
        transform: DetectionTransform | None,
        plan: BatchPlan,
        *,
        masks: bool,
        workers: int,
        pin_memory: bool,
    ) -> None:
        if masks and not source.has_masks:
            raise ConfigError("masks are asked for, but the annotations hold none; choose a detector without masks")
        batches = _DetectionBatches(source, transform, masks)
        super().__init__(batches, plan, workers=workers, pin_memory=pin_memory)


def detection_train_loader(
    source: DetectionSource,
    augmentation: DetectionAugmentation,
    *,
    batch_size: int,
    seed: int,
    masks: bool = False,
    group: bool = True,
    epoch: int = 0,
    first_batch: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    drop_last: bool = True,
    pin_memory: bool = False,
) -> DetectionLoader:
    """Shuffled, augmented batches.

    The order is a function of (seed, epoch), what an image looks like one of (seed, epoch, index): workers, ranks and
    starting in the middle change nothing.

    Args:
        source: The images and their objects.
        augmentation: How they are varied.
        batch_size: Images in a batch, over all processes.
        seed: Of the run.
        masks: Whether the targets shall have masks.
        group: Make batches of wide images, and batches of tall ones; see `AspectRatioPlan`.
        epoch: Counted from 0.
        first_batch: The batch to start at, to go on in the middle of an epoch.
        rank: This process; it gets its share of every batch.
        world: Number of processes; divides `batch_size`.
        workers: Processes that decode; 0 decodes in this one.
        drop_last: Leave out an incomplete last batch; a set smaller than one batch still gives one.
        pin_memory: Put images where copying to a CUDA device is fast.

    Returns:
        A loader of this rank's `DetectionBatch` objects; its length is the number of batches left in the epoch.

    Raises:
        ConfigError: If a number is out of range, or masks are asked for and there are none.

    Examples:
        >>> from sgenet.data.shapes_detection import ShapesDetectionSource
        >>> source = ShapesDetectionSource("train", 10)
        >>> loader = detection_train_loader(source, DetectionAugmentation(), batch_size=4, seed=0, masks=True)
        >>> [len(batch.images) for batch in loader]
        [4, 4]
        >>> batch = next(iter(loader))
        >>> tuple(batch.images[0].shape), tuple(batch.targets[0].masks.shape[1:])
        ((3, 128, 128), (128, 128))
    """
    shared = {"batch_size": batch_size, "rank": rank, "world": world}
    plan = (
        AspectRatioPlan(source.sizes, seed=seed, drop_last=drop_last, **shared)
        if group
        else BatchPlan(len(source), seed=seed, drop_last=drop_last, **shared)
    )
    transform = DetectionTransform(augmentation, seed)
    loader = DetectionLoader(source, transform, plan, masks=masks, workers=workers, pin_memory=pin_memory)
    loader.set_epoch(epoch, first_batch)
    return loader


def detection_eval_loader(
    source: DetectionSource,
    *,
    batch_size: int,
    masks: bool = False,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> DetectionLoader:
    """Every image once, in the order of the source, over all ranks together; nothing is changed or repeated.

    Args:
        source: The images and their objects.
        batch_size: Images in a batch, over all processes.
        masks: Whether the targets shall have masks.
        rank: This process; it gets its share of every batch.
        world: Number of processes.
        workers: Processes that decode; 0 decodes in this one.
        pin_memory: Put images where copying to a CUDA device is fast.

    Returns:
        A loader of this rank's `DetectionBatch` objects.

    Raises:
        ConfigError: If a number is out of range, or masks are asked for and there are none.

    Examples:
        >>> from sgenet.data.shapes_detection import ShapesDetectionSource
        >>> loader = detection_eval_loader(ShapesDetectionSource("val", 5), batch_size=4)
        >>> [batch.indices.tolist() for batch in loader]
        [[0, 1, 2, 3], [4]]
    """
    plan = BatchPlan(len(source), batch_size=batch_size, rank=rank, world=world)
    return DetectionLoader(source, None, plan, masks=masks, workers=workers, pin_memory=pin_memory)


class _DetectionBatches(Dataset[DetectionBatch]):
    """Makes the batch of a place; runs in the workers."""

    def __init__(self, source: DetectionSource, transform: DetectionTransform | None, masks: bool) -> None:
        self._source = source
        self._transform = transform
        self._masks = masks

    def __getitem__(self, place: Place) -> DetectionBatch:
        images: list[Tensor] = []
        targets: list[Target] = []
        kept: list[int] = []
        skipped: list[str] = []
        for index in place.indices:
            try:
                image = self._source.load(index)
            except UnreadableImage as error:
                skipped.append(str(error))
                continue
            target = self._source.target(index, masks=self._masks)
            if self._transform is not None:
                image, target = self._transform(image, target, place.epoch, index)
            images.append(image)
            targets.append(target)
            kept.append(index)
        return DetectionBatch(images, targets, torch.tensor(kept, dtype=torch.int64), skipped)


def _sent(target: Target) -> tuple[Any, tuple[Any, ...]]:
    small = (target.boxes, target.labels, target.crowd, target.areas)
    return _received, (*(values.numpy() for values in small), target.masks)


def _received(boxes: Any, labels: Any, crowd: Any, areas: Any, masks: Tensor | None) -> Target:  # noqa: ANN401
    boxes, labels, crowd, areas = map(torch.from_numpy, (boxes, labels, crowd, areas))
    return Target(boxes, labels, crowd, areas, masks)


# A worker hands over each tensor as an open file, of which a process may have about a thousand; batches of many images
# would need more. These are small enough to be sent by value.
ForkingPickler.register(Target, _sent)
