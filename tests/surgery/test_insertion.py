from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import cfgs, make_layers

import sgenet
from sgenet.errors import ConfigError, UnknownNameError
from sgenet.surgery import Attended, attach_recorded, attention_report


def vgg11_bn() -> nn.Module:
    """With one layer to decide by: of torchvision's three, the first alone has eleven times the features' weights."""
    with torch.device("meta"):
        model = torchvision.models.vgg11_bn()
    model.features = make_layers(cfgs["A"], batch_norm=True)
    model.classifier = nn.Linear(512 * 7 * 7, 7)
    return model


def short_resnet() -> nn.Module:
    return ResNet(Bottleneck, [2, 1, 1, 1], num_classes=7)


HOSTS = {
    "torchvision-resnet18": lambda: torchvision.models.resnet18(num_classes=7),
    "torchvision-resnet50": lambda: torchvision.models.resnet50(num_classes=7),
    "torchvision-resnext50": lambda: torchvision.models.resnext50_32x4d(num_classes=7),
    "timm-resnet18": lambda: timm.create_model("resnet18", num_classes=7),
    "timm-resnet50d": lambda: timm.create_model("resnet50d", num_classes=7),
    "cifar-resnet20": lambda: sgenet.create_model("resnet20_cifar", 7),
    "torchvision-mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=7),  # appended
    "timm-efficientnet_lite0": lambda: timm.create_model("efficientnet_lite0", num_classes=7, drop_path_rate=0.2),
    "timm-res2net50": lambda: timm.create_model("res2net50_26w_4s", num_classes=7),  # wrapped
    "torchvision-densenet121": lambda: torchvision.models.densenet121(num_classes=7),
    "timm-mambaout_femto": lambda: timm.create_model("mambaout_femto", num_classes=7),  # channels last
    "torchvision-vgg11_bn": vgg11_bn,
}
BLOCKS = {
    "torchvision-resnet18": 8,
    "torchvision-resnet50": 16,
    "torchvision-resnext50": 16,
    "timm-resnet18": 8,
    "timm-resnet50d": 16,
    "cifar-resnet20": 9,
    "torchvision-mobilenet_v2": 10,
    "timm-efficientnet_lite0": 9,
    "timm-res2net50": 16,
    "torchvision-densenet121": 58,
    "timm-mambaout_femto": 18,
    "torchvision-vgg11_bn": 8,
}
RESNETS = [name for name in HOSTS if "resnet" in name or "resnext" in name]
POSITIONS = ["residual", "pre", "post", "identity", "inner", "stage"]


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


@functools.cache
def drawn(make: Callable[[], nn.Module]) -> nn.Module:
    """Weights take longer to draw than to copy."""
    return trained_looking(make())


def new(host: str) -> nn.Module:
    """A host of its own for each test."""
    return copy.deepcopy(drawn(HOSTS[host]))


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("attention", ["se", "sge"])
def test_output_keys_and_tensors_of_the_host_are_kept(host, attention):
    model = new(host)
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
    model = new(host).double().train()
    twin = sgenet.add_attention(copy.deepcopy(model), "sge").train()
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    outputs = []
    for network in (model, twin):
        torch.manual_seed(0)  # of dropout and drop path
        outputs.append(network(images))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("attention", [name for name in sgenet.list_attention() if name != "none"])
@pytest.mark.parametrize("position", POSITIONS)
def test_every_module_at_every_position_keeps_the_output_and_goes_again(position, attention):
    model = copy.deepcopy(drawn(short_resnet)).eval()
    keys, state = list(model.state_dict()), {k: v.clone() for k, v in model.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    plain = model(images)
    sgenet.add_attention(model, attention, position=position)
    assert len(attention_report(model).placed) == (3 if position == "stage" else 5)
    torch.testing.assert_close(model(images), plain, rtol=1e-6, atol=1e-6)
    assert set(keys) < set(model.state_dict())

    assert sgenet.remove_attention(model) is model
    assert list(model.state_dict()) == keys
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(images), plain)
    assert attention_report(model) is None
    assert not any(isinstance(module, (sgenet.Attention, Attended)) for module in model.modules())


def test_every_attention_weight_gets_a_gradient(host):
    model = sgenet.add_attention(new(host), "sge")
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    for placed in attention_report(model).placed:
        for name, parameter in model.get_submodule(placed.module).named_parameters():
            assert parameter.grad is not None, f"{placed.module}.{name}"
            assert (parameter.grad != 0).any(), f"{placed.module}.{name}"


