"""Image files on disk: a folder for each class, or a table of labels."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from sgenet.data.decode import IMAGE_EXTENSIONS, decode_image, header_problem
from sgenet.data.source import ClassificationData, few
from sgenet.errors import ConfigError, DataError

__all__ = ["FileSource", "open_class_folders", "open_known_classes", "open_label_table"]

# Reading the first bytes of more files than this would keep a user waiting; the loaders find those that are no images.
_HEADER_CHECK_LIMIT = 200_000
_HEADER_THREADS = 8
_OTHER_VAL_NAMES = ("valid", "validation", "test", "valf")


class FileSource:
    """Images in files.

    Args:
        paths: The files; relative to `root` where that is given.
        labels: Positions in `classes`, one for each file.
        classes: Names of the classes.
        root: The folder that `paths` start from.

    Examples:
        >>> source = FileSource(["cat/1.jpg", "dog/1.jpg"], [0, 1], ["cat", "dog"], root="animals")
        >>> len(source), source.path(1)
        (2, 'animals/dog/1.jpg')
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str],
        root: str | Path = "",
    ) -> None:
        if len(paths) != len(labels):
            raise DataError(f"{len(paths)} paths and {len(labels)} labels: give one label for each path")
        self.classes = list(classes)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self._paths = list(paths)
        self._root = str(root)

    def __len__(self) -> int:
        return len(self._paths)

    def load(self, index: int) -> Tensor:
        """Image `index`: uint8 (3, H, W); see `sgenet.data.decode_image`."""
        return decode_image(self.path(index))

    def path(self, index: int) -> str:
        """Where image `index` is."""
        return os.path.join(self._root, self._paths[index])  # noqa: PTH118  # a Path takes eight times as long


class _Entry(NamedTuple):
    """One labelled file, by its path from the root of the data."""

    path: str
    label: str


def open_class_folders(root: Path, *, val_split: float, seed: int) -> ClassificationData:
    """Open ``root/train/CLASS/*`` with ``root/val/CLASS/*``, or ``root/CLASS/*`` of which a share becomes the val set.

    Classes are the names of the folders, sorted. Folders below a class folder belong to it. Hidden files and folders,
    and files that are not named like images, are passed over.

    Args:
        root: An existing folder.
        val_split: Share of every class that is kept for validation, where there is no ``val`` folder; else 0.
        seed: Decides which files those are. A file's fate depends on its own path, so that adding files moves few.

    Raises:
        DataError: If the folder does not hold that.
        ConfigError: If `val_split` does not go with the folder.
    """
    train_root = root / "train" if (root / "train").is_dir() else root
    has_val = (root / "val").is_dir()
    if has_val and train_root == root:
        raise DataError(f"{root} has a folder val but no folder train; put the training images in {root / 'train'}")
    if has_val and val_split:
        raise ConfigError(
            f"val_split={val_split} is for data without a val folder; leave it out, {root / 'val'} exists"
        )
    if not has_val and not val_split:
        raise DataError(_no_validation(root))
    taken = _TakenFolders(root)
    train = _entries(train_root, root, taken)
    val = _entries(root / "val", root, taken) if has_val else []
    return _assembled(root, train, val, val_split, seed)


def open_known_classes(root: Path, classes: Sequence[str]) -> tuple[FileSource, tuple[str, ...]]:
    """Open all images of ``root/val/CLASS/*``, or of ``root/CLASS/*`` where there is no ``val``.

    Args:
        root: An existing folder.
        classes: Whose positions are the labels. The folder may have images of fewer.

    Returns:
        The images; and the files that are none and are left out, one ``path: reason`` each.

    Raises:
        DataError: If the folder does not hold that, or has another class.
    """
    folder = root / "val" if (root / "val").is_dir() else root
    if folder == root and (root / "train").is_dir() and "train" not in classes:
        raise DataError(f"{root} has a folder train but no folder val; give {root / 'train'} to judge by those images")
    entries = _entries(folder, root, _TakenFolders(root))
    for label in sorted({entry.label for entry in entries} - set(classes)):
        raise DataError(
            f"class '{label}' in {folder} is none of the network's {len(classes)} ({few(classes)}); give images of its "
            "classes"
        )
    problems = _header_problems(root, entries)
    kept = [entry for entry in entries if entry.path not in problems]
    if not kept:
        first = entries[0].path
        raise DataError(f"no image in {folder} can be used; the first, {first}: {problems[first]}")
    return _source(root, kept, classes), _rejected(root, problems)


