"""Trunks of feature maps: the maps against those that the whole network computes, their names, what they depend on."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from small_scenes import shaken
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter

import sgenet
from sgenet.detection.features import STRIDES, feature_trunk
from sgenet.errors import ConfigError

slow = pytest.mark.slow
IMAGES = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))


def outputs_of(network: nn.Module, modules: list[str], x: torch.Tensor) -> list[torch.Tensor]:
    """What some modules return in a pass of the whole network."""
    seen: dict[str, torch.Tensor] = {}
    for name in modules:
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.clone()}))
    with torch.no_grad():
        network(x)
    return [seen[name] for name in modules]


@pytest.mark.parametrize(
    "name", ["resnet18", "sge_resnet18", "bam_resnet18", "sk_resnet18", *(pytest.param("sge_resnet50", marks=slow),)]
)
def test_the_trunk_of_a_resnet_is_torchvisions(name):
    network = shaken(sgenet.create_model(name, 5)).eval()
    stages = {f"layer{k}": str(k - 1) for k in (1, 2, 3, 4)}
    theirs = IntermediateLayerGetter(copy.deepcopy(network), stages)
    trunk = feature_trunk(network).eval()
    assert list(trunk.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        maps, expected = trunk(IMAGES), theirs(IMAGES)
    assert list(maps) == ["0", "1", "2", "3"]
    assert all(torch.equal(maps[level], expected[level]) for level in maps)


@pytest.mark.parametrize(
    ("name", "attention", "modules"),
    [  # the last module of each stride, read off the networks' definitions
        ("mobilenet_v2", None, ["features.3", "features.6", "features.13", "features.18"]),
        ("shufflenet_v2_x0_5", "sge", ["maxpool", "stage2", "stage3", "conv5"]),
        ("regnet_y_400mf", None, [f"trunk_output.block{k}" for k in (1, 2, 3, 4)]),
        pytest.param("mobilenet_v3_small", "sge", [f"features.{k}" for k in (1, 3, 8, 12)], marks=slow),
        pytest.param("efficientnet_b0", None, [f"features.{k}" for k in (2, 3, 5, 8)], marks=slow),
        pytest.param(
            "densenet121",
            "sge",
            [f"features.{k}" for k in (*(f"denseblock{k}" for k in (1, 2, 3)), "norm5")],
            marks=slow,
        ),
        pytest.param("vgg11_bn", "se", [f"features.{k}" for k in (13, 20, 27, 28)], marks=slow),
        pytest.param("convnext_tiny", "sge", [f"features.{k}" for k in (1, 3, 5, 7)], marks=slow),
        pytest.param("mnasnet0_5", None, [f"layers.{k}" for k in (8, 9, 11, 16)], marks=slow),
        pytest.param("googlenet", "se", ["conv3", "inception3b", "inception4e", "inception5b"], marks=slow),
        pytest.param("resnext50_32x4d", None, [f"layer{k}" for k in (1, 2, 3, 4)], marks=slow),
    ],
)
def test_other_networks_of_torchvision_give_their_last_map_of_each_stride(name, attention, modules):
    network = shaken(sgenet.create_model(f"torchvision:{name}", 5, attention=attention)).eval()
    keys = set(network.state_dict())
    expected = outputs_of(copy.deepcopy(network), modules, IMAGES)
    trunk = feature_trunk(network, name=name).eval()
    with torch.no_grad():
        maps = list(trunk(IMAGES).values())
    assert set(trunk.state_dict()) < keys, "the classifier's own keys, without those after the last map"
    assert trunk.channels == tuple(m.shape[1] for m in expected)
    for mine, theirs, stride in zip(maps, expected, STRIDES, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.shape[2:] == (96 // stride, 64 // stride)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenetv3_small_050", *(pytest.param(n, marks=slow) for n in ("regnetx_002", "dla34"))],
)
def test_networks_of_timm_give_the_maps_that_timm_gives(name):
    import timm

    network = shaken(sgenet.create_model(f"timm:{name}", 5)).eval()
    theirs = timm.create_model(name, features_only=True).eval()
    theirs.load_state_dict(network.state_dict(), strict=False)
    chosen = [i for i, reduction in enumerate(theirs.feature_info.reduction()) if reduction in STRIDES]
    trunk = feature_trunk(network).eval()
    with torch.no_grad():
        maps, expected = list(trunk(IMAGES).values()), theirs(IMAGES)
    assert [m.shape for m in maps] == [expected[i].shape for i in chosen]
    assert all(torch.equal(m, expected[i]) for m, i in zip(maps, chosen, strict=True))


@pytest.mark.parametrize("name", ["timm:resnet18", pytest.param("timm:convnext_atto", marks=slow)])
def test_attention_works_in_networks_of_timm(name):
    torch.manual_seed(0)
    plain = shaken(sgenet.create_model(name, 5)).eval()
    network = sgenet.add_attention(copy.deepcopy(plain), "se", keep_output=True)
    trunk, without = feature_trunk(network), feature_trunk(plain)
    attended = [module for module in trunk.modules() if isinstance(module, sgenet.Attention)]
    assert attended
    with torch.no_grad():
        before = trunk.eval()(IMAGES)
        for level, m in without.eval()(IMAGES).items():
            torch.testing.assert_close(before[level], m, rtol=1e-4, atol=1e-4)
        nn.init.normal_(attended[0].fc2.weight)
        after = trunk(IMAGES)
    assert all(not torch.equal(before[level], after[level]) for level in before)


@pytest.mark.parametrize("name", ["sge_resnet18", "torchvision:shufflenet_v2_x0_5", "timm:resnet18"])
def test_what_a_map_depends_on_is_what_gets_a_gradient_from_it(name):
    trunk = feature_trunk(sgenet.create_model(name, 5)).eval()
    assert all(p.requires_grad for p in trunk.parameters())
    for level, reached in enumerate(trunk.reached):
        trunk.zero_grad()
        trunk(IMAGES)[str(level)].sum().backward()
        assert reached == {key for key, p in trunk.named_parameters() if p.grad is not None}
    assert reached == {key for key, _ in trunk.named_parameters()}


def test_a_small_stem_gets_the_strides_of_the_usual_one_and_keeps_its_weights():
    network = shaken(sgenet.create_model("se_resnet18", 5, stem="small"))
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    trunk = feature_trunk(network).eval()
    assert [m.shape[2:] for m in trunk(IMAGES).values()] == [(96 // s, 64 // s) for s in STRIDES]
    assert trunk.state_dict()["conv1.weight"].shape == (64, 3, 3, 3)
    assert all(torch.equal(value, weights[key]) for key, value in trunk.state_dict().items())


@settings(max_examples=5)
@given(st.integers(1, 4), st.integers(1, 4))
def test_maps_have_the_size_that_their_stride_says(height, width):
    trunk = _TRUNKS.setdefault("shufflenet", feature_trunk(sgenet.create_model("torchvision:shufflenet_v2_x0_5", 5)))
    with torch.no_grad():
        maps = trunk.eval()(torch.zeros(1, 3, 32 * height, 32 * width))
    for stride, channels, m in zip(STRIDES, trunk.channels, maps.values(), strict=True):
        assert m.shape == (1, channels, 32 * height // stride, 32 * width // stride)


_TRUNKS: dict[str, nn.Module] = {}


def test_the_description_is_of_the_whole_classifier():
    network = sgenet.create_model("sge_resnet18", 5)
    description = sgenet.models.describe(network)
    assert feature_trunk(network).description == description


def test_a_network_of_ones_own_is_walked_too_and_parts_beside_the_way_are_left_out():
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1))
            self.spare = nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convs(x)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Conv2d(3, 3, 1)
            self.stem = Stem()
            self.body = nn.Sequential(*(nn.Conv2d(8, 8, 3, 2, 1) for _ in range(3)), nn.ReLU())
            self.fc = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.body(self.stem(x)).mean((2, 3)))

    network = Own().eval()
    expected = outputs_of(copy.deepcopy(network), ["stem", "body.0", "body.1", "body.3"], IMAGES)
    trunk = feature_trunk(network)
    assert {key.partition(".")[0] for key in trunk.state_dict()} == {"stem", "body"}
    waiting = [key for key, p in trunk.named_parameters() if not p.requires_grad]
    assert waiting == ["stem.spare.weight", "stem.spare.bias"], "what no map depends on would never get a gradient"
    assert all(torch.equal(m, e) for m, e in zip(trunk(IMAGES).values(), expected, strict=True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet8_cifar",
            r"'resnet8_cifar' has no feature maps of stride 8, 16, 32, .*; it has strides 1, 2, 4;",
        ),
        ("torchvision:squeezenet1_1", r"of stride 4, 8, 16, 32, .*; it has none that divides the image"),
        ("timm:vit_tiny_patch16_224", r"of stride 4, 8, 32, .*; it has strides 16;"),
        pytest.param("torchvision:vit_b_16", r"does not run on .* 256 x 256 pixels: Wrong image height", marks=slow),
        pytest.param("timm:inception_v4", r"map of stride 4 has the size \(30, 38\) instead of \(32, 40\)", marks=slow),
        pytest.param("timm:coatnet_nano_rw_224", r"does not run on .* 128 x 160 pixels: .*; choose a conv", marks=slow),
    ],
)
def test_networks_without_such_maps_are_named_with_what_they_have(name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        feature_trunk(sgenet.create_model(name, 5), name=name)
    assert "\n" not in str(caught.value)


def test_torchvisions_module_order_is_not_relied_on():
    """The way of the image decides, not the order in which modules were registered."""

    class Swapped(torchvision.models.ResNet):
        def __init__(self) -> None:
            super().__init__(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=2)
            layer4 = self.layer4
            del self.layer4
            self._modules = {"layer4": layer4, **self._modules}

    network = Swapped().eval()
    expected = outputs_of(copy.deepcopy(network), ["layer1", "layer4"], IMAGES)
    maps = list(feature_trunk(network).eval()(IMAGES).values())
    assert torch.equal(maps[0], expected[0])
    assert torch.equal(maps[3], expected[1])
