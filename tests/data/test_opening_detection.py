import pytest

from sgenet.data import open_detection_data
from sgenet.errors import ConfigError, DataError


def test_shapes_with_its_options():
    options = {"image_size": 64, "noise": 0, "train_size": 5, "val_size": None}
    data = open_detection_data("shapes", seed=3, options=options)
    assert (data.name, len(data.train), len(data.val), data.skipped) == ("shapes", 5, 300, ())
    assert data.train.load(0).shape == (3, 64, 64)
    assert not data.train.load(0).equal(data.val.load(0))
    assert not data.train.load(0).equal(open_detection_data("shapes", seed=4, options=options).train.load(0))


def test_a_coco_folder_and_its_options(make_coco):
    root = make_coco()
    (root / "annotations/instances_val.json").rename(root / "labels.json")
    data = open_detection_data(root, options={"val_json": "labels.json", "val_images": "val", "train_json": None})
    assert (data.name, len(data.train), len(data.val)) == ("set", 2, 2)


def test_a_folder_of_neither_kind(tmp_path):
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError) as error:
        open_detection_data(tmp_path)
    for word in (str(tmp_path), "instances_train", "Annotations, JPEGImages and ImageSets/Main", "train_json"):
        assert word in str(error.value)


def test_no_folder(tmp_path):
    (tmp_path / "file.json").touch()
    with pytest.raises(DataError, match="is a file; give the folder"):
        open_detection_data(tmp_path / "file.json")
    with pytest.raises(DataError, match="does not exist; give a folder as COCO"):
        open_detection_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match="Did you mean 'shapes'"):
        open_detection_data("shape")


def test_options_of_another_kind(make_coco):
    with pytest.raises(ConfigError, match=r"shapes has no option 'train_sise'.*Did you mean 'train_size'"):
        open_detection_data("shapes", options={"train_sise": 3})
    with pytest.raises(ConfigError, match="a COCO folder has no option 'noise'; it has train_json"):
        open_detection_data(make_coco(), options={"noise": 1})
    with pytest.raises(ConfigError, match="noise=9"):
        open_detection_data("shapes", options={"noise": 9})
