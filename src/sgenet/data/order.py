"""Which images make up which batch, and the random numbers of an image.

Both are functions of numbers that name a place in the training, never of a generator's history: the order of an epoch
of (seed, epoch), an image's random numbers of (seed, epoch, index). So the number of workers or ranks, and resuming in
the middle of an epoch, change nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from enum import IntEnum

import torch
from torch import Tensor

from sgenet.errors import ConfigError

__all__ = [
    "AspectRatioPlan",
    "BatchPlan",
    "Stream",
    "aspect_ratio_order",
    "epoch_order",
    "image_hash",
    "random_integers",
]

_MASK = (1 << 64) - 1
# SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


class Stream(IntEnum):
    """What a random number is for; numbers of different streams have nothing to do with each other."""

    ORDER = 0
    CROP = 1
    TOP = 2
    LEFT = 3
    FLIP = 4
    COLOUR = 5
    SCALE = 6


def _mixed(value: int) -> int:
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def _key(seed: int, epoch: int, stream: Stream) -> int:
    key = 0
    for part in (seed, epoch, stream):
        key = _mixed((key + (part & _MASK) + 1) * _GAMMA & _MASK)
    return key


def image_hash(seed: int, epoch: int, index: int, stream: Stream) -> int:
    """A number in [0, 2**64) that looks random and depends on the four arguments alone.

    Examples:
        >>> image_hash(0, 1, 2, Stream.CROP) == image_hash(0, 1, 2, Stream.CROP)
        True
        >>> image_hash(0, 1, 2, Stream.CROP) == image_hash(0, 1, 3, Stream.CROP)
        False
    """
    return _mixed((_key(seed, epoch, stream) + index * _GAMMA) & _MASK)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shifted(values: Tensor, bits: int) -> Tensor:
    # torch shifts int64 with its sign; the mask makes it the unsigned shift of `_mixed`.
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def random_integers(seed: int, epoch: int, indices: Tensor, stream: Stream, high: int) -> Tensor:
    """One random integer an image: the top 31 bits of `image_hash`, modulo `high`.

    Args:
        seed: Of the run.
        epoch: Counted from 0.
        indices: int64 (B,), the numbers of the images in their source, on any device.
        stream: What the numbers are for.
        high: The integers are in [0, high); at most 2**31.

    Returns:
        int64 (B,), on the device of `indices`.

    Examples:
        >>> random_integers(0, 0, torch.arange(4), Stream.FLIP, 10**6).tolist()
        [282309, 675832, 237288, 828446]
    """
    values = indices * _signed(_GAMMA) + _signed(_key(seed, epoch, stream))
    values = (values ^ _shifted(values, 30)) * _signed(_MIX_1)
    values = (values ^ _shifted(values, 27)) * _signed(_MIX_2)
    values = values ^ _shifted(values, 31)
    return _shifted(values, 33) % high


def epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch takes its images: a permutation that depends on (size, seed, epoch) alone.

    Returns:
        int64 (size,).

    Examples:
        >>> sorted(epoch_order(5, seed=0, epoch=3).tolist())
        [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(image_hash(seed, epoch, 0, Stream.ORDER))
    return torch.randperm(size, generator=generator)


class BatchPlan:
    """The batches of every epoch, and this rank's share of each.

    A batch is cut into `world` runs of neighbours, so the shares of rank 0, 1, ... one after the other are the batch.
    Every rank has the same number of batches. Where a last, incomplete batch has fewer images than there are ranks,
    some shares of it are empty.

    Args:
        size: Number of images.
        batch_size: Images in a batch, over all ranks.
        seed: Shuffles each epoch; None keeps the images in their own order.
        rank: This process.
        world: Number of processes.
        drop_last: Leave out an incomplete last batch, unless it is the only one.

    Raises:
        ConfigError: If a number is out of range, or shuffled batches cannot be cut into equal shares.

    Examples:
        >>> plan = BatchPlan(7, batch_size=4, rank=1, world=2)
        >>> [share.tolist() for share in plan.shares(epoch=0)]
        [[2, 3], [5, 6]]
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be 1 or more")
        if world < 1 or not 0 <= rank < world:
            raise ConfigError(f"rank={rank} of world={world}: world must be 1 or more and rank 0 to world - 1")
        # Gradients are averaged over ranks: with unequal shares some images would count more than others.
        if seed is not None and batch_size % world:
            raise ConfigError(
                f"batch_size={batch_size} (over all processes) cannot be shared equally by {world} processes; "
                f"choose a multiple of {world}, e.g. {batch_size // world * world + world}"
            )
        self.size = size
        self.batch_size = batch_size
        self.seed = None if seed is None else operator.index(seed)
        self.rank = rank
        self.world = world
        whole, rest = divmod(size, batch_size)
        self.batches = whole + (1 if rest and (not drop_last or whole == 0) else 0)

    def order(self, epoch: int) -> Tensor:
        """All images as the epoch takes them, batch after batch: int64 (size,)."""
        return torch.arange(self.size) if self.seed is None else epoch_order(self.size, self.seed, epoch)

    def shares(self, epoch: int, first_batch: int = 0) -> Iterator[Tensor]:
        """This rank's images of the batches from `first_batch` on: int64 (b,) each, on the CPU."""
        order = self.order(epoch)
        for number in range(first_batch, self.batches):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            start, stop = (len(batch) * r // self.world for r in (self.rank, self.rank + 1))
            yield batch[start:stop]

    def check_place(self, epoch: int, first_batch: int) -> None:
        """Raise ConfigError unless there is such a place in the training."""
        if epoch < 0:
            raise ConfigError(f"epoch={epoch} must be 0 or more: epochs are counted from 0")
        if not 0 <= first_batch <= self.batches:
            raise ConfigError(f"first_batch={first_batch} must be 0 to {self.batches}, the batches of an epoch")


class AspectRatioPlan(BatchPlan):
    """The batches of a detector's training: the images of one are all wide, or all tall.

    A detector pads the images of a batch to one size, so that a wide one beside a tall one wastes half of it. There are
    as many batches as in a `BatchPlan`, shared among ranks and cut off at the end as there. Two of an epoch may be
    mixed: the one that takes what is left of both kinds, and an incomplete last one.

    Args:
        sizes: int64 (N, 2), height and width of each image.
        batch_size: Images in a batch, over all ranks.
        seed: Shuffles each epoch.
        rank: This process.
        world: Number of processes.
        drop_last: Leave out an incomplete last batch, unless it is the only one.

    Raises:
        ConfigError: If a number is out of range, or batches cannot be cut into equal shares.

    Examples:
        >>> sizes = torch.tensor([[3, 4], [4, 3]] * 4)
        >>> plan = AspectRatioPlan(sizes, batch_size=2, seed=0)
        >>> [(share % 2).tolist() for share in plan.shares(epoch=0)]
        [[0, 0], [1, 1], [0, 0], [1, 1]]
    """

    def __init__(
        self,
        sizes: Tensor,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__(len(sizes), batch_size=batch_size, seed=seed, rank=rank, world=world, drop_last=drop_last)
        self._wide = sizes[:, 1] > sizes[:, 0]

    def order(self, epoch: int) -> Tensor:
        """All images as the epoch takes them, batch after batch: int64 (size,)."""
        return aspect_ratio_order(super().order(epoch), self._wide, self.batch_size)


def aspect_ratio_order(order: Tensor, wide: Tensor, batch_size: int) -> Tensor:
    """Change an order so that nearly every run of `batch_size` images is all wide or all tall.

    The incomplete last batch stays what it is: were it what grouping leaves over, a few tall images among many wide
    ones would be in it every time. What grouping leaves over of the others fills one batch, which is mixed.

    Args:
        order: int64 (N,), a permutation.
        wide: bool (N,), for each image.
        batch_size: Images in a batch.

    Returns:
        int64 (N,), the same images. Batches come in the order in which they fill up.

    Examples:
        >>> aspect_ratio_order(torch.arange(7), torch.tensor([True, False, False, True, True, False, True]), 2).tolist()
        [1, 2, 0, 3, 4, 5, 6]
    """
    whole = len(order) // batch_size * batch_size
    taken: list[int] = []
    waiting: dict[bool, list[int]] = {True: [], False: []}
    for index, kind in zip(order[:whole].tolist(), wide[order[:whole]].tolist(), strict=True):
        waiting[kind].append(index)
        if len(waiting[kind]) == batch_size:
            taken += waiting[kind]
            waiting[kind] = []
    return torch.tensor([*taken, *waiting[True], *waiting[False], *order[whole:].tolist()], dtype=torch.int64)
