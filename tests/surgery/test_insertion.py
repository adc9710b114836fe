from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn

import sgenet
from sgenet.errors import ConfigError, UnknownNameError
from sgenet.surgery import attach_recorded, attention_report, find_sites

HOSTS = {
    "torchvision-resnet18": lambda: torchvision.models.resnet18(num_classes=7),
    "torchvision-resnet50": lambda: torchvision.models.resnet50(num_classes=7),
    "torchvision-resnext50": lambda: torchvision.models.resnext50_32x4d(num_classes=7),
    "timm-resnet18": lambda: timm.create_model("resnet18", num_classes=7),
    "timm-resnet50d": lambda: timm.create_model("resnet50d", num_classes=7),
    "cifar-resnet20": lambda: sgenet.create_model("resnet20_cifar", 7),
}
BLOCKS = {
    "torchvision-resnet18": 8,
    "torchvision-resnet50": 16,
    "torchvision-resnext50": 16,
    "timm-resnet18": 8,
    "timm-resnet50d": 16,
    "cifar-resnet20": 9,
}


def trained_looking(model: nn.Module) -> nn.Module:
    """Random BN statistics and affine values: zero-initialised branches would hide an error."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                for tensor in (module.bias, module.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return model


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("attention", ["se", "sge"])
def test_output_keys_and_tensors_of_the_host_are_kept(host, attention):
    model = trained_looking(HOSTS[host]())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    plain = copy.deepcopy(model).eval()(images)

    changed = sgenet.add_attention(model, attention)

    assert changed is model
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in before.items())
    assert model.load_state_dict(before, strict=False).unexpected_keys == []
    torch.testing.assert_close(model.eval()(images), plain, rtol=0, atol=0)
    report = attention_report(model)
    assert len(report.placed) == BLOCKS[host]
    places = tuple(f"{p.module}." for p in report.placed)
    assert all(key.startswith(places) for key in set(state) - set(before))


def test_training_mode_output_is_kept_too(host):
    model = trained_looking(HOSTS[host]()).train()
    twin = sgenet.add_attention(copy.deepcopy(model), "sge").train()
    images = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(twin(images), model(images), rtol=0, atol=0)


def test_every_attention_weight_gets_a_gradient(host):
    model = sgenet.add_attention(trained_looking(HOSTS[host]()), "sge")
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    for placed in attention_report(model).placed:
        for name, parameter in model.get_submodule(placed.module).named_parameters():
            assert parameter.grad is not None, f"{placed.module}.{name}"
            assert (parameter.grad != 0).any(), f"{placed.module}.{name}"


def test_attention_sits_after_the_last_bn_and_before_the_sum(host):
    model = sgenet.add_attention(trained_looking(HOSTS[host]()), "sge", keep_output=False).eval()
    site = find_sites(model)[0]
    block, seen = model.get_submodule(site.block), {}
    last_bn = block.bn3 if hasattr(block, "bn3") else block.bn2
    attention = model.get_submodule(site.module)
    last_bn.register_forward_hook(lambda m, i, o: seen.update(bn=o.clone()))
    attention.register_forward_pre_hook(lambda m, i: seen.update(into=i[0].clone()))
    attention.register_forward_hook(lambda m, i, o: seen.update(out=o.clone()))
    block.register_forward_hook(lambda m, i, o: seen.update(block=o.clone(), shortcut=i[0].clone()))
    model(torch.randn(2, 3, 64, 64))
    assert torch.equal(seen["into"], seen["bn"])
    shortcut = seen["shortcut"] if block.downsample is None else block.downsample(seen["shortcut"])
    torch.testing.assert_close(seen["block"], torch.relu(seen["out"] + shortcut))


def test_keep_output_false_starts_as_the_paper(host):
    model = sgenet.add_attention(HOSTS[host](), "sge", keep_output=False)
    for placed in attention_report(model).placed:
        module = model.get_submodule(placed.module)
        assert (module.scale, module.weight.sum().item(), module.bias.mean().item()) == (1.0, 0.0, 1.0)


def test_groups_are_fitted_and_the_report_says_so():
    model = sgenet.add_attention(torchvision.models.resnet18(), "sge", groups=64)
    report = attention_report(model)
    assert [p.options["groups"] for p in report.placed] == [16, 16, 32, 32, 64, 64, 64, 64]
    assert report.placed[0].note == "groups=16 instead of 64"
    assert report.placed[-1].note == ""
    text = str(report)
    assert text.startswith("sge in 8 places\n")
    assert "layer1.0.attention" in text
    assert "groups=16 instead of 64" in text


def test_blocks_that_have_attention_are_passed_over_by_name():
    model = timm.create_model("resnet26", num_classes=3)
    model.layer1[0].se = sgenet.SqueezeExcite(256)
    report = attention_report(sgenet.add_attention(model, "sge"))
    assert report.passed_over == (("layer1.0.se", "has attention already"),)
    assert len(report.placed) == 7
    assert "passed over: layer1.0.se (has attention already)" in str(report)


def test_a_network_survives_deepcopy_pickle_half_precision_and_channels_last(host):
    model = sgenet.add_attention(trained_looking(HOSTS[host]()), "sge").eval()
    images = torch.randn(2, 3, 64, 64)
    expected = model(images)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), expected)
        assert attention_report(twin) == attention_report(model)
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    torch.testing.assert_close(channels_last(images), expected, rtol=1e-3, atol=1e-3)
    assert model.bfloat16()(images.bfloat16()).isfinite().all()


def test_modules_take_device_dtype_and_mode_of_their_block():
    model = torchvision.models.resnet18().double().eval()
    sgenet.add_attention(model, "se")
    module = model.get_submodule("layer3.1.attention")
    assert module.fc1.weight.dtype == torch.float64
    assert not module.training


def test_detection_backbones_take_it():
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64
    ).eval()
    sgenet.add_attention(model, "sge")
    assert attention_report(model).placed[0].module == "backbone.body.layer1.0.attention"
    assert len(model([torch.rand(3, 64, 64)])) == 1


def test_a_report_rebuilds_the_same_network(host):
    model = sgenet.add_attention(trained_looking(HOSTS[host]()), "sge", groups=8).eval()
    again = attach_recorded(HOSTS[host](), attention_report(model)).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sgenet.add_attention(nn.Linear(3, 3), "sge"), "Linear has no place for attention that sgenet knows"),
        (
            lambda: sgenet.add_attention(sgenet.add_attention(torchvision.models.resnet18(), "se"), "sge"),
            "has 'se' already",
        ),
        (lambda: sgenet.add_attention(torchvision.models.resnet18(), "sge", groups=0), "cannot be split into 0 groups"),
        (lambda: sgenet.add_attention(torchvision.models.resnet18(), "sge", group=4), "no option 'group'"),
        (
            lambda: attach_recorded(
                torchvision.models.resnet18(),
                attention_report(sgenet.add_attention(torchvision.models.resnet50(), "sge")),
            ),
            "has no place 'layer1.0.attention' with 256 channels",
        ),
    ],
)
def test_bad_requests_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_unknown_attention_is_named_and_leaves_the_network_alone():
    model = torchvision.models.resnet18()
    keys = list(model.state_dict())
    with pytest.raises(UnknownNameError, match="Did you mean 'sge'"):
        sgenet.add_attention(model, "sgge")
    with pytest.raises(ConfigError):
        sgenet.add_attention(model, "sge", eps=-1.0)
    assert list(model.state_dict()) == keys
    assert attention_report(model) is None
