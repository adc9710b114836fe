"""Detectors by name, on any backbone with feature maps, and the description from which one can be built again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads

from sgenet.detection.backbones import Backbone, build_trunk, create_trunk
from sgenet.detection.cascade import DELTA_WEIGHTS, STAGE_IOUS, CascadeHeads, CascadeRCNN, CascadeStage
from sgenet.detection.features import FeatureTrunk
from sgenet.detection.group_norm import group_norm
from sgenet.detection.heads import (
    AgnosticPredictor,
    Anchors,
    BoxPredictor,
    DenseHead,
    MaskPredictor,
    ProposalHead,
    roi_align,
)
from sgenet.detection.options import (
    OPTIONS,
    DetectorOptions,
    MaskOptions,
    RegionOptions,
    RetinaNetOptions,
    make_options,
)
from sgenet.detection.resizing import Resizing
from sgenet.errors import ConfigError, UnknownNameError, did_you_mean
from sgenet.models import set_host_description

__all__ = ["build_host", "create_detector", "list_detectors"]

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


def create_detector(
    name: str,
    backbone: str = "sge_resnet50",
    num_classes: int = 90,
    *,
    backbone_weights: str | os.PathLike[str] | None = None,
    backbone_checkpoint: Literal["last", "best"] = "last",
    pretrained: bool = False,
    backbone_options: Mapping[str, Any] = _NO_OPTIONS,
    attention: str | None = None,
    attention_options: Mapping[str, Any] | None = None,
    **options: Any,  # noqa: ANN401  # each detector has its own
) -> nn.Module:
    """Build a detector by name.

    It is called as torchvision's are: with a list of float images (3, H, W) in 0..1, and in train mode with a list of
    targets (`boxes` float32 (N, 4) as left, top, right, bottom in pixels; `labels` int64 (N,), from 1 on, since 0 is
    the background; `masks` (N, H, W) for the two with masks). In train mode it returns a dictionary of losses, in eval
    mode a list of dictionaries with `boxes`, `labels`, `scores` and maybe `masks`, probabilities of shape (N, 1, H, W).

    The plain `faster_rcnn`, `mask_rcnn` and `retinanet` on `resnet50` have the keys of torchvision's
    `fasterrcnn_resnet50_fpn`, `maskrcnn_resnet50_fpn` and `retinanet_resnet50_fpn`, and compute the same. (For its
    weights that were trained on COCO torchvision sets the `eps` of all batch norms to 0.)

    Args:
        name: One of `list_detectors()`.
        backbone: A name for `sgenet.create_model`, whose network has feature maps at the strides 4, 8, 16 and 32.
        num_classes: Of the objects, without the background: 90 for COCO's category ids, 80 for its categories.
        backbone_weights: Start the backbone from these: a file that `sgenet.save` wrote, or a run folder.
        backbone_checkpoint: Which of a run's checkpoints.
        pretrained: Start the backbone from the zoo's weights instead.
        backbone_options: More arguments of `sgenet.create_model`, e.g. {"attention_position": "stage"}.
        attention: As `sgenet.create_model`: puts attention into a backbone without prefix.
        attention_options: The module's own.
        **options: Settings of the detector: `sgenet.detection.options` has the classes of them, with all defaults.

    Returns:
        The detector, in training mode.

    Raises:
        UnknownNameError: If a name is unknown; the message suggests a near one.
        ConfigError: If an option is wrong or does not belong to the detector, or the backbone has no such maps.
        CheckpointError: If weights do not fit, or cannot be had.

    Source:
        Faster R-CNN: arXiv 1506.01497 and 1612.03144. Mask R-CNN: arXiv 1703.06870. Cascade R-CNN: arXiv 1712.00726.
        RetinaNet: arXiv 1708.02002.

    Examples:
        >>> import torch
        >>> small = {"image_min_size": 128, "image_max_size": 160, "box_features": 64}
        >>> detector = create_detector("faster_rcnn", "sge_resnet18", num_classes=3, **small).eval()
        >>> with torch.no_grad():
        ...     found = detector([torch.rand(3, 96, 128)])
        >>> sorted(found[0])
        ['boxes', 'labels', 'scores']
    """
    if name not in OPTIONS:
        raise UnknownNameError(
            f"there is no detector '{name}'.{did_you_mean(name, OPTIONS)} Known: {', '.join(list_detectors())}"
        )
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ConfigError(f"num_classes={num_classes!r} must be 1 or more; the background is not counted")
    settings = make_options(name, options)
    started = pretrained or backbone_weights is not None
    if settings.norm_eval is None:
        settings = replace(settings, norm_eval=started and settings.norm == "batch")
    asked = {"attention": attention, "attention_options": attention_options}
    trunk = create_trunk(
        backbone,
        weights=backbone_weights,
        checkpoint=backbone_checkpoint,
        pretrained=pretrained,
        norm=settings.norm,
        options={**backbone_options, **{key: value for key, value in asked.items() if value is not None}},
    )
    return _assemble(name, trunk, num_classes, settings)


def list_detectors() -> list[str]:
    """Names for `create_detector`, sorted.

    Examples:
        >>> list_detectors()
        ['cascade_mask_rcnn', 'cascade_rcnn', 'faster_rcnn', 'mask_rcnn', 'retinanet']
    """
    return sorted(OPTIONS)


def build_host(description: dict[str, Any]) -> nn.Module:
    """Build a detector again, with random weights; `sgenet.load` and `sgenet.models.build` call this.

    Args:
        description: What `sgenet.models.describe` says of it under "host".

    Returns:
        The detector, in training mode.

    Examples:
        >>> from sgenet.models import build, describe
        >>> detector = create_detector("retinanet", "sge_resnet18", 3)
        >>> describe(build(describe(detector))) == describe(detector)
        True
    """
    name, options = description["name"], dict(description["options"])
    trunk = build_trunk(options.pop("backbone"), norm=options["norm"])
    return _assemble(name, trunk, description["num_classes"], make_options(name, options))


def _assemble(name: str, trunk: FeatureTrunk, num_classes: int, settings: DetectorOptions) -> nn.Module:
    detector: Any = _BUILDERS[name](trunk, num_classes + 1, settings)
    detector.transform = Resizing(**_images(settings))
    options = {"backbone": trunk.description, **settings.to_dict()}
    set_host_description(detector, {"family": "detector", "name": name, "num_classes": num_classes, "options": options})
    whole: nn.Module = detector.train()
    return whole


def _pyramid(trunk: FeatureTrunk, settings: DetectorOptions, **levels: Any) -> Backbone:  # noqa: ANN401  # Backbone's
    return Backbone(
        trunk,
        channels=settings.fpn_channels,
        norm=settings.fpn_norm,
        attention=settings.fpn_attention,
        attention_options=settings.fpn_attention_options,
        frozen_stages=settings.frozen_stages,
        freeze_attention=settings.freeze_attention,
        norm_eval=bool(settings.norm_eval),
        **levels,
    )


def _images(settings: DetectorOptions) -> dict[str, Any]:
    """How torchvision's detectors are told what becomes of an image."""
    return {
        "min_size": settings.image_min_size,
        "max_size": settings.image_max_size,
        "image_mean": list(settings.image_mean),
        "image_std": list(settings.image_std),
    }


