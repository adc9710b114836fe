"""A whole source held in memory as one tensor, for images small enough: decoded once, augmented in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from sgenet.data.loaders import Batch, eval_loader
from sgenet.data.order import BatchPlan
from sgenet.data.source import ImageSource
from sgenet.data.transforms import Augmentation, Preprocessing, shift_and_flip
from sgenet.errors import ConfigError

__all__ = ["ResidentImages", "ResidentLoader", "fits"]

_DECODED_AT_ONCE = 256


def fits(
    source: ImageSource, preprocessing: Preprocessing, augmentation: Augmentation | None = None, *, limit_bytes: int
) -> bool:
    """Whether a source can be held by `ResidentImages` and give the same batches as `train_loader` would.

    Args:
        source: The images.
        preprocessing: The size they are held at.
        augmentation: The one of training; None for a set that is only evaluated.
        limit_bytes: Memory that may be used.

    Returns:
        True if the pixels take no more than `limit_bytes` and the augmentation is padded crops and flips at most.

    Examples:
        >>> from sgenet.data import ArraySource
        >>> source = ArraySource(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ["a", "b"])
        >>> size = Preprocessing(image_size=8, resize=None)
        >>> fits(source, size, Augmentation(crop="pad"), limit_bytes=384)
        True
        >>> fits(source, size, Augmentation(crop="random-resized"), limit_bytes=384)
        False
    """
    in_batches = augmentation is None or augmentation.in_batches
    return in_batches and len(source) * 3 * preprocessing.image_size**2 <= limit_bytes


class ResidentImages:
    """All images of a source in the view of evaluation, as one tensor on a device.

    `train_loader` and `eval_loader` give the batches that the functions of the same names give for the source, pixel
    for pixel, with all tensors on the device.

    Args:
        source: The images.
        preprocessing: The size they are brought to.
        device: Where they are held.
        workers: Processes that decode; 0 decodes in this one.
        progress: Called now and then with (images done, images in all).

    Attributes:
        images: uint8 (N, 3, S, S); black where an image cannot be read.
        labels: int64 (N,), on the same device.
        readable: bool (N,), on the CPU.
        skipped: The images that cannot be read: index to ``path: reason``.

    Raises:
        DataError: If not one image can be read.

    Examples:
        >>> from sgenet.data import ArraySource
        >>> pixels = torch.zeros(10, 3, 8, 8, dtype=torch.uint8)
        >>> source = ArraySource(pixels, torch.arange(10) % 2, ["a", "b"])
        >>> held = ResidentImages(source, Preprocessing(image_size=8, resize=None))
        >>> [len(batch.labels) for batch in held.train_loader(Augmentation(crop="pad"), batch_size=4, seed=0)]
        [4, 4]
        >>> [len(batch.labels) for batch in held.eval_loader(batch_size=4)]
        [4, 4, 2]
    """

    def __init__(
        self,
        source: ImageSource,
        preprocessing: Preprocessing,
        *,
        device: torch.device | str = "cpu",
        workers: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.labels = source.labels.to(self.device)
        self.skipped: dict[int, str] = {}
        size, count = preprocessing.image_size, len(source)
        images = torch.zeros((count, 3, size, size), dtype=torch.uint8)
        self.readable = torch.zeros(count, dtype=torch.bool)
        loader = eval_loader(source, preprocessing, batch_size=_DECODED_AT_ONCE, workers=workers)
        done = 0
        for batch in loader:
            images[batch.indices] = batch.images
            self.readable[batch.indices] = True
            stop = min(done + _DECODED_AT_ONCE, count)
            unread = (done + (~self.readable[done:stop]).nonzero().flatten()).tolist()
            self.skipped.update(zip(unread, batch.skipped, strict=True))
            done = stop
            if progress is not None:
                progress(done, count)
        self.images = images.to(self.device)

    def __len__(self) -> int:
        return len(self.images)

    def train_loader(
        self,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        epoch: int = 0,
        first_batch: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
    ) -> ResidentLoader:
        """Shuffled, augmented batches: those of `sgenet.data.train_loader`, which explains the arguments.

        Raises:
            ConfigError: If a number is out of range, or the augmentation is more than padded crops and flips.
        """
        if not augmentation.in_batches:
            raise ConfigError(
                "images held in memory can be varied by crop='pad' or 'none' and flip only; "
                f"use train_loader on the source for {augmentation}"
            )
        plan = BatchPlan(len(self), batch_size=batch_size, seed=seed, rank=rank, world=world, drop_last=drop_last)
        loader = ResidentLoader(self, plan, augmentation, seed)
        loader.set_epoch(epoch, first_batch)
        return loader

    def eval_loader(self, *, batch_size: int, rank: int = 0, world: int = 1) -> ResidentLoader:
        """Every image once, in order: the batches of `sgenet.data.eval_loader`, which explains the arguments."""
        return ResidentLoader(self, BatchPlan(len(self), batch_size=batch_size, rank=rank, world=world))


class ResidentLoader:
    """Iterates over the batches of one epoch; made by `ResidentImages`."""

    def __init__(
        self, held: ResidentImages, plan: BatchPlan, augmentation: Augmentation | None = None, seed: int = 0
    ) -> None:
        self._held = held
        self._plan = plan
        self._augmentation = augmentation
        self._seed = seed
        self._epoch = 0
        self._first_batch = 0

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Make the next iteration that of `epoch` (from 0), from batch `first_batch` on.

        Raises:
            ConfigError: If there is no such epoch or batch.
        """
        self._plan.check_place(epoch, first_batch)
        self._epoch, self._first_batch = epoch, first_batch

    def __len__(self) -> int:
        return self._plan.batches - self._first_batch

    def __iter__(self) -> Iterator[Batch]:
        held, epoch = self._held, self._epoch
        places = list(self._plan.shares(epoch, self._first_batch))
        shares = [share[held.readable[share]] for share in places] if held.skipped else places
        for place, indices in zip(places, self._on_device(shares), strict=True):
            images = held.images.index_select(0, indices)
            if self._augmentation is not None:
                images = shift_and_flip(images, self._augmentation, seed=self._seed, epoch=epoch, indices=indices)
            skipped = [held.skipped[i] for i in place.tolist() if i in held.skipped] if held.skipped else []
            yield Batch(images, held.labels.index_select(0, indices), indices, skipped)

    def _on_device(self, shares: list[Tensor]) -> Sequence[Tensor]:
        if not shares:
            return []
        # One copy for the whole epoch, from pinned memory: the device never waits for a batch's indices.
        order = torch.cat(shares)
        if self._held.device.type == "cuda":
            order = order.pin_memory()
        return torch.split_with_sizes(order.to(self._held.device, non_blocking=True), [len(share) for share in shares])
