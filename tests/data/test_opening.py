import os
import pickle
import shutil

import pytest
import torch
from PIL import Image

from sgenet.data import FileSource, Preprocessing, decode_image, eval_loader, open_data
from sgenet.errors import ConfigError, DataError


def files(source, root):
    return {source.path(i).removeprefix(f"{root}/"): source.classes[source.labels[i]] for i in range(len(source))}


def says(error, *words):
    """The message, on one line, with all these words in it."""
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


def test_train_and_val_folders(two_classes):
    data = open_data(str(two_classes))
    assert data.name == "images"
    assert data.classes == data.val.classes == ["cat", "dog"]
    assert files(data.train, two_classes) == {f"train/{c}/{i}.png": c for c in ("cat", "dog") for i in range(3)}
    assert files(data.val, two_classes) == {f"val/{c}/{i}.png": c for c in ("cat", "dog") for i in range(2)}
    assert data.train.labels.dtype == torch.int64
    assert data.rejected == ()
    assert torch.equal(data.train.load(4), decode_image(two_classes / "train/dog/1.png"))


def test_what_is_passed_over_and_what_is_not(two_classes):
    for extra in (".hidden.png", "notes.txt", "Thumbs.db"):
        (two_classes / "train/cat" / extra).write_text("x")
    (two_classes / "train/.git").mkdir()
    shutil.copytree(two_classes / "val/cat", two_classes / "train/cat/more/deeper")
    shutil.copy(two_classes / "val/cat/0.png", two_classes / "train/dog/UPPER.PNG")
    data = open_data(two_classes)
    assert len(data.train) == 6 + 2 + 1
    assert files(data.train, two_classes)["train/cat/more/deeper/0.png"] == "cat"
    assert files(data.train, two_classes)["train/dog/UPPER.PNG"] == "dog"


@pytest.mark.parametrize(
    ("link", "to", "words"),
    [
        ("train/cat/up", "..", ["train/cat/up leads back"]),
        ("train/cat/up", ".", ["train/cat/up leads back"]),
        ("train/cat/more/up", "../../../..", ["train/cat/more/up leads back"]),
        ("train/cat/pets", "../dog", ["train/cat/pets and", "train/dog are the same folder"]),
        ("train/cat/again", "more", ["train/cat/again and", "train/cat/more are the same folder"]),
        ("train/ant", "cat", ["train/ant and", "train/cat are the same folder"]),
        ("val/dog/pets", "../../train/cat", ["train/cat and", "val/dog/pets are the same folder"]),
        ("train/all", ".", ["train/all leads back"]),
    ],
)
def test_a_link_to_images_that_are_taken_already_is_refused(two_classes, link, to, words):
    shutil.copytree(two_classes / "val/cat", two_classes / "train/cat/more")
    (two_classes / link).symlink_to(to)
    with pytest.raises(DataError) as error:
        open_data(two_classes)
    says(error, *words, "remove")


def test_links_to_other_images_are_followed(two_classes, make_folder):
    more = make_folder("a.png", "deeper/b.png", name="more")
    (two_classes / "train/dog/more").symlink_to(more)
    (two_classes / "train/emu").symlink_to(make_folder("c.png", name="emus"))
    data = open_data(two_classes)
    assert len(data.train) == 6 + 2 + 1
    assert files(data.train, two_classes)["train/dog/more/deeper/b.png"] == "dog"
    shutil.rmtree(two_classes / "val")
    (two_classes / "val").symlink_to(two_classes / "train")
    assert len(open_data(two_classes).val) == 9, "to look at how well it knows what it learned from"


def test_a_folder_that_cannot_be_listed_is_an_error(two_classes, monkeypatch):
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    (two_classes / "train/cat/more").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"train/cat/more cannot be listed \(Permission denied\)"):
        open_data(two_classes)


def test_sources_can_be_sent_to_workers(two_classes):
    source = pickle.loads(pickle.dumps(open_data(two_classes).train))
    assert source.load(0).shape == (3, 10, 12)


