import hashlib
import pickle

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from sgenet.data import open_data
from sgenet.errors import ConfigError, DataError


def write(path, content):
    path.write_bytes(pickle.dumps(content))
    return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Write small sets in the format of the originals, with torchvision told their checksums."""

    def make(kind, label_key, names_key, classes, train_files):
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        rng = np.random.default_rng(0)
        entries = []
        pixels = {}
        for number, name in enumerate([*train_files, "test"]):
            data = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
            pixels[name] = data
            entries.append(write(folder / name, {"data": data, label_key: [number % 2, 1, 0]}))
        meta_name, digest = write(folder / kind.meta["filename"], {names_key: classes})
        monkeypatch.setattr(kind, "train_list", entries[:-1])
        monkeypatch.setattr(kind, "test_list", entries[-1:])
        monkeypatch.setattr(kind, "meta", {"filename": meta_name, "key": names_key, "md5": digest})
        return folder, pixels

    return make


@pytest.mark.parametrize("inner", [False, True])
def test_cifar10(cifar, inner):
    folder, pixels = cifar(CIFAR10, "labels", "label_names", ["cat", "auk"], ["data_batch_1", "data_batch_2"])
    data = open_data(folder if inner else folder.parent)
    assert (data.name, data.classes, len(data.train), len(data.val)) == ("cifar10", ["cat", "auk"], 6, 3)
    assert data.train.labels.tolist() == [0, 1, 0, 1, 1, 0]
    # The files hold 1,024 red, then green, then blue values an image, row by row.
    expected = torch.from_numpy(pixels["data_batch_2"][1].reshape(3, 32, 32))
    assert torch.equal(data.train.load(4), expected)
    assert data.val.path(2) == "cifar10/val/2"


def test_cifar100(cifar):
    folder, pixels = cifar(CIFAR100, "fine_labels", "fine_label_names", ["a", "b"], ["train"])
    data = open_data(folder.parent)
    assert (data.name, len(data.train), len(data.val)) == ("cifar100", 3, 3)
    assert torch.equal(data.val.load(0), torch.from_numpy(pixels["test"][0].reshape(3, 32, 32)))


def test_damaged_files(cifar):
    folder, _ = cifar(CIFAR10, "labels", "label_names", ["cat", "auk"], ["data_batch_1"])
    with (folder / "data_batch_1").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="unpack the original archive again") as error:
        open_data(folder)
    assert "\n" not in str(error.value)


def test_both_sets_in_one_folder(cifar):
    cifar(CIFAR10, "labels", "label_names", ["cat", "auk"], ["data_batch_1"])
    folder, _ = cifar(CIFAR100, "fine_labels", "fine_label_names", ["a", "b"], ["train"])
    with pytest.raises(DataError, match="holds both"):
        open_data(folder.parent)
    assert open_data(folder).name == "cifar100"


def test_val_split_is_not_for_cifar(cifar):
    folder, _ = cifar(CIFAR10, "labels", "label_names", ["cat", "auk"], ["data_batch_1"])
    with pytest.raises(ConfigError, match="test set of its own"):
        open_data(folder, val_split=0.2)
