from __future__ import annotations

import math
import re

import pytest
import timm
import torch
import torchvision
from torch import nn

import sgenet
from sgenet.errors import CheckpointError, ConfigError, UnknownNameError
from sgenet.models import build, describe
from sgenet.surgery import attention_report


def parameters(name: str, num_classes: int = 1000, **options) -> int:
    with torch.device("meta"):
        model = sgenet.create_model(name, num_classes, **options)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # SGE paper, table 1, exact counts of its code (papers 1.5)
        ("resnet50", 25_557_032),
        ("se_resnet50", 28_088_024),
        ("sge_resnet50", 25_559_080),
        ("resnet101", 44_549_160),
        ("se_resnet101", 49_326_872),
        ("sge_resnet101", 44_553_384),
        ("sk_resnet50", 26_154_496),
        ("sk_resnet101", 45_678_112),
        ("bam_resnet50", 25_915_099),
        ("bam_resnet101", 44_907_227),
        ("cbam_resnet50", 28_089_624),
        ("cbam_resnet101", 49_330_172),
    ],
)
def test_parameter_counts_are_the_papers(name, expected):
    assert parameters(name) == expected


def test_se_without_biases_adds_what_equation_5_says():
    # (2 / r) sum over stages of N_s C_s^2
    expected = 2 * (3 * 256**2 + 4 * 512**2 + 6 * 1024**2 + 3 * 2048**2) // 16
    plain = parameters("resnet50")
    assert parameters("se_resnet50", attention_options={"bias": False}) - plain == expected == 2_514_944


@pytest.mark.parametrize(("depth", "expected"), [(20, 0.27e6), (32, 0.46e6), (56, 0.85e6)])
def test_cifar_networks_have_the_size_of_their_paper(depth, expected):
    # arXiv 1512.03385, table 6
    assert parameters(f"resnet{depth}_cifar", 10) == pytest.approx(expected, rel=0.01)


def test_the_cifar_network_of_bottlenecks_has_their_convolutions_and_no_others():
    stages = [(16, 16), (64, 32), (128, 64)]  # channels that come in, and within
    within = sum(c * w + 9 * w * w + w * 4 * w + 2 * (w + w + 4 * w) for c, w in stages)
    assert parameters("resnet11_cifar", 10) == 9 * 3 * 16 + 2 * 16 + within + 256 * 10 + 10
    model = sgenet.create_model("resnet11_cifar", 10).eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert model.layer3(model.layer2(model.layer1(torch.randn(1, 16, 8, 8)))).shape == (1, 256, 2, 2)


def width_of_blocks(name: str) -> list[int]:
    """Output channels of each block of a bottleneck network, from the papers' tables."""
    depths = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
    blocks = depths[name.removeprefix("resnext").removeprefix("resnet").removesuffix("_32x4d")]
    return [256 * 2**stage for stage, count in enumerate(blocks) for _ in range(count)]