def test_the_classes_of_val_may_be_fewer(two_classes):
    shutil.rmtree(two_classes / "val/cat")
    data = open_data(two_classes)
    assert data.val.classes == ["cat", "dog"]
    assert set(data.val.labels.tolist()) == {1}


@pytest.mark.parametrize("inside", ["", "train/"])
def test_val_split_takes_the_same_share_of_every_class(make_folder, inside):
    root = make_folder(*(f"{inside}{label}/{i}.png" for label, n in (("a", 20), ("b", 5)) for i in range(n)))
    data = open_data(root, val_split=0.2, seed=1)
    train, val = files(data.train, root), files(data.val, root)
    assert not set(train) & set(val)
    assert len(train) + len(val) == 25
    assert sorted(val.values()) == ["a"] * 4 + ["b"]
    assert files(open_data(root, val_split=0.2, seed=1).val, root) == val
    assert any(files(open_data(root, val_split=0.2, seed=seed).val, root) != val for seed in (2, 3))


def test_val_split_leaves_both_sides_of_every_class_something(make_folder):
    root = make_folder("a/0.png", "a/1.png", "b/0.png", "b/1.png")
    for share in (0.01, 0.99):
        data = open_data(root, val_split=share)
        assert sorted(data.train.labels.tolist()) == sorted(data.val.labels.tolist()) == [0, 1]


def test_adding_images_moves_few_others(make_folder):
    root = make_folder(*(f"{label}/{i}.png" for label in "ab" for i in range(50)))
    before = set(files(open_data(root, val_split=0.2).val, root))
    make_folder("a/new.png")
    after = set(files(open_data(root, val_split=0.2).val, root))
    assert len(before ^ after) <= 2


@pytest.mark.parametrize("share", [-0.1, 1.0, 2, float("nan")])
def test_val_split_out_of_range(two_classes, share):
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        open_data(two_classes, val_split=share)


def test_val_split_beside_a_val_folder(two_classes):
    with pytest.raises(ConfigError) as error:
        open_data(two_classes, val_split=0.1)
    says(error, "val_split=0.1", two_classes / "val", "leave it out")


