"""Pyramids on trunks: torchvision's, what stays frozen and held, norms, and the weights to start from."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from small_scenes import saved_classifier, shaken
from torch import nn
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import sgenet
from sgenet.attention import Attention
from sgenet.detection.backbones import Backbone, build_trunk, create_trunk
from sgenet.detection.features import feature_trunk
from sgenet.detection.group_norm import group_norm, use_group_norm
from sgenet.errors import CheckpointError, ConfigError, UnknownNameError

slow = pytest.mark.slow
IMAGES = torch.rand(2, 3, 128, 96, generator=torch.Generator().manual_seed(0))


def learned(backbone: nn.Module) -> set[str]:
    return {name for name, p in backbone.named_parameters() if p.requires_grad}


def step(backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Train on one batch; what had changed in which tensor."""
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    optimizer = torch.optim.SGD((p for p in backbone.parameters() if p.requires_grad), lr=0.1)
    sum(m.square().mean() for m in backbone(IMAGES).values()).backward()
    optimizer.step()
    return {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}


@pytest.mark.parametrize(
    ("options", "returned", "extra"),
    [
        ({}, None, None),
        ({"finest": 8, "extra": "p5"}, [2, 3, 4], (256, 256)),
        ({"finest": 8, "extra": "c5"}, [2, 3, 4], (512, 256)),
    ],
)
def test_the_pyramid_on_a_resnet_is_torchvisions(options, returned, extra):
    host = shaken(sgenet.create_model("resnet18", 5)).eval()
    above = None if extra is None else LastLevelP6P7(*extra)
    theirs = _resnet_fpn_extractor(copy.deepcopy(host), 5, returned, above).eval()
    ours = Backbone(feature_trunk(host), **options).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        mine, expected = ours(IMAGES), theirs(IMAGES)
    assert list(mine) == list(expected)
    assert all(torch.equal(mine[level], expected[level]) for level in mine)


def test_p6_is_computed_of_what_was_asked_for_where_both_have_as_many_channels():
    torch.manual_seed(0)
    of_p5 = Backbone(create_trunk("resnet18"), finest=8, extra="p5", channels=512).eval()
    of_c5 = Backbone(copy.deepcopy(of_p5.body), finest=8, extra="c5", channels=512).eval()
    of_c5.load_state_dict(of_p5.state_dict())
    with torch.no_grad():
        levels, maps = of_c5(IMAGES), of_c5.body(IMAGES)
        extra = of_c5.fpn.extra_blocks
        assert torch.equal(levels["p6"], extra.p6(maps["3"]))
        assert torch.equal(of_p5(IMAGES)["p6"], extra.p6(of_p5(IMAGES)["2"]))


@pytest.mark.parametrize("attention", ["sge", "se"])
def test_attention_follows_each_of_the_pyramids_convolutions(attention):
    torch.manual_seed(0)
    plain = Backbone(create_trunk("resnet18"), channels=64).eval()
    attended = Backbone(copy.deepcopy(plain.body), channels=64, attention=attention).eval()
    assert set(plain.state_dict()) < set(attended.state_dict())
    attended.load_state_dict(plain.state_dict(), strict=False)
    modules = [m for m in attended.fpn.modules() if isinstance(m, Attention)]
    assert len(modules) == 4
    for module in modules:
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    with torch.no_grad():
        before, after = list(plain(IMAGES).values()), list(attended(IMAGES).values())
        for module, old, new in zip(modules, before, after, strict=False):
            torch.testing.assert_close(new, module(old))
        assert torch.equal(after[4], after[3][:, :, ::2, ::2]), "the level above is of what attention leaves"


def test_options_of_the_pyramids_attention():
    trunk = create_trunk("resnet18")
    usual = Backbone(trunk, channels=32, attention="sge").fpn.layer_blocks[0].attention
    assert usual.groups == 8, "four channels a group at least"
    asked = (
        Backbone(trunk, channels=32, attention="sge", attention_options={"groups": 16}).fpn.layer_blocks[0].attention
    )
    assert asked.groups == 16
    with pytest.raises(ConfigError, match="has no option 'group'"):
        Backbone(trunk, attention="sge", attention_options={"group": 16})
    with pytest.raises(UnknownNameError, match="Did you mean 'sge'"):
        Backbone(trunk, attention="sgee")


