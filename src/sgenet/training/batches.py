"""A loader as Lightning is to see it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

__all__ = ["Batches"]


class _Loader(Protocol):
    def __iter__(self) -> Iterator[Any]: ...


class Batches:
    """The next so many batches of a loader.

    Not a DataLoader, so that Lightning leaves it alone; and lazy, because Lightning asks twice for an iterator at the
    start of an epoch, and workers must not decode for the first of them in vain.

    Args:
        loader: Where they come from.
        count: How many.

    Examples:
        >>> list(Batches([1, 2, 3], 2))
        [1, 2]
    """

    def __init__(self, loader: _Loader, count: int) -> None:
        self._loader = loader
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        yield from islice(self._loader, self._count)
