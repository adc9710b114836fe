from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from timm.models import group_parameters

import sgenet
import sgenet.timm
from sgenet.attention import Attention
from sgenet.surgery import attention_report

SMALL = ["sge_resnet18", "bam_resnet18", "sk_resnet18", "sge_resnet11_cifar", "bam_resnet8_cifar", "sk_resnet8_cifar"]


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_attention_name_of_ours_is_a_name_of_timm():
    ours = [name for name in sgenet.list_models() if "_resn" in name]
    assert len(ours) == 120
    assert set(ours) <= set(timm.list_models())
    assert set(timm.list_models("sge_*")) == set(sgenet.list_models("sge_*"))
    assert all(callable(getattr(sgenet.timm, name)) for name in ours)
    assert not set(timm.list_pretrained("s*e_resne*")) & set(ours)


@pytest.mark.parametrize("name", [*SMALL, "cbam_resnet50", "gc_resnext50_32x4d", "sk_resnext50_32x4d", "eca_resnet101"])
def test_they_have_as_many_parameters_as_ours(name):
    with torch.device("meta"):
        theirs, ours = timm.create_model(name, num_classes=10), sgenet.create_model(name, 10)
    assert parameters(theirs) == parameters(ours)
    modules = [type(m) for m in theirs.modules() if isinstance(m, Attention | sgenet.SelectiveKernelConv)]
    assert modules == [type(m) for m in ours.modules() if isinstance(m, Attention | sgenet.SelectiveKernelConv)]


@pytest.mark.parametrize("name", ["sge_resnet18", "bam_resnet18", "sk_resnet18", "se_resnet8_cifar"])
def test_they_compute_what_ours_compute(name):
    """With the same weights under timm's name of the place."""
    ours = sgenet.create_model(name, 5).eval()
    theirs = timm.create_model(name, num_classes=5).eval()
    state = {k.replace(".attention.", ".se.") if "bam" not in name and "cifar" not in name else k: v
             for k, v in ours.state_dict().items()}  # fmt: skip
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(theirs(images), ours(images))