def open_label_table(root: Path, table: Path, *, val_split: float, seed: int) -> ClassificationData:
    """Open the files that a CSV file names: columns ``path`` (from `root`), ``label`` and, if wanted, ``split``.

    Args:
        root: An existing folder.
        table: UTF-8, comma-separated, with a header; further columns are passed over.
        val_split: Share of every class that is kept for validation, where there is no column ``split``; else 0.
        seed: Decides which files those are.

    Raises:
        DataError: If the table cannot be used: columns or files missing, paths that lead out of `root`, ...
        ConfigError: If `val_split` does not go with the table.
    """
    lines = _read_table(table)
    _check_paths(table, root, lines)
    rows = [row for _, row in lines]
    splits = {row["split"] for row in rows if "split" in row}
    if splits and val_split:
        raise ConfigError(f"val_split={val_split} is for tables without a column split; {table} has one: leave it out")
    if not splits and not val_split:
        raise ConfigError(f"{table} has no column split, so say which share is for validation, e.g. val_split=0.2")
    if splits - {"train", "val"} or splits == {"train"} or splits == {"val"}:
        raise DataError(f"{table}: split is {_listed(splits)}, but must be 'train' in some rows and 'val' in others")
    parts: dict[str, list[_Entry]] = {"train": [], "val": []}
    for row in rows:
        parts[row.get("split", "train")].append(_Entry(row["path"], row["label"]))
    return _assembled(root, parts["train"], parts["val"], val_split, seed)


def _assembled(root: Path, train: list[_Entry], val: list[_Entry], val_split: float, seed: int) -> ClassificationData:
    """The two sources, without the files that are no images."""
    classes = sorted({entry.label for entry in train})
    if len(classes) < 2:
        raise DataError(f"{root} holds one class only, '{classes[0]}'; classification needs two or more")
    for label in sorted({entry.label for entry in val} - set(classes)):
        raise DataError(
            f"class '{label}' of the validation images of {root} is none of the {len(classes)} training classes; "
            f"give it training images too, or remove it"
        )
    problems = _header_problems(root, [*train, *val])
    readable = [entry for entry in train if entry.path not in problems]
    for label in sorted(set(classes) - {entry.label for entry in readable}):
        first = next(entry.path for entry in train if entry.label == label)
        raise DataError(
            f"no training image of class '{label}' in {root} can be used; the first, {first}: {problems[first]}"
        )
    kept = [entry for entry in val if entry.path not in problems]
    if val_split:
        readable, kept = _divided(readable, val_split, seed)
    if not kept:
        raise DataError(f"no validation image in {root} can be used; the first, {val[0].path}: {problems[val[0].path]}")
    return ClassificationData(
        _source(root, readable, classes), _source(root, kept, classes), root.resolve().name, _rejected(root, problems)
    )


