"""COCO-format files: what is in them, what is left out of them, and what is said of those that cannot be used."""

import contextlib
import io
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sgenet.data import UnreadableImage, decode_image, open_coco_file, open_coco_folder
from sgenet.errors import ConfigError, DataError


def image(number, **more):
    return {"id": number, "file_name": f"{number}.png", "width": 40, "height": 30, **more}


def annotation(number, image_id, box, category=1, **more):
    row = {"id": number, "image_id": image_id, "category_id": category, "bbox": box, "iscrowd": 0, "area": 12.5}
    return {**row, **more}


def quietly(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def load_coco(content):
    """pycocotools' own view of the content of a file."""
    coco = COCO()
    coco.dataset = json.loads(json.dumps(content))
    quietly(coco.createIndex)
    return coco


def evaluated(truth, results, kind):
    """The 12 figures of pycocotools."""
    coco = load_coco(truth)
    judge = COCOeval(coco, quietly(coco.loadRes, results), kind)
    for step in (judge.evaluate, judge.accumulate, judge.summarize):
        quietly(step)
    return judge.stats


def as_results(content):
    """The annotations themselves, as if a detector had found them."""
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [{**{key: row[key] for key in keys if key in row}, "score": 0.9} for row in content["annotations"]]


def val(root, **more):
    return open_coco_folder(root, **more).val


# --- what a good file gives -------------------------------------------------------------------------------------------


def test_layout_classes_and_objects(make_coco):
    root = make_coco(
        [
            annotation(9, 2, [3, 4, 5, 6], category=7),
            annotation(4, 1, [1.5, 2, 10, 8], iscrowd=1),
            annotation(5, 2, [0, 0, 40, 30]),
        ]
    )
    data = open_coco_folder(root)
    assert data.name == "set"
    assert data.skipped == ()
    assert data.classes == data.val.classes == ["cat", "dog"]
    assert data.val.category_ids == [1, 7]
    assert data.val.image_ids == [1, 2]
    assert data.val.sizes.tolist() == [[30, 40], [30, 40]]
    assert not data.val.has_masks
    assert len(data.train) == len(data.val) == 2
    assert torch.equal(data.val.load(1), decode_image(root / "val/2.png"))
    assert data.val.path(1) == str(root / "val/2.png")

    first, second = data.val.target(0), data.val.target(1)
    assert first.boxes.tolist() == [[1.5, 2, 11.5, 10]]
    assert first.crowd.tolist() == [True]
    assert second.boxes.tolist() == [[3, 4, 8, 10], [0, 0, 40, 30]]  # in the order of the file
    assert second.labels.tolist() == [1, 0]
    assert second.areas.tolist() == [12.5, 12.5]
    assert [t.dtype for t in (second.boxes, second.labels, second.crowd, second.areas)] == [
        torch.float32,
        torch.int64,
        torch.bool,
        torch.float32,
    ]


def test_classes_are_ordered_by_id(make_coco):
    categories = [{"id": 90, "name": "zebra"}, {"id": 3, "name": "yak"}, {"id": 40, "name": "ant"}]
    train = open_coco_folder(
        make_coco([annotation(1, 1, [0, 0, 5, 5], category=40)], categories=categories, split="train"),
        val_json="annotations/instances_train.json",
        val_images="train",
    ).train
    assert train.classes == ["yak", "ant", "zebra"]
    assert train.category_ids == [3, 40, 90]
    assert train.target(0).labels.tolist() == [1]
    assert train.to_coco()["annotations"][0]["category_id"] == 40


def test_images_without_objects_stay(make_coco):
    source = val(make_coco([annotation(1, 2, [0, 0, 5, 5])]))
    empty = source.target(0)
    assert len(source) == 2
    assert empty.boxes.shape == (0, 4)
    assert empty.labels.shape == empty.crowd.shape == empty.areas.shape == (0,)
    assert len(val(make_coco([])).target(1)) == 0


def test_sources_can_be_sent_to_workers(make_coco):
    source = pickle.loads(pickle.dumps(val(make_coco([annotation(1, 1, [0, 0, 5, 5])]))))
    assert source.load(0).shape == (3, 30, 40)
    assert source.target(0).boxes.tolist() == [[0, 0, 5, 5]]


SQUARE = [[2, 3, 12, 3, 12, 9, 2, 9]]
TRIANGLE = [[20.5, 20, 35, 20.25, 27, 29.75], [1, 1, 4, 1, 4, 4]]


def test_polygons_and_run_lengths_in_one_file(make_coco):
    mask = np.zeros((30, 40), dtype=np.uint8, order="F")
    mask[5:20, 7:9] = mask[8, 7:30] = 1
    packed = coco_masks.encode(mask)
    plain = {"size": [30, 40], "counts": [10, 20, 30 * 40 - 30]}
    source = val(
        make_coco(
            [
                annotation(1, 1, [2, 3, 10, 6], segmentation=SQUARE),
                annotation(2, 1, [7, 5, 23, 15], segmentation={"size": [30, 40], "counts": packed["counts"].decode()}),
                annotation(3, 1, [0, 0, 40, 30], segmentation=plain, iscrowd=1),
                annotation(4, 1, [1, 1, 34, 29], segmentation=TRIANGLE),
            ]
        )
    )
    assert source.has_masks
    assert source.target(0).masks is None
    target = source.target(0, masks=True)
    assert target.masks.dtype == torch.bool
    reference = load_coco(source.to_coco())
    expected = [reference.annToMask(row).astype(bool) for row in reference.dataset["annotations"]]
    assert np.array_equal(target.masks.numpy(), np.stack(expected))
    assert np.array_equal(target.masks[1].numpy(), mask.astype(bool))
    assert target.masks[2].sum() == 20
    assert target.masks[0].nonzero().aminmax(dim=0).max.tolist() == [8, 11]
    assert source.target(1, masks=True).masks.shape == (0, 30, 40)


def test_masks_that_are_not_there(make_coco):
    with pytest.raises(ConfigError, match="masks are asked for"):
        val(make_coco([annotation(1, 1, [0, 0, 5, 5], segmentation=[])])).target(0, masks=True)


# --- what is left out, or made good -----------------------------------------------------------------------------------


BOX = [1, 1, 8, 6]


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([5, 5, 0, 4], "zero or negative size, left out"),
        ([5, 5, 4, -1], "zero or negative size, left out"),
        ([5, 5, 1e-9, 4], "zero or negative size, left out"),
        ([40, 5, 4, 4], "outside their image, left out"),
        ([-9, 5, 9, 4], "outside their image, left out"),
        ([5, 500, 9, 4], "outside their image, left out"),
        ([float("nan"), 5, 9, 4], "not four finite numbers, left out"),
        ([5, 5, float("inf"), 4], "not four finite numbers, left out"),
        ([5, 5, 4], "not four finite numbers, left out"),
        ("5 5 4 4", "not four finite numbers, left out"),
        (None, "not four finite numbers, left out"),
    ],
)
def test_unusable_boxes_are_left_out_and_counted(make_coco, box, said):
    root = make_coco([annotation(3, 1, box), annotation(5, 1, box), annotation(6, 1, BOX, category=7)])
    data = open_coco_folder(root)
    (line,) = data.skipped
    assert said in line
    assert line.startswith(str(root / "annotations/instances_val.json"))
    assert line.endswith(": 2, the first: annotation 3")
    assert data.val.target(0).boxes.tolist() == [[1, 1, 9, 7]]
    assert data.val.target(0).labels.tolist() == [1]
    assert [row["id"] for row in data.val.to_coco()["annotations"]] == [1]


