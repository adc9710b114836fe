"""An optimized network computes what the network computes, and leaves the network alone."""

from __future__ import annotations

import copy
import io
import math
from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import FrozenBatchNorm2d

import sgenet
from sgenet.errors import ConfigError
from sgenet.inference import optimization_report

NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


def as_trained(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In eval mode, with norms and attention that do something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, NORMS) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                    module.bias.normal_(0, 0.2, generator=generator)
            elif isinstance(module, sgenet.Attention):
                for parameter in module.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model.to(dtype).eval()


def images(size: int = 32, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def norms_of(model: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in model.modules())


def norms_run(model: nn.Module, x: Tensor | list[Tensor]) -> int:
    """How many norms a forward pass calls; the parts of an optimized network still have what they no longer call."""
    names: list[str] = []
    handles = [
        module.register_forward_hook(lambda module, args, y, name=name: names.append(name))
        for name, module in model.named_modules()
        if isinstance(module, NORMS)
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return len(names)


def assert_same(model: nn.Module, x: Tensor) -> nn.Module:
    """The optimized network gives what the network gives, and the network is bit for bit what it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scales = [m.scale for m in model.modules() if isinstance(m, sgenet.Attention)]
    with torch.no_grad():
        expected = model(x.clone())
        optimized = sgenet.optimize(model)
        y = optimized(x.clone())
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
        assert torch.equal(model(x.clone()), expected)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [m.scale for m in model.modules() if isinstance(m, sgenet.Attention)] == scales
    return optimized


@pytest.mark.parametrize(
    ("name", "norms", "joins"),
    [
        ("resnet20_cifar", 19, 0),
        ("sge_resnet20_cifar", 19, 9),
        ("se_resnet20_cifar", 19, 9),
        ("cbam_resnet8_cifar", 10, 3),  # one norm in each module
        ("bam_resnet8_cifar", 15, 0),  # BAM stands behind the ReLU
        ("sk_resnet8_cifar", 13, 0),
        ("gc_resnet8_cifar", 7, 3),
        ("resnet18", 20, 0),
        ("sge_resnet18", 20, 8),
        ("sge_resnet50", 53, 16),
        ("sge_resnext50_32x4d", 53, 16),
    ],
)
def test_named_networks(name, norms, joins):
    optimized = assert_same(as_trained(sgenet.create_model(name, 10)), images())
    report = optimization_report(optimized)
    assert (report.norms, report.joins, report.left) == (norms, joins, [])
    assert norms_of(optimized) == 0


@pytest.mark.parametrize("name", ["sge", "se", "cbam", "eca", "gc", "bam", "ge", "srm", "simam"])
def test_constant_factors_become_a_part_of_the_layer_in_front(name):
    options = {"ge": {"variant": "theta", "extent": 2}, "gc": {"fusion": "mul"}}.get(name, {})
    model = sgenet.create_model("resnet8_cifar", 10)
    sgenet.add_attention(model, name, **options)
    optimized = assert_same(as_trained(model), images())
    report = optimization_report(optimized)
    attention = [m for m in optimized.modules() if isinstance(m, sgenet.Attention)]
    started_by_factor = name not in ("srm", "simam")
    assert report.factors == (3 if started_by_factor else 0)
    assert len(attention) == report.joins == 3
    if name == "srm":  # the constant in its deviation is not the input's to scale
        assert {left.reason for left in report.left} >= {"its factor is no other layer's to take"}
        assert all(m.scale == 2.0 for m in attention)
    else:
        assert all(m.scale == 1.0 for m in attention)


def test_sge_without_normalisation_gives_its_factor_away_too():
    model = sgenet.add_attention(sgenet.create_model("resnet8_cifar", 10), "sge", normalize=False)
    assert optimization_report(assert_same(as_trained(model), images())).factors == 3


@pytest.mark.parametrize("front", ["conv", "norm without a convolution", "relu", "shared"])
def test_a_factor_goes_to_what_stands_in_front(front):
    conv = nn.Conv2d(3, 8, 3)
    layers = {
        "conv": [conv],
        "norm without a convolution": [conv, nn.ReLU(), nn.BatchNorm2d(8)],
        "relu": [conv, nn.ReLU()],
        "shared": [nn.Conv2d(3, 3, 1), nn.Sequential(*[shared := nn.Conv2d(3, 3, 1), nn.Tanh(), shared])],
    }[front]
    attention = sgenet.SqueezeExcite(8 if front != "shared" else 3, 1)
    attention.scale = 2.0
    report = optimization_report(assert_same(as_trained(nn.Sequential(*layers, attention)), images()))
    assert report.factors == (1 if front in ("conv", "norm without a convolution") else 0)
    assert ("takes its factor" in str(report)) == (report.factors == 0)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "googlenet"])
def test_torchvision(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(num_classes=5, **options)
    assert norms_of(assert_same(as_trained(model), images(64))) == 0


def test_norms_in_front_of_convolutions_stay_and_are_reported():
    optimized = assert_same(as_trained(torchvision.models.densenet121(num_classes=5)), images(32))
    report = optimization_report(optimized)
    assert norms_of(optimized) == len(report.left) == 62  # two a transition and a layer, less those behind a conv1
    assert report.norms == 59
    assert "features.denseblock1.denselayer1.norm1 and 61 more: there is no convolution" in str(report)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"block_args": {"attn_layer": sgenet.SpatialGroupEnhance}}),
        ("resnet26d", {}),
        ("efficientnet_b0", {}),  # BatchNormAct2d
        ("tf_efficientnet_b0", {}),  # Conv2dSame
        ("ghostnet_100", {}),
        ("hrnet_w18_small", {}),
    ],
)
def test_timm(name, options):
    model = timm.create_model(name, num_classes=5, **options)
    optimized = assert_same(as_trained(model), images(64))
    assert norms_of(optimized) == 0
    assert optimized.num_classes == 5
    assert optimization_report(optimized).joins == (8 if options else 0)


@pytest.mark.parametrize("position", ["residual", "identity", "post", "pre"])
def test_attention_in_every_place(position):
    model = sgenet.add_attention(torchvision.models.resnet18(num_classes=5), "sge", position=position)
    report = optimization_report(assert_same(as_trained(model), images(64)))
    assert report.norms == 20
    # Before the sum, on the branch or on a projected shortcut; elsewhere what attention is given is read by others too.
    assert report.joins == {"residual": 8, "identity": 3, "post": 0, "pre": 0}[position]


def test_detectors_are_optimized_in_parts():
    build = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    model = as_trained(build(weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.0))
    x = [torch.rand(3, 60, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(2))]
    with torch.no_grad():
        (expected,), optimized = model(x), sgenet.optimize(model)
        (found,) = optimized(x)
    assert len(expected["scores"]) > 0
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=1e-8, atol=1e-8)
    assert norms_run(optimized, x) == 0 < norms_run(model, x)
    assert isinstance(optimized, torchvision.models.detection.FasterRCNN)
    assert [tuple(left) for left in optimization_report(optimized).left] == [
        ("", "its forward takes optional arguments")
    ]
    assert torch.equal(copy.deepcopy(optimized)(x)[0]["boxes"], found["boxes"])
    with pytest.raises(ConfigError, match="inference alone"):
        optimized.train()


class Branches(nn.Module):
    """One layer of each kind that cannot be folded, or must not be written over."""

    def __init__(self, layer: nn.Module, norm: nn.Module, join: str = "plain") -> None:
        super().__init__()
        self.layer, self.norm, self.join = layer, norm, join
        self.other = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        z = self.norm(y)
        if self.join == "plain":
            return z
        if self.join == "used again":
            return z + F.relu(y)
        if self.join == "called again":
            return z + self.layer(x * 2)
        if self.join == "norm called again":
            return z + self.norm(z)
        if self.join == "weight read":
            return z * self.layer.weight.mean()
        if self.join == "view kept":
            flat = z.flatten(2)
            z += self.other(x)
            return F.relu(z) + flat.mean(2)[:, :, None, None]
        if self.join == "broadcast":
            return F.relu(z.mean((2, 3), keepdim=True) + self.other(x)) + F.relu(self.other(x[:, :, :1, :1]) + z)
        if self.join == "summed":
            return F.relu(self.other(x) + z)
        assert self.join == "one sum twice"
        summed = z + self.other(x)
        return F.relu(summed) + summed


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (Branches(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), "used again"), "used elsewhere too"),
        (Branches(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), "called again"), "used elsewhere too"),
        (Branches(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), "norm called again"), "more than once"),
        (Branches(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), "weight read"), "used elsewhere too"),
        (Branches(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), "view kept"), ""),
        (Branches(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), "broadcast"), ""),
        (Branches(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), "one sum twice"), ""),
        (Branches(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)), "no running statistics"),
        (Branches(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False)), ""),
        (Branches(nn.Conv2d(3, 9, 3, groups=3, padding=1, padding_mode="circular"), nn.BatchNorm2d(9)), ""),
        (Branches(nn.ConvTranspose2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)), ""),
        (Branches(nn.ConvTranspose2d(3, 9, 3, groups=3), nn.BatchNorm2d(9)), "transposed and has groups"),
        (Branches(parametrizations.weight_norm(nn.Conv2d(3, 8, 1)), nn.BatchNorm2d(8)), "Conv2d, no convolution"),
        (Branches(nn.MaxPool2d(2), nn.BatchNorm2d(3)), "MaxPool2d, no convolution"),
        (Branches(nn.Conv2d(3, 8, 1), nn.SyncBatchNorm(8)), ""),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8), nn.BatchNorm1d(8), nn.ReLU()), ""),
        (nn.Sequential(nn.Flatten(2), nn.Linear(64, 3), nn.BatchNorm1d(3)), "may normalise an axis"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_folded_stays_and_is_reported(model, left):
    optimized = assert_same(as_trained(model), images(8))
    report = optimization_report(optimized)
    assert norms_of(optimized) == len(report.left) == bool(left)
    assert left in str(report)


def test_a_norm_after_a_linear_layer_is_only_folded_over_the_same_axis():
    x = torch.randn(4, 8, 5, dtype=torch.float64)  # 8 channels in front of a layer with 8 outputs
    model = as_trained(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8)))
    assert norms_of(assert_same(model, x)) == 1


def test_what_watches_a_module_goes_on_seeing_it():
    model = as_trained(sgenet.create_model("sge_resnet8_cifar", 10))
    seen: list[Tensor] = []
    model.layer1[0].bn2.register_forward_hook(lambda module, args, y: seen.append(y))
    model.layer2.register_forward_hook(lambda module, args, y: seen.append(y))
    expected = model(images())
    kept, seen[:] = [y.clone() for y in seen], []
    optimized = sgenet.optimize(model)
    assert seen == []
    torch.testing.assert_close(optimized(images()), expected)
    torch.testing.assert_close(seen, kept)
    assert norms_run(optimized, images()) == 1


class Undecided(nn.Module):
    """Asks for values, so that it cannot be traced; and indexes and calls its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stage = sgenet.create_model("sge_resnet8_cifar", 10).layer1

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) if x.mean() > 0 else self.stem[1](self.stem[0](x))
        for block in self.stage:
            x = block(x)
        return x


@pytest.mark.parametrize("sign", [1, -1])
def test_the_parts_of_an_untraceable_network_are_optimized(sign):
    optimized = assert_same(as_trained(Undecided()), images().abs() * sign)
    report = optimization_report(optimized)
    assert (report.norms, report.joins) == (3, 1)
    assert norms_run(optimized, images().abs() * sign) == (0 if sign > 0 else 1)  # the stem's, called by itself
    assert [left.module for left in report.left] == [""]
    assert "torch.fx cannot trace it" in str(report)


class Twins(nn.Module):
    """Two parts that share a layer, in a network that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Sequential(nn.Conv2d(3, 8, 1))
        self.first = nn.Sequential(shared, nn.BatchNorm2d(8))
        self.second = nn.Sequential(shared, nn.BatchNorm2d(8, eps=1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) - self.second(x) if x.sum() != 0 else x


def test_a_layer_that_two_parts_share_has_a_copy_in_each():
    assert norms_run(assert_same(as_trained(Twins()), images(8)), images(8)) == 0


class Reaching(nn.Module):
    """Calls its encoder in one way, with an optional argument, so that it cannot be traced."""

    def __init__(self, way: str, encoder: nn.Module) -> None:
        super().__init__()
        self.way, self.encoder = way, encoder

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        e = self.encoder
        if self.way == "forward":
            return e(x)
        if self.way == "skip in front of the norm":
            skip = e.conv1(x)
            return torch.cat([skip, e.relu(e.bn1(skip))], 1)
        if self.way == "stages":
            return e.layer2(e.layer1(e.maxpool(e.relu(e.bn1(e.conv1(x))))))
        if self.way == "children":
            for layer in list(e.children())[:-1]:
                x = layer(x)
            return x
        if self.way == "inside blocks":
            x = e.maxpool(e.conv1(x))
            return torch.cat([y := e.layer1[0].conv1(x), e.layer1[0].bn1(y), e.layer1[0](x)], 1)
        return getattr(e, self.way)(x)


@pytest.mark.parametrize("way", ["forward", "skip in front of the norm", "stages", "children", "inside blocks"])
def test_parts_may_be_called_in_any_way(way):
    encoder = sgenet.add_attention(torchvision.models.resnet18(num_classes=5), "sge")
    optimized = assert_same(as_trained(Reaching(way, encoder)), images(64))
    report = optimization_report(optimized)
    assert (report.norms, report.joins) == (20, 8)
    if way in ("forward", "stages"):
        assert norms_run(optimized, images(64)) == (0 if way == "forward" else 1)
    assert isinstance(optimized.encoder, torchvision.models.ResNet)


@pytest.mark.parametrize(
    ("way", "encoder"),
    [
        ("features", lambda: torchvision.models.mobilenet_v2(num_classes=5)),
        ("forward_features", lambda: timm.create_model("resnet18", num_classes=5)),
    ],
)
def test_other_methods_of_parts_go_on_working(way, encoder):
    optimized = assert_same(as_trained(Reaching(way, encoder())), images(64))
    assert optimization_report(optimized).norms > 0


def test_a_program_by_torch_fx_stays_as_a_part_and_is_traced_through_as_a_layer():
    program = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))
    report = optimization_report(assert_same(as_trained(Reaching("forward", program)), images(8)))
    assert report.norms == 0
    assert "encoder: it is a program of torch.fx" in str(report)
    inside = nn.Sequential(copy.deepcopy(program), nn.ReLU())
    assert optimization_report(assert_same(as_trained(Reaching("forward", inside)), images(8))).norms == 1


@pytest.mark.parametrize("kind", ["untraced", "traced"])
def test_optimized_parts_are_copied_moved_and_pickled(kind):
    model = as_trained(sgenet.create_model("sge_resnet8_cifar", 10), torch.float32)
    model = Reaching("forward", model) if kind == "untraced" else model
    x = images(dtype=torch.float32)
    optimized = sgenet.optimize(model)
    file = io.BytesIO()
    torch.save(optimized, file)
    file.seek(0)
    for copied in (copy.deepcopy(optimized), torch.load(file, weights_only=False)):
        assert torch.equal(copied(x), optimized(x))
        wide = copied.double()(x.double())
        torch.testing.assert_close(wide.float(), optimized(x), rtol=1e-4, atol=1e-4)
        assert wide.dtype == torch.float64
    if kind == "untraced":
        with pytest.raises(ConfigError, match="takes no other weights"):
            optimized.load_state_dict(model.state_dict())
        exported = torch.export.export(optimized, (x,))
        torch.testing.assert_close(exported.module()(x), optimized(x))


def test_a_method_of_a_network_that_became_a_program_says_where_to_call_it():
    optimized = sgenet.optimize(timm.create_model("resnet18", num_classes=5))
    for network in (optimized, copy.deepcopy(optimized)):
        with pytest.raises(ConfigError, match="call forward_features of the network that it was made from"):
            network.forward_features(images(64, torch.float32))


class Asking(nn.Module):
    """What a trace answers otherwise than a call, or would make a constant of."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor | OrderedDict[str, Tensor]:
        if self.question == "keywords":
            y = self.stem[1](input=self.stem[0](input=x))
            return F.dropout(input=self.drop(input=y), p=0.5, training=False)
        y = self.stem(x)
        if self.question == "is_tensor":
            return y / 255 if torch.is_tensor(x) else y
        if self.question == "isinstance":
            return y[0] if isinstance(x, list) else y / 255
        if self.question == "a layer's result":
            return y / 255 if isinstance(y, Tensor) and not isinstance(y, list | nn.Parameter) else y
        if self.question == "random":
            return y + torch.rand(1)
        assert self.question == "ordered"
        return OrderedDict(b=y, a=x)


@pytest.mark.parametrize(
    ("question", "traced"),
    [("is_tensor", False), ("isinstance", False), ("a layer's result", True), ("keywords", True)],
)
def test_what_a_trace_cannot_answer_is_not_traced(question, traced):
    optimized = assert_same(as_trained(Asking(question)), images(8))
    report = optimization_report(optimized)
    assert report.norms == 1
    assert traced == (not report.left)
    assert traced or "it asks for the type of its input" in str(report)


def test_random_numbers_are_drawn_anew():
    optimized = sgenet.optimize(Asking("random"))
    assert not torch.equal(optimized(images(8, torch.float32)), optimized(images(8, torch.float32)))
    assert "it draws random numbers" in str(optimization_report(optimized))


def test_an_ordered_dict_stays_one():
    model = as_trained(Asking("ordered"))
    optimized = sgenet.optimize(model)
    for network in (optimized, copy.deepcopy(optimized)):
        y = network(images(8))
        assert type(y) is OrderedDict
        assert list(y) == ["b", "a"]
        torch.testing.assert_close(y, model(images(8)))
    assert optimization_report(optimized).left == []


@pytest.mark.parametrize("change", ["weight norm", "pruning"])
def test_weights_that_hooks_compute(change):
    first, second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
    if change == "weight norm":
        with pytest.warns(FutureWarning, match="weight_norm"):
            torch.nn.utils.weight_norm(first)
    else:
        prune.l1_unstructured(first, "weight", 0.3)
    model = nn.Sequential(first, nn.BatchNorm2d(8), second, nn.BatchNorm2d(8))
    expected = as_trained(model)(images(8))
    assert not first.weight.is_leaf
    optimized = sgenet.optimize(model)
    torch.testing.assert_close(optimized(images(8)), expected, rtol=1e-10, atol=1e-10)
    report = optimization_report(assert_same(model, images(8)))
    assert report.norms == 1
    assert [left.module for left in report.left] == ["1"]


class Uncopyable(nn.Conv2d):
    def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
        raise RuntimeError("there is only one of me")


def test_a_network_that_cannot_be_copied_is_refused():
    with pytest.raises(ConfigError, match=r"cannot copy this network \(there is only one of me\); take out"):
        sgenet.optimize(nn.Sequential(Uncopyable(3, 8, 1), nn.BatchNorm2d(8)))


class Spread(nn.Module):
    """A block whose shortcut is one value a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attention = nn.Conv2d(3, 3, 1), sgenet.SpatialGroupEnhance(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.attention(self.conv(x)) + x.mean((2, 3), keepdim=True))


def test_a_shortcut_of_another_shape_is_still_added():
    assert optimization_report(assert_same(as_trained(Spread()), images(8))).joins == 1


@pytest.mark.parametrize("name", ["resnet8_cifar", "sge_resnet8_cifar", "se_resnet8_cifar"])
def test_bfloat16_and_channels_last(name):
    model = as_trained(sgenet.create_model(name, 10), torch.float32)
    expected = model(images(dtype=torch.float32))
    half = copy.deepcopy(model).to(torch.bfloat16).to(memory_format=torch.channels_last)
    x = images(dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    optimized = sgenet.optimize(half)
    assert {parameter.dtype for parameter in optimized.parameters()} == {torch.bfloat16}
    weight = optimized.get_submodule("layer2.0.conv1").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        y = optimized(x)
        error, usual = ((z.float() - expected).abs().max() for z in (y, half(x)))
    assert y.dtype == torch.bfloat16
    assert error < 2 * usual + 1e-3
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        y = sgenet.optimize(model)(images(dtype=torch.float32))
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["resnet8_cifar", "sge_resnet8_cifar", "se_resnet8_cifar"])
def test_copies_pickles_and_exports(name):
    x = images(dtype=torch.float32)
    optimized = sgenet.optimize(as_trained(sgenet.create_model(name, 10), torch.float32))
    expected = optimized(x)
    file = io.BytesIO()
    torch.save(optimized, file)
    file.seek(0)
    for copied in (copy.deepcopy(optimized), torch.load(file, weights_only=False), sgenet.optimize(optimized)):
        assert copied is not optimized
        assert torch.equal(copied(x), expected)
        assert optimization_report(copied) == optimization_report(optimized)
        with pytest.raises(ConfigError, match="inference alone"):
            copied.train()
        assert not copied.eval().training
    exported = torch.export.export(optimized, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.testing.assert_close(exported.module()(torch.cat([x, x])), torch.cat([expected, expected]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8_cifar", "sge_resnet8_cifar", "se_resnet8_cifar"])
def test_it_compiles_without_a_break(name):
    model = as_trained(sgenet.create_model(name, 10), torch.float32)
    x = images(dtype=torch.float32)
    with torch.inference_mode():
        compiled = torch.compile(sgenet.optimize(model), fullgraph=True)(x)
        torch.testing.assert_close(compiled, model(x), rtol=1e-4, atol=1e-5)


class Operations(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


def test_sums_and_relus_are_written_over_the_branch():
    model = as_trained(Branches(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), "summed"))
    optimized = assert_same(model, images(8))
    assert optimization_report(optimized).in_place == 1
    with torch.no_grad(), Operations() as operations:
        optimized(images(8))
    assert operations.names[-2:] == ["add_", "relu_"]
    model = as_trained(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()))
    assert optimization_report(assert_same(model, images(8))).in_place == 1
    assert not model[1].inplace


def test_what_the_caller_holds_is_not_written_over():
    x, residual = images(), images() + 1
    kept = x.clone(), residual.clone()
    sgenet.optimize(nn.Sequential(nn.ReLU(), nn.ReLU()))(x)
    sgenet.optimize(Summed())(x, residual)
    assert torch.equal(x, kept[0])
    assert torch.equal(residual, kept[1])


class Summed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = sgenet.SpatialGroupEnhance(3, 1)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return F.relu(self.attention(x) + residual)


def test_dropout_is_left_out_and_a_training_network_is_optimized_for_eval():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(0.5), nn.BatchNorm2d(8), nn.Identity(), nn.ReLU()).double()
    optimized = sgenet.optimize(model.train())
    assert model.training
    assert model[0].weight.requires_grad
    assert [type(m) for m in optimized.children()] == [nn.Conv2d]
    assert not any(parameter.requires_grad for parameter in optimized.parameters())
    torch.testing.assert_close(optimized(images()), model.eval()(images()), rtol=1e-10, atol=1e-10)


def test_the_factor_is_exact_where_the_gate_saturates():
    """Where a deviation is as small as ε, the gate keeps its value only with the ε that belongs to the scaled map."""
    conv, attention = nn.Conv2d(4, 4, 1, bias=False), sgenet.SpatialGroupEnhance(4, 2, eps=0.1)
    attention.scale = 1 + math.exp(-1)
    model = as_trained(nn.Sequential(conv, attention))
    x = 1e-1 * torch.randn(1, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    optimized = assert_same(model, x)
    assert optimization_report(optimized).factors == 1


def test_a_network_without_convolutions_is_returned_equal():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4), nn.Tanh())
    optimized = assert_same(as_trained(model), images(8))
    assert str(optimization_report(optimized)).startswith("0 norms folded")
    assert optimization_report(model) is None
    assert torch.equal(sgenet.optimize(sgenet.SimAM(3))(images(8)), sgenet.SimAM(3)(images(8)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("resnet50", "takes a torch.nn.Module, not str"),
        (torch.compile(nn.Conv2d(3, 3, 1)), "compiled already; optimize it first"),
    ],
)
def test_what_is_no_network_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        sgenet.optimize(wrong)
