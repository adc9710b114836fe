"""Pascal VOC's XML: its boxes, what is left out, and what is refused before anything is expanded."""

import pickle
from itertools import pairwise

import pytest
from PIL import Image

from sgenet.data import decode_image, open_detection_data, open_voc_folder
from sgenet.errors import ConfigError, DataError

WIDTH, HEIGHT = 40, 30


def thing(name, box, extra=""):
    left, top, right, bottom = box
    corners = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


def document(*things, size=f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>", head=""):
    return f"{head}<annotation>{size}{''.join(things)}</annotation>"


DOG = thing("dog", (1, 1, WIDTH, HEIGHT))


@pytest.fixture
def make_voc(tmp_path):
    """Write a folder of given XML texts by image and split, each with a picture; returns it."""

    def make(train=None, val=None, root=tmp_path / "VOC2012"):
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for split, texts in (("train", train or {"t1": document(DOG)}), ("val", val or {"v1": document(DOG)})):
            (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{stem}\n" for stem in texts))
            for stem, text in texts.items():
                (root / f"Annotations/{stem}.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
                Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"JPEGImages/{stem}.jpg")
        return root

    return make


def refused(root, *words):
    with pytest.raises(DataError) as error:
        open_voc_folder(root)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_boxes_count_pixels_from_1_and_hold_both_ends(make_voc):
    one_pixel = thing("dog", (40, 30, 40, 30))
    halves = thing("cat", (2.5, 3, 10, 12.5))
    data = open_voc_folder(make_voc({"a": document(DOG, one_pixel, halves)}))
    target = data.train.target(0)
    assert target.boxes.tolist() == [[0, 0, 40, 30], [39, 29, 40, 30], [1.5, 2, 10, 12.5]]
    assert target.areas.tolist() == [1200, 1, 8.5 * 10.5]
    assert data.skipped == ()
    assert data.classes == ["cat", "dog"]
    assert target.labels.tolist() == [1, 1, 0]


def test_layout_ids_and_sizes(make_voc):
    root = make_voc({"2008_01": document(DOG), "2008_02": document()}, {"2009_07": document(DOG)})
    data = open_voc_folder(root)
    assert data.name == "VOC2012"
    assert (len(data.train), len(data.val)) == (2, 1)
    assert data.train.image_ids == [1, 2]
    assert data.val.image_ids == [1]
    assert data.train.category_ids == [1]
    assert data.train.sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    assert data.train.path(1) == str(root / "JPEGImages/2008_02.jpg")
    assert data.train.load(1).equal(decode_image(root / "JPEGImages/2008_02.jpg"))
    assert len(data.train.target(1)) == 0
    assert not data.train.has_masks
    with pytest.raises(ConfigError, match="masks are asked for"):
        data.train.target(0, masks=True)
    assert pickle.loads(pickle.dumps(data.val)).target(0).boxes.tolist() == [[0, 0, 40, 30]]


def test_difficult_objects_are_regions_to_ignore(make_voc):
    marks = [f"<difficult>{mark}</difficult><truncated>1</truncated>" for mark in (1, 0)]
    data = open_voc_folder(make_voc({"a": document(*(thing("dog", (1, 1, 9, 9), mark) for mark in marks), DOG)}))
    assert data.train.target(0).crowd.tolist() == [True, False, False]
    assert [row["iscrowd"] for row in data.train.to_coco()["annotations"]] == [1, 0, 0]


def test_as_coco(make_voc):
    content = open_voc_folder(
        make_voc({"a": document(), "b": document(DOG, thing("ant", (3, 4, 5, 7)))})
    ).train.to_coco()
    assert content["categories"] == [{"id": 1, "name": "ant"}, {"id": 2, "name": "dog"}]
    assert content["images"][1] == {"id": 2, "file_name": "b.jpg", "height": 30, "width": 40}
    assert content["annotations"] == [
        {"id": 1, "image_id": 2, "category_id": 2, "bbox": [0, 0, 40, 30], "area": 1200, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 1, "bbox": [2, 3, 3, 4], "area": 12, "iscrowd": 0},
    ]


def test_parts_of_an_object_are_no_objects(make_voc):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    data = open_voc_folder(make_voc({"a": document(thing("person", (5, 5, 20, 20), part), DOG)}))
    assert data.classes == ["dog", "person"]
    assert data.train.target(0).boxes.tolist() == [[4, 4, 20, 20], [0, 0, 40, 30]]


# --- what is left out -------------------------------------------------------------------------------------------------


def test_unusable_boxes_are_left_out_and_counted(make_voc):
    things = [
        thing("dog", (9, 9, 8, 20)),
        thing("dog", (5, 5, 3, 20)),
        thing("dog", (41, 1, 45, 9)),
        thing("dog", ("nan", 1, 5, 9)),
        thing("dog", ("wide", 1, 5, 9)),
        "<object><name>dog</name></object>",
        thing("dog", (0, -3, 5, 9)),
        thing("dog", (30, 20, 1e9, 25)),
    ]
    data = open_voc_folder(make_voc({"a": document(*things, DOG)}))
    assert data.train.target(0).boxes.tolist() == [[0, 0, 5, 9], [29, 19, 40, 25], [0, 0, 40, 30]]
    said = [line.partition("train: ")[2] for line in data.skipped]
    assert said == [
        "boxes that are missing or not four finite numbers, left out: 3, the first: 'dog' in a",
        "boxes of zero or negative size, left out: 2, the first: 'dog' in a",
        "boxes outside their image, left out: 1, the first: 'dog' in a",
        "boxes that reach beyond their image, clipped to it for training: 2, the first: 'dog' in a",
    ]


def test_missing_pictures_are_left_out_and_counted(make_voc):
    root = make_voc({stem: document(thing("dog", (1, 1, n, n))) for n, stem in enumerate("abcd", start=2)})
    for stem in "ac":
        (root / f"JPEGImages/{stem}.jpg").unlink()
    data = open_voc_folder(root)
    assert [data.train.path(i)[-5:] for i in range(len(data.train))] == ["b.jpg", "d.jpg"]
    assert [data.train.target(i).boxes[0, 2].item() for i in (0, 1)] == [3, 5]
    assert data.train.image_ids == [1, 2]
    (line,) = data.skipped
    assert "train: images that cannot be read, left out: 2, the first:" in line
    for stem in "bd":
        (root / f"JPEGImages/{stem}.jpg").unlink()
    refused(root, root / "JPEGImages", "holds none of the 4 images of the list 'train', e.g. a")


@pytest.mark.parametrize(
    "size", ["", "<size><width>0</width><height>0</height></size>", "<size><width>x</width></size>"]
)
def test_a_missing_size_is_that_of_the_picture(make_voc, size):
    root = make_voc({"a": document(thing("dog", (1, 1, 99, 99)), size=size), "b": document(DOG, size=size)})
    (root / "JPEGImages/b.jpg").write_text("no image")
    data = open_voc_folder(root)
    assert data.train.sizes.tolist() == [[HEIGHT, WIDTH]]
    assert data.train.target(0).boxes.tolist() == [[0, 0, WIDTH, HEIGHT]]
    assert "b.jpg: not an image" in data.skipped[0]


# --- what is refused --------------------------------------------------------------------------------------------------


# Each of eleven names stands for ten of the one before: 10^12 characters.
ENTITIES = [f'<!ENTITY {name} "{10 * f"&{before};"}">' for before, name in pairwise("abcdefghijkl")]
BOMB = f'<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa">{"".join(ENTITIES)}]>'


@pytest.mark.parametrize(
    "head",
    [
        BOMB,
        '<!DOCTYPE annotation [<!ENTITY file SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE annotation SYSTEM "http://localhost:1/annotation.dtd">',
        "<!DOCTYPE annotation>",
    ],
)
def test_declarations_are_refused(make_voc, head):
    root = make_voc({"a": document(thing("&l;", (1, 1, 5, 5)), head=head), "b": document(DOG)})
    refused(root, root / "Annotations", "a.xml has a document type", "entities", "remove it")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not an XML file"),
        ("<annotation>", "is not an XML file"),
        (document(thing("&unknown;", (1, 1, 5, 5))), "is not an XML file (undefined entity"),
        (document(DOG).encode() + b"\xff", "is not an XML file"),
        (document(DOG, head='<?xml version="1.0" encoding="klingon"?>'), "is not an XML file"),
        (document(thing(" ", (1, 1, 5, 5))), "has an object without a name"),
    ],
)
def test_broken_files_are_refused_with_the_first_and_their_number(make_voc, text, said):
    root = make_voc({"good": document(DOG), "a": text, "b": text})
    refused(root, root / "Annotations", f"a.xml {said}", "(the first of 2 such cases)")