def test_boxes_that_reach_beyond_the_image_are_clipped_for_training_alone(make_coco):
    boxes = [[-5, -4, 20, 10], [30, 20, 100, 1e300], [0.1, 0.1, 39.904, 29.9]]
    data = open_coco_folder(make_coco([annotation(n, 1, box) for n, box in enumerate(boxes, start=1)]))
    (line,) = data.skipped
    assert "reach beyond their image, clipped to it for training: 2, the first: annotation 1" in line
    expected = torch.tensor([[0, 0, 15, 6], [30, 20, 40, 30], [0.1, 0.1, 40, 30]])
    torch.testing.assert_close(data.val.target(0).boxes, expected)
    assert data.val.target(0).boxes.max() <= 40
    assert [row["bbox"] for row in data.val.to_coco()["annotations"]] == boxes


def test_a_box_is_taken_from_the_segmentation(make_coco):
    runs = {"size": [30, 40], "counts": [30 * 4 + 5, 6, 30 * 36 - 11]}
    rows = [
        annotation(1, 1, None, segmentation=SQUARE),
        annotation(2, 1, [], segmentation=runs),
        annotation(3, 1, [], segmentation=[]),
    ]
    del rows[0]["bbox"]
    data = open_coco_folder(make_coco(rows))
    assert data.val.target(0).boxes.tolist() == [[2, 3, 12, 9], [4, 5, 5, 11]]
    assert [line.partition(": ")[2] for line in data.skipped] == [
        "objects without a box, which their segmentation gives: 2, the first: annotation 1",
        "boxes that are missing or not four finite numbers, left out: 1, the first: annotation 3",
    ]