@pytest.mark.parametrize(
    "host",
    [
        "resnet50",
        *(pytest.param(h, marks=pytest.mark.slow) for h in ("resnet101", "resnet152", "resnext50_32x4d")),
        pytest.param("resnext101_32x4d", marks=pytest.mark.slow),
    ],
)
def test_what_a_module_adds_is_its_papers_formula(host):
    widths = width_of_blocks(host)

    def nearest_odd(c: int) -> int:  # arXiv 1910.03151, equation 12, with gamma 2 and b 1
        whole = int(math.log2(c) / 2 + 0.5)
        return whole if whole % 2 else whole + 1

    added = {
        "eca": sum(nearest_odd(c) for c in widths),
        "ge": 0,
        "simam": 0,
        "sge": 2 * 64 * len(widths),
        "se": sum(2 * c * (c // 16) + c // 16 + c for c in widths),
        # two weights and a BN a channel: arXiv 1903.10829, section 3.2
        "srm": sum(2 * c + 2 * c for c in widths),
        # A 1x1 convolution to one map (without bias, which a softmax over positions does not see), two to C / 16 and
        # back, and a layer norm between them: arXiv 1904.11492, figure 4
        "gc": sum(c + (c * (c // 16) + c // 16) + 2 * (c // 16) + ((c // 16) * c + c) for c in widths),
    }
    plain = parameters(host)
    assert {name: parameters(f"{name}_{host}") - plain for name in added} == added


@pytest.mark.parametrize(("name", "expected"), [("resnext50_32x4d", 25.03e6), ("resnext101_32x4d", 44.18e6)])
def test_resnexts_have_their_papers_size(name, expected):
    # arXiv 1611.05431, table 1 (25.0e6); that of 101 layers: SKNet's table 1, 44.3e6 with the statistics of BN
    assert parameters(name) == pytest.approx(expected, rel=0.001)


@pytest.mark.parametrize(("name", "millions"), [("sk_resnext50_32x4d", 27.5), ("sk_resnext101_32x4d", 48.9)])
def test_selective_kernels_in_a_resnext_are_sknet(name, millions):
    # arXiv 1903.06586, table 2
    assert parameters(name) / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize("depths", [(8, 11, 18), pytest.param((20, 32, 34, 50, 56, 101, 152), marks=pytest.mark.slow)])
def test_every_listed_name_can_be_built_and_counts_its_blocks(depths):
    blocks = {18: 8, 34: 16, 50: 16, 101: 33, 152: 50, 8: 3, 11: 3, 20: 9, 32: 15, 56: 27}
    names = sgenet.list_models()
    assert len(names) == 11 * 12
    for name in names:
        attention, _, host = name.rpartition("res")
        depth = int(re.match(r"ne[xt]+(\d+)", host).group(1))
        if depth not in depths:
            continue
        with torch.device("meta"):
            model = sgenet.create_model(name, 10)
        report = attention_report(model)
        stages = 2 if name.endswith("cifar") else 3
        expected = {"": 0, "sk_": 0, "bam_": stages}.get(attention, blocks[depth])
        assert (len(report.placed) if report else 0) == expected, name
        kernels = sum(isinstance(m, sgenet.SelectiveKernelConv) for m in model.modules())
        assert kernels == (blocks[depth] if attention == "sk_" else 0), name


def test_bam_stands_behind_every_stage_but_the_last():
    seen = []
    model = sgenet.create_model("bam_resnet18", 10)
    for module in model.modules():
        if isinstance(module, sgenet.BottleneckAttention):
            module.register_forward_hook(lambda m, i, o: seen.append((tuple(i[0].shape[1:]), bool((i[0] >= 0).all()))))
    model(torch.randn(2, 3, 64, 64))
    assert seen == [((64, 16, 16), True), ((128, 8, 8), True), ((256, 4, 4), True)], "after the ReLU behind the sum"


def test_another_position():
    model = sgenet.create_model("sge_resnet18", 10, attention_position="stage")
    assert [p.channels for p in attention_report(model).placed] == [64, 128, 256]
    assert [p.channels for p in attention_report(sgenet.create_model("bam_resnet18", 10)).placed] == [64, 128, 256]
    within = sgenet.create_model("bam_resnet18", 10, attention_position="residual")
    assert len(attention_report(within).placed) == 8


@pytest.mark.parametrize("name", ["sk_resnet18", "sk_resnext50_32x4d", "timm:resnet26"])
def test_a_block_with_a_selective_kernel_computes_what_the_paper_says(name):
    """The whole block again, from its own tensors: two branches, mixed by a softmax over them, then the rest."""
    torch.manual_seed(0)
    model = sgenet.create_model(name, 3, attention="sk").double().eval()
    block = model.layer2[0]
    bottleneck = hasattr(block, "conv3")
    x = torch.randn(2, 256 if bottleneck else 64, 9, 7, dtype=torch.float64)
    kernel = block.conv2 if bottleneck else block.conv1
    inner = torch.relu(block.bn1(block.conv1(x))) if bottleneck else x
    branches = [torch.relu(kernel.bn1(kernel.conv1(inner))), torch.relu(kernel.bn2(kernel.conv2(inner)))]
    pooled = sum(branches).mean((2, 3), keepdim=True)
    scores = kernel.fc2(torch.relu(kernel.bn_fc1(kernel.fc1(pooled)))).flatten(1)
    first, second = scores.chunk(2, dim=1)
    share = (first.exp() / (first.exp() + second.exp()))[:, :, None, None]
    mixed = share * branches[0] + (1 - share) * branches[1]
    last = block.bn3(block.conv3(mixed)) if bottleneck else block.bn2(block.conv2(mixed))
    torch.testing.assert_close(block(x), torch.relu(last + block.downsample(x)))


def test_selective_kernels_in_narrow_networks_have_groups_of_two_channels_at_least():
    for module in sgenet.create_model("sk_resnet8_cifar", 10).modules():
        if isinstance(module, sgenet.SelectiveKernelConv):
            assert module.conv2.in_channels // module.conv2.groups >= 2
            assert module.conv2.out_channels // module.conv2.groups >= 2
            assert module.fc1.out_channels >= 4


@pytest.mark.parametrize("name", ["sge_resnet18", "sge_resnet34"])
def test_small_resnets_keep_64_groups_as_the_papers_code_does(name):
    report = attention_report(sgenet.create_model(name, 10))
    assert {p.options["groups"] for p in report.placed} == {64}


def test_cifar_networks_get_groups_of_four_channels():
    report = attention_report(sgenet.create_model("sge_resnet8_cifar", 10))
    assert [p.options["groups"] for p in report.placed] == [4, 8, 16]
    assert all(p.note.endswith("instead of 64") for p in report.placed)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "sge_resnet18", "se_resnet20_cifar", "sge_resnet20_cifar", "bam_resnet8_cifar", "sk_resnet8_cifar"],
)
@pytest.mark.parametrize("size", [32, 64, 33])
def test_networks_run_and_learn(name, size):
    model = sgenet.create_model(name, 5)
    logits = model(torch.randn(2, 3, size, size))
    logits.sum().backward()
    assert logits.shape == (2, 5)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_plain_host_is_torchvisions():
    torch.manual_seed(3)
    ours = sgenet.create_model("resnet50")
    torch.manual_seed(3)
    theirs = torchvision.models.resnet50()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())


def test_small_stem_keeps_the_resolution():
    model = sgenet.create_model("sge_resnet18", 5, stem="small")
    assert model.conv1.stride == (1, 1)
    shapes = {}
    model.layer1.register_forward_hook(lambda m, i, o: shapes.update(layer1=o.shape[-1]))
    model(torch.randn(1, 3, 64, 64))
    assert shapes["layer1"] == 64


def test_stem_stride_of_cifar_networks():
    model = sgenet.create_model("resnet8_cifar", 5, stem_stride=2)
    shapes = {}
    model.layer1.register_forward_hook(lambda m, i, o: shapes.update(layer1=o.shape[-1]))
    model(torch.randn(1, 3, 64, 64))
    assert shapes["layer1"] == 32


@pytest.mark.parametrize("name", ["timm:resnet26", "torchvision:resnext50_32x4d"])
def test_networks_of_the_zoos_take_attention(name):
    model = sgenet.create_model(name, 5, attention="sge", attention_options={"groups": 32})
    assert attention_report(model).placed[0].options["groups"] == 32
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)


def test_list_models_of_a_zoo():
    assert "timm:resnet50" in sgenet.list_models("timm:resnet5*")
    assert sgenet.list_models("torchvision:resnet1*") == [f"torchvision:resnet{d}" for d in (101, 152, 18)]


@pytest.mark.parametrize(
    "model",
    [
        ("sge_resnet18", {"num_classes": 4}),
        ("resnet50", {"num_classes": 4, "stem": "small", "attention": "se", "attention_options": {"reduction": 8}}),
        ("timm:resnet26", {"num_classes": 4, "attention": "sge"}),
        ("se_resnet8_cifar", {"num_classes": 4, "stem_stride": 2}),
        ("bam_resnet18", {"num_classes": 4}),
        ("sge_resnet18", {"num_classes": 4, "attention_position": "post"}),
        ("sk_resnet18", {"num_classes": 4, "stem": "small", "attention_options": {"reduction": 8}}),
        ("resnext50_32x4d", {"num_classes": 4, "attention": "sk"}),
        ("timm:resnet26", {"num_classes": 4, "attention": "sk"}),
    ],
)
def test_a_description_builds_the_same_network(model):
    name, options = model
    original = sgenet.create_model(name, **options)
    again = build(describe(original))
    assert describe(again) == describe(original)
    again.load_state_dict(original.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again.eval()(images), original.eval()(images))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sge_resnet5", {}, r"no network 'sge_resnet5'\. Did you mean 'sge_resnet50'"),
        ("vit", {}, r"no network 'vit'\. `sgenet models` lists the names"),
        ("timm:resnet5", {}, r"timm has no network 'resnet5'\. Did you mean"),
        ("torchvision:resnet5", {}, r"torchvision has no classification network 'resnet5'\. Did you mean"),
        ("sge_resnet50", {"attention": "se"}, "has 'sge' already"),
        ("resnet50", {"attention_options": {"groups": 4}}, "need attention"),
        ("resnet50", {"attention": "sgee"}, "Did you mean 'sge'"),
        ("resnet50", {"stem": "tiny"}, "stem='tiny' is not possible"),
        ("resnet50", {"stam": "small"}, r"no option 'stam'\. Did you mean 'stem'"),
        ("resnet20_cifar", {"stem": "small"}, "no option 'stem'"),
        ("resnet20_cifar", {"stem_stride": 3}, "stem_stride=3 is not possible"),
        ("resnet20_cifar", {"pretrained": True}, "no pretrained weights for 'resnet20_cifar'"),
        ("resnet50", {"pretrained": True, "stem": "small"}, "no pretrained weights for stem='small'"),
        ("timm:resnet26", {"depth": 3}, "timm's resnet26 does not take"),
        ("resnet50", {"num_classes": 0}, "num_classes=0 must be 1 or more"),
        ("sk_resnet50", {"pretrained": True}, "no pretrained weights for 'resnet50' with 'sk'"),
        ("sk_resnet50", {"attention_position": "post"}, "attention_position='post' is not possible with 'sk'"),
        ("sk_resnet50", {"attention_options": {"reducton": 8}}, r"'sk' has no option 'reducton'\. Did you mean"),
        ("sk_resnet50", {"replace_stride_with_dilation": [False, True, True]}, "without dilation"),
        ("torchvision:vgg11", {"attention": "sk"}, "VGG has no blocks that 'sk' knows"),
        ("resnet50", {"attention_position": "post"}, "attention_position=post need attention"),
        ("sge_resnet18", {"attention_position": "last"}, "no position 'last'"),
        ("resnext50_32x4d", {"groups": 8}, "no option 'groups'"),
        ("resnext101_32x4d", {"pretrained": True}, "timm has: use 'timm:resnext101_32x4d'"),
        ("timm:sge_resnet50", {}, "'timm:sge_resnet50' is a network of sgenet itself; ask for 'sge_resnet50'"),
    ],
)
def test_bad_requests_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        sgenet.create_model(name, **options)


