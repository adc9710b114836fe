from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import sgenet
from sgenet.errors import ConfigError
from sgenet.surgery import find_sites


def build(name: str) -> nn.Module:
    zoo, _, rest = name.partition(":")
    with torch.device("meta"):
        return timm.create_model(rest) if zoo == "timm" else torchvision.models.get_model(rest, weights=None)


# Counted by hand from the published layouts: the blocks with a shortcut, or the units of a concatenation.
COUNTED = {
    "tv:resnet18": (8, "sum"),  # 2 + 2 + 2 + 2
    "tv:resnext50_32x4d": (16, "sum"),  # 3 + 4 + 6 + 3
    "tv:mobilenet_v2": (10, "sum"),  # repeated blocks of stride 1: 1 + 2 + 3 + 2 + 2
    "tv:mobilenet_v3_small": (6, "sum"),  # stride 1 and as many channels out as in
    "tv:densenet121": (58, "concatenation"),  # 6 + 12 + 24 + 16 layers
    "tv:googlenet": (9, "concatenation"),  # 3a to 5b
    "tv:inception_v3": (11, "concatenation"),  # 5b to 7c, with the reductions 6a and 7a
    "tv:vgg16": (13, "activation"),  # each convolution
    "tv:shufflenet_v2_x1_0": (13, "concatenation"),  # units of stride 1: 3 + 7 + 3
    "timm:hrnet_w18": (112, "sum"),
    "timm:convnext_tiny": (18, "sum"),  # 3 + 3 + 9 + 3
    "timm:efficientnet_b0": (9, "sum"),  # blocks of stride 1 but the first of a stage: 0+1+1+2+2+3+0
    "timm:regnetx_002": (13, "sum"),  # 1 + 1 + 4 + 7
    "timm:dla34": (12, "sum"),  # trees of 2, 4, 4 and 2 blocks
    "timm:mobilenetv1_100": (13, "activation"),  # the pointwise convolutions
    "timm:res2net50_26w_4s": (16, "sum"),  # the sums inside a block are none
    "timm:resnetv2_50": (16, "sum"),  # pre-activation
    "timm:dpn68": (22, "sum"),  # 3 + 4 + 12 + 3
    "timm:selecsls42": (6, "concatenation"),
    "timm:repvgg_a0": (21, "activation"),  # 2 + 4 + 14 + 1 blocks, whose sums are merged filters
    "timm:mambaout_femto": (18, "sum"),  # 3 + 3 + 9 + 3, channels last
}


@pytest.mark.parametrize("name", COUNTED)
def test_as_many_places_as_counted_by_hand(name):
    count, kind = COUNTED[name]
    found = find_sites(build(name)).found
    assert (len(found), {site.kind for site in found}) == (count, {kind})
    assert len({site.module for site in found}) == count


def test_stages_are_those_of_the_papers():
    found = find_sites(torchvision.models.resnet50()).found
    assert [(s.stage, s.channels) for s in found] == [(2, 256)] * 3 + [(3, 512)] * 4 + [(4, 1024)] * 6 + [(5, 2048)] * 3


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("tv:resnet50", {"block"}),
        ("timm:resnet50", {"slot"}),
        ("tv:mobilenet_v2", {"append"}),
        ("timm:convnext_tiny", {"before"}),  # beside the drop path
        ("timm:res2net50_26w_4s", {"after"}),
    ],
)
def test_the_least_intrusive_way_is_taken(name, how):
    assert {site.attach for site in find_sites(build(name)).found} == how


@pytest.mark.parametrize(
    ("position", "places", "channels"),
    [
        ("residual", ["layer1.0", "layer1.1", "layer1.2"], [256] * 3),
        ("pre", ["layer1.0.conv1", "layer1.1.conv1", "layer1.2.conv1"], [64, 256, 256]),
        ("post", ["layer1.0", "layer1.1", "layer1.2"], [256] * 3),
        ("identity", ["layer1.0.downsample", "layer1.1", "layer1.2"], [256] * 3),
        ("inner", ["layer1.0.bn2", "layer1.1.bn2", "layer1.2.bn2"], [64] * 3),
    ],
)
def test_positions_of_a_bottleneck(position, places, channels):
    found = find_sites(build("tv:resnet50"), position).found
    assert len(found) == 16
    assert [site.place for site in found[:3]] == places
    assert [site.channels for site in found[:3]] == channels


def test_the_stage_position_is_the_end_of_every_stage_but_the_last():
    assert [site.place for site in find_sites(build("tv:resnet50"), "stage").found] == [
        "layer1.2", "layer2.3", "layer3.5",
    ]  # fmt: skip


def test_modules_can_be_named_by_pattern():
    found = find_sites(build("tv:vgg16"), modules="features.*").found
    assert len(found) == 31
    found = find_sites(build("tv:resnet18"), modules=["layer[34].?.bn2", "conv1"]).found
    assert [site.place for site in found] == ["layer3.0.bn2", "layer3.1.bn2", "layer4.0.bn2", "layer4.1.bn2", "conv1"]


