"""CIFAR-10 and CIFAR-100 in the files of their authors, read by torchvision."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from sgenet.data.source import ArraySource, ClassificationData
from sgenet.errors import DataError

__all__ = ["find_cifar", "open_cifar"]

_SETS: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def find_cifar(folder: Path) -> tuple[str, Path] | None:
    """Whether a folder is, or holds, ``cifar-10-batches-py`` or ``cifar-100-python``.

    Returns:
        The name of the set and the folder that holds its folder, or None.

    Raises:
        DataError: If the folder holds both.
    """
    for name, kind in _SETS.items():
        if folder.resolve().name == kind.base_folder:
            return name, folder.resolve().parent
    held = [name for name, kind in _SETS.items() if (folder / kind.base_folder).is_dir()]
    if len(held) > 1:
        choices = " or ".join(str(folder / _SETS[name].base_folder) for name in held)
        raise DataError(f"{folder} holds both CIFAR-10 and CIFAR-100; name one of them: {choices}")
    return (held[0], folder) if held else None


def open_cifar(name: str, root: Path) -> ClassificationData:
    """Open a CIFAR set; nothing is downloaded.

    Args:
        name: "cifar10" or "cifar100".
        root: The folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``.

    Raises:
        DataError: If files are missing or damaged.
    """
    return ClassificationData(_part(name, root, train=True), _part(name, root, train=False), name)


def _part(name: str, root: Path, *, train: bool) -> ArraySource:
    kind = _SETS[name]
    try:
        data = kind(root, train=train, download=False)
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"the files in {root / kind.base_folder} are not those of {name}: {' '.join(str(error).split())}; "
            "unpack the original archive again"
        ) from None
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2)
    labels = torch.tensor(data.targets, dtype=torch.int64)
    return ArraySource(images, labels, data.classes, f"{name}/{'train' if train else 'val'}")