def _rejected(root: Path, problems: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{root / path}: {reason}" for path, reason in problems.items())


def _source(root: Path, entries: Sequence[_Entry], classes: Sequence[str]) -> FileSource:
    number = {label: i for i, label in enumerate(classes)}
    return FileSource([e.path for e in entries], [number[e.label] for e in entries], classes, root)


def _divided(entries: list[_Entry], val_split: float, seed: int) -> tuple[list[_Entry], list[_Entry]]:
    """The same share of every class for validation; at least one image of each on either side."""
    by_class: dict[str, list[_Entry]] = {}
    for entry in entries:
        by_class.setdefault(entry.label, []).append(entry)
    chosen: set[str] = set()
    for label, members in by_class.items():
        if len(members) < 2:
            raise DataError(
                f"class '{label}' has one image ({members[0].path}), which cannot be split into training and "
                "validation; add images, or remove the class"
            )
        count = min(max(round(val_split * len(members)), 1), len(members) - 1)
        ranked = sorted(entry.path for entry in members)
        ranked.sort(key=lambda path: hashlib.blake2b(f"{seed}/{path}".encode(errors="surrogateescape")).digest())
        chosen.update(ranked[:count])
    return [e for e in entries if e.path not in chosen], [e for e in entries if e.path in chosen]


class _TakenFolders:
    """Which folders images were taken from: links may lead to where they were taken already.

    Args:
        root: Of the data.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._taken: dict[tuple[int, int], tuple[Path, Path, str]] = {}

    def add(self, where: Path, split: Path, label: str) -> None:
        """Note a folder of a class.

        Raises:
            DataError: If it holds the data themselves, or its images have been taken for the same split or for another
                class.
        """
        folder = _identity(where)
        if where.is_symlink() and folder in _identities_above(where.parent) | _identities_above(self._root):
            raise DataError(f"the link {where} leads back to a folder that holds it; remove it")
        first, of_split, of_label = self._taken.setdefault(folder, (where, split, label))
        if first != where and (of_split == split or of_label != label):
            raise DataError(
                f"{first} and {where} are the same folder, by a link, so that its images would be taken twice; remove "
                "the link"
            )


def _identities_above(folder: Path) -> set[tuple[int, int]]:
    """Those of a folder and of all that hold it."""
    there = folder.resolve()
    return {_identity(place) for place in (there, *there.parents)}


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _entries(folder: Path, root: Path, taken: _TakenFolders) -> list[_Entry]:
    """The images of ``folder/CLASS/``, sorted by class and path."""
    labels = sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not labels:
        raise DataError(_no_classes(folder))
    prefix = folder.relative_to(root)
    entries = []
    for label in labels:
        paths = []
        for where, names in _image_names(folder / label):
            taken.add(where, folder, label)
            here = (prefix / where.relative_to(folder)).as_posix()
            paths += [f"{here}/{name}" for name in names]
        paths.sort()
        if not paths:
            raise DataError(
                f"class folder {folder / label} holds no image ({_listed_extensions()}); add some or remove the folder"
            )
        entries += [_Entry(path, label) for path in paths]
    return entries


def _image_names(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, each with the names of its images."""
    for where, folders, files in os.walk(folder, onerror=_cannot_list, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        named = [name for name in files if not name.startswith(".")]
        yield Path(where), [name for name in named if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS]  # noqa: PTH122


def _cannot_list(error: OSError) -> NoReturn:
    raise DataError(f"the folder {error.filename} cannot be listed ({error.strerror}); make it readable or remove it")


def _header_problems(root: Path, entries: Sequence[_Entry]) -> dict[str, str]:
    """The files that do not begin like an image: path to reason."""
    if len(entries) > _HEADER_CHECK_LIMIT:
        return {}
    paths = [entry.path for entry in entries]
    pieces = [paths[start : start + 500] for start in range(0, len(paths), 500)]

    def problems(piece: list[str]) -> list[tuple[str, str]]:
        found = ((path, header_problem(f"{root}/{path}")) for path in piece)
        return [(path, reason) for path, reason in found if reason is not None]

    # Threads for disks that answer late, such as network drives.
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        return dict(pair for found in pool.map(problems, pieces) for pair in found)


def _read_table(table: Path) -> list[tuple[int, Mapping[str, str]]]:
    """The rows, each with the number of its (last) line in the file."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise DataError(f"the table of labels {table} cannot be opened ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the table of labels {table} is not a CSV file in UTF-8 ({error})") from None
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        raise DataError(
            f"{table} has no column {_listed(missing)} (its header: {','.join(columns) or 'empty'}); "
            "the header must name path and label, and may name split"
        )
    if not rows:
        raise DataError(f"{table} has a header but no rows; give each image a row")
    wanted = [name for name in ("path", "label", "split") if name in columns]
    return [(line, _cells(table, line, row, wanted)) for line, row in rows]


def _cells(table: Path, line: int, row: Mapping[str, str | None], wanted: Sequence[str]) -> Mapping[str, str]:
    cells = {name: (row[name] or "").strip() for name in wanted}
    for name, value in cells.items():
        if not value:
            raise DataError(f"line {line} of {table} has no {name}; fill it in or remove the line")
    return cells


def _check_paths(table: Path, root: Path, rows: Sequence[tuple[int, Mapping[str, str]]]) -> None:
    first_line: dict[str, int] = {}
    for line, row in rows:
        path = PurePosixPath(row["path"])
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"line {line} of {table}: '{path}' leads out of {root}; give paths from that folder")
        if str(path) in first_line:
            raise DataError(f"{table} names '{path}' twice, in lines {first_line[str(path)]} and {line}; remove one")
        first_line[str(path)] = line
        if not os.path.isfile(root / path):  # noqa: PTH113  # Path.is_file raises where a name is too long
            raise DataError(f"line {line} of {table}: there is no file '{path}' in {root}; correct the path")


def _no_validation(root: Path) -> str:
    start = root / "train" if (root / "train").is_dir() else root
    if not any(child.is_dir() and not child.name.startswith(".") for child in start.iterdir()):
        return _no_classes(start)
    if start == root:
        return (
            f"{root} has no folders train and val; put images in {root / 'train'}/CLASS/ and {root / 'val'}/CLASS/, "
            "or set aside a share of every class for validation, e.g. val_split=0.2"
        )
    found = [name for name in _OTHER_VAL_NAMES if (root / name).is_dir()]
    hint = f" (found {found[0]}: rename it if it is for validation)" if found else ""
    return (
        f"{root} has no folder val{hint}; the validation images must be in {root / 'val'}/CLASS/, "
        "or set aside a share of the training images, e.g. val_split=0.2"
    )


def _no_classes(folder: Path) -> str:
    names = [child.name for child in folder.iterdir()]
    if not names:
        return f"{folder} is empty; it must hold a folder for each class, with images in it"
    if any(Path(name).suffix.lower() in IMAGE_EXTENSIONS for name in names):
        return f"{folder} holds images but no class folders; put the images of each class in a folder of its name"
    return f"{folder} holds no class folders; it must hold a folder for each class, with images in it"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _listed_extensions() -> str:
    return " ".join(sorted(extension[1:] for extension in IMAGE_EXTENSIONS))