def test_missing_files_are_refused(make_voc):
    root = make_voc({"a": document(DOG), "b": document(DOG)})
    (root / "Annotations/b.xml").unlink()
    refused(root, "b.xml cannot be opened (No such file or directory)")
    (root / "ImageSets/Main/train.txt").write_text("\n")
    refused(root, "train.txt is empty")
    (root / "ImageSets/Main/train.txt").write_text("a\nb\na\n")
    refused(root, "train.txt: 'a' stands more than once")
    (root / "ImageSets/Main/train.txt").write_text("../a\n")
    refused(root, "'../a' is no name of a file")
    (root / "ImageSets/Main/train.txt").write_bytes(b"\xff\xfe")
    refused(root, "not a text in UTF-8")
    (root / "ImageSets/Main/train.txt").unlink()
    refused(root, root / "ImageSets/Main/train.txt", "cannot be opened")


def test_classes_of_val_alone_are_refused(make_voc):
    refused(
        make_voc(val={"v": document(DOG, thing("yak", (1, 1, 5, 5)))}),
        "image v of the validation images shows 'yak', which is none of the 1 classes",
    )
    refused(make_voc({"t": document()}), "show no object")


def test_other_lists_can_be_named(make_voc):
    root = make_voc({"a": document(DOG), "b": document(DOG)})
    (root / "ImageSets/Main/trainval.txt").write_text("b\n")
    data = open_detection_data(root, options={"train_set": "trainval"})
    assert [data.train.path(i)[-5:] for i in range(len(data.train))] == ["b.jpg"]


