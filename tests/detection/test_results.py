import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from torch import distributed, multiprocessing

from sgenet.detection.gathering import gather_results
from sgenet.detection.results import check_results, encode_masks, read_results, to_results, write_results
from sgenet.errors import ConfigError, DataError

GOOD = {"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 0.5}


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


def found(n=3, height=20, width=30):
    generator = torch.Generator().manual_seed(n)
    corner = torch.rand(n, 2, generator=generator) * 10
    return {
        "boxes": torch.cat([corner, corner + torch.rand(n, 2, generator=generator) * 10], dim=1),
        "labels": torch.arange(n) % 2 + 1,
        "scores": torch.rand(n, generator=generator),
        "masks": torch.rand(n, 1, height, width, generator=generator),
    }


def test_results_of_a_detector():
    output = found()
    results = to_results(42, output, [18, 3])
    assert [result["image_id"] for result in results] == [42] * 3
    assert [result["category_id"] for result in results] == [18, 3, 18]
    assert [result["score"] for result in results] == output["scores"].tolist()
    for result, box, mask in zip(results, output["boxes"].double(), output["masks"][:, 0], strict=True):
        left, top, width, height = result["bbox"]
        assert [left, top, left + width, top + height] == pytest.approx(box.tolist(), abs=1e-12)
        assert torch.equal(torch.from_numpy(coco_masks.decode(result["segmentation"])).bool(), mask > 0.5)
    assert json.loads(json.dumps(results)) == results
    assert check_results(results) is results


def test_fewer_pixels_are_above_a_higher_threshold():
    areas = [
        coco_masks.area([result["segmentation"] for result in to_results(1, found(), [1, 2], mask_threshold=t)]).sum()
        for t in (0.2, 0.5, 0.8)
    ]
    assert areas[0] > areas[1] > areas[2] > 0


def test_results_of_a_detector_that_found_nothing():
    assert to_results(1, found(0), [1]) == []


def test_results_need_no_masks_and_keep_gradients_out():
    output = {name: value for name, value in found().items() if name != "masks"}
    output["boxes"].requires_grad_()
    assert all("segmentation" not in result for result in to_results(1, output, [1, 2]))


@pytest.mark.parametrize("label", [0, 3])
def test_labels_without_a_category(label):
    output = {**found(1), "labels": torch.tensor([label])}
    with pytest.raises(ConfigError, match=f"label {label} stands for no category: there are 2 category ids"):
        to_results(1, output, [18, 3])


@given(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_encoded_masks_are_what_pycocotools_reads(number, height, width, seed):
    masks = torch.rand(number, height, width, generator=torch.Generator().manual_seed(seed)) > 0.5
    encoded = encode_masks(masks.transpose(1, 2).contiguous().transpose(1, 2))
    assert len(encoded) == number
    for mask, own in zip(encoded, masks, strict=True):
        assert torch.equal(torch.from_numpy(coco_masks.decode(mask)).bool(), own)


def test_written_results_are_read_again(tmp_path):
    results = to_results(42, found(), [18, 3])
    file = write_results(tmp_path / "results.json", results)
    assert read_results(file, image_ids=[42], category_ids=[3, 18]) == results
    write_results(file, [])
    assert read_results(file) == []
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    file = write_results(tmp_path / "results.json", [GOOD])
    with pytest.raises(TypeError):
        write_results(file, [GOOD, {"score": object()}])
    assert read_results(file) == [GOOD]
    with pytest.raises(DataError, match="cannot be written"):
        write_results(tmp_path / "none" / "results.json", [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ('[{"image_id": 1', "not JSON"),
        ("[" * 10**5, "not JSON"),
        ("{}", "a mapping where a list"),
        ("null", "null where a list"),
        ('[{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4], "score": NaN}]', "score nan, which is no finite"),
    ],
)
def test_files_that_hold_no_results(tmp_path, text, words):
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(DataError, match=words) as error:
        read_results(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_results(tmp_path / "none.json")
    (tmp_path / "results.json").write_bytes(b'["\xff"]')
    with pytest.raises(DataError, match="not JSON"):
        read_results(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (7, "is a number"),
        (without("image_id"), "has no 'image_id'"),
        (without("category_id"), "has no 'category_id'"),
        (without("score"), "has no 'score'"),
        (without("bbox"), "neither 'bbox' nor 'segmentation'"),
        ({**GOOD, "image_id": 2}, "image_id 2, which is none of the 1"),
        ({**GOOD, "category_id": 6}, "category_id 6, which is none of the 2"),
        ({**GOOD, "image_id": "1"}, "image_id '1', which is no whole number"),
        ({**GOOD, "image_id": [1]}, "which is no whole number"),
        ({**GOOD, "category_id": True}, "which is no whole number"),
        ({**GOOD, "score": float("inf")}, "score inf"),
        ({**GOOD, "score": "0.5"}, "score '0.5'"),
        ({**GOOD, "score": 10**400}, "which is no finite number"),
        ({**GOOD, "bbox": [1, 2, 3]}, "not four finite numbers"),
        ({**GOOD, "bbox": {"x": 1}}, "not four finite numbers"),
        ({**GOOD, "bbox": [1, 2, float("nan"), 4]}, "not four finite numbers"),
        ({**GOOD, "bbox": [1, 2, -3, 4]}, "negative"),
        ({**GOOD, "segmentation": {"size": [4], "counts": "0"}}, "neither polygons nor run lengths"),
        ({**GOOD, "segmentation": {"size": [4, 4], "counts": ["a"]}}, "neither polygons nor run lengths"),
        ({**GOOD, "segmentation": [[1, 2, "3", 4]]}, "neither polygons nor run lengths"),
    ],
)
def test_entries_that_cannot_be_used(entry, words):
    with pytest.raises(DataError) as error:
        check_results([GOOD, entry, GOOD, entry], image_ids=[1], category_ids=[5, 4], where="theirs.json")
    message = str(error.value)
    assert message.startswith("theirs.json: entry 1 ")
    assert words in message
    assert "(2 of 4 entries cannot be used)" in message
    assert "\n" not in message
    assert len(message) < 400


def test_ids_are_checked_where_they_are_known():
    assert check_results([GOOD]) == [GOOD]
    assert check_results([{**GOOD, "score": 1, "segmentation": {"size": [4, 4], "counts": [16]}}])


def of_images(*image_ids, score=0.5):
    return [{**GOOD, "image_id": i, "score": score, "bbox": [n, 0, 5, 5]} for i in image_ids for n in range(2)]


def test_a_single_process_gathers_its_own():
    results, image_ids = gather_results(of_images(7, 3), [7, 3, 9])
    assert image_ids == [3, 7, 9]
    assert results == of_images(3, 7)
    assert gather_results([], []) == ([], [])


def test_an_image_that_one_process_saw_twice_counts_once():
    assert gather_results(of_images(7, 3, 7), [7, 3, 7]) == (of_images(3, 7), [3, 7])


def test_results_of_an_image_that_was_not_looked_at():
    with pytest.raises(ValueError, match="image 3 has results, but image_ids lacks it"):
        gather_results(of_images(7, 3), [7])


def gather_in_process(rank, store, folder):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    # Image 4 was given to both, to make the shares equal; image 6 has no results.
    own = [of_images(4, 8, score=0.9), of_images(2, 4, score=0.1)][rank]
    results, image_ids = gather_results(own, [[4, 8], [6, 2, 4]][rank])
    (folder / f"{rank}.json").write_text(json.dumps([results, image_ids]))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_gather_each_image_once(tmp_path):
    multiprocessing.spawn(gather_in_process, (tmp_path / "store", tmp_path), nprocs=2)
    expected = of_images(2, score=0.1) + of_images(4, 8, score=0.9)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [expected, [2, 4, 6, 8]]
