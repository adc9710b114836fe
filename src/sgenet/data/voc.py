"""Data sets in the format of Pascal VOC: an XML file of boxes for each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from sgenet.data.annotations import (
    LARGEST_SIDE,
    AnnotatedFiles,
    Cases,
    Objects,
    clipped_corners,
    parse_flag,
    refuse,
    usable_boxes,
)
from sgenet.data.decode import IMAGE_EXTENSIONS, stored_size
from sgenet.data.detection import DetectionData
from sgenet.data.source import UnreadableImage
from sgenet.errors import DataError

__all__ = ["find_voc", "open_voc_folder"]

_FOLDERS = ("Annotations", "JPEGImages", "ImageSets/Main")


class _Object(NamedTuple):
    name: str
    box: list[float]  # left, top, width, height
    difficult: bool


class _Image(NamedTuple):
    stem: str
    size: tuple[int, int] | None  # height, width; None where the file does not say it
    objects: list[_Object]


def open_voc_folder(root: str | Path, *, train_set: str = "train", val_set: str = "val") -> DetectionData:
    """Open a folder in Pascal VOC's layout.

    It holds ``Annotations/*.xml``, ``JPEGImages/`` and ``ImageSets/Main/{train,val}.txt``, or a folder ``VOC*`` that
    does. A box counts pixels from 1, both ends included: it becomes left - 1, top - 1, right, bottom. Objects marked as
    difficult become `crowd`: training ignores them, and in evaluation what is found there is neither right nor wrong,
    which is VOC's own rule. There are no masks.

    Left out, and counted, are images without a file, and boxes that `open_coco_folder` leaves out. An XML file with a
    document type is refused, because only there entities can be declared: nothing is ever expanded or fetched.

    Args:
        root: An existing folder.
        train_set: The list of training images: the name of a file in ``ImageSets/Main``, without ``.txt``.
        val_set: The list of validation images.

    Returns:
        The training and the validation set. The classes are the names of the training objects, sorted; their ids, and
        those of the images, count from 1.

    Raises:
        DataError: If files or folders are missing, or the annotations cannot be used.
    """
    folder = find_voc(Path(root))
    if folder is None:
        raise DataError(f"{root} holds no {', '.join(_FOLDERS)}; give the folder that does, e.g. VOCdevkit/VOC2012")
    train, val = (_read_set(folder, folder / f"ImageSets/Main/{name}.txt") for name in (train_set, val_set))
    classes = sorted({one.name for image in train for one in image.objects})
    if not classes:
        raise DataError(f"the training images of {folder} show no object; there is nothing to learn")
    _check_classes(folder, val, classes)
    labels = {name: label for label, name in enumerate(classes)}
    (first, first_skipped), (second, second_skipped) = (
        _source(folder, images, labels, name) for images, name in ((train, train_set), (val, val_set))
    )
    return DetectionData(first, second, folder.resolve().name, first_skipped + second_skipped)


def find_voc(root: Path) -> Path | None:
    """The folder in Pascal VOC's layout that a folder is, or holds.

    Raises:
        DataError: If it holds several.
    """
    places = [root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/VOC*"))]
    found = [place for place in places if all((place / name).is_dir() for name in _FOLDERS)]
    if len(found) > 1 and found[0] != root:
        raise DataError(f"{root} holds several sets: {', '.join(map(str, found))}; give the folder of one")
    return found[0] if found else None


# --- reading ----------------------------------------------------------------------------------------------------------


def _read_set(folder: Path, file: Path) -> list[_Image]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"the list of images {file} cannot be opened ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"the list of images {file} is not a text in UTF-8") from None
    stems = [line.strip() for line in lines if line.strip()]
    if not stems:
        raise DataError(f"the list of images {file} is empty; write one name a line, without .jpg")
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    refuse(file, [f"'{stem}' stands more than once; remove the others" for stem in twice])
    outside = [stem for stem in stems if Path(stem).name != stem]
    refuse(file, [f"'{stem}' is no name of a file in {folder / 'Annotations'}" for stem in outside])
    return _read_images(folder / "Annotations", stems)


def _read_images(annotations: Path, stems: Sequence[str]) -> list[_Image]:
    images, problems = [], []
    for stem in stems:
        try:
            images.append(_read_image(annotations / f"{stem}.xml"))
        except ValueError as reason:
            problems.append(f"{stem}.xml {reason}")
    refuse(annotations, problems)
    return images


def _read_image(file: Path) -> _Image:
    root = _parse(file)
    height, width = (_number(root.find(f"size/{side}")) for side in ("height", "width"))
    if max(height, width) > LARGEST_SIDE:
        raise ValueError(f"says that its image is {width:g} x {height:g} pixels, which no image is; give its true size")
    known = height >= 1 and width >= 1 and height.is_integer() and width.is_integer()
    objects = []
    for element in root.iterfind("object"):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise ValueError("has an object without a name; add it")
        left, top, right, bottom = (_number(element.find(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
        box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
        objects.append(_Object(name, box, _difficult(name, element)))
    return _Image(file.stem, (int(height), int(width)) if known else None, objects)


def _difficult(name: str, element: Element) -> bool:
    try:
        return parse_flag(element.findtext("difficult"))
    except ValueError as reason:
        raise ValueError(f"has an object '{name}' with the difficult {reason}") from None


def _number(element: Element | None) -> float:
    try:
        return float((element is not None and element.text) or "nan")
    except ValueError:
        return float("nan")


def _parse(file: Path) -> Element:
    """The tree of an XML file. Raises ValueError with the reason where there is none."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_document_type
    try:
        parser.Parse(file.read_bytes(), True)
    except OSError as error:
        raise ValueError(f"cannot be opened ({error.strerror})") from None
    except (expat.ExpatError, LookupError) as error:  # LookupError: an encoding that nobody knows
        raise ValueError(f"is not an XML file ({error}); write it again") from None
    return builder.close()


def _refuse_document_type(*_: Any) -> NoReturn:  # noqa: ANN401
    raise ValueError("has a document type (<!DOCTYPE), which may declare entities to expand; VOC has none: remove it")


def _check_classes(folder: Path, val: Sequence[_Image], classes: Sequence[str]) -> None:
    known = set(classes)
    unknown = [(one.name, image.stem) for image in val for one in image.objects if one.name not in known]
    rule = (
        f"which is none of the {len(classes)} classes of the training images; give it training images too, or remove it"
    )
    refuse(folder, [f"image {stem} of the validation images shows '{name}', {rule}" for name, stem in unknown])


# --- putting together -------------------------------------------------------------------------------------------------


def _source(
    folder: Path, images: Sequence[_Image], labels: Mapping[str, int], name: str
) -> tuple[AnnotatedFiles, tuple[str, ...]]:
    cases = Cases()
    pictures = folder / "JPEGImages"
    files, kept, sizes = _with_files(pictures, images, cases)
    if not kept:
        raise DataError(
            f"{pictures} holds none of the {len(images)} images of the list '{name}', e.g. {images[0].stem}"
        )
    objects = _objects(kept, sizes, labels, cases)
    categories = {label + 1: name for name, label in labels.items()}
    source = AnnotatedFiles(files, sizes, range(1, len(files) + 1), objects, categories, pictures)
    return source, cases.lines(f"{folder}, {name}")


def _with_files(
    pictures: Path, images: Sequence[_Image], cases: Cases
) -> tuple[list[str], list[_Image], npt.NDArray[np.int64]]:
    """Of the images that have a file: those, the images, and their heights and widths."""
    there = {file.stem: file.name for file in sorted(pictures.iterdir()) if file.suffix.lower() in IMAGE_EXTENSIONS}
    files: list[str] = []
    kept: list[_Image] = []
    sizes: list[Sequence[int]] = []
    for image in images:
        try:
            size = _size(image, pictures, there)
        except UnreadableImage as error:
            cases.add("images that cannot be read, left out", str(error))
        else:
            files.append(there[image.stem])
            kept.append(image)
            sizes.append(size)
    return files, kept, np.array(sizes, dtype=np.int64)


def _size(image: _Image, pictures: Path, there: Mapping[str, str]) -> Sequence[int]:
    if image.stem not in there:
        raise UnreadableImage(str(pictures / image.stem), "there is no such image")
    return image.size or stored_size(pictures / there[image.stem])


def _objects(
    images: Sequence[_Image], sizes: npt.NDArray[np.int64], labels: Mapping[str, int], cases: Cases
) -> Objects:
    of_image = np.array([i for i, image in enumerate(images) for _ in image.objects], dtype=np.int64)
    found = [one for image in images for one in image.objects]
    names = [f"'{one.name}' in {image.stem}" for image in images for one in image.objects]
    boxes = np.array([one.box for one in found], dtype=np.float64).reshape(-1, 4)
    height, width = sizes[of_image].T
    kept = np.flatnonzero(usable_boxes(boxes, height, width, names, cases))
    found = [found[i] for i in kept.tolist()]
    corners = clipped_corners(boxes[kept], height[kept], width[kept])
    return Objects(
        images=of_image[kept],
        boxes=boxes[kept],
        labels=np.array([labels[one.name] for one in found], dtype=np.int64),
        crowd=np.array([one.difficult for one in found], dtype=np.bool_),
        areas=np.prod(corners[:, 2:] - corners[:, :2], axis=1),
    )
