"""Data sets in the COCO format: a JSON file of annotations, and a folder of images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sgenet.data.annotations import AnnotatedFiles
from sgenet.data.coco_json import read_coco
from sgenet.data.detection import DetectionData
from sgenet.errors import DataError

__all__ = ["find_coco", "open_coco_file", "open_coco_folder"]

# As COCO names them, and as others do.
_JSON_NAMES = ("annotations/instances_{}*.json", "annotations/{}*.json")
_LOOKED_AT = 100  # images that decide which folder is theirs


def open_coco_folder(
    root: str | Path,
    *,
    train_json: str | Path | None = None,
    val_json: str | Path | None = None,
    train_images: str | Path | None = None,
    val_images: str | Path | None = None,
) -> DetectionData:
    """Open a folder in COCO's layout, or any pair of COCO-format files.

    COCO's layout is ``annotations/instances_train*.json`` and ``annotations/instances_val*.json`` beside the folders
    ``train*`` and ``val*`` (or ``images/train*``, ...). See `open_coco_file` for what is done about what is wrong.

    Args:
        root: An existing folder.
        train_json: The training annotations, from `root`; None finds them.
        val_json: The validation annotations, from `root`; None finds them.
        train_images: The folder of the training images, from `root`; None finds it.
        val_images: The folder of the validation images, from `root`; None finds it.

    Returns:
        The training and the validation set. The classes are those of the training annotations, ordered by their ids.

    Raises:
        DataError: If files or folders are missing, or the annotations cannot be used.
    """
    root = Path(root)
    files = [_json_file(root, split, given) for split, given in (("train", train_json), ("val", val_json))]
    folders = [None if given is None else _from(root, given) for given in (train_images, val_images)]
    train, train_skipped = open_coco_file(files[0], folders[0])
    categories = dict(zip(train.category_ids, train.classes, strict=True))
    val, val_skipped = open_coco_file(files[1], folders[1], categories=categories)
    return DetectionData(train, val, root.resolve().name, train_skipped + val_skipped)


def open_coco_file(
    file: str | Path, images: str | Path | None = None, *, categories: Mapping[int, str] | None = None
) -> tuple[AnnotatedFiles, tuple[str, ...]]:
    """Open one COCO-format file of annotations and its images.

    Left out, and counted, are images whose file is missing, boxes of zero or negative size, boxes outside their image,
    and boxes that are not four finite numbers. Boxes that reach beyond their image are clipped to it in
    `DetectionSource.target`, but given as they are to evaluation, which COCO does so. An object without a box
    takes that of its segmentation. Among objects with masks, one without takes its box for its mask. Crowd regions are
    kept as such, images without objects too.

    Args:
        file: JSON with images, annotations and categories. Ids may be any whole numbers.
        images: The folder that the file names start from; None finds it by the images in it.
        categories: Name of each class by its id, of the training set that the labels shall be those of; None takes the
            file's own, ordered by id.

    Returns:
        The images with their objects; and what was left out or changed, one line each kind.

    Raises:
        DataError: If the file cannot be used: broken JSON, keys missing, ids that stand twice, annotations of images or
            classes that are nowhere, classes that `categories` lacks, no image to be found. It names the first case
            and their number.
    """
    file = Path(file)
    content = read_coco(file, categories)
    folder = _image_folder(file, content.names) if images is None else Path(images)
    if not folder.is_dir():
        raise DataError(f"the folder of images {folder} does not exist; name the one with the images of {file}")
    there = _present(folder, content.names)
    missing = sorted(set(range(len(content.names))) - set(there))
    if not there:
        raise DataError(
            f"{folder} holds none of the {len(missing)} images of {file}, e.g. {content.names[0]}; "
            "name the folder that does"
        )
    skipped, objects = content.skipped, content.objects
    if missing:
        first = content.names[missing[0]]
        skipped = (f"{file}: images missing from {folder}, left out: {len(missing)}, the first: {first}", *skipped)
        objects = objects.of_images(there)
    source = AnnotatedFiles(
        [content.names[i] for i in there],
        content.sizes[there],
        [content.image_ids[i] for i in there],
        objects,
        content.categories,
        folder,
    )
    return source, skipped


def find_coco(root: Path, split: str) -> list[Path]:
    """The files of a folder that may hold the annotations of a split, "train" or "val"."""
    found = (sorted(root.glob(name.format(split))) for name in _JSON_NAMES)
    return next((files for files in found if files), [])


def _json_file(root: Path, split: str, given: str | Path | None) -> Path:
    if given is not None:
        return _from(root, given)
    found = find_coco(root, split)
    if not found:
        looked = " or ".join(str(root / name.format(split)) for name in _JSON_NAMES)
        raise DataError(f"there is no {looked}; put the annotations there, or name them, e.g. {split}_json=labels.json")
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(root)) for file in found)
        raise DataError(f"{root} has several annotations for {split}: {names}; name one, as {split}_json")
    return found[0]


def _from(root: Path, given: str | Path) -> Path:
    return root / Path(given).expanduser()


def _image_folder(file: Path, names: Sequence[str]) -> Path:
    """Of the folders where images usually are, the one that holds most of the first ones."""
    folders = list(dict.fromkeys(_usual_folders(file)))
    best = max(folders, key=lambda folder: len(_present(folder, names[:_LOOKED_AT])))
    if not _present(best, names[:_LOOKED_AT]):
        looked = ", ".join(str(folder) for folder in folders)
        raise DataError(
            f"the images of {file}, e.g. {names[0]}, are in none of {looked}; name the folder that holds them"
        )
    return best


def _usual_folders(file: Path) -> Iterator[Path]:
    stem = file.stem.removeprefix("instances_")
    split = "".join(re.findall(r"^[a-z]+", stem)) or stem
    for root in dict.fromkeys((file.parent.parent, file.parent)):
        for above in (root, root / "images"):
            yield from (folder for folder in (above / stem, *sorted(above.glob(f"{split}*"))) if folder.is_dir())
            yield above


def _present(folder: Path, names: Sequence[str]) -> list[int]:
    """Positions of the files that are in a folder."""
    # Listed as a whole: asking for one file after the other takes minutes on a network drive.
    listings: dict[str, frozenset[str]] = {}
    present = []
    for position, name in enumerate(names):
        above, _, last = name.rpartition("/")
        if above not in listings:
            listings[above] = _listing(folder / above)
        if last in listings[above]:
            present.append(position)
    return present


def _listing(folder: Path) -> frozenset[str]:
    # Path.is_dir would raise where a name is too long, and Path.iterdir would make a Path of each name.
    return frozenset(os.listdir(folder)) if os.path.isdir(folder) else frozenset()  # noqa: PTH112, PTH208
