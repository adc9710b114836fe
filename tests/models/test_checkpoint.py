from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import sgenet
from sgenet.errors import CheckpointError, ConfigError
from sgenet.models import checkpoint_folder, describe, load_weights, read_metadata


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


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda model: nn.DataParallel(torch.compile(model))])
def test_of_a_wrapped_network_the_one_within_is_saved(tmp_path, wrap):
    model = sgenet.create_model("sge_resnet8_cifar", 6).eval()
    path = sgenet.save(wrap(model), tmp_path / "net.safetensors")
    assert read_metadata(path)["network"] == json.loads(json.dumps(describe(model)))
    assert torch.equal(sgenet.load(path)(IMAGES), model(IMAGES))


def test_a_folder_that_is_not_there_is_made(tmp_path):
    path = sgenet.save(sgenet.create_model("resnet8_cifar", 6), tmp_path / "new" / "deep" / "net.safetensors")
    assert sgenet.load(path).fc.out_features == 6


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"norm_layer": nn.BatchNorm2d}, r"options\.norm_layer=<class 'torch\.nn\..*BatchNorm2d'>"),
        (
            "timm:resnet18",
            {"block_args": {"attn_layer": sgenet.SimAM}},
            r"options\.block_args\.attn_layer=<class .*SimAM",
        ),
    ],
)
def test_an_option_that_no_file_holds_is_named_and_has_a_way_out(tmp_path, name, options, message):
    model = sgenet.create_model(name, 6, **options)
    with pytest.raises(ConfigError, match=rf"{message}.* or build the network without create_model"):
        sgenet.save(model, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_network_with_such_an_option_is_loaded_into_its_host(tmp_path):
    def host() -> nn.Module:
        return torchvision.models.resnet18(num_classes=6, norm_layer=lambda channels: nn.GroupNorm(2, channels))

    model = sgenet.add_attention(host(), "sge").eval()
    path = sgenet.save(model, tmp_path / "net.safetensors")
    assert torch.equal(sgenet.load(path, model=host())(IMAGES), model(IMAGES))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"network": "mine"}, "metadata has 'network', where the description"),
        ({"classes": [{"a", "b"}]}, r"classes\[0\]=\{'.*'\} cannot be written"),
    ],
)
def test_metadata_that_cannot_be_kept_is_named(tmp_path, metadata, message):
    with pytest.raises(ConfigError, match=message):
        saved(sgenet.create_model("resnet8_cifar", 6), tmp_path, **metadata)
    assert not list(tmp_path.iterdir())