@pytest.mark.parametrize("host", RESNETS)
def test_attention_sits_after_the_last_bn_and_before_the_sum(host):
    model = sgenet.add_attention(new(host), "sge", keep_output=False).eval()
    placed, seen = attention_report(model).placed[0], {}
    block = model.get_submodule(placed.module.rpartition(".")[0])
    last_bn = block.bn3 if hasattr(block, "bn3") else block.bn2
    attention = model.get_submodule(placed.module)
    last_bn.register_forward_hook(lambda m, i, o: seen.update(bn=o.clone()))
    attention.register_forward_pre_hook(lambda m, i: seen.update(into=i[0].clone()))
    attention.register_forward_hook(lambda m, i, o: seen.update(out=o.clone()))
    block.register_forward_hook(lambda m, i, o: seen.update(block=o.clone(), shortcut=i[0].clone()))
    model(torch.randn(2, 3, 64, 64))
    assert torch.equal(seen["into"], seen["bn"])
    shortcut = seen["shortcut"] if block.downsample is None else block.downsample(seen["shortcut"])
    torch.testing.assert_close(seen["block"], torch.relu(seen["out"] + shortcut))


FIGURE_5 = {
    "residual": lambda x, f, se: f.relu(se(branch_of(f, x)) + f.downsample(x)),
    "pre": lambda x, f, se: f.relu(branch_of(f, se(x)) + f.downsample(x)),
    "post": lambda x, f, se: se(f.relu(branch_of(f, x) + f.downsample(x))),
    "identity": lambda x, f, se: f.relu(branch_of(f, x) + se(f.downsample(x))),
    "inner": lambda x, f, se: f.relu(branch_of(f, x, se) + f.downsample(x)),
}


def branch_of(block: nn.Module, x: Tensor, middle: nn.Module | None = None) -> Tensor:
    x = torch.relu(block.bn1(block.conv1(x)))
    x = block.bn2(block.conv2(x))
    return block.bn3(block.conv3(torch.relu(x if middle is None else middle(x))))


@pytest.mark.parametrize("position", FIGURE_5)
def test_positions_of_figure_5_compute_what_they_say(position):
    model = trained_looking(torchvision.models.resnet50(num_classes=7)).eval()
    sgenet.add_attention(model, "sge", position=position, keep_output=False, stages=2)
    seen: dict[str, Tensor] = {}
    model.maxpool.register_forward_hook(lambda m, i, o: seen.update(x=o.clone()))
    model.layer1[0].register_forward_hook(lambda m, i, o: seen.update(y=o.clone()))
    model(torch.randn(2, 3, 64, 64))
    attention = model.get_submodule(attention_report(model).placed[0].module)
    block = sgenet.remove_attention(copy.deepcopy(model)).layer1[0]
    block._forward_hooks.clear()
    torch.testing.assert_close(seen["y"], FIGURE_5[position](seen["x"], block, attention))


def test_global_gather_excite_takes_the_size_of_each_map():
    images = torch.randn(2, 3, 64, 96)
    model = torchvision.models.resnet18().eval()
    plain = model(images)
    sgenet.add_attention(model, "ge", variant="theta", example=images)
    assert [p.options["size"] for p in attention_report(model).placed][::2] == [[16, 24], [8, 12], [4, 6], [2, 3]]
    torch.testing.assert_close(model(images), plain, rtol=1e-5, atol=1e-5)


def test_stages_choose_and_are_checked():
    model = sgenet.add_attention(torchvision.models.resnet50(), "se", stages=[3, 5])
    assert {p.stage for p in attention_report(model).placed} == {3, 5}
    assert len(attention_report(model).placed) == 4 + 3
    with pytest.raises(ConfigError, match=r"stages=\[6\] are not all there: .* stages 2, 3, 4, 5"):
        sgenet.add_attention(torchvision.models.resnet50(), "se", stages=6)


def test_keep_output_false_starts_as_the_paper(host):
    model = sgenet.add_attention(new(host), "sge", keep_output=False)
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


def test_blocks_that_have_attention_are_kept_replaced_or_refused():
    def host() -> nn.Module:
        model = timm.create_model("resnet26", num_classes=3)
        model.layer1[0].se = timm.layers.SEModule(256)
        return model.eval()

    report = attention_report(sgenet.add_attention(host(), "sge"))
    assert report.passed_over == (("layer1.0", "has attention already: layer1.0.se"),)
    assert len(report.placed) == 7
    assert "passed over: layer1.0 (has attention already: layer1.0.se)" in str(report)

    model = host()
    before = model.state_dict()
    report = attention_report(sgenet.add_attention(model, "sge", existing="replace"))
    assert len(report.placed) == 8
    assert (report.placed[0].module, report.placed[0].attach) == ("layer1.0.se", "replace")
    assert "was SEModule" in report.placed[0].note
    assert "layer1.0.se.fc1.weight" not in model.state_dict()
    restored = sgenet.remove_attention(model).state_dict()
    assert restored.keys() == before.keys()
    assert all(torch.equal(restored[k], v) for k, v in before.items())

    with pytest.raises(ConfigError, match=r"has attention already, first at 'layer1\.0\.se'; existing='keep'"):
        sgenet.add_attention(host(), "sge", existing="error")
    with pytest.raises(ConfigError, match="existing='overwrite' is not possible"):
        sgenet.add_attention(host(), "sge", existing="overwrite")
    with pytest.raises(ConfigError, match="every place in this ResNet has attention already; existing='replace'"):
        sgenet.add_attention(timm.create_model("seresnet18"), "sge")