def _regions(settings: RegionOptions, classes: int) -> dict[str, Any]:
    """The arguments of torchvision's Faster R-CNN."""
    anchors = Anchors(tuple((size,) for size in settings.anchor_sizes), (settings.anchor_ratios,) * 5)
    before_in_training, before_in_test = settings.proposals_before_nms
    after_in_training, after_in_test = settings.proposals_after_nms
    return {
        **_images(settings),
        "rpn_anchor_generator": anchors,
        "rpn_head": ProposalHead(settings.fpn_channels, anchors.num_anchors_per_location()[0]),
        "rpn_pre_nms_top_n_train": before_in_training,
        "rpn_pre_nms_top_n_test": before_in_test,
        "rpn_post_nms_top_n_train": after_in_training,
        "rpn_post_nms_top_n_test": after_in_test,
        "rpn_nms_thresh": settings.proposal_nms_threshold,
        "rpn_batch_size_per_image": settings.anchors_per_image,
        "box_roi_pool": roi_align(_BOX_SIDE, settings.roi_canonical_size),
        "box_head": _box_head(settings),
        "box_predictor": BoxPredictor(settings.box_features, classes),
        "box_score_thresh": settings.score_threshold,
        "box_nms_thresh": settings.nms_threshold,
        "box_detections_per_img": settings.detections_per_image,
        "box_batch_size_per_image": settings.rois_per_image,
        "box_positive_fraction": settings.roi_positive_share,
    }


