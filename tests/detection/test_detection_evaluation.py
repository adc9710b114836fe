import copy
import json

import numpy as np
import pytest
from drawn_sets import sets
from hypothesis import assume, given
from made_up_results import make_results, real_annotations, reference, with_masks

from sgenet.detection.evaluation import FIGURES, evaluate
from sgenet.detection.ground_truth import read_ground_truth
from sgenet.errors import ConfigError, DataError

BOX = [10, 10, 40, 40]


def truth(boxes=(BOX,), images=2, **more):
    """Boxes in image 1, of class 5."""
    return {
        "images": [{"id": i, "height": 100, "width": 120} for i in range(1, images + 1)],
        "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 5, "bbox": box, **more} for i, box in enumerate(boxes, 1)
        ],
    }


def result(box=BOX, score=0.5, **more):
    return {"image_id": 1, "category_id": 5, "bbox": box, "score": score, **more}


def same(figures, expected):
    assert list(figures) == list(FIGURES)
    assert {name for name in FIGURES if figures[name] is None} == {name for name in FIGURES if expected[name] is None}
    for name in FIGURES:
        if expected[name] is not None:
            assert figures[name] == pytest.approx(expected[name], abs=1e-9), name


@pytest.mark.parametrize("seed", [0, 1])
def test_boxes_of_real_images_equal_pycocotools(seed):
    annotations = real_annotations()
    results = make_results(annotations, seed)
    expected = reference(annotations, results)
    assert 0.1 < expected["AP"] < 0.9
    assert expected["AR1"] < expected["AR10"] < expected["AR100"]
    same(evaluate(annotations, results).figures, expected)


def test_masks_of_real_images_equal_pycocotools():
    annotations = real_annotations()
    results = make_results(annotations)
    masked = with_masks(results, annotations)
    expected = reference(annotations, masked, "segm")
    assert 0.05 < expected["AP"] < 0.9
    same(evaluate(annotations, masked, "segm").figures, expected)
    unboxed = with_masks(results, annotations, boxes=False)
    by_masks = reference(annotations, unboxed, "segm")
    assert by_masks["APs"] != expected["APs"]
    same(evaluate(annotations, unboxed, "segm").figures, by_masks)
    same(evaluate(annotations, masked, "segm", mask_areas=True).figures, by_masks)
    same(evaluate(annotations, unboxed, "bbox").figures, reference(annotations, unboxed, "bbox"))


@given(sets())
def test_any_sets_equal_pycocotools(drawn):
    annotations, results = drawn
    assume(results)  # without any, pycocotools fails
    for kind in ("bbox", "segm"):
        same(evaluate(annotations, results, kind).figures, reference(annotations, results, kind))


def test_classes_by_themselves_equal_pycocotools():
    annotations = real_annotations()
    results = make_results(annotations)
    evaluation = evaluate(annotations, results, per_class=True)
    assert [own.category_id for own in evaluation.per_class] == sorted(c["id"] for c in annotations["categories"])
    assert sum(own.objects for own in evaluation.per_class) == evaluation.objects
    for own in evaluation.per_class[:12]:
        expected = reference(annotations, results, catIds=[own.category_id])
        assert own.name == next(c["name"] for c in annotations["categories"] if c["id"] == own.category_id)
        assert own.ap == pytest.approx(expected["AP"], abs=1e-9)
        assert own.ap50 == pytest.approx(expected["AP50"], abs=1e-9)
    known = [own.ap for own in evaluation.per_class if own.ap is not None]
    assert evaluation.figures["AP"] == pytest.approx(np.mean(known))
    assert evaluate(annotations, results).per_class == ()


def test_some_images_equal_pycocotools():
    annotations = real_annotations()
    results = make_results(annotations)
    chosen = [image["id"] for image in annotations["images"]][10:60:3]
    evaluation = evaluate(annotations, results, image_ids=[*chosen, chosen[0]])
    assert evaluation.images == len(chosen)
    same(evaluation.figures, reference(annotations, results, imgIds=chosen))