def test_replacing_works_where_the_attention_stands():
    model = sgenet.add_attention(timm.create_model("mobilenetv3_small_100"), "eca", existing="replace")
    replaced = [p for p in attention_report(model).placed if p.attach == "replace"]
    assert len(replaced) == 9
    assert not any(type(module).__name__ == "SqueezeExcite" for module in model.modules())
    assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


def test_a_network_survives_deepcopy_pickle_half_precision_and_channels_last(host):
    model = sgenet.add_attention(new(host), "sge").eval()
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
    model = sgenet.add_attention(new(host), "sge", groups=8).eval()
    again = attach_recorded(new(host), attention_report(model)).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sgenet.add_attention(nn.Linear(3, 3), "sge"), "Linear has no convolution"),
        (lambda: sgenet.add_attention(torchvision.models.vgg11(), "sge", position="post"), "it has residual"),
        (lambda: sgenet.add_attention(torchvision.models.resnet18(), "sge", position="up"), "no position 'up'"),
        (lambda: sgenet.remove_attention(torchvision.models.resnet18()), "no attention was added to this ResNet"),
        (lambda: sgenet.add_attention(torchvision.models.resnet18(), "sk"), "it replaces 3x3 convolutions"),
        (
            lambda: sgenet.add_attention(torch.jit.script(torchvision.models.resnet18()), "sge"),
            "compiled to TorchScript; add attention before scripting",
        ),
        (
            lambda: sgenet.add_attention(torchvision.models.quantization.resnet18(quantize=True), "sge"),
            "is quantised .* add attention before quantising",
        ),
        (
            lambda: sgenet.add_attention(sgenet.add_attention(torchvision.models.resnet18(), "se"), "sge"),
            "has 'se' already",
        ),
        (
            lambda: sgenet.add_attention(torchvision.models.resnet18(), "sge", stages="layer4"),
            r"stages='layer4' must be whole numbers, e\.g\. \[4, 5\]; name modules by modules",
        ),
        (
            lambda: sgenet.add_attention(torchvision.models.resnet18(), "sge", modules=[]),
            r"modules=\[\] names no module",
        ),
        (lambda: sgenet.add_attention(torchvision.models.resnet18(), "sge", groups=0), "cannot be split into 0 groups"),
        (lambda: sgenet.add_attention(torchvision.models.resnet18(), "sge", group=4), "no option 'group'"),
        (
            lambda: attach_recorded(
                torchvision.models.resnet18(),
                attention_report(sgenet.add_attention(torchvision.models.resnet50(), "sge")),
            ),
            "has no module 'layer1.2' for attention",
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


class AsksForClasses(nn.Module):
    """Returns the means behind each ReLU, side by side or as a sum; if `by_value`, it needs values to run."""

    def __init__(self, *, by_value: bool = False, side_by_side: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(part for _ in range(3) for part in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())))
        self.by_value, self.side_by_side = by_value, side_by_side

    def forward(self, x: Tensor) -> Tensor:
        if self.by_value and not x.isfinite().all():
            raise ValueError("not finite")
        kept = [torch.zeros(len(x), 3, device=x.device)]
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                kept.append(x.mean((2, 3)))
        return torch.cat(kept, 1) if self.side_by_side else torch.stack(kept).sum(0)


def test_a_network_that_would_return_something_else_is_refused_and_left_alone():
    torch.manual_seed(0)
    for model, message in (
        (AsksForClasses(), r"with it, it returns \(2, 3\) instead of \(2, 12\): the forward asks of what class"),
        (
            AsksForClasses(by_value=True, side_by_side=False),
            "with it, it returns other values: the forward asks of what class",
        ),
    ):
        keys = list(model.state_dict())
        with pytest.raises(ConfigError, match=message):
            sgenet.add_attention(model, "se")
        assert list(model.state_dict()) == keys
        assert attention_report(model) is None
        assert not any(isinstance(module, Attended) for module in model.modules())


def test_what_was_displaced_is_not_made_up_after_loading(tmp_path):
    model = torchvision.models.mobilenet_v3_small(num_classes=5).eval()
    keys = set(model.state_dict())
    sgenet.add_attention(model, "sge", existing="replace")
    path = sgenet.save(model, tmp_path / "net.safetensors")
    loaded = sgenet.load(path, model=torchvision.models.mobilenet_v3_small(num_classes=5)).eval()
    state = loaded.state_dict()
    with pytest.raises(ConfigError, match=r"displaced at 'features\.1\.block\.1' is in no checkpoint"):
        sgenet.remove_attention(loaded)
    assert loaded.state_dict().keys() == state.keys()
    assert attention_report(loaded) == attention_report(model)
    assert set(sgenet.remove_attention(pickle.loads(pickle.dumps(model))).state_dict()) == keys