def test_an_unusable_segmentation_among_others_is_the_box(make_coco):
    rows = [
        annotation(1, 1, [2, 3, 10, 6], segmentation=SQUARE),
        annotation(2, 1, [20, 10, 6, 5], segmentation={"size": [40, 30], "counts": [1200]}),
        annotation(3, 1, [-4, 20, 8, 90], segmentation=[]),
        annotation(4, 1, [0, 0, 40, 30], segmentation=[*SQUARE, [1, 1, 2, 2]]),
    ]
    data = open_coco_folder(make_coco(rows))
    masks = data.val.target(0, masks=True).masks
    assert masks[1].nonzero().aminmax(dim=0).min.tolist() == [10, 20]
    assert masks.sum((1, 2)).tolist() == [60, 30, 40, 60]
    said = " ".join(data.skipped)
    assert "segmentations that cannot be used: 1, the first: annotation 2, run lengths of an image of size" in said
    assert "without a mask among others with one, their boxes taken: 2, the first: annotation 2" in said
    assert "no three corners, those left out: 1, the first: annotation 4" in said


@pytest.mark.parametrize("area", [None, -3, float("nan"), float("inf"), "large", 10**400])
def test_a_missing_area_is_that_of_the_box(make_coco, area):
    data = open_coco_folder(make_coco([annotation(1, 1, [30, 10, 20, 5], area=area), annotation(2, 1, BOX)]))
    assert data.val.target(0).areas.tolist() == [50, 12.5]
    assert "without an area, that of the box taken: 1, the first: annotation 1" in data.skipped[-1]


def test_missing_images_are_left_out_with_their_objects(make_coco):
    names = [image(5, file_name="there/is/none.png"), image(1), image(6), image(2)]
    rows = [annotation(n, i, [n, n, 5, 5], segmentation=SQUARE) for n, i in ((1, 2), (2, 5), (3, 1), (4, 6), (5, 2))]
    root = make_coco(rows, images=names)
    data = open_coco_folder(root)
    assert data.val.image_ids == [1, 2]
    assert [data.val.target(i).boxes[:, 0].tolist() for i in (0, 1)] == [[3], [1, 5]]
    assert data.val.target(1, masks=True).masks.sum((1, 2)).tolist() == [60, 60]
    (line,) = data.skipped
    assert f"images missing from {root / 'val'}, left out: 2, the first: there/is/none.png" in line
    assert {row["image_id"] for row in data.val.to_coco()["annotations"]} == {1, 2}


def test_a_crowd_is_what_says_so(make_coco):
    flags = [0, 1, "0", "1", True, "false", None]
    rows = [annotation(i, 1, BOX, iscrowd=flag) for i, flag in enumerate(flags)]
    assert val(make_coco(rows)).target(0).crowd.tolist() == [False, True, False, True, True, False, False]


def test_an_image_whose_name_no_file_can_have_is_missing(make_coco):
    root = make_coco(images=[image(1), image(2, file_name=f"{'2' * 300}/2.png")])
    data = open_coco_folder(root)
    assert len(data.val) == 1
    assert "left out: 1, the first: 222" in data.skipped[0]


def test_an_image_of_another_size_is_unreadable(make_coco):
    root = make_coco([annotation(1, 1, BOX)])
    Image.new("RGB", (30, 40)).save(root / "val/1.png")
    with pytest.raises(UnreadableImage, match=r"val/1\.png: it is 30 x 40 pixels, but its annotations say 40 x 30"):
        val(root).load(0)
    assert val(root).load(1).shape == (3, 30, 40)


# --- what makes a file unusable ---------------------------------------------------------------------------------------