FROZEN = {0: (), 1: ("conv1", "bn1", "layer1"), 2: ("conv1", "bn1", "layer1", "layer2")}
FROZEN[4] = (*FROZEN[2], "layer3", "layer4")


@pytest.mark.parametrize(
    ("stages", "freeze_attention"), [(0, True), (1, False), (1, True), pytest.param(2, False, marks=slow), (4, True)]
)
def test_frozen_stages_stay_as_they_are_and_their_attention_only_if_asked(stages, freeze_attention):
    trunk = feature_trunk(shaken(sgenet.create_model("cbam_resnet18", 5)))
    backbone = Backbone(trunk, frozen_stages=stages, freeze_attention=freeze_attention)
    for mode in (False, True):  # what is frozen stays so through a validation
        backbone.train(mode)
    changed = step(backbone)
    inside = tuple(f"body.{name}." for name in FROZEN[stages])
    for key in backbone.state_dict():
        attention = ".attention." in key
        frozen = bool(inside) and key.startswith(inside) and (freeze_attention or not attention)
        if frozen:
            assert key not in changed, key
        elif key.startswith("body.") and not attention:  # some of attention's parameters start without a gradient
            assert key in changed, key
    assert any(".attention." in k and "layer1" in k for k in changed) is (stages == 0 or not freeze_attention)


def test_frozen_parts_are_in_eval_mode_with_their_dropout():
    trunk = create_trunk("torchvision:convnext_tiny", options={"stochastic_depth_prob": 0.5})
    backbone = Backbone(trunk, frozen_stages=1)
    depths = {name: m for name, m in backbone.named_modules() if "StochasticDepth" in type(m).__name__}
    assert [m.training for name, m in depths.items() if name.startswith("body.features.1.")] == [False] * 3
    assert [m.training for name, m in depths.items() if name.startswith("body.features.3.")] == [True] * 3


def test_beside_attention_that_learns_what_is_frozen_is_in_eval_mode():
    options = {"attention": "sge", "drop_path_rate": 0.5}
    backbone = Backbone(create_trunk("timm:resnet18", options=options), frozen_stages=1)
    first, second = (
        {type(m).__name__: m.training for name, m in backbone.named_modules() if f".layer{layer}.1." in name}
        for layer in (1, 2)
    )
    assert first == {name: name == "SpatialGroupEnhance" for name in first}
    assert {"DropPath", "BatchNorm2d", "SpatialGroupEnhance"} <= first.keys()
    assert all(second.values())


@pytest.mark.parametrize("name", ["sge_resnet18", "timm:resnet18", "torchvision:shufflenet_v2_x0_5"])
def test_the_first_stage_is_frozen_in_every_kind_of_network(name):
    backbone = Backbone(create_trunk(name), frozen_stages=1)
    first = {f"body.{key}" for key in backbone.body.reached[0]}
    attention = {key for key in first if ".attention." in key}
    assert {key for key, _ in backbone.named_parameters()} - learned(backbone) == first - attention
    assert first


def test_held_norms_keep_their_statistics_and_learn_their_scale():
    backbone = Backbone(feature_trunk(shaken(sgenet.create_model("cbam_resnet18", 5))), norm_eval=True)
    backbone.eval()
    backbone.train()
    assert backbone.training
    changed = step(backbone)
    assert not {key for key in changed if "running" in key or "batches" in key}
    assert {"body.bn1.weight", "body.layer4.1.bn2.bias", "body.conv1.weight"} <= changed
    free = Backbone(feature_trunk(sgenet.create_model("resnet18", 5)))
    assert "body.bn1.running_mean" in step(free)


def test_what_is_held_survives_a_copy():
    backbone = copy.deepcopy(Backbone(create_trunk("sge_resnet18"), frozen_stages=1, norm_eval=True)).train()
    assert not backbone.body.layer4[0].bn1.training
    assert not backbone.body.layer1.training or not backbone.body.layer1[0].bn1.training
    assert not {key for key in step(backbone) if "running" in key}


@pytest.mark.parametrize("stages", [-1, 5])
def test_there_are_four_stages(stages):
    with pytest.raises(ConfigError, match=f"frozen_stages={stages} is not possible; give 0 for none"):
        Backbone(create_trunk("resnet18"), frozen_stages=stages)