def test_attention_that_is_there_is_found():
    sites = find_sites(build("timm:seresnet50"))
    assert len(sites.taken) == 16
    assert sites.taken[0].place == "layer1.0.se"
    assert all(site.taken for site in sites.found)
    assert len(find_sites(build("timm:mobilenetv3_small_100")).taken) == 9
    assert find_sites(build("tv:resnet18")).taken == ()


class Unusual(nn.Module):
    """One-dimensional, of an input size of its own, with a functional end of the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(5, 8, 3, padding=1)
        self.branch = nn.Conv1d(8, 8, 3, padding=1)
        self.gamma = nn.Parameter(torch.ones(8, 1))
        self.head = nn.Linear(8 * 50, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.branch(x) * self.gamma
        return self.head(x.flatten(1))


def test_an_example_tells_the_input_size_of_an_unusual_network():
    with pytest.raises(ConfigError, match=r"does not run on .* give an input that it takes as example="):
        find_sites(Unusual())
    (site,) = find_sites(Unusual(), example=torch.zeros(1, 5, 50)).found
    assert (site.place, site.channels, site.attach) == ("branch", 8, "after")


def test_maps_of_channels_last_are_told_apart():
    (first, *_) = find_sites(build("timm:mambaout_femto")).found
    assert (first.channels, first.stage, first.channels_last) == (48, 2, True)
    assert not any(site.channels_last for site in find_sites(build("timm:convnext_tiny")).found)


@pytest.mark.parametrize("name", ["timm:mambaout_femto", "tv:swin_t"])
def test_channels_are_told_apart_whatever_the_image(name):
    model = build(name)
    square, oblong, one = (
        find_sites(model, example=torch.zeros(1, 3, *size)).found for size in ((64, 64), (64, 96), (384, 96))
    )
    assert {site.channels_last for site in (*square, *oblong, *one)} == {True}
    assert [site.channels for site in oblong] == [site.channels for site in one] == [site.channels for site in square]


class Branched(nn.Module):
    """Has a branch that ends in a module of one's choice, and maps with as many rows as channels, and fewer columns."""

    def __init__(self, end: nn.Module, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 64, 3, stride=(4, 8), padding=1)
        self.conv = nn.Conv2d(64, 64, 3, padding=1)
        self.end = end
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if self.size not in (None, tuple(x.shape[2:])):
            raise ValueError(f"not an image of {self.size}")
        x = self.stem(x)
        return x + self.end(self.conv(x))


class Shuffled(nn.Module):
    """Does with a map what no rule knows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).flip(1).view(x.shape)


@pytest.mark.parametrize("size", [None, (256, 256)], ids=["any-size", "one-size"])
@pytest.mark.parametrize(
    "end", [nn.BatchNorm2d(64), nn.InstanceNorm2d(64), Shuffled()], ids=lambda end: type(end).__name__
)
def test_channels_are_told_by_what_made_the_map_else_by_a_larger_image(end, size):
    image = torch.zeros(2, 1, 256, 256)
    model = Branched(end, size)
    if isinstance(end, Shuffled) and size is not None:
        assert "end" not in [site.place for site in find_sites(model, example=image).found]
        with pytest.raises(ConfigError, match=r"module 'end' returns the shape .* where the channels are"):
            find_sites(model, modules="end", example=image)
    else:
        (site,) = find_sites(model, example=image).found
        assert (site.place, site.channels, site.channels_last) == ("end", 64, False)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv(x)
        return x + self.conv(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: find_sites(nn.Linear(3, 3)), "Linear has no convolution"),
        (lambda: find_sites(build("tv:resnet18"), "resdual"), "no position 'resdual'. Did you mean 'residual'"),
        (lambda: find_sites(build("tv:resnet18"), modules="layer9.*"), "no module that returns a tensor is named"),
        (lambda: find_sites(build("tv:resnet18"), modules="fc"), "module 'fc' returns .* name another module"),
        (lambda: find_sites(build("tv:resnet18"), modules=[]), r"modules=\[\] names no module"),
        (lambda: find_sites(Shared(), modules="conv"), "module 'conv' is used 2 times in one pass"),
    ],
)
def test_what_cannot_be_found_is_said(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_module_that_is_used_twice_is_passed_over():
    sites = find_sites(Shared())
    assert sites.found == ()
    assert sites.passed_over == (("", "module 'conv' is used 2 times in one pass"),)
    with pytest.raises(ConfigError, match=r"no place at position 'residual' \(.*module 'conv' is used 2 times"):
        sgenet.add_attention(Shared(), "se")


def test_the_network_is_left_as_it_was():
    model = torchvision.models.resnet18().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    find_sites(model)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
