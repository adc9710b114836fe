from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import sgenet
from sgenet.classification import Prediction, predict
from sgenet.data import decode_image, normalise
from sgenet.errors import CheckpointError, ConfigError
from sgenet.models import checkpoint_folder


def test_probabilities_are_those_of_the_network_and_named(trained, image_folder):
    result, _ = trained
    path = image_folder / "val" / "red" / "01.png"
    (found,) = predict(result.run, [path])
    image = torch.nn.functional.interpolate(decode_image(path)[None].float(), size=(16, 18), mode="nearest")
    view = image[:, :, :, 1:17].to(torch.uint8)  # a plain colour: resizing changes nothing
    logits = sgenet.load(result.run)(normalise(view, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    expected = F.softmax(logits[0], dim=0)
    assert found.path == str(path)
    assert dict(found.classes) == pytest.approx({"blue": expected[0].item(), "red": expected[1].item()}, abs=1e-4)
    assert found.classes[0][1] >= found.classes[1][1]


def test_order_and_number_are_as_asked(trained, image_folder):
    result, _ = trained
    paths = sorted((image_folder / "train").rglob("*.png")) * 2
    found = predict(result.run, paths, top=1)
    assert [p.path for p in found] == [str(p) for p in paths]
    assert {len(p.classes) for p in found} == {1}
    assert found[:24] == found[24:], "whatever else is in a batch"


def test_an_unreadable_image_is_named_and_the_others_are_not_lost(trained, image_folder):
    result, _ = trained
    good, bad = image_folder / "val" / "red" / "01.png", image_folder / "val" / "red" / "damaged.png"
    found = predict(result.run, [bad, good, "nowhere.png"])
    assert [p.problem is None for p in found] == [False, True, False]
    assert found[0].classes == ()
    assert "No such file" in str(found[2].problem)
    assert predict(result.run, []) == []


def test_a_file_of_weights_will_do(trained, image_folder):
    result, _ = trained
    path = image_folder / "val" / "blue" / "02.png"
    (one,) = predict(result.run, [path])
    assert predict(checkpoint_folder(result.run) / "model.safetensors", [path]) == [one]
    assert isinstance(one, Prediction)


def test_what_cannot_be_used_is_an_error(trained, tmp_path, image_folder):
    result, _ = trained
    with pytest.raises(ConfigError, match="top=0"):
        predict(result.run, [], top=0)
    with pytest.raises(CheckpointError, match="no 'last' checkpoint"):
        predict(tmp_path, ["a.png"])
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"a\.txt"):
        predict(tmp_path / "a.txt", ["a.png"])
    sgenet.save(sgenet.create_model("resnet8_cifar", num_classes=2), tmp_path / "nameless.safetensors")
    with pytest.raises(CheckpointError, match="names no classes"):
        predict(tmp_path / "nameless.safetensors", ["a.png"])