@pytest.mark.parametrize("channels", [1, 7, 24, 48, 64, 256, 1280])
def test_group_norm_divides_the_channels(channels):
    norm = group_norm(channels)
    assert norm.num_groups <= 32
    assert channels % norm.num_groups == 0
    assert channels // norm.num_groups >= min(2, channels)


@pytest.mark.parametrize(
    "name", ["sge_resnet18", "sk_resnet18", "timm:mobilenetv3_small_050", pytest.param("timm:resnest14d", marks=slow)]
)
def test_group_norms_take_the_place_of_all_batch_norms(name):
    torch.manual_seed(0)
    backbone = Backbone(create_trunk(name, norm="group"), norm="group")
    assert not [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    one, two = backbone(IMAGES[:1]), backbone(IMAGES)
    for level, m in one.items():
        assert m.isfinite().all()
        torch.testing.assert_close(m, two[level][:1], atol=1e-4, rtol=1e-4)  # an image is normalised by itself
        assert m[:, :, 0, 0].std() > 1e-3
    step(backbone)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_norms_of_pooled_maps_have_one_group():
    """Groups of two channels would hold two values there, of which only the signs would be left."""
    kernel = use_group_norm(sgenet.create_model("sk_resnet18", 5)).layer4[0].conv1
    assert kernel.bn_fc1.num_groups == 1
    assert kernel.bn1.num_groups == 32


def test_norms_with_their_activation_in_them_keep_it():
    network = use_group_norm(sgenet.create_model("timm:mobilenetv3_small_050", 5))
    assert type(network.bn1.act).__name__ == "Hardswish"


def test_norms_inside_attention_stay():
    trunk = create_trunk("cbam_resnet18", norm="group")
    norms = [name for name, m in trunk.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(".attention." in name for name in norms)


def test_a_network_without_batch_norms_has_none_to_replace():
    with pytest.raises(ConfigError, match="'torchvision:convnext_tiny' has no batch norm that norm='group' could"):
        create_trunk("torchvision:convnext_tiny", norm="group")


def test_a_trunk_starts_from_the_weights_of_a_classifier(tmp_path):
    plain = saved_classifier(tmp_path / "plain.safetensors", "resnet18")
    attended = saved_classifier(tmp_path / "sge.safetensors", "sge_resnet18")
    for name, file, classifier in (
        ("resnet18", "plain", plain),
        ("sge_resnet18", "plain", plain),  # attention starts as the identity
        ("sge_resnet18", "sge", attended),
    ):
        trunk = create_trunk(name, weights=tmp_path / f"{file}.safetensors").eval()
        expected = feature_trunk(copy.deepcopy(classifier)).eval()
        with torch.no_grad():
            assert torch.equal(trunk(IMAGES)["3"], expected(IMAGES)["3"]), (name, file)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    saved_classifier(tmp_path / "se.safetensors", "se_resnet18")
    with pytest.raises(CheckpointError, match=r"'se' in 8 places, and the network has 'sge' in 8 places"):
        create_trunk("sge_resnet18", weights=tmp_path / "se.safetensors")
    with pytest.raises(ConfigError, match="give one of them"):
        create_trunk("se_resnet18", weights=tmp_path / "se.safetensors", pretrained=True)
    with pytest.raises(ConfigError, match="norm='group' starts from random weights"):
        create_trunk("se_resnet18", weights=tmp_path / "se.safetensors", norm="group")


def test_a_trunk_starts_from_pretrained_weights(tmp_path, monkeypatch):
    host = shaken(torchvision.models.resnet18())
    file = tmp_path / "checkpoints" / torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir()
    torch.save(host.state_dict(), file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    expected = feature_trunk(host).eval()
    trunk = create_trunk("sge_resnet18", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(trunk(IMAGES)["3"], expected(IMAGES)["3"])


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_description_builds_the_same_trunk(norm):
    options = {"stem": "small", "attention_options": {"groups": 16}}
    trunk = create_trunk("sge_resnet18", norm=norm, options=options).eval()
    again = build_trunk(trunk.description, norm=norm).eval()
    again.load_state_dict(trunk.state_dict())
    with torch.no_grad():
        assert torch.equal(again(IMAGES)["3"], trunk(IMAGES)["3"])