def test_a_network_of_half_precision_comes_back_in_the_usual_one(tmp_path):
    model = shaken(sgenet.create_model("sge_resnet8_cifar", 6)).half()
    path = saved(model, tmp_path)
    loaded = sgenet.load(path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert all(torch.equal(v.float(), loaded.state_dict()[k].float()) for k, v in model.state_dict().items())


def test_loading_leaves_the_random_numbers_as_they_are(tmp_path):
    path = saved(sgenet.create_model("se_resnet8_cifar", 6), tmp_path)
    before = torch.get_rng_state()
    sgenet.load(path)
    assert torch.equal(torch.get_rng_state(), before)


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


def shaken(model: nn.Module) -> nn.Module:
    """With other weights and statistics than a new network has."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2)
    return model.eval()


def saved(model: nn.Module, tmp_path: Path, **metadata: object) -> Path:
    return sgenet.save(model, tmp_path / "net.safetensors", metadata=metadata)


@pytest.mark.parametrize("name", ["sge_resnet8_cifar", "simam_resnet8_cifar", "bam_resnet8_cifar", "resnet8_cifar"])
def test_weights_without_attention_start_a_network_with_it(tmp_path, name):
    host = shaken(sgenet.create_model("resnet8_cifar", 6))
    model = load_weights(sgenet.create_model(name, 6), saved(host, tmp_path)).eval()
    assert torch.equal(model(IMAGES), host(IMAGES))


@pytest.mark.parametrize("name", ["sge_resnet8_cifar", "simam_resnet8_cifar", "ge_resnet8_cifar", "sk_resnet8_cifar"])
def test_weights_with_attention_start_a_network_with_the_same(tmp_path, name):
    """Those of modules without parameters too, whose names are in no tensor."""
    trained = shaken(sgenet.create_model(name, 6))
    model = load_weights(sgenet.create_model(name, 6), saved(trained, tmp_path)).eval()
    assert torch.equal(model(IMAGES), trained(IMAGES))


@pytest.mark.parametrize("name", ["sge", "simam"])
def test_what_kept_the_output_of_the_first_network_goes_along(tmp_path, name):
    trained = shaken(sgenet.add_attention(sgenet.create_model("resnet8_cifar", 6), name))
    model = load_weights(sgenet.create_model(f"{name}_resnet8_cifar", 6), saved(trained, tmp_path)).eval()
    assert torch.equal(model(IMAGES), trained(IMAGES))


@pytest.mark.parametrize("name", ["sge", "se", "simam", "ge"])
def test_what_kept_the_output_of_this_network_goes_with_its_weights(tmp_path, name):
    """A factor, or a learned share where the module has no parameters, which the checkpoint does without."""
    trained = shaken(sgenet.create_model(f"{name}_resnet8_cifar", 6))
    model = shaken(sgenet.add_attention(sgenet.create_model("resnet8_cifar", 6), name))
    load_weights(model, saved(trained, tmp_path))
    assert torch.equal(model(IMAGES), trained(IMAGES))
    assert model.state_dict().keys() == trained.state_dict().keys()


def test_a_network_with_attention_built_into_it_is_no_other_host(tmp_path):
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.sge = sgenet.create_attention("sge", 8, groups=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.sge(self.conv(x))

    own = shaken(Own())
    assert torch.equal(load_weights(Own(), saved(own, tmp_path)).eval()(IMAGES), own(IMAGES))


def test_a_classifier_for_other_classes_stays_random(tmp_path):
    host = shaken(sgenet.create_model("resnet8_cifar", 6))
    path = saved(host, tmp_path, classes=list("abcdef"))
    for classes, number, taken in (
        (None, 4, False),
        (None, 6, True),
        (list("abcdef"), 6, True),
        (list("abcdeg"), 6, False),
        (list("bacdef"), 6, False),
    ):
        model = sgenet.create_model("sge_resnet8_cifar", number)
        before = model.fc.weight.detach().clone()
        load_weights(model, path, classes=classes)
        assert torch.equal(model.fc.weight, host.fc.weight if taken else before), classes
        assert torch.equal(model.layer3[0].conv2.weight, host.layer3[0].conv2.weight)


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ("resnet8_cifar", "resnet20_cifar", r"it is of resnet8_cifar, and it has no 'layer1.1.conv1.weight'"),
        ("resnet20_cifar", "resnet8_cifar", r"it is of resnet20_cifar, and the network has no 'layer1.1"),
        ("resnet18", "resnet34", r"it is of resnet18, and it has no"),
        ("resnet18", "resnet8_cifar", r"and the network has no|and '.*' has shape"),
        (
            "se_resnet8_cifar",
            "resnet8_cifar",
            r"it is of resnet8_cifar and 'se' in 3 places, and the network has no att",
        ),
        ("se_resnet8_cifar", "sge_resnet8_cifar", r"'se' in 3 places, and the network has 'sge' in 3 places"),
        ("ge_resnet8_cifar", "simam_resnet8_cifar", r"'ge' in 3 places, and the network has 'simam' in 3 places"),
        ("sk_resnet8_cifar", "resnet8_cifar", r"resnet8_cifar with \{'selective_kernel'.* and .*has"),
    ],
)
def test_weights_that_do_not_fit_are_one_clear_line_and_change_nothing(tmp_path, theirs, ours, message):
    path = saved(sgenet.create_model(theirs, 6), tmp_path)
    model = sgenet.create_model(ours, 6)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_weights_of_other_groups_do_not_fit(tmp_path):
    path = saved(sgenet.create_model("sge_resnet8_cifar", 6), tmp_path)
    with pytest.raises(CheckpointError, match=r"'layer1.0.attention.\w+' has shape"):
        load_weights(sgenet.create_model("sge_resnet8_cifar", 6, attention_options={"groups": 2}), path)
