"""What is done with trained detectors: pictures and results of images, figures of results, comparisons of runs."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from PIL import Image

from sgenet.cli import main
from sgenet.data import DetectionData
from sgenet.detection import compare_runs, evaluate_results, evaluate_run, predict_objects
from sgenet.detection.run_comparison import comparison_text
from sgenet.detection.running import open_run
from sgenet.errors import ConfigError, DataError, RunError


@pytest.fixture(scope="module")
def photos(shapes, tmp_path_factory):
    """Two images of one name, and a file that is none."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(2):
        (root / str(number)).mkdir()
        image = shapes.val.load(number).permute(1, 2, 0).numpy()
        Image.fromarray(image).save(root / str(number) / "a.png")
    (root / "b.jpg").write_text("no image")
    return [root / "0" / "a.png", root / "b.jpg", root / "1" / "a.png"]


def test_every_image_gets_a_picture_and_everything_found_is_written_down(trained, photos, tmp_path):
    found = predict_objects(trained.run, photos, tmp_path / "found", threshold=0.0)
    assert [image.picture and image.picture.name for image in found] == ["a.png", None, "a-2.png"]
    assert "image" in found[1].problem
    for image in (found[0], found[2]):
        with Image.open(image.picture) as picture:
            assert min(picture.size) >= 96
        scores = [score for _, score in image.objects]
        assert scores == sorted(scores, reverse=True)
    results = json.loads((tmp_path / "found" / "results.json").read_text())
    assert {result["image_id"] for result in results} == {1, 3}
    assert len(results) == len(found[0].objects) + len(found[2].objects)
    assert all("segmentation" in result for result in results)


def test_where_no_image_is_named_validation_images_are_taken(boxes_run, shapes, tmp_path, capsys):
    found = predict_objects(boxes_run.run, None, tmp_path)
    assert [image.picture.name for image in found] == [f"{number:06d}.png" for number in range(len(shapes.val))]
    results = json.loads((tmp_path / "results.json").read_text())
    assert {result["image_id"] for result in results} <= set(shapes.val.image_ids)
    assert main(["detect", "predict", str(boxes_run.run), "--output", str(tmp_path / "again")]) == 0
    assert capsys.readouterr().out.count("shapes/val/") == len(found)


def test_a_threshold_leaves_objects_out_of_the_picture_only(trained, photos, tmp_path):
    (found,) = predict_objects(trained.run, photos[:1], tmp_path, threshold=1.0)
    assert found.objects == ()
    assert json.loads((tmp_path / "results.json").read_text())
    with pytest.raises(ConfigError, match="threshold=2"):
        predict_objects(trained.run, photos, tmp_path, threshold=2)


def test_results_that_were_written_are_judged_as_the_run_was(trained, shapes, tmp_path):
    file, annotations = tmp_path / "results.json", tmp_path / "val.json"
    of_run = evaluate_run(trained.run, data=shapes, results=file, per_class=True)
    annotations.write_text(json.dumps(shapes.val.to_coco()))
    for data in (shapes, annotations):
        of_file = evaluate_results(file, data, per_class=True)
        assert of_file.boxes == of_run.boxes
        assert of_file.masks == of_run.masks


def test_results_of_other_images_are_refused(shapes, tmp_path):
    file = tmp_path / "results.json"
    file.write_text('[{"image_id": 123456, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}]')
    with pytest.raises(DataError, match="entry 0 has image_id 123456"):
        evaluate_results(file, shapes)


def test_a_run_equals_its_copy(trained, shapes, tmp_path):
    shutil.copytree(trained.run, tmp_path / "copy")
    found = compare_runs([trained.run, tmp_path / "copy"], data=shapes, resamples=50, latency=False)
    assert found.warnings == ()
    (differences,) = found.boxes.differences.values()
    assert all(d.difference in (0, None) for d in differences)
    costs = list(found.costs.values())
    assert costs[0] == costs[1]
    assert costs[0].backbone_parameters == 11_177_536  # of SGE-ResNet-18 without its classifier


def test_what_else_differs_is_said(trained, boxes_run, shapes, monkeypatch):
    def stopped(run, checkpoint):
        found = open_run(run, checkpoint)
        assert found.epochs_done == 2
        return dataclasses.replace(found, epochs_done=1) if run == boxes_run.run else found

    monkeypatch.setattr("sgenet.detection.run_comparison.open_run", stopped)
    found = compare_runs([trained.run, boxes_run.run], data=shapes, resamples=50, latency=False)
    assert any("different detector" in warning for warning in found.warnings)
    assert "The detectors were trained with different epochs so far: 2 for masks; 1 for boxes." in found.warnings
    assert found.masks is None
    text = comparison_text(found)
    for words in ("Warning: ", "AP50", "95% interval", "untested", "backbone GFLOPs", "11,177,536"):
        assert words in text


