"""The five detectors: torchvision's own where they are plain, a step and a look each on every kind of backbone."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torchvision
from small_scenes import OPTIONS, images, nothing, saved_classifier, small_detector, target, two_targets
from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

import sgenet
from sgenet.detection.cost import backbone_cost
from sgenet.detection.detectors import create_detector, list_detectors
from sgenet.detection.features import feature_trunk
from sgenet.errors import CheckpointError, ConfigError, UnknownNameError
from sgenet.models import build, describe

slow = pytest.mark.slow
NAMES = ["cascade_mask_rcnn", "cascade_rcnn", "faster_rcnn", "mask_rcnn", "retinanet"]
TORCHVISIONS = {
    "faster_rcnn": torchvision.models.detection.fasterrcnn_resnet50_fpn,
    "mask_rcnn": torchvision.models.detection.maskrcnn_resnet50_fpn,
    "retinanet": torchvision.models.detection.retinanet_resnet50_fpn,
}


def same(ours: list[dict], theirs: list[dict], *, atol: float = 0.0) -> None:
    for mine, expected in zip(ours, theirs, strict=True):
        assert set(mine) == set(expected)
        for key, value in expected.items():
            assert torch.equal(mine[key], value) or torch.allclose(mine[key], value, rtol=0, atol=atol), key


@pytest.mark.parametrize("name", ["faster_rcnn", *(pytest.param(n, marks=slow) for n in ("mask_rcnn", "retinanet"))])
def test_weights_of_torchvisions_detector_give_what_torchvisions_detector_gives(name):
    torch.manual_seed(0)
    low = {"score_thresh": 0.0} if name == "retinanet" else {"box_score_thresh": 0.0}
    theirs = TORCHVISIONS[name](weights=None, weights_backbone=None, min_size=128, max_size=192, **low)
    with torch.no_grad():  # random scores of 91 classes are alike; these are not, so that their order is known
        for key, parameter in theirs.named_parameters():
            if key.endswith(("cls_score.weight", "head.cls_logits.weight")):
                parameter.mul_(500 if name == "retinanet" else 20)
    ours = create_detector(name, "resnet50", image_min_size=128, image_max_size=192, score_threshold=0.0)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert type(ours) is type(theirs)
    with torch.no_grad():
        scenes = images(((100, 180), (150, 90)))
        found, expected = ours.eval()(scenes), theirs.eval()(scenes)
    assert len(expected[0]["boxes"]) == (300 if name == "retinanet" else 100)
    assert found[0]["scores"].max() > 0.2
    same(found, expected)
    torch.manual_seed(1)
    targets = [target([[10, 12, 60, 50], [30, 30, 90, 88]], (100, 180)), nothing((150, 90))]
    mine = ours.train()(scenes, targets)
    torch.manual_seed(1)
    torchvisions = theirs.train()(scenes, targets)
    assert {k: v.item() for k, v in mine.items()} == {k: v.item() for k, v in torchvisions.items()}


def test_weights_with_torchvisions_frozen_norms_load_too():
    """Its published weights are of norms without a count of batches."""
    torch.manual_seed(0)
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d)
    theirs = torchvision.models.detection.FasterRCNN(body, 4, min_size=128, max_size=160, box_score_thresh=0.0)
    ours = create_detector("faster_rcnn", "resnet18", 3, image_min_size=128, image_max_size=160, score_threshold=0.0)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        same(ours.eval()(images()), theirs.eval()(images()), atol=1e-3)


def test_the_five_detectors():
    assert list_detectors() == NAMES


def check_step_and_look(detector: nn.Module, name: str) -> None:
    losses = detector.train()(images(), two_targets())
    assert all(loss.dim() == 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for key, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert parameter.grad is None or parameter.grad.isfinite().all(), key
    with torch.no_grad():
        found = detector.eval()(images())
    keys = {"boxes", "labels", "scores"} | ({"masks"} if "mask" in name else set())
    for detection, image in zip(found, images(), strict=True):
        assert set(detection) == keys
        count, (height, width) = len(detection["boxes"]), image.shape[1:]
        assert detection["boxes"].shape == (count, 4)
        assert detection["labels"].dtype == torch.int64
        assert ((detection["labels"] >= 0) & (detection["labels"] <= 3)).all()
        assert (detection["boxes"] >= -1e-3).all()
        assert (detection["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert (detection["scores"].diff() <= 0).all()
        if "masks" in detection:
            assert detection["masks"].shape == (count, 1, height, width)
            assert ((detection["masks"] >= 0) & (detection["masks"] <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_detector_learns_and_looks(name):
    check_step_and_look(small_detector(name, score_threshold=0.0, fpn_attention="sge"), name)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("faster_rcnn", "resnet18"),
        ("retinanet", "se_resnet18"),
        ("retinanet", "timm:mobilenetv3_small_050"),
        ("faster_rcnn", "torchvision:shufflenet_v2_x0_5"),
        *(
            pytest.param(name, backbone, marks=slow)
            for name in NAMES
            for backbone in ("cbam_resnet18", "sk_resnet18", "timm:convnext_atto", "torchvision:mobilenet_v2")
        ),
    ],
)
def test_every_kind_of_backbone_learns_and_looks(name, backbone):
    check_step_and_look(small_detector(name, backbone), name)


def test_attention_for_a_backbone_without_a_prefix():
    options = {"attention": "se", "attention_options": {"reduction": 8}, "backbone_options": {"stem": "small"}}
    detector = small_detector("retinanet", "resnet18", **options)
    attention = [m for m in detector.backbone.body.modules() if isinstance(m, sgenet.SqueezeExcite)]
    assert [m.fc1.out_features for m in attention] == [8, 8, 16, 16, 32, 32, 64, 64]
    check_step_and_look(detector, "retinanet")


def test_detectors_of_group_norms_learn_from_random_weights():
    norms = {"norm": "group", "fpn_norm": "group"}
    for name, more in (("faster_rcnn", {}), ("retinanet", {"head_norm": "group"})):
        detector = small_detector(name, **norms, **more)
        assert not [m for m in detector.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        check_step_and_look(detector, name)


QUICK = {*((name, "plain") for name in NAMES), ("cascade_mask_rcnn", "bf16"), ("retinanet", "channels_last")}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(name, how, marks=() if (name, how) in QUICK else slow)
        for name in NAMES
        for how in ("plain", "bf16", "channels_last")
    ],
)
def test_losses_are_finite_without_objects_and_with_one_that_is_tiny(name, how):
    detector = small_detector(name)
    if how == "channels_last":
        detector = detector.to(memory_format=torch.channels_last)
    scenes = images(((96, 128), (96, 128)))
    tiny = target([[50.25, 40.5, 50.75, 41.0]])
    for targets in ([nothing(), nothing()], [tiny, nothing()]):
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "bf16"):
            losses = detector(scenes, targets)
        assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
        sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters())


@pytest.mark.parametrize("name", ["cascade_rcnn", "faster_rcnn", "retinanet"])
def test_boxes_are_as_exact_in_bf16_as_in_float32(name):
    """A region of bf16 coordinates would be pixels away at the right edge of an image: 8 of 1200 pixels."""
    detector = small_detector(name, image_min_size=128, image_max_size=1280, score_threshold=0.0).eval()
    seen = {}
    anchors = detector.anchor_generator if name == "retinanet" else detector.rpn.anchor_generator
    anchors.register_forward_hook(lambda m, i, o: seen.update(anchors=o[0]))
    if name != "retinanet":
        detector.rpn.register_forward_hook(lambda m, i, o: seen.update(proposals=o[0][0]))
    scene = [torch.rand(3, 128, 1280, generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        detector(scene)
        expected = seen["anchors"]
        with torch.autocast("cpu", torch.bfloat16):
            found = detector(scene)[0]
    assert torch.equal(seen["anchors"], expected)
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    for boxes in (found["boxes"], seen.get("proposals", found["boxes"])):
        assert (boxes[boxes > 256].remainder(1) != 0).any(), "finer than bf16 can be there"


def test_crops_come_from_the_right_level_whatever_image_came_first():
    """torchvision guesses the strides from its first images, and wrongly for some small ones."""
    detector = small_detector("faster_rcnn", image_min_size=66, image_max_size=66, score_threshold=0.0).eval()
    with torch.no_grad():
        detector([torch.rand(3, 66, 66)])
    assert detector.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


@pytest.mark.parametrize(("side", "level"), [(11, 0), (22, 0), (23, 1), (44, 1), (46, 2), (91, 3), (150, 3)])
def test_regions_are_cropped_from_the_level_of_their_size(side, level):
    # arXiv 1612.03144, equation 1: floor(4 + log2(side / canonical size)), of levels 2 to 5
    pool = small_detector("faster_rcnn", roi_canonical_size=45).roi_heads.box_roi_pool
    assert max(0, min(3, 2 + math.floor(math.log2(side / 45)))) == level
    features = {str(k): torch.full((1, 1, 160 // s, 160 // s), float(k)) for k, s in enumerate((4, 8, 16, 32))}
    box = torch.tensor([[2.0, 2.0, 2.0 + side, 2.0 + side]])
    assert pool(features, [box], [(160, 160)]).unique().tolist() == [level]


def test_retinanets_anchors_are_its_papers():
    # arXiv 1708.02002, section 4: areas of 32^2 to 512^2, at 2^0, 2^(1/3) and 2^(2/3), of three ratios
    detector = create_detector("retinanet", "resnet18", 3)
    assert detector.anchor_generator.num_anchors_per_location() == [9] * 5
    sides = [cell.prod(dim=1).abs().sqrt().tolist() for cell in _sides(detector.anchor_generator.cell_anchors)]
    for size, of_level in zip((32, 64, 128, 256, 512), sides, strict=True):
        expected = sorted(size * 2 ** (k / 3) for k in range(3) for _ in range(3))
        assert sorted(of_level) == pytest.approx(expected, rel=0.05)


def _sides(cells: list[torch.Tensor]) -> list[torch.Tensor]:
    return [cell[:, 2:] - cell[:, :2] for cell in cells]


def test_options_reach_their_place():
    options = {
        "image_min_size": [96, 128],
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.1, 0.2, 0.3],
        "proposals_before_nms": [70, 60],
        "proposals_after_nms": [50, 40],
        "proposal_nms_threshold": 0.6,
        "anchors_per_image": 128,
        "rois_per_image": 24,
        "roi_positive_share": 0.5,
        "score_threshold": 0.01,
        "nms_threshold": 0.4,
        "detections_per_image": 7,
        "anchor_ratios": [1.0, 2.0],
    }
    detector = small_detector("cascade_rcnn", **options)
    assert detector.transform.min_size == (96, 128)
    assert (detector.transform.image_mean, detector.transform.image_std) == ([0.5, 0.4, 0.3], [0.1, 0.2, 0.3])
    assert detector.rpn.anchor_generator.num_anchors_per_location() == [2] * 5
    assert (detector.rpn.pre_nms_top_n(), detector.rpn.post_nms_top_n()) == (70, 50)
    assert (detector.eval().rpn.pre_nms_top_n(), detector.rpn.post_nms_top_n()) == (60, 40)
    assert detector.rpn.nms_thresh == 0.6
    assert detector.rpn.fg_bg_sampler.batch_size_per_image == 128
    for stage in detector.roi_heads.stages:
        assert (stage.score_thresh, stage.nms_thresh, stage.detections_per_img) == (0.01, 0.4, 7)
        assert (stage.fg_bg_sampler.batch_size_per_image, stage.fg_bg_sampler.positive_fraction) == (24, 0.5)
    with torch.no_grad():
        assert len(detector(images())[0]["boxes"]) <= 7


def test_the_backbones_norms_are_held_where_it_starts_from_weights(tmp_path):
    classifier = saved_classifier(tmp_path / "net.safetensors", "sge_resnet18")
    started = small_detector("retinanet", backbone_weights=tmp_path / "net.safetensors")
    assert not started.backbone.body.bn1.training
    assert small_detector("retinanet").backbone.body.bn1.training
    asked = small_detector("retinanet", backbone_weights=tmp_path / "net.safetensors", norm_eval=False)
    assert asked.backbone.body.bn1.training
    expected = feature_trunk(classifier).eval()
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 64)
        assert torch.equal(started.backbone.body.eval()(x)["3"], expected(x)["3"])


@pytest.mark.parametrize(
    ("name", "backbone", "options"),
    [
        ("cascade_mask_rcnn", "sge_resnet18", {"fpn_attention": "sge", "fpn_attention_options": {"groups": 4}}),
        ("retinanet", "resnet18", {"attention": "se", "norm": "group", "extra_levels": "c5", "frozen_stages": 1}),
        ("faster_rcnn", "timm:mobilenetv3_small_050", {"norm_eval": True}),
    ],
)
def test_a_saved_detector_is_loaded_with_no_more_than_the_path(tmp_path, name, backbone, options):
    detector = small_detector(name, backbone, score_threshold=0.0, **options)
    path = sgenet.save(detector, tmp_path / "detector.safetensors", metadata={"classes": ["a", "b", "c"]})
    loaded = sgenet.load(path)
    assert not loaded.training
    with torch.no_grad():
        same(loaded(images()), detector.eval()(images()))
    assert json.dumps(describe(loaded)) == json.dumps(describe(detector))
    frozen = [[k for k, p in d.named_parameters() if not p.requires_grad] for d in (loaded, detector)]
    assert frozen[0] == frozen[1]


def test_a_backbone_that_kept_its_output_keeps_it_when_it_is_loaded_again(tmp_path):
    saved_classifier(tmp_path / "plain.safetensors", "resnet18")
    detector = small_detector("retinanet", backbone_weights=tmp_path / "plain.safetensors", score_threshold=0.0)
    loaded = sgenet.load(sgenet.save(detector, tmp_path / "detector.safetensors"))
    with torch.no_grad():
        same(loaded(images()), detector.eval()(images()))


def test_attention_that_was_added_to_a_detector_is_saved_with_it(tmp_path):
    detector = sgenet.add_attention(small_detector("retinanet", "resnet18", score_threshold=0.0), "se")
    loaded = sgenet.load(sgenet.save(detector, tmp_path / "detector.safetensors"))
    with torch.no_grad():
        same(loaded(images()), detector.eval()(images()))


def test_a_family_of_the_future_is_one_clear_line():
    description = describe(small_detector("retinanet"))
    description["host"]["family"] = "segmenter"
    with pytest.raises(CheckpointError, match="is of a 'segmenter', which this version cannot build; update sgenet"):
        build(description)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("faster_rcn", {}, r"no detector 'faster_rcn'\. Did you mean 'faster_rcnn'\? Known: cascade_mask_rcnn, "),
        ("yolo", {}, r"no detector 'yolo'\. Known:"),
        ("faster_rcnn", {"backbone": "resnet5O"}, r"no network 'resnet5O'\. Did you mean 'resnet50'"),
        (
            "faster_rcnn",
            {"backbone": "sge_resnet8_cifar"},
            "'sge_resnet8_cifar' has no feature maps of stride 8,",
        ),
        ("faster_rcnn", {"num_classes": "3"}, "num_classes='3' must be 1 or more"),
        ("faster_rcnn", {"num_classes": 0}, "num_classes=0 must be 1 or more; the background is not counted"),
        (
            "faster_rcnn",
            {"rois_per_imag": 3},
            r"'faster_rcnn' has no option 'rois_per_imag'\. Did you mean 'rois",
        ),
        ("faster_rcnn", {"mask_channels": 3}, "'faster_rcnn' has no option 'mask_channels'"),
        ("retinanet", {"rois_per_image": 3}, "'retinanet' has no option 'rois_per_image'"),
        ("retinanet", {"head_norm": "batch"}, "head_norm='batch' is not possible; give one of none, group"),
        ("retinanet", {"extra_levels": "p6"}, "extra_levels='p6' is not possible; give one of p5, c5"),
        ("retinanet", {"anchor_scales": 0}, "anchor_scales=0 is not possible; give whole numbers of 1 or more"),
        ("mask_rcnn", {"mask_layers": 1.5}, "mask_layers=1.5 is not possible"),
        ("mask_rcnn", {"fpn_norm": "batch"}, "fpn_norm='batch' is not possible"),
        ("mask_rcnn", {"norm": "layer"}, "norm='layer' is not possible; give one of batch, group"),
        ("mask_rcnn", {"norm": "group", "norm_eval": True}, "norm='group' has none; leave one out"),
        (
            "cascade_rcnn",
            {"anchor_sizes": [8, 16]},
            "anchor_sizes=.* has 2 values; give 5, one for each of the five",
        ),
        ("cascade_rcnn", {"anchor_sizes": []}, "anchor_sizes is empty"),
        ("cascade_rcnn", {"anchor_ratios": [0, 1]}, "anchor_ratios=0 is not possible; give numbers above 0"),
        ("cascade_rcnn", {"image_std": [1, 1, 0.0]}, "image_std=0.0 is not possible"),
        (
            "cascade_rcnn",
            {"image_mean": [0.5]},
            "image_mean=.* has 1 values; give 3, one for each of the three",
        ),
        (
            "cascade_rcnn",
            {"image_min_size": 900, "image_max_size": 800},
            "image_min_size=900 is above image_max",
        ),
        ("cascade_rcnn", {"image_min_size": "800"}, "image_min_size='800' is not possible"),
        ("cascade_rcnn", {"score_threshold": 1.5}, "score_threshold=1.5 is not possible; give a number from 0 to 1"),
        ("cascade_rcnn", {"roi_positive_share": -1}, "roi_positive_share=-1 is not possible"),
        (
            "cascade_rcnn",
            {"proposals_after_nms": 100},
            "proposals_after_nms=100 has 1 values; give 2, one for",
        ),
        ("cascade_rcnn", {"box_features": True}, "box_features=True is not possible"),
        ("cascade_rcnn", {"anchor_sizes": (1, 2, 4, 8, 16)}, "anchor_sizes 1 and anchor_ratios 0.5 has no area"),
        ("cascade_rcnn", {"frozen_stages": 5}, "frozen_stages=5 is not possible; give 0 for none"),
        ("cascade_rcnn", {"frozen_stages": "1"}, "frozen_stages='1' is not possible"),
        ("cascade_rcnn", {"image_mean": [0.5, 0.5, "x"]}, "image_mean='x' is not possible; give numbers"),
        ("cascade_rcnn", {"fpn_attention": "sgee"}, r"no attention module 'sgee'\. Did you mean 'sge'"),
        ("cascade_rcnn", {"fpn_attention_options": {"groups": 4}}, "need attention; give fpn_attention, e.g. 'sge'"),
        ("cascade_rcnn", {"backbone_options": {"stam": "small"}}, r"no option 'stam'\. Did you mean 'stem'"),
        ("cascade_rcnn", {"attention": "se"}, "'sge_resnet18' has 'sge' already"),
        ("cascade_rcnn", {"pretrained": True, "norm": "group"}, "norm='group' starts from random weights"),
    ],
)
def test_bad_requests_are_named(name, options, message):
    asked = {"backbone": "sge_resnet18", **options}
    with pytest.raises(ConfigError, match=message) as caught:
        create_detector(name, **asked)
    assert "\n" not in str(caught.value)


def test_one_ratio_of_anchors_is_one():
    assert small_detector("retinanet", anchor_ratios=1.0).anchor_generator.num_anchors_per_location() == [3] * 5


@pytest.mark.parametrize("shape", [(3, 2, 700), (3, 900, 1)])
def test_an_image_too_thin_for_the_resize_keeps_a_pixel(shape):
    height, width = shape[1:]
    target = {"boxes": torch.tensor([[0.0, 0.0, width, height]]), "labels": torch.tensor([1])}
    target["masks"] = torch.ones(1, height, width, dtype=torch.uint8)
    detector = small_detector("mask_rcnn")
    images, targets = detector.transform([torch.rand(shape)], [target])
    (size,) = images.image_sizes
    assert min(size) >= 1
    assert targets[0]["masks"].shape[1:] == size
    assert targets[0]["boxes"].tolist() == [[0, 0, size[1], size[0]]]
    (found,) = detector.eval()([torch.rand(shape)])
    assert set(found) == {"boxes", "labels", "scores", "masks"}


def test_an_unknown_detector_has_its_own_class():
    with pytest.raises(UnknownNameError):
        create_detector("ssd")


def test_the_defaults_of_options_are_not_shared():
    first = small_detector("retinanet", fpn_attention="sge")
    describe(first)["host"]["options"]["fpn_attention_options"]["groups"] = 2
    assert describe(small_detector("retinanet"))["host"]["options"]["fpn_attention_options"] == {}


# GFLOPs and millions of parameters of the backbones at 1333 x 800 pixels, as the SGE paper's tables of detectors say.
@pytest.mark.parametrize(
    ("name", "parameters", "gflops"),
    [
        ("resnet50", 23.51, 88.032),
        ("sge_resnet50", 23.51, 88.149),
        ("se_resnet50", 26.04, 88.152),
        ("sk_resnet50", 24.11, 89.414),
        ("bam_resnet50", 23.87, 89.804),
        ("cbam_resnet50", 26.04, 88.302),
        pytest.param("resnet101", 42.50, 167.908, marks=slow),
        pytest.param("sge_resnet101", 42.50, 168.099, marks=slow),
        # 168.3 in the paper's table, which the rules behind its other rows do not give; see `backbone_cost`
        pytest.param("se_resnet101", 47.28, 168.104, marks=slow),
    ],
)
def test_backbones_cost_what_the_paper_says(name, parameters, gflops):
    cost = backbone_cost(name)
    assert cost.parameters / 1e6 == pytest.approx(parameters, abs=0.005)
    assert cost.paper_gflops == pytest.approx(gflops, abs=0.0005)


def test_which_side_is_the_height_changes_no_cost_and_a_detectors_backbone_costs_what_its_name_does():
    detector = create_detector("retinanet", "sge_resnet18", 3, frozen_stages=1)
    named = backbone_cost("sge_resnet18", (96, 160))
    assert backbone_cost(detector.backbone.body, (96, 160)) == named
    turned = backbone_cost("sge_resnet18", (160, 96))
    assert (turned.macs, turned.paper_operations) == (named.macs, named.paper_operations)


def test_small_detectors_are_all_in_the_table():
    assert sorted(OPTIONS) == list_detectors()
