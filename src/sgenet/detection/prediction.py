"""Find objects in image files; draw them, and write them down."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from sgenet.data import UnreadableImage, decode_image
from sgenet.detection.drawing import Objects, draw_objects
from sgenet.detection.results import Result, to_results, write_results
from sgenet.detection.running import TrainedDetector, open_run, validation_images
from sgenet.errors import ConfigError, RunError
from sgenet.writing import appearing_whole

__all__ = ["FoundObjects", "predict_objects"]

_SHOWN = 8  # validation images, where no others are named


@dataclass(frozen=True)
class FoundObjects:
    """What was found in an image.

    Attributes:
        path: The image.
        objects: Name and score of each object that is drawn, the best first.
        picture: The drawing, a PNG file; None for an image that cannot be read.
        problem: Why the image cannot be read; None for one that was.
    """

    path: str
    objects: tuple[tuple[str, float], ...]
    picture: Path | None
    problem: str | None = None


def predict_objects(
    run: str | os.PathLike[str],
    images: Iterable[str | os.PathLike[str]] | None,
    output: str | os.PathLike[str],
    *,
    threshold: float = 0.5,
    checkpoint: Literal["last", "best"] = "last",
) -> list[FoundObjects]:
    """Find objects in images.

    Args:
        run: The folder of a run.
        images: Image files; None takes the first eight of the run's validation images.
        output: A folder for a PNG an image, and for `results.json`: everything found, whatever its score, in COCO's
            results form, with files numbered from 1 in their order, and validation images by their own ids.
        threshold: Objects with lower scores are not drawn.
        checkpoint: "last" or "best".

    Returns:
        One an image, in their order, those that cannot be read included.

    Raises:
        SgenetError: If the run or the folder cannot be used, or a drawing would take the place of an image.
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold={threshold} must be between 0 and 1")
    detector = open_run(run, checkpoint)
    chosen = [*(_of_validation(detector) if images is None else _of_files(images))]
    folder = _folder(output)
    pictures = _pictures(folder, [path for _, path, _ in chosen])
    found: list[FoundObjects] = []
    results: list[Result] = []
    for (number, path, load), picture in zip(chosen, pictures, strict=True):
        try:
            image = load()
        except UnreadableImage as error:
            found.append(FoundObjects(path, (), None, error.reason))
            continue
        (own,) = detector([image.to(detector.device).float() / 255])
        results += to_results(number, own, detector.category_ids)
        found.append(_drawn(path, image, own, detector, threshold, picture))
    write_results(folder / "results.json", results)
    return found


def _of_files(images: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[int, str, Callable[[], Tensor]]]:
    for number, path in enumerate((os.fspath(image) for image in images), start=1):
        yield number, path, partial(decode_image, path)


def _of_validation(detector: TrainedDetector) -> Iterator[tuple[int, str, Callable[[], Tensor]]]:
    source = validation_images(detector, None)
    for index in range(min(_SHOWN, len(source))):
        yield source.image_ids[index], source.path(index), partial(source.load, index)


def _drawn(
    path: str, image: Tensor, own: dict[str, Tensor], detector: TrainedDetector, threshold: float, picture: Path
) -> FoundObjects:
    objects = Objects.of_detector(own, threshold=threshold)
    drawing = draw_objects(image, objects, detector.classes)
    _write_png(drawing, picture)
    scores: Any = torch.zeros(0) if objects.scores is None else objects.scores
    named = zip(objects.labels.tolist(), scores.tolist(), strict=True)
    return FoundObjects(path, tuple((detector.classes[label], score) for label, score in named), picture)


def _write_png(image: Tensor, path: Path) -> None:
    try:
        with appearing_whole(path) as temporary:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
    except OSError as error:
        raise RunError(
            f"picture '{path}' cannot be written: {error.strerror or error}; choose another folder"
        ) from error


def _folder(output: str | os.PathLike[str]) -> Path:
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"output '{folder}' cannot be written: {error.strerror or error}; choose another") from error
    return folder


def _pictures(folder: Path, images: Sequence[str]) -> list[Path]:
    """Where the drawing of each image goes: none where an image lies."""
    taken: set[str] = set()
    pictures = [folder / _free(f"{Path(image).stem}.png", taken) for image in images]
    own = {Path(image).resolve() for image in images}
    for picture in pictures:
        if picture.resolve() in own:
            raise ConfigError(
                f"output '{folder}' holds the image '{picture.name}' itself, whose place its drawing would take; "
                "choose another folder"
            )
    return pictures


def _free(name: str, taken: set[str]) -> str:
    """The name, or one with a number for the second image of that name."""
    stem, number = Path(name).stem, 2
    while name in taken:
        name, number = f"{stem}-{number}.png", number + 1
    taken.add(name)
    return name
