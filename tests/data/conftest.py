"""Images that the tests of the data floor draw themselves."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sgenet.data import ArraySource, UnreadableImage

_DATA = Path(os.environ.get("SGENET_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def picture(number: int, width: int = 12, height: int = 10) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def make_folder(tmp_path):
    """Write pictures to the given paths below a new folder, and return it."""

    def make(*paths: str, name: str = "images") -> Path:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        for number, path in enumerate(paths):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            picture(number).save(root / path)
        return root

    return make


@pytest.fixture
def two_classes(make_folder):
    """A folder with train and val, three and two images a class."""
    return make_folder(
        *(f"train/{label}/{i}.png" for label in ("cat", "dog") for i in range(3)),
        *(f"val/{label}/{i}.png" for label in ("cat", "dog") for i in range(2)),
    )


class PartlyUnreadable(ArraySource):
    """An array of which some images pretend to be damaged."""

    def __init__(self, images, labels, classes, unreadable):
        super().__init__(images, labels, classes, "drawn")
        self.unreadable = unreadable

    def load(self, index):
        if index in self.unreadable:
            raise UnreadableImage(self.path(index), "damaged")
        return super().load(index)


@pytest.fixture
def make_source():
    """An array source of random images."""

    def make(count: int, size: tuple[int, int] = (8, 8), unreadable=()) -> ArraySource:
        generator = torch.Generator().manual_seed(count)
        images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % 2
        return PartlyUnreadable(images, labels, ["even", "odd"], frozenset(unreadable))

    return make


@pytest.fixture(scope="session")
def real_images(tmp_path_factory):
    """A folder CLASS/*.JPEG with 30 photographs of 64x64 of each of two classes, where the archive is at hand."""
    archive = _DATA / "tiny-imagenet-000-049.tar.xz"
    if not archive.is_file():
        pytest.skip(f"no {archive}; set SGENET_TEST_DATA to the folder that holds it")
    folder = tmp_path_factory.mktemp("real")
    counts: dict[str, int] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if not member.isfile() or len(path.parts) != 4 or path.parts[1] != "train":
                continue
            label = path.parts[2]
            if label not in counts and len(counts) == 2:
                break
            counts[label] = counts.get(label, 0) + 1
            if counts[label] <= 30:
                target = folder / label / path.name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())
    return folder


def _annotation(number: int, image: int, box: list[int]) -> dict:
    return {"id": number, "image_id": image, "category_id": 1, "bbox": box, "area": 30.0, "iscrowd": 0}


@pytest.fixture
def make_coco(tmp_path):
    """Write a set in COCO's layout, two images of 40 x 30 a split; one split has the given rows. Returns its folder."""

    def make(annotations=(), *, images=None, categories=None, split="val") -> Path:
        root = tmp_path / "set"
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        plain = {
            "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in (1, 2)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
            "annotations": [_annotation(1, 1, [1, 2, 10, 8]), _annotation(2, 2, [3, 4, 5, 6])],
        }
        if categories is not None:
            plain["categories"] = categories
            plain["annotations"] = []
        given = {**plain, "annotations": list(annotations), **({} if images is None else {"images": images})}
        for name in ("train", "val"):
            (root / name).mkdir(exist_ok=True)
            content = given if name == split else plain
            (root / f"annotations/instances_{name}.json").write_text(json.dumps(content))
            for number in (1, 2):
                picture(number, 40, 30).save(root / name / f"{number}.png")
        return root

    return make