def test_the_folder_is_found_inside_the_development_kit(make_voc, tmp_path):
    make_voc(root=tmp_path / "VOCdevkit/VOC2007")
    assert open_voc_folder(tmp_path).name == open_voc_folder(tmp_path / "VOCdevkit").name == "VOC2007"
    make_voc(root=tmp_path / "VOCdevkit/VOC2012")
    refused(tmp_path, "holds several sets", "VOC2007", "VOC2012")
    refused(tmp_path / "VOCdevkit/VOC2007/Annotations", "holds no Annotations, JPEGImages")


@pytest.mark.parametrize("side", ["1e+300", "inf"])
def test_a_size_that_no_image_has_is_refused(make_voc, side):
    size = f"<size><width>{side}</width><height>30</height></size>"
    refused(make_voc({"a": document(DOG, size=size)}), f"a.xml says that its image is {side} x 30 pixels")


def test_difficult_is_0_or_1_or_true_or_false(make_voc):
    words = ["0", " 1 ", "true", "False", ""]
    things = [thing("dog", (1, 1, 9, 9), f"<difficult>{word}</difficult>") for word in words]
    data = open_voc_folder(make_voc({"a": document(DOG, *things)}))
    assert data.train.target(0).crowd.tolist() == [False, False, True, True, False, False]
    odd = thing("dog", (1, 1, 9, 9), "<difficult>maybe</difficult>")
    refused(make_voc({"a": document(odd)}), "a.xml has an object 'dog' with the difficult 'maybe'; it must be 0 or 1")


@pytest.mark.parametrize("orientation", [3, 6])
def test_boxes_without_a_size_are_of_the_pixels_as_they_lie(make_voc, orientation):
    root = make_voc({"a": document(DOG, size="")})
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    picture.paste((255, 0, 0), (0, 0, WIDTH, 9))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(root / "JPEGImages/a.jpg", exif=exif)
    source = open_voc_folder(root).train
    assert source.sizes.tolist() == [[HEIGHT, WIDTH]]
    assert source.load(0)[0, 2].min() > 200