@pytest.mark.parametrize("name", SMALL)
def test_features(name):
    widths, strides = [64, 64, 128, 256, 512], [2, 4, 8, 16, 32]
    if "cifar" in name:
        widths, strides = [16, 64, 128, 256] if "11" in name else [16, 16, 32, 64], [1, 1, 2, 4]
    model = timm.create_model(name, features_only=True, num_classes=10, in_chans=1)
    maps = model(torch.randn(2, 1, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(2, w, 64 // s, 64 // s) for w, s in zip(widths, strides, strict=True)]
    assert model.feature_info.channels() == widths
    assert model.feature_info.reduction() == strides
    some = timm.create_model(name, features_only=True, out_indices=(1, 2))
    assert [m.shape[1] for m in some(torch.randn(2, 3, 64, 64))] == widths[1:3]


def test_features_pass_through_the_attention():
    model = timm.create_model("sge_resnet18", features_only=True)
    sum(m.sum() for m in model(torch.randn(2, 3, 64, 64))).backward()
    gates = [m for m in model.modules() if isinstance(m, Attention)]
    assert len(gates) == 8
    assert all(p.grad is not None for m in gates for p in m.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_the_head_is_as_timms(name):
    side, width = (16, 256 if "11" in name else 64) if "cifar" in name else (2, 512)
    images = torch.randn(2, 3, 64, 64)
    model = timm.create_model(name, num_classes=0)
    assert model(images).shape == (2, width)
    assert model.num_features == width
    assert model.forward_features(images).shape == (2, width, side, side)
    model.reset_classifier(7)
    assert model(images).shape == (2, 7)
    assert model.get_classifier().out_features == 7
    model.reset_classifier(7, "max")
    model.eval()
    expected = model.get_classifier()(model.forward_features(images).amax((2, 3)))
    torch.testing.assert_close(model(images), expected)
    bare = timm.create_model(name, num_classes=0, global_pool="")
    assert bare(images).shape == (2, width, side, side)
    assert model.forward_head(model.forward_features(images), pre_logits=True).shape == (2, width)


def test_dropout_of_a_cifar_network_is_before_its_classifier():
    model = timm.create_model("sge_resnet8_cifar", num_classes=0, drop_rate=0.5).train()
    features = model(torch.randn(2, 3, 32, 32))
    assert 0.2 < (features == 0).float().mean() < 0.8
    assert (model.eval()(torch.randn(2, 3, 32, 32)) == 0).float().mean() < 0.2


@pytest.mark.parametrize("name", [name for name in SMALL if "cifar" in name])
def test_the_maps_of_a_cifar_network_are_its_features(name):
    model = timm.create_model(name, num_classes=5).eval()
    images = torch.randn(2, 3, 32, 32)
    last, maps = model.forward_intermediates(images)
    assert torch.equal(last, model.forward_features(images))
    assert torch.equal(maps[-1], last)
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
    assert [32 // m.shape[-1] for m in maps] == [info["reduction"] for info in model.feature_info]
    some = model.forward_intermediates(images, indices=[1, -1], intermediates_only=True)
    assert all(torch.equal(a, maps[i]) for a, i in zip(some, (1, 3), strict=True))
    stopped, two = model.forward_intermediates(images, indices=(0, 1), stop_early=True)
    assert torch.equal(stopped, maps[1])
    assert len(two) == 2
    assert len(model.forward_intermediates(images, indices=3, intermediates_only=True)) == 3
    with pytest.raises(ValueError, match="output_fmt='NHWC' is not possible"):
        model.forward_intermediates(images, output_fmt="NHWC")
    getter = timm.create_model(name, features_only=True, feature_cls="getter", out_indices=(1, 3))
    assert [m.shape[1] for m in getter(images)] == getter.feature_info.channels() == [maps[i].shape[1] for i in (1, 3)]


def test_gradients_of_a_cifar_network_are_the_same_with_less_kept():
    kept = timm.create_model("sge_resnet20_cifar", num_classes=5)
    checkpointed = timm.create_model("sge_resnet20_cifar", num_classes=5)
    checkpointed.load_state_dict(kept.state_dict())
    checkpointed.set_grad_checkpointing()
    images, runs = torch.randn(4, 3, 32, 32), []
    checkpointed.layer2[1].register_forward_pre_hook(lambda *_: runs.append(1))
    for model in (kept, checkpointed):
        model(images).square().sum().backward()
    assert len(runs) == 2, "the block is run again in the backward pass"
    for (name, own), other in zip(kept.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(other.grad, own.grad, msg=name)
    checkpointed.set_grad_checkpointing(False)
    checkpointed(images).sum().backward()
    assert len(runs) == 3


@pytest.mark.parametrize(("coarse", "layers"), [(True, 1 + 3 + 1), (False, 1 + 9 + 1)])
@pytest.mark.parametrize("name", ["sge_resnet20_cifar", "bam_resnet20_cifar"])
def test_the_parameters_of_a_cifar_network_are_sorted_by_depth(name, coarse, layers):
    model = timm.create_model(name, num_classes=5)
    layer = group_parameters(model, model.group_matcher(coarse), reverse=True)
    assert set(layer) == {name for name, _ in model.named_parameters()}
    assert list(layer.values()) == sorted(layer.values()), "as the network runs"
    assert layer["conv1.weight"] == layer["bn1.bias"] == 0
    assert layer["fc.weight"] == layers - 1 == max(layer.values())


def test_options_of_timms_resnets_and_of_the_module():
    model = timm.create_model("se_resnet18", drop_path_rate=0.1, output_stride=16, attention_options={"reduction": 4})
    assert {p.options["reduction"] for p in attention_report(model).placed} == {4}
    assert model.eval().forward_features(torch.randn(1, 3, 64, 64)).shape == (1, 512, 4, 4)


def test_weights_that_do_not_exist_are_timms_own_error():
    with pytest.raises(RuntimeError, match="No pretrained weights exist for sge_resnet18"):
        timm.create_model("sge_resnet18", pretrained=True)


def test_all_that_timm_has_stays_timms():
    code = """
import timm
from timm.models import register_model

def sge_resnet18(pretrained=False, **options):
    raise NotImplementedError

register_model(sge_resnet18)
before = {name: timm.model_entrypoint(name) for name in timm.list_models()}
import sgenet.timm
assert sgenet.timm is not timm
assert all(timm.model_entrypoint(name) is function for name, function in before.items())
print(len(timm.list_models()) - len(before))
print(hasattr(sgenet.timm, "sge_resnet18"), timm.is_model("sge_resnet34"))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["119", "False", "True"]