def refused(root, *words):
    with pytest.raises(DataError) as error:
        open_coco_folder(root)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a JSON file"),
        ('{"images": [', "is not a JSON file"),
        ('{"images": \xff}', "is not a JSON file"),
        ("[" * 200_000, "is not a JSON file"),
        ("[]", "has no list of images"),
        ('{"images": [1], "annotations": [], "categories": []}', "has no list of images"),
        ('{"images": [{"id": 1}], "categories": []}', "has no list of annotations"),
        ('{"images": [], "annotations": [], "categories": [{}]}', "has an empty list of images"),
        ('{"images": [{}], "annotations": [], "categories": []}', "has an empty list of categories"),
    ],
)
def test_broken_json(make_coco, text, said):
    root = make_coco()
    (root / "annotations/instances_val.json").write_text(text, encoding="latin-1")
    refused(root, root / "annotations/instances_val.json", said)


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize(
    ("rows", "images", "said"),
    [
        ([without(annotation(3, 1, BOX), "category_id")], None, "annotation 3 has no category_id; it must be a whole"),
        ([without(annotation(3, 1, BOX), "id")], None, "annotation number 1 has no id"),
        ([annotation("a", 1, BOX)], None, "annotation 'a' has the id 'a'; it must be a whole number"),
        ([annotation(3, True, BOX)], None, "annotation 3 has the image_id True"),
        ([annotation(3, 1, BOX), annotation(3, 2, BOX)], None, "the annotation id 3 stands more than once"),
        ([annotation(4, 8, BOX)], None, "annotation 4 is of image 8, which is none of the file's 2"),
        ([annotation(4, 1, BOX, 5)], None, "annotation 4 is of category 5, which is none of the file's 2"),
        ([annotation(4, 1, BOX, iscrowd=2)], None, "annotation 4 has the iscrowd 2; it must be 0 or 1"),
        ([annotation(4, 1, BOX, iscrowd="yes")], None, "annotation 4 has the iscrowd 'yes'"),
        ([], [image(1), image(1)], "the image id 1 stands more than once"),
        ([], [without(image(1), "width")], "image 1 has no width; it must be a whole number"),
        ([], [image(1, height="30")], "image 1 has the height '30'"),
        ([], [image(1, height=0)], "image 1 is 40 x 0 pixels, which no image is"),
        ([], [image(1, width=10**30)], "which no image is"),
        ([], [image(1, file_name="")], "image 1 has the file_name ''; it must be a text"),
        ([], [image(1, file_name="../1.png")], "image 1 is '../1.png', which leads out of the folder of the images"),
        ([], [image(1, file_name="/etc/passwd")], "which leads out of the folder of the images"),
    ],
)
def test_unusable_files_are_refused(make_coco, rows, images, said):
    refused(make_coco(rows, images=images), "instances_val.json", said)


def test_one_error_names_the_first_case_and_their_number(make_coco):
    rows = [annotation(1, 1, BOX), annotation(4, 8, BOX), annotation(2, 9, BOX), annotation(3, 1, BOX, category=5)]
    refused(make_coco(rows), "annotation 4 is of image 8, which is none", "(the first of 2 such cases)")
    rows = [{**row, "image_id": 1, "category_id": 5} for row in rows]
    refused(make_coco(rows), "annotation 1 is of category 5, which is none", "(the first of 4 such cases)")


def test_categories_are_checked(make_coco):
    refused(make_coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "the category id 1 stands more")
    refused(make_coco(categories=[{"id": 1}]), "category 1 has no name")


def with_val_classes(root, categories):
    file = root / "annotations/instances_val.json"
    content = json.loads(file.read_text())
    unused = {"id": 99, "name": "in no image"}
    file.write_text(json.dumps({**content, "categories": [*categories, unused]}))
    return root


@pytest.mark.parametrize(("number", "name", "there"), [(7, "wolf", "'dog'"), (8, "dog", "none")])
def test_the_classes_of_val_must_be_those_of_train(make_coco, number, name, there):
    root = make_coco([annotation(1, 1, BOX, category=number)])
    refused(
        with_val_classes(root, [{"id": number, "name": name}]),
        f"category {number} is '{name}', but {there} in the training set",
    )


def test_the_classes_of_val_may_be_fewer(make_coco):
    root = make_coco([annotation(1, 1, BOX, category=7)])
    source = val(with_val_classes(root, [{"id": 7, "name": "dog"}]))
    assert source.classes == ["cat", "dog"]
    assert source.target(0).labels.tolist() == [1]


# --- finding files and images -----------------------------------------------------------------------------------------


def test_missing_annotations(make_coco):
    root = make_coco()
    (root / "annotations/instances_val.json").unlink()
    refused(root, root / "annotations/instances_val*.json", "val_json=")


def test_several_annotations_must_be_chosen_from(make_coco):
    root = make_coco()
    for year in (2014, 2017):
        shutil.copy(root / "annotations/instances_val.json", root / f"annotations/instances_val{year}.json")
    refused(root, "several annotations for val", "instances_val2014.json", "val_json")
    assert len(val(root, val_json="annotations/instances_val2014.json")) == 2