@pytest.mark.slow
def test_latency_is_measured_side_by_side(boxes_run, shapes, tmp_path):
    shutil.copytree(boxes_run.run, tmp_path / "copy")
    found = compare_runs([boxes_run.run, tmp_path / "copy"], data=shapes, resamples=50)
    assert all(cost.latency.seconds > 0 for cost in found.costs.values())


def test_one_run_is_no_comparison(trained):
    with pytest.raises(ConfigError, match="1 run cannot be compared"):
        compare_runs([trained.run])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "`sgenet detect` knows no 'fly'"),
        (["train", "--data", "shapes", "--detector", "yolo"], "detector='yolo'"),
        (["train", "--data", "shapes", "--detectors", "x"], "Did you mean '--detector'"),
        (["train", "--detector", "retinanet"], "no images are named"),
        (["train", "--data", "/no/such/folder", "--no-pretrained", "--frozen-stages", "0"], "/no/such/folder"),
        (["train", "--data", "shapes", "--epochs", "-3"], "epochs=-3 must be 1 or more"),
        (["train", "--resume", "/no/such/run"], "is no run folder"),
        (["train", "--resume", "x", "--lr", "1"], "only --epochs can change"),
        (["eval"], "give either a RUN, or --results"),
        (["eval", "--results", "x.json"], "--results needs --data"),
        (["eval", "/no/such/run"], "is no run folder"),
        (["compare", "/no/such/run", "/no/other"], "is no run folder"),
    ],
)
def test_a_mistake_is_answered_in_one_line(words, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["detect", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_commands_of_a_run(trained, boxes_run, photos, capsys, tmp_path):
    assert main(["detect", "eval", str(trained.run), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {"boxes", "masks", "skipped"}
    assert len(figures["boxes"]["figures"]) == 12
    output = tmp_path / "found"
    assert main(["detect", "predict", str(trained.run), *map(str, photos), "--output", str(output)]) == 0
    captured = capsys.readouterr()
    assert "left out, unreadable" in captured.err
    assert len(list(output.iterdir())) == 3
    assert main(["detect", "predict", str(trained.run), str(photos[1]), "--output", str(output)]) == 1
    capsys.readouterr()
    runs = [str(boxes_run.run), str(trained.run)]
    assert main(["detect", "compare", *runs, "--no-latency", "--resamples", "50"]) == 0
    assert "minus" in capsys.readouterr().out


def test_no_picture_takes_the_place_of_an_image(boxes_run, photos, tmp_path):
    shutil.copy(photos[0], tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ConfigError, match=r"holds the image 'a\.png' itself.* choose another folder"):
        predict_objects(boxes_run.run, [photos[1], tmp_path / "a.png"], tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_name_as_long_as_names_can_be(boxes_run, photos, tmp_path):
    image = shutil.copy(photos[0], tmp_path / f"{'a' * 251}.png")
    (found,) = predict_objects(boxes_run.run, [image], tmp_path / "found")
    assert found.picture.exists()


def test_other_images_are_judged_by_their_own_category_ids(boxes_run, shapes, changed):
    def renumbered():
        truth = json.loads(json.dumps(shapes.val.to_coco()))
        for entry in truth["categories"]:
            entry["id"] += 40
        for entry in truth["annotations"]:
            entry["category_id"] += 40
        return truth

    ids = [number + 40 for number in shapes.val.category_ids]
    others = DetectionData(shapes.train, changed(shapes.val, category_ids=ids, to_coco=renumbered), "others")
    assert evaluate_run(boxes_run.run, data=others).boxes == evaluate_run(boxes_run.run, data=shapes).boxes


def test_images_without_masks_are_judged_by_boxes_alone(trained, shapes, changed):
    plain = DetectionData(shapes.train, changed(shapes.val, has_masks=False), "plain")
    assert evaluate_run(trained.run, data=plain).masks is None


def test_what_cannot_be_compared_or_written_is_known_before_the_work(boxes_run, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("sgenet.detection.run_comparison.results_of", None)
    monkeypatch.setattr("sgenet.detection.run_evaluation.results_of", None)
    with pytest.raises(ConfigError, match="is named twice"):
        compare_runs([boxes_run.run, trained.run, boxes_run.run])
    with pytest.raises(ConfigError, match="resamples=5 are too few"):
        compare_runs([boxes_run.run, trained.run], resamples=5)
    with pytest.raises(DataError, match="is no folder to write to"):
        evaluate_run(boxes_run.run, results=tmp_path / "no" / "x.json")


def test_help_lists_every_setting(capsys):
    assert main(["detect", "train", "--help"]) == 0
    text = capsys.readouterr().out
    for words in ("Network:", "Optimisation:", "--frozen-stages N", "--anchor-sizes", "--lr-batch N"):
        assert words in text


def test_a_folder_that_cannot_be_written_is_named(trained, photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        predict_objects(trained.run, photos, tmp_path / "file")
    assert torch.is_grad_enabled()