def test_an_unknown_name_has_its_own_class():
    with pytest.raises(UnknownNameError):
        sgenet.create_model("resnet51")


@pytest.fixture
def weights_on_disk(tmp_path, monkeypatch):
    """A file where torchvision looks for ResNet-18's weights before it asks the network."""
    torch.manual_seed(0)
    host = torchvision.models.resnet18()
    file = tmp_path / "checkpoints" / torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir()
    torch.save(host.state_dict(), file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return host.eval()


def test_pretrained_keeps_the_hosts_output(weights_on_disk):
    images = torch.randn(2, 3, 64, 64)
    for name in ("resnet18", "se_resnet18", "sge_resnet18", "torchvision:resnet18"):
        model = sgenet.create_model(name, pretrained=True).eval()
        assert torch.equal(model(images), weights_on_disk(images)), name


def test_weights_that_cannot_be_downloaded_are_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(CheckpointError, match=r"ResNet18_Weights.* cannot be had: no route to host; try again"):
        sgenet.create_model("sge_resnet18", pretrained=True)


def test_pretrained_with_another_number_of_classes_keeps_all_but_the_classifier(weights_on_disk):
    model = sgenet.create_model("sge_resnet18", 10, pretrained=True)
    own, theirs = model.state_dict(), weights_on_disk.state_dict()
    assert all(torch.equal(own[k], v) for k, v in theirs.items() if not k.startswith("fc."))
    assert own["fc.weight"].shape == (10, 512)


def as_in_torchvisions_file(name: str, model: nn.Module) -> dict[str, torch.Tensor]:
    """A state as the file on torchvision's server has it: that of a DenseNet has the keys of an old version."""
    if not name.startswith("densenet"):
        return model.state_dict()
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.")
    return {old.sub(r"\1.\2.", k): v for k, v in model.state_dict().items() if "num_batches" not in k}


@pytest.mark.parametrize(
    ("name", "classifier", "options"),
    [("googlenet", "fc", {"init_weights": False}), ("densenet121", "classifier", {})],
)
def test_pretrained_computes_what_torchvisions_own_does(tmp_path, monkeypatch, name, classifier, options):
    builder, weights = torchvision.models.get_model_builder(name), torchvision.models.get_model_weights(name)
    state = as_in_torchvisions_file(name, builder(**options))
    monkeypatch.setattr(weights, "get_state_dict", lambda *_, **__: dict(state))
    theirs = builder(weights="DEFAULT").eval()
    ours = sgenet.create_model(f"torchvision:{name}", pretrained=True).eval()
    few = sgenet.create_model(f"torchvision:{name}", 10, pretrained=True).eval()
    again = sgenet.load(sgenet.save(few, tmp_path / "net.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    expected = theirs(images)
    assert torch.equal(ours(images), expected)
    assert few(images).shape == (2, 10)
    assert torch.equal(again(images), few(images))
    setattr(few, classifier, getattr(theirs, classifier))
    assert torch.equal(few(images), expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torchvision:googlenet", {"aux_logits": False}),
        ("torchvision:resnet18", {"norm_layer": lambda channels: nn.GroupNorm(2, channels)}),
    ],
)
def test_options_that_torchvisions_weights_do_not_fit_are_named(weights_on_disk, name, options):
    with pytest.raises(ConfigError, match=rf"Weights.* do not fit {{'{next(iter(options))}'.*; leave out") as caught:
        sgenet.create_model(name, pretrained=True, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"block_args": {"attn_layer": "se"}}, {"stem_type": "deep"}])
def test_options_that_timms_weights_do_not_fit_are_named(tmp_path, options):
    file = tmp_path / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), file)
    at_hand = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}
    assert sgenet.create_model("timm:resnet18", **at_hand).fc.out_features == 1000
    with pytest.raises(ConfigError, match=r"timm's weights of resnet18 do not fit .*; leave out the options") as caught:
        sgenet.create_model("timm:resnet18", **at_hand, **options)
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(CheckpointError, match="timm's weights of resnet18 cannot be had: FileNotFoundError"):
        sgenet.create_model("timm:resnet18", **at_hand)


def test_building_from_a_name_says_what_makes_a_network_of_one():
    with pytest.raises(ConfigError, match=r"'sge_resnet50'.*create_model"):
        build("sge_resnet50")