def test_nothing_is_printed_and_nothing_given_is_changed(capfd):
    annotations = real_annotations()
    results = with_masks(make_results(annotations), annotations)
    before = copy.deepcopy((annotations, results))
    for kind in ("bbox", "segm"):
        evaluate(annotations, results, kind, per_class=True)
    assert (annotations, results) == before
    assert capfd.readouterr() == ("", "")


def test_no_results_find_nothing():
    found = evaluate(truth(area=1600), [], per_class=True)
    assert found.figures == {name: None if name[2:] in ("s", "l") else 0.0 for name in FIGURES}
    assert [(own.category_id, own.objects, own.ap) for own in found.per_class] == [(2, 0, None), (5, 1, 0.0)]


def test_where_nothing_is_to_be_found_there_is_no_figure():
    nothing = dict.fromkeys(FIGURES, None)
    assert evaluate(truth([]), []).figures == nothing
    assert evaluate(truth([]), [result()]).figures == nothing
    assert evaluate(truth(iscrowd=1), [result()]).figures == nothing
    assert evaluate(truth([], images=0), []).figures == nothing
    assert evaluate(truth(), [result()], image_ids=[]).figures == nothing
    without_classes = {**truth([]), "categories": []}
    assert evaluate(without_classes, [], per_class=True).per_class == ()


def test_a_perfect_result_beside_a_wrong_one():
    assert evaluate(truth(), [result()]).figures["AP"] == pytest.approx(1.0)
    assert evaluate(truth(), [result([60, 60, 9, 9], 0.9), result(score=0.8)]).figures["AP"] == pytest.approx(0.5)
    assert evaluate(truth(), [result([60, 60, 9, 9], 0.7), result(score=0.8)]).figures["AP"] == pytest.approx(1.0)
    assert evaluate(truth(), [{**result(), "category_id": 2}]).figures["AP"] == 0


def test_detections_in_a_crowd_are_neither_right_nor_wrong():
    annotations = truth([BOX, [60, 10, 50, 80]])
    annotations["annotations"][1]["iscrowd"] = 1
    inside = [result([60 + i, 20, 20, 20], 0.9) for i in range(5)]
    assert evaluate(annotations, [*inside, result()]).figures["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("ids", [(0, 1), (3, 3)])
def test_ids_of_annotations_do_not_matter(ids):
    annotations = truth([BOX, [60, 10, 50, 80]])
    results = [result(), result([60, 10, 50, 70], 0.4)]
    expected = evaluate(annotations, results).figures
    for annotation, id_ in zip(annotations["annotations"], ids, strict=True):
        annotation["id"] = id_
    assert evaluate(annotations, results).figures == expected


def test_annotations_from_a_file_and_read_once(tmp_path):
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth()))
    expected = evaluate(truth(), [result([10, 10, 40, 30])]).figures
    for given_ in (file, str(file), read_ground_truth(file)):
        assert evaluate(given_, [result([10, 10, 40, 30])]).figures == expected


def test_without_area_an_object_is_as_large_as_its_box_or_mask():
    corner = [[10, 10, 50, 10, 50, 40, 10, 10]]  # half of 40 x 30, and fewer pixels than 32 x 32
    annotations = truth([[10, 10, 40, 30]], segmentation=corner)
    found = [result([10, 10, 40, 30], segmentation=corner)]
    assert evaluate(annotations, found, "bbox").figures["APm"] == pytest.approx(1.0)
    assert evaluate(annotations, found, "segm").figures["APs"] == pytest.approx(1.0)


def test_masks_need_the_size_of_their_image():
    corner = [[10, 10, 50, 10, 50, 40, 10, 10]]
    annotations, found = truth([[10, 10, 40, 30]], segmentation=corner), [result([10, 10, 40, 30], segmentation=corner)]
    annotations["images"][0].update(height=100.0, width=120.0)
    assert evaluate(annotations, found, "segm").figures["AP"] == pytest.approx(1.0)
    del annotations["images"][0]["height"]
    assert evaluate(annotations, found, "bbox").figures["AP"] == pytest.approx(1.0)
    with pytest.raises(DataError, match=r"annotation 1 of image 1 has a mask, and .* no whole height and width"):
        evaluate(annotations, found, "segm")


