from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sgenet
from sgenet.errors import CheckpointError
from sgenet.models import checkpoint_folder, read_metadata


class Custom(nn.Module):
    """A network that sgenet cannot build by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = sgenet.create_model("resnet8_cifar", 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk(x).flip(1)


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["resnet8_cifar", "se_resnet8_cifar", "sge_resnet8_cifar"])
def test_what_is_saved_is_loaded_with_no_more_than_the_path(tmp_path, name):
    model = sgenet.create_model(name, 6, stem_stride=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    path = sgenet.save(model, tmp_path / "net.safetensors", metadata={"classes": list("abcdef")})
    loaded = sgenet.load(path)
    assert not loaded.training
    assert torch.equal(loaded(IMAGES), model.eval()(IMAGES))
    assert read_metadata(path)["classes"] == list("abcdef")


def test_the_factor_that_keeps_the_output_is_loaded_too(tmp_path):
    model = sgenet.add_attention(sgenet.create_model("resnet8_cifar", 6), "sge").eval()
    loaded = sgenet.load(sgenet.save(model, tmp_path / "net.safetensors"))
    assert torch.equal(loaded(IMAGES), model(IMAGES))


def test_channels_last_weights_are_saved(tmp_path):
    model = sgenet.create_model("sge_resnet8_cifar", 6).to(memory_format=torch.channels_last)
    loaded = sgenet.load(sgenet.save(model, tmp_path / "net.safetensors"))
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_network_of_ones_own_is_loaded_into_its_host(tmp_path):
    model = sgenet.add_attention(Custom(), "sge").eval()
    path = sgenet.save(model, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="does not say how its network is built; give it as model="):
        sgenet.load(path)
    assert torch.equal(sgenet.load(path, model=Custom())(IMAGES), model(IMAGES))


def test_saving_replaces_the_file_as_a_whole_and_leaves_nothing_else(tmp_path, monkeypatch):
    path = sgenet.save(sgenet.create_model("resnet8_cifar", 6), tmp_path / "net.safetensors")
    before = path.read_bytes()

    def crash(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", crash)
    with pytest.raises(OSError, match="disk full"):
        sgenet.save(sgenet.create_model("resnet20_cifar", 6), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net.safetensors"]  # noqa: PTH208  # names only


def test_a_run_folder_is_resolved_through_its_index(tmp_path):
    for which, classes in (("step-1", 3), ("step-2", 4)):
        (tmp_path / "checkpoints" / which).mkdir(parents=True)
        sgenet.save(
            sgenet.create_model("resnet8_cifar", classes), tmp_path / "checkpoints" / which / "model.safetensors"
        )
    (tmp_path / "checkpoints" / "index.json").write_text(json.dumps({"best": "step-1", "last": "step-2"}))
    assert sgenet.load(tmp_path).fc.out_features == 4
    assert sgenet.load(tmp_path, checkpoint="best").fc.out_features == 3
    assert checkpoint_folder(tmp_path, "best").name == "step-1"
    assert read_metadata(tmp_path)["network"]["host"]["num_classes"] == 4


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_files_that_are_no_checkpoints_are_named_and_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {name: tmp_path / name for name in ("text", "pickle", "truncated", "foreign", "empty")}
    files["text"].write_text("hello")
    files["empty"].write_bytes(b"")
    torch.save({"x": Evil()}, files["pickle"])
    whole = sgenet.save(sgenet.create_model("resnet8_cifar", 6), tmp_path / "whole").read_bytes()
    files["truncated"].write_bytes(whole[: len(whole) // 2])
    save_file({"weight": torch.zeros(1)}, files["foreign"])
    for name, file in files.items():
        with pytest.raises(CheckpointError, match=name) as caught:
            sgenet.load(file)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        sgenet.load(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="holds no 'last' checkpoint"):
        sgenet.load(tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = sgenet.save(Custom(), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit CifarResNet: .*Missing key"):
        sgenet.load(path, model=sgenet.create_model("resnet20_cifar", 6))
