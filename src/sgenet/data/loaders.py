"""Batches of decoded and augmented images, from any source, in one process or many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sgenet.data.order import BatchPlan
from sgenet.data.source import ImageSource, UnreadableImage
from sgenet.data.transforms import (
    Augmentation,
    EvalTransform,
    Preprocessing,
    TrainTransform,
    Transform,
    keep_global_generator,
)
from sgenet.errors import ConfigError, DataError

__all__ = ["Batch", "BatchLoader", "Place", "PlannedLoader", "eval_loader", "normalise", "train_loader"]


class Batch(NamedTuple):
    """Some images and what they show.

    Attributes:
        images: uint8 (B, 3, S, S), RGB; (B, 10, 3, S, S) for ten crops. B is 0 where no image could be read, and for a
            rank that has no share of an incomplete last batch.
        labels: int64 (B,).
        indices: int64 (B,), the numbers of the images in their source.
        skipped: The images that belong here and cannot be read, one ``path: reason`` each.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    skipped: list[str]


class _SomeBatch(Protocol):
    @property
    def indices(self) -> Tensor: ...

    @property
    def skipped(self) -> list[str]: ...


_B = TypeVar("_B", bound=_SomeBatch)


class PlannedLoader(DataLoader[_B]):
    """A DataLoader of the batches that a plan says, of whatever kind.

    With workers, one loader for all epochs saves starting them again: call `set_epoch` before each.

    Args:
        batches: Makes the batch of a place; in the workers, where there are any.
        plan: Which images make up which batch.
        workers: Processes; 0 works in this one.
        pin_memory: Put batches where copying to a CUDA device is fast.

    Raises:
        ConfigError: If `workers` is negative.
    """

    def __init__(self, batches: Dataset[_B], plan: BatchPlan, *, workers: int, pin_memory: bool) -> None:
        if workers < 0:
            raise ConfigError(f"workers={workers} must be 0 or more; 0 loads in this process")
        self._places = _Places(plan)
        super().__init__(
            batches,
            batch_size=None,
            sampler=self._places,
            collate_fn=_unchanged,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            # Its own, so that starting to iterate does not draw from the global one.
            generator=torch.Generator(),
        )

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Make the next iteration that of `epoch` (from 0), from batch `first_batch` on.

        Raises:
            ConfigError: If there is no such epoch or batch.
        """
        self._places.move(epoch, first_batch)

    def __iter__(self) -> Iterator[_B]:  # type: ignore[override]  # DataLoader names a private iterator class
        """The batches.

        Raises:
            DataError: At the end, if not one image could be read.
        """
        read = 0
        unreadable: list[str] = []
        for batch in super().__iter__():
            read += len(batch.indices)
            unreadable += batch.skipped if read == 0 else []
            yield batch
        if unreadable and read == 0:
            raise nothing_readable(unreadable)


class BatchLoader(PlannedLoader[Batch]):
    """A loader of ready batches, made by `train_loader` or `eval_loader`.

    Args:
        source: The images.
        transform: What is done to them.
        plan: Which images make up which batch.
        workers: Processes that decode; 0 decodes in this one.
        pin_memory: Put batches where copying to a CUDA device is fast.

    Raises:
        ConfigError: If `workers` is negative.
    """

    def __init__(
        self, source: ImageSource, transform: Transform, plan: BatchPlan, *, workers: int, pin_memory: bool
    ) -> None:
        super().__init__(_Batches(source, transform), plan, workers=workers, pin_memory=pin_memory)


def nothing_readable(unreadable: Sequence[str]) -> DataError:
    """The error of a set in which every image is unreadable."""
    return DataError(
        f"none of {len(unreadable)} images can be read, so there is nothing to work on; the first: {unreadable[0]}"
    )


def train_loader(
    source: ImageSource,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    epoch: int = 0,
    first_batch: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    drop_last: bool = True,
    pin_memory: bool = False,
) -> BatchLoader:
    """Shuffled, augmented batches.

    The order is a function of (seed, epoch), what an image looks like one of (seed, epoch, index): workers, ranks and
    starting in the middle change nothing.

    Args:
        source: The images.
        preprocessing: Image size and interpolation; the batches are not normalised (see `normalise`).
        augmentation: How they are varied.
        batch_size: Images in a batch, over all processes.
        seed: Of the run.
        epoch: Counted from 0.
        first_batch: The batch to start at, to go on in the middle of an epoch.
        rank: This process; it gets its share of every batch.
        world: Number of processes; divides `batch_size`.
        workers: Processes that decode; 0 decodes in this one.
        drop_last: Leave out an incomplete last batch; a set smaller than one batch still gives one.
        pin_memory: Put batches where copying to a CUDA device is fast.

    Returns:
        A loader of this rank's `Batch` objects; its length is the number of batches left in the epoch.

    Raises:
        ConfigError: If a number is out of range.

    Examples:
        >>> from sgenet.data import ArraySource
        >>> images = torch.zeros(10, 3, 8, 8, dtype=torch.uint8)
        >>> source = ArraySource(images, torch.arange(10) % 2, ["a", "b"])
        >>> size = Preprocessing(image_size=8, resize=None)
        >>> loader = train_loader(source, size, Augmentation(crop="pad"), batch_size=4, seed=0)
        >>> [tuple(batch.images.shape) for batch in loader]
        [(4, 3, 8, 8), (4, 3, 8, 8)]
    """
    plan = BatchPlan(len(source), batch_size=batch_size, seed=seed, rank=rank, world=world, drop_last=drop_last)
    transform = TrainTransform(preprocessing, augmentation, seed)
    loader = BatchLoader(source, transform, plan, workers=workers, pin_memory=pin_memory)
    loader.set_epoch(epoch, first_batch)
    return loader


def eval_loader(
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    crops: int = 1,
    scale: int | None = None,
    pin_memory: bool = False,
) -> BatchLoader:
    """Every image once, in the order of the source, over all ranks together; nothing is padded or repeated.

    Args:
        source: The images.
        preprocessing: How they are resized and cropped; the batches are not normalised (see `normalise`).
        batch_size: Images in a batch, over all processes.
        rank: This process; it gets its share of every batch.
        world: Number of processes.
        workers: Processes that decode; 0 decodes in this one.
        crops: 1 for the centre; 10 for corners, centre and their flips, as (B, 10, 3, S, S).
        scale: Short side in pixels in the place of that of `preprocessing`.
        pin_memory: Put batches where copying to a CUDA device is fast.

    Returns:
        A loader of this rank's `Batch` objects.

    Raises:
        ConfigError: If a number is out of range.

    Examples:
        >>> from sgenet.data import ArraySource
        >>> images = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
        >>> source = ArraySource(images, torch.arange(5) % 2, ["a", "b"])
        >>> loader = eval_loader(source, Preprocessing(image_size=8, resize=None), batch_size=4)
        >>> [batch.indices.tolist() for batch in loader]
        [[0, 1, 2, 3], [4]]
    """
    plan = BatchPlan(len(source), batch_size=batch_size, rank=rank, world=world)
    transform = EvalTransform(preprocessing, crops=crops, scale=scale)
    return BatchLoader(source, transform, plan, workers=workers, pin_memory=pin_memory)


def normalise(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 pixels to what a network takes: (pixel / 255 - mean) / std, computed in float32.

    Args:
        images: uint8 (..., 3, H, W), on any device.
        mean: Of red, green and blue, on the scale from 0 to 1.
        std: Standard deviations, on the same scale.
        dtype: Of the result.

    Returns:
        The same shape, device and memory format.

    Examples:
        >>> normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), (0.5, 0.5, 0.5), (0.25, 0.5, 1)).flatten()
        tensor([2.0000, 1.0000, 0.5000])
    """
    factor, offset = _scale(tuple(mean), tuple(std), images.device)
    # In steps: torch.addcmul on mixed dtypes takes four times as long on a CPU.
    return images.to(torch.float32, copy=True).mul_(factor).add_(offset).to(dtype)