def test_images_are_found_in_the_usual_places(make_coco):
    root = make_coco([annotation(1, 1, BOX)])
    for place in ("val2017", "images/val", "images", "elsewhere/val"):
        (root / place).parent.mkdir(exist_ok=True)
        (root / "val").rename(root / place)
        if place.startswith("elsewhere"):
            refused(root, "are in none of", root / "images", "1.png")
        source = val(root, val_images=place if place.startswith("elsewhere") else None)
        assert source.load(0).shape == (3, 30, 40)
        (root / place).rename(root / "val")
        shutil.rmtree(root / place.split("/")[0], ignore_errors=True)


def test_any_json_and_folder_can_be_named(make_coco, tmp_path):
    root = make_coco([annotation(1, 1, BOX)])
    photos = (root / "val").rename(tmp_path / "photos")
    file = tmp_path / "labels.json"
    (root / "annotations/instances_val.json").rename(file)
    shutil.rmtree(root / "annotations")
    shutil.rmtree(root / "train")
    data = open_coco_folder(root, train_json=file, val_json=file, train_images="../photos", val_images=photos)
    assert data.train.target(0).boxes.tolist() == data.val.target(0).boxes.tolist() == [[1, 1, 9, 7]]
    source, skipped = open_coco_file(file, photos)
    assert (len(source), skipped) == (2, ())
    with pytest.raises(DataError, match="holds none of the 2 images"):
        open_coco_file(file, root)
    with pytest.raises(DataError, match="nowhere does not exist"):
        open_coco_file(file, root / "nowhere")
    with pytest.raises(DataError, match=r"none\.json cannot be opened"):
        open_coco_file(root / "none.json")


def test_images_beside_their_json(make_coco):
    root = make_coco([annotation(1, 1, BOX)])
    (root / "annotations/instances_val.json").rename(root / "val/_annotations.coco.json")
    source, _ = open_coco_file(root / "val/_annotations.coco.json")
    assert source.path(0) == str(root / "val/1.png")


def test_an_image_that_comes_later_is_found(make_coco):
    root = make_coco([annotation(1, 1, BOX)])
    (root / "val/2.png").rename(root / "2.png")
    assert len(val(root)) == 1
    (root / "2.png").rename(root / "val/2.png")
    assert len(val(root)) == 2


# --- against pycocotools ----------------------------------------------------------------------------------------------


def test_evaluation_sees_an_object_with_the_id_0(make_coco):
    content = val(make_coco([annotation(0, 1, BOX), annotation(1, 2, BOX)])).to_coco()
    assert evaluated(content, as_results(content), "bbox")[0] == 1


def test_real_annotations_find_themselves(coco200):
    data = open_coco_folder(coco200)
    assert data.skipped == ()
    assert [len(data.train), len(data.val), len(data.classes)] == [100, 100, 80]
    content = data.val.to_coco()
    with (coco200 / "annotations/instances_val2017.json").open() as file:
        original = json.load(file)
    assert len(content["annotations"]) == len(original["annotations"])
    for kind in ("bbox", "segm"):
        figures = evaluated(original, as_results(content), kind)
        assert figures[:6].tolist() == [1] * 6
        assert np.array_equal(figures, evaluated(content, as_results(content), kind))


def test_real_masks_are_those_of_pycocotools(coco200):
    for split, source in (("train", open_coco_folder(coco200).train), ("val", val(coco200))):
        with (coco200 / f"annotations/instances_{split}2017.json").open() as file:
            reference = load_coco(json.load(file))
        compared = 0
        for index, number in enumerate(source.image_ids):
            target = source.target(index, masks=True)
            rows = reference.loadAnns(reference.getAnnIds(imgIds=number))
            masks = [reference.annToMask(row).astype(bool) for row in rows]
            assert np.array_equal(target.masks.numpy(), np.array(masks).reshape(target.masks.shape))
            assert target.labels.tolist() == [source.category_ids.index(row["category_id"]) for row in rows]
            assert target.areas.tolist() == torch.tensor([row["area"] for row in rows]).tolist()
            compared += len(rows)
        assert compared > 700


def test_real_images_have_the_size_of_their_annotations(coco200):
    source = val(coco200)
    for index in range(20):
        assert source.load(index).shape[1:] == tuple(source.sizes[index].tolist())