def test_missing_path_and_file_and_empty_folder(tmp_path):
    with pytest.raises(DataError) as error:
        open_data(tmp_path / "nowhere")
    says(error, tmp_path / "nowhere", "does not exist", "'shapes'")
    with pytest.raises(DataError, match="Did you mean 'shapes'"):
        open_data("shape")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file; give the folder"):
        open_data(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    for split in (0.0, 0.5):
        with pytest.raises(DataError, match="is empty; it must hold a folder for each class"):
            open_data(tmp_path / "empty", val_split=split)


def test_folder_of_other_things(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(DataError, match="holds no class folders"):
        open_data(tmp_path)


def test_images_without_class_folders(make_folder):
    root = make_folder("1.png", "2.png")
    for split in (0.0, 0.5):
        with pytest.raises(DataError, match="holds images but no class folders"):
            open_data(root, val_split=split)


def test_one_class_only(make_folder):
    root = make_folder("train/cat/1.png", "val/cat/1.png")
    with pytest.raises(DataError) as error:
        open_data(root)
    says(error, root, "'cat'", "two or more")


def test_no_val_folder(two_classes):
    (two_classes / "val").rename(two_classes / "test")
    with pytest.raises(DataError) as error:
        open_data(two_classes)
    says(error, "no folder val", "found test", two_classes / "val", "val_split=0.2")


def test_class_folders_and_no_val_split(make_folder):
    root = make_folder("a/0.png", "b/0.png")
    with pytest.raises(DataError) as error:
        open_data(root)
    says(error, "no folders train and val", root / "train", root / "val", "val_split=0.2")


def test_val_but_no_train(two_classes):
    (two_classes / "train").rename(two_classes / "training")
    with pytest.raises(DataError, match="no folder train"):
        open_data(two_classes)


def test_class_folder_without_images(two_classes):
    (two_classes / "train/eel").mkdir()
    (two_classes / "train/eel/readme.txt").touch()
    with pytest.raises(DataError) as error:
        open_data(two_classes)
    says(error, two_classes / "train/eel", "holds no image", "remove the folder")


def test_class_of_val_that_is_not_trained(make_folder, two_classes):
    make_folder("val/eel/0.png")
    with pytest.raises(DataError) as error:
        open_data(two_classes)
    says(error, "class 'eel'", "none of the 2 training classes")


def test_class_with_one_image_cannot_be_split(make_folder):
    root = make_folder("a/0.png", "a/1.png", "b/0.png")
    with pytest.raises(DataError, match="class 'b' has one image"):
        open_data(root, val_split=0.5)


def test_files_that_are_no_images_are_left_out_and_named(two_classes):
    (two_classes / "train/cat/letter.jpg").write_text("Dear Sir")
    (two_classes / "val/dog/nothing.png").touch()
    data = open_data(two_classes)
    assert len(data.train) == 6
    assert len(data.val) == 4
    first, second = data.rejected
    assert first.startswith(f"{two_classes}/train/cat/letter.jpg: not an image")
    assert second == f"{two_classes}/val/dog/nothing.png: the file is empty"


def test_damage_that_only_decoding_shows_is_named_by_the_loader(two_classes):
    path = two_classes / "val/cat/cut.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:1000])
    data = open_data(two_classes)
    assert data.rejected == ()
    (batch,) = eval_loader(data.val, Preprocessing(image_size=8, resize=None), batch_size=8)
    assert len(batch.labels) == 4
    (skipped,) = batch.skipped
    assert skipped.startswith(f"{path}: ")


@pytest.mark.parametrize(("part", "words"), [("train", "class 'cat'"), ("val", "no validation image")])
def test_nothing_but_broken_files(two_classes, part, words):
    for path in (two_classes / part).glob("*/*.png"):
        path.write_text("x")
    with pytest.raises(DataError) as error:
        open_data(two_classes)
    says(error, words, two_classes, f"{part}/cat/0.png", "not an image")


@pytest.fixture
def table(make_folder):
    """Four images in one folder, and a function that writes a table for them."""
    root = make_folder("1.png", "2.png", "sub/3.png", "4.png")

    def write(text, encoding="utf-8"):
        (root / "labels.csv").write_text(text, encoding=encoding)
        return root, root / "labels.csv"

    return write


def test_table_with_split(table):
    root, csv = table(
        'split,path,note,label\ntrain,1.png,,owl\ntrain,2.png,"a, b",auk\nval,sub/3.png,,owl\nval,4.png,,auk\n'
    )
    data = open_data(root, labels=str(csv))
    assert data.classes == ["auk", "owl"]
    assert files(data.train, root) == {"1.png": "owl", "2.png": "auk"}
    assert files(data.val, root) == {"sub/3.png": "owl", "4.png": "auk"}


def test_table_from_a_spreadsheet_with_val_split(table):
    root, csv = table("path,label\r\n1.png,é\r\n2.png,é\r\nsub/3.png, b \r\n4.png,b\r\n", encoding="utf-8-sig")
    data = open_data(root, labels=csv, val_split=0.5)
    assert data.classes == ["b", "é"]
    assert sorted(data.train.labels.tolist()) == sorted(data.val.labels.tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no column", "'path'", "empty"]),
        ("file,label\n1.png,a\n", ["no column 'path'", "file,label"]),
        ("path,class\n1.png,a\n", ["no column 'label'"]),
        ("path,label\n", ["no rows"]),
        ("path,label\n1.png,a\n2.png\n", ["line 3", "no label"]),
        ("path,label\n,a\n", ["line 2", "no path"]),
        ("path,label\n\n1.png,a\n\n9.png,b\n", ["line 5", "no file '9.png'"]),
        ('path,label,note\n1.png,a,"two\nlines"\n1.png,b,\n', ["twice, in lines 3 and 4"]),
        ("path,label\n1.png,a\n9.png,b\n", ["line 3", "no file '9.png'"]),
        (f"path,label\n{'9' * 300},a\n", ["line 2", "no file '999"]),
        ("path,label\nsub,a\n", ["no file 'sub'"]),
        ("path,label\n../secret.png,a\n", ["line 2", "'../secret.png' leads out of"]),
        ("path,label\nsub/../../secret.png,a\n", ["leads out of"]),
        ("path,label\n/etc/passwd,a\n", ["'/etc/passwd' leads out of"]),
        ("path,label\n1.png,a\n./1.png,b\n", ["'1.png' twice, in lines 2 and 3"]),
        ("path,label,split\n1.png,a,train\n2.png,b,dev\n", ["'dev'", "'train'", "'val'"]),
        ("path,label,split\n1.png,a,train\n2.png,b,train\n", ["'val' in others"]),
        ("path,label,split\n1.png,a,train\n2.png,b,\n", ["line 3", "no split"]),
        ("path,label,split\n1.png,a,train\n2.png,b,val\n", ["one class only, 'a'"]),
        ('path,label\n"1.png,a\n', ["not a CSV file"]),
    ],
)
def test_tables_that_cannot_be_used(table, text, words):
    root, csv = table(text)
    with pytest.raises(DataError) as error:
        open_data(root, labels=csv, val_split=0.0 if "split" in text else 0.5)
    says(error, *words)


def test_tables_and_val_split(table):
    root, csv = table("path,label,split\n1.png,a,train\n2.png,b,train\n4.png,a,val\n")
    with pytest.raises(ConfigError, match="leave it out"):
        open_data(root, labels=csv, val_split=0.5)
    root, csv = table("path,label\n1.png,a\n2.png,b\n")
    with pytest.raises(ConfigError, match="no column split"):
        open_data(root, labels=csv)


def test_tables_that_are_no_tables(table, tmp_path):
    root, csv = table("path,label\n1.png,ä\n", encoding="latin-1")
    with pytest.raises(DataError, match="UTF-8"):
        open_data(root, labels=csv, val_split=0.5)
    with pytest.raises(DataError, match="cannot be opened"):
        open_data(root, labels=tmp_path / "none.csv", val_split=0.5)


def test_options_belong_to_shapes(two_classes):
    with pytest.raises(ConfigError, match="image_size"):
        open_data(two_classes, options={"image_size": 32})
    with pytest.raises(ConfigError, match="Did you mean 'noise'"):
        open_data("shapes", options={"noize": 1.0})
    with pytest.raises(ConfigError, match="leave val_split and labels out"):
        open_data("shapes", val_split=0.1)


def test_shapes():
    data = open_data("shapes", options={"image_size": 32, "train_size": 6, "val_size": 4}, seed=3)
    assert (data.name, len(data.train), len(data.val)) == ("shapes", 6, 4)
    assert data.train.load(0).shape == (3, 32, 32)
    assert not torch.equal(data.train.load(0), data.val.load(0))


def test_photographs(real_images):
    data = open_data(real_images, val_split=0.2)
    assert len(data.train) + len(data.val) == 60
    assert data.rejected == ()
    batches = list(eval_loader(data.val, Preprocessing(image_size=64, resize=None), batch_size=5))
    images = torch.cat([batch.images for batch in batches])
    assert images.shape == (12, 3, 64, 64)
    assert all(batch.skipped == [] for batch in batches)
    # Photographs: neither black nor noise. Neighbouring pixels are alike, and the whole range is used.
    values = images.float()
    assert values.std() > 40
    assert (values[..., 1:] - values[..., :-1]).abs().mean() < 25


def test_labels_and_paths_must_pair_up():
    with pytest.raises(DataError, match="one label for each path"):
        FileSource(["a.png", "b.png"], [0], ["x"])


def test_very_large_sets_are_checked_while_loading_only(two_classes, monkeypatch):
    (two_classes / "train/cat/letter.jpg").write_text("Dear Sir")
    monkeypatch.setattr("sgenet.data.folder._HEADER_CHECK_LIMIT", 5)
    data = open_data(two_classes)
    assert data.rejected == ()
    (batch,) = eval_loader(data.train, Preprocessing(image_size=8, resize=None), batch_size=8)
    assert len(batch.labels) == 6
    assert "letter.jpg: not an image" in batch.skipped[0]