@lru_cache(maxsize=32)
def _scale(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept: building them for every batch would make a CUDA device wait for the host.
    with torch.inference_mode(mode=False):
        factor = [1 / (255 * s) for s in std]
        offset = [-m / s for m, s in zip(mean, std, strict=True)]
        return tuple(torch.tensor(v, device=device).view(3, 1, 1) for v in (factor, offset))  # type: ignore[return-value]


class Place(NamedTuple):
    """The images of one batch, in one epoch."""

    epoch: int
    indices: list[int]


class _Places(Sampler[Place]):
    """Yields this rank's share of batch after batch."""

    def __init__(self, plan: BatchPlan) -> None:
        self._plan = plan
        self._epoch = 0
        self._first_batch = 0

    def move(self, epoch: int, first_batch: int) -> None:
        self._plan.check_place(epoch, first_batch)
        self._epoch, self._first_batch = epoch, first_batch

    def __iter__(self) -> Iterator[Place]:
        epoch = self._epoch
        for share in self._plan.shares(epoch, self._first_batch):
            yield Place(epoch, share.tolist())

    def __len__(self) -> int:
        return self._plan.batches - self._first_batch


class _Batches(Dataset[Batch]):
    """Makes the batch of a place; runs in the workers."""

    def __init__(self, source: ImageSource, transform: Transform) -> None:
        self._source = source
        self._transform = transform

    def __getitem__(self, place: Place) -> Batch:
        views: list[Tensor] = []
        kept: list[int] = []
        skipped: list[str] = []
        with keep_global_generator():
            for index in place.indices:
                try:
                    image = self._source.load(index)
                except UnreadableImage as error:
                    skipped.append(str(error))
                else:
                    views.append(self._transform.view(image, place.epoch, index))
                    kept.append(index)
            indices = torch.tensor(kept, dtype=torch.int64)
            images = torch.stack(views) if views else self._transform.empty()
            images = self._transform.finish(images, place.epoch, indices)
        return Batch(images, self._source.labels[indices], indices, skipped)


def _unchanged(batch: Any) -> Any:  # noqa: ANN401  # DataLoader's own types: what a collate function takes
    return batch