def test_annotations_of_unknown_categories_or_images_are_left_out():
    annotations = truth([BOX, [60, 10, 50, 80], [0, 0, 9, 9]])
    annotations["annotations"][1]["category_id"] = 77
    annotations["annotations"][2]["image_id"] = 99
    evaluation = evaluate(annotations, [result()])
    assert evaluation.figures["AP"] == pytest.approx(1.0)
    assert evaluation.objects == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"annotations": None}, ["no list 'annotations'"]),
        ({"images": [{"id": "1"}]}, ["image 0", "no whole number as 'id'"]),
        ({"images": [{"id": 1}, {"id": 1}]}, ["image id 1", "two"]),
        ({"categories": [{"name": "dog"}]}, ["category 0"]),
        ({"annotations": [7]}, ["annotation 0", "a number", "1 of 1"]),
        ({"annotations": [{"image_id": 1}]}, ["category_id None"]),
        ({"annotations": [{"image_id": 1, "category_id": 5}]}, ["neither 'bbox' nor 'segmentation'"]),
        ({"annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3]}]}, ["[1, 2, 3]", "four"]),
        ({"annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 2, -3, 4]}]}, ["negative"]),
        ({"annotations": [{"image_id": 1, "category_id": 5, "bbox": BOX, "area": float("nan")}]}, ["area nan"]),
    ],
)
def test_annotations_that_cannot_be_used(change, words):
    with pytest.raises(DataError) as error:
        evaluate({**truth(), **change}, [])
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("text", "words"), [("{", "not JSON"), ("[]", "a list"), ("[" * 10**5, "not JSON")])
def test_annotation_files_that_cannot_be_used(tmp_path, text, words):
    file = tmp_path / "truth.json"
    file.write_text(text)
    with pytest.raises(DataError, match=words) as error:
        evaluate(file, [])
    assert str(file) in str(error.value)
    with pytest.raises(DataError, match="cannot be read"):
        evaluate(tmp_path / "none.json", [])


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "no 'segmentation'"),
        ("circle", "neither polygons nor run lengths"),
        ([[]], "neither polygons nor run lengths"),
        ({"size": [50, 50], "counts": "0"}, "50x50 in an image of 100x120"),
        ({"size": [100, 120], "counts": "o"}, "damaged"),
        ({"size": [100, 120], "counts": "é"}, "damaged"),
        ({"size": [100, 120], "counts": [10**6]}, "damaged"),
        ({"size": [100, 120], "counts": [-5, 12005]}, "damaged"),
    ],
)
def test_masks_that_cannot_be_used(mask, words):
    whole = {"size": [100, 120], "counts": [0, 12000]}
    bad = {} if mask is None else {"segmentation": mask}
    with pytest.raises(DataError, match=words) as error:
        evaluate(truth(segmentation=whole), [result(segmentation=whole), result(**bad)], "segm")
    assert "entry 1" in str(error.value)
    with pytest.raises(DataError, match=words) as error:
        evaluate(truth(**bad), [], "segm")
    assert "annotation 1 of image 1" in str(error.value)


def test_results_of_unknown_images_and_categories():
    with pytest.raises(DataError, match=r"entry 1 has image_id 9, .* 2 that the annotations have .2 of 3 entries"):
        evaluate(truth(), [result(), {**result(), "image_id": 9}, {**result(), "category_id": 9}])


def test_arguments_that_cannot_be_used():
    with pytest.raises(ConfigError, match="kind='boxes' must be 'bbox'"):
        evaluate(truth(), [], "boxes")
    with pytest.raises(ConfigError, match=r"image_ids has 9, .*1 of 2 are unknown"):
        evaluate(truth(), [], image_ids=[1, 9])
