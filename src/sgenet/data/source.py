"""What a set of labelled images is to the rest of the package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sgenet.errors import DataError

__all__ = ["ArraySource", "ClassificationData", "ImageSource", "UnreadableImage", "few", "fingerprint"]


class UnreadableImage(DataError):  # noqa: N818  # it names the image, which most often is skipped, not the failure
    """One image that cannot be decoded.

    Args:
        path: Which one.
        reason: What is wrong with it, in words for the user.

    Examples:
        >>> str(UnreadableImage("cats/7.jpg", "the file is empty"))
        'cats/7.jpg: the file is empty'
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ImageSource(Protocol):
    """Labelled images by number: decoded, not resized, not augmented.

    Attributes:
        classes: Names of the classes; a label is a position in this list.
        labels: int64 (N,).
    """

    classes: list[str]
    labels: Tensor

    def __len__(self) -> int:
        """N, the number of images."""
        ...

    def load(self, index: int) -> Tensor:
        """Image `index`: uint8 (3, H, W), RGB. Raises UnreadableImage where it cannot be decoded."""
        ...

    def path(self, index: int) -> str:
        """The name of image `index` in messages and reports."""
        ...


class ArraySource:
    """Images that are already in memory.

    Args:
        images: uint8 (N, 3, H, W), RGB; any strides.
        labels: int64 (N,), positions in `classes`.
        classes: Names of the classes.
        name: Begins the name of each image: image 7 is called ``name/7``.

    Raises:
        DataError: If shapes or dtypes are others than these.

    Examples:
        >>> source = ArraySource(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ["a", "b"])
        >>> len(source), source.load(1).shape, source.path(1)
        (2, torch.Size([3, 4, 4]), 'array/1')
    """

    def __init__(self, images: Tensor, labels: Tensor, classes: Sequence[str], name: str = "array") -> None:
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise DataError(f"images must be uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                f"labels must be int64 ({len(images)},), one for each image, not {labels.dtype} {tuple(labels.shape)}"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
            raise DataError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, but there are {len(classes)} classes; "
                f"use 0 to {len(classes) - 1}"
            )
        self.classes = list(classes)
        self.labels = labels
        self._images = images
        self._name = name

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Tensor:
        """Image `index`: uint8 (3, H, W); a view, not a copy."""
        return self._images[index]

    def path(self, index: int) -> str:
        """``name/index``."""
        return f"{self._name}/{index}"


@dataclass(frozen=True)
class ClassificationData:
    """A training and a validation set over the same classes.

    Attributes:
        train: Images to learn from.
        val: Images to judge by; its labels count in the classes of `train`.
        name: Short name for tables and file names.
        rejected: Files that are no images at all, found when the set was opened and left out of both: one
            ``path: reason`` each. Whoever opens a set tells its user.
    """

    train: ImageSource
    val: ImageSource
    name: str
    rejected: tuple[str, ...] = ()

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return self.train.classes


def fingerprint(names: Sequence[str], facts: Mapping[str, Tensor]) -> str:
    """Tells whether images are others than they were: their number, a hash of their names, and one of each fact.

    What all names begin with does not count: the folder may have moved. Nor do names that only count the images.

    Args:
        names: One an image.
        facts: What else is known of all of them, by what it is called.

    Returns:
        In words.

    Examples:
        >>> fingerprint(["ant", "bee"], {"labels": torch.tensor([0, 1])})
        '2 images, names ..., labels ...'
    """
    told = "" if _only_count(names) else "\0".join(_endings(names))
    contents = {"names": told.encode(errors="surrogateescape")}
    contents |= {fact: values.numpy().tobytes() for fact, values in facts.items()}
    hashes = [f"{what} {hashlib.blake2b(own, digest_size=8).hexdigest()}" for what, own in contents.items()]
    return ", ".join([f"{len(names)} images", *hashes])


def _endings(names: Sequence[str]) -> list[str]:
    """The names without what all begin with: what the first and the last in the alphabet do."""
    first, last = min(names), max(names)
    start = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return [name[start:] for name in names]


def _only_count(names: Sequence[str]) -> bool:
    ends = (name.rpartition("/")[2] for name in names)
    return all(end.isdecimal() and int(end) == i for i, end in enumerate(ends))


def few(names: Sequence[str]) -> str:
    """The first of some names, for messages.

    Examples:
        >>> few(["ant", "bee", "cat", "dog"])
        'ant, bee, cat, ...'
    """
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