_BOX_SIDE, _MASK_SIDE = 7, 14  # positions of a crop in each direction


def _box_head(settings: RegionOptions) -> nn.Module:
    head: nn.Module = TwoMLPHead(settings.fpn_channels * _BOX_SIDE**2, settings.box_features)
    return head


def _masks(settings: MaskOptions, classes: int) -> dict[str, Any]:
    """The arguments that torchvision's Mask R-CNN has more."""
    return {
        "mask_roi_pool": roi_align(_MASK_SIDE, settings.roi_canonical_size),
        "mask_head": MaskRCNNHeads(settings.fpn_channels, [settings.mask_channels] * settings.mask_layers, 1),
        "mask_predictor": MaskPredictor(settings.mask_channels, settings.mask_channels, classes),
    }


def _faster_rcnn(trunk: FeatureTrunk, classes: int, settings: RegionOptions) -> nn.Module:
    detector: nn.Module = FasterRCNN(_pyramid(trunk, settings), **_regions(settings, classes))
    return detector


def _mask_rcnn(trunk: FeatureTrunk, classes: int, settings: MaskOptions) -> nn.Module:
    parts = {**_regions(settings, classes), **_masks(settings, classes)}
    detector: nn.Module = MaskRCNN(_pyramid(trunk, settings), **parts)
    return detector


def _cascade_rcnn(trunk: FeatureTrunk, classes: int, settings: RegionOptions) -> nn.Module:
    whole: Any = _faster_rcnn(trunk, classes, settings)
    stages = []
    for iou, weights in zip(STAGE_IOUS, DELTA_WEIGHTS, strict=True):
        stage = CascadeStage(
            whole.roi_heads.box_roi_pool,
            _box_head(settings),
            AgnosticPredictor(settings.box_features, classes),
            iou,
            iou,
            settings.rois_per_image,
            settings.roi_positive_share,
            weights,
            settings.score_threshold,
            settings.nms_threshold,
            settings.detections_per_image,
            **(_masks(settings, classes) if isinstance(settings, MaskOptions) else {}),
        )
        stages.append(stage)
    return CascadeRCNN(whole.backbone, whole.rpn, CascadeHeads(stages), whole.transform)


def _retinanet(trunk: FeatureTrunk, classes: int, settings: RetinaNetOptions) -> nn.Module:
    anchors = Anchors(settings.sizes_of_levels, (settings.anchor_ratios,) * 5)
    head = DenseHead(
        settings.fpn_channels,
        anchors.num_anchors_per_location()[0],
        classes,
        norm_layer=group_norm if settings.head_norm == "group" else None,
    )
    detector: nn.Module = RetinaNet(
        _pyramid(trunk, settings, finest=8, extra=settings.extra_levels),
        classes,
        **_images(settings),
        anchor_generator=anchors,
        head=head,
        score_thresh=settings.score_threshold,
        nms_thresh=settings.nms_threshold,
        detections_per_img=settings.detections_per_image,
        topk_candidates=settings.candidates_per_level,
    )
    return detector


_BUILDERS: dict[str, Callable[[FeatureTrunk, int, Any], nn.Module]] = {
    "faster_rcnn": _faster_rcnn,
    "mask_rcnn": _mask_rcnn,
    "cascade_rcnn": _cascade_rcnn,
    "cascade_mask_rcnn": _cascade_rcnn,
    "retinanet": _retinanet,
}
