"""Name what images show."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgenet.data import EvalTransform, Preprocessing, UnreadableImage, decode_image, normalise
from sgenet.errors import CheckpointError, ConfigError
from sgenet.models import checkpoint_folder, load, read_metadata
from sgenet.training.checkpointing import verify
from sgenet.training.devices import choose_device

__all__ = ["Prediction", "predict"]

_AT_ONCE = 32  # images


@dataclass(frozen=True)
class Prediction:
    """What a network sees in an image.

    Attributes:
        path: The image.
        classes: Names and probabilities of the most probable classes, the first one first; empty for an image that
            cannot be read.
        problem: Why the image cannot be read; None for one that was.
    """

    path: str
    classes: tuple[tuple[str, float], ...]
    problem: str | None = None


def predict(
    run: str | os.PathLike[str],
    images: Iterable[str | os.PathLike[str]],
    *,
    top: int = 5,
    checkpoint: Literal["last", "best"] = "last",
) -> list[Prediction]:
    """The most probable classes of images, in float32.

    Args:
        run: The folder of a run, or a model.safetensors out of one.
        images: Image files.
        top: How many classes to name; fewer where there are fewer.
        checkpoint: "last" or "best".

    Returns:
        One prediction an image, in their order, those that cannot be read included.

    Raises:
        CheckpointError: If the run cannot be used.
        ConfigError: If `top` is below 1.

    Examples:
        >>> import tempfile
        >>> import sgenet
        >>> from PIL import Image
        >>> knows = {"classes": ["cat", "dog"], "preprocessing": {"image_size": 32, "resize": None}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 32)).save(f"{folder}/black.png")
        ...     network = sgenet.create_model("resnet8_cifar", num_classes=2)
        ...     file = sgenet.save(network, f"{folder}/net.safetensors", metadata=knows)
        ...     (prediction,) = predict(file, [f"{folder}/black.png"])
        >>> sorted(name for name, probability in prediction.classes)
        ['cat', 'dog']
    """
    if top < 1:
        raise ConfigError(f"top={top} must be 1 or more")
    file = Path(run)
    if file.is_dir():
        verify(folder := checkpoint_folder(file, checkpoint))
        file = folder / "model.safetensors"
    namer = _Namer(file, top)
    paths = [os.fspath(path) for path in images]
    return [found for start in range(0, len(paths), _AT_ONCE) for found in namer(paths[start : start + _AT_ONCE])]


class _Namer:
    """A network together with what it needs to look at files and to name what it sees."""

    def __init__(self, file: Path, top: int) -> None:
        header = read_metadata(file)
        if "classes" not in header or "preprocessing" not in header:
            raise CheckpointError(f"'{file}' names no classes: `sgenet train` did not write it; give a run folder")
        self._classes: list[str] = header["classes"]
        self._preprocessing = Preprocessing(**header["preprocessing"])
        self._view = EvalTransform(self._preprocessing).view
        self._top = min(top, len(self._classes))
        self._device = choose_device("auto")
        self._network: nn.Module = load(file).to(self._device)

    def __call__(self, paths: Sequence[str]) -> list[Prediction]:
        views: dict[str, Tensor] = {}
        problems: dict[str, str] = {}
        for path in paths:
            try:
                views[path] = self._view(decode_image(path))
            except UnreadableImage as error:
                problems[path] = error.reason
        named = dict(zip(views, self._named(list(views.values())), strict=True))
        return [Prediction(path, named.get(path, ()), problems.get(path)) for path in paths]

    @torch.inference_mode()
    def _named(self, views: list[Tensor]) -> list[tuple[tuple[str, float], ...]]:
        if not views:
            return []
        images = torch.stack(views).to(self._device)
        logits: Any = self._network(normalise(images, self._preprocessing.mean, self._preprocessing.std))
        probabilities, labels = F.softmax(logits.float(), dim=1).topk(self._top, dim=1)
        return [
            tuple((self._classes[label], p) for label, p in zip(row_labels, row, strict=True))
            for row_labels, row in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]
