"""Cascade R-CNN: three heads after each other, each of which works on the boxes of the one before.

Cai, Vasconcelos: "Cascade R-CNN: Delving into High Quality Object Detection", arXiv 1712.00726.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import boxes as box_ops

from sgenet.errors import ConfigError

__all__ = ["DELTA_WEIGHTS", "LOSS_WEIGHTS", "STAGE_IOUS", "CascadeHeads", "CascadeRCNN", "CascadeStage", "Scene"]

STAGE_IOUS = (0.5, 0.6, 0.7)
"""What a box and an object must share at least, for the box to be one of the object, in each stage."""

LOSS_WEIGHTS = (1.0, 0.5, 0.25)
"""Of each stage's losses."""

DELTA_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
"""What the deltas (x, y, w, h) of each stage are multiplied by: they become smaller from stage to stage."""

_BETA = 1 / 9  # where the loss of a delta turns from square to straight: as in torchvision's other detectors
_LEAST_SIDE = 1e-2  # pixels of a box that can be refined: as torchvision keeps them


class CascadeRCNN(GeneralizedRCNN):
    """A detector whose `roi_heads` are `CascadeHeads`."""


class Scene(NamedTuple):
    """What the heads look at.

    Attributes:
        features: The pyramid's levels.
        sizes: Height and width of each image, in pixels.
    """

    features: dict[str, Tensor]
    sizes: list[tuple[int, int]]


class CascadeStage(RoIHeads):
    """One stage: torchvision's heads, whose predictor returns the same deltas for all classes, (N, 4)."""

    def look(self, scene: Scene, proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the head says of regions.

        Args:
            scene: The images.
            proposals: float32 (n, 4) for each image, in pixels; N together.

        Returns:
            float32 scores (N, classes) and deltas (N, 4).
        """
        scores, deltas = self.box_predictor(self.box_head(self.box_roi_pool(scene.features, proposals, scene.sizes)))
        return scores, deltas

    def refine(self, scene: Scene, deltas: Tensor, proposals: list[Tensor]) -> list[Tensor]:
        """Move regions by their deltas and cut them at the image's edges.

        Args:
            scene: The images.
            deltas: (N, 4), from `look`.
            proposals: The regions that it looked at.

        Returns:
            float32 (n, 4) for each image, in the same order; without a gradient.
        """
        moved = self.box_coder.decode_single(deltas.detach(), torch.cat(proposals))
        of_images = moved.split([len(boxes) for boxes in proposals])
        return [box_ops.clip_boxes_to_image(boxes, size) for boxes, size in zip(of_images, scene.sizes, strict=True)]

    def draw(self, scene: Scene, boxes: list[Tensor]) -> Tensor:
        """The masks in boxes.

        Args:
            scene: The images.
            boxes: float32 (n, 4) for each image, in pixels; N together.

        Returns:
            float32 logits (N, classes, 28, 28).
        """
        logits: Tensor = self.mask_predictor(self.mask_head(self.mask_roi_pool(scene.features, boxes, scene.sizes)))
        return logits

    def learn(
        self, scene: Scene, proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """A stage's part of a training step.

        Args:
            scene: The images.
            proposals: float32 (n, 4) for each image, in pixels, without the true boxes.
            targets: What torchvision's heads take.

        Returns:
            The losses, not weighted, and for each image the refined regions that the next stage learns from.
        """
        proposals, matches, labels, wanted = self.select_training_samples(proposals, targets)
        scores, deltas = self.look(scene, proposals)
        losses = _box_losses(scores, deltas, torch.cat(labels), torch.cat(wanted))
        if self.has_mask():
            on_objects = [of_image > 0 for of_image in labels]
            boxes = [b[on] for b, on in zip(proposals, on_objects, strict=True)]
            losses["loss_mask"] = maskrcnn_loss(
                self.draw(scene, boxes),
                boxes,
                [target["masks"] for target in targets],
                [target["labels"] for target in targets],
                [m[on] for m, on in zip(matches, on_objects, strict=True)],
            )
        refined = self.refine(scene, deltas, proposals)
        passed_on = [
            after[_worth_passing_on(after, before, target["boxes"])]
            for after, before, target in zip(refined, proposals, targets, strict=True)
        ]
        return losses, passed_on


class CascadeHeads(nn.Module):
    """Heads that refine their regions one after the other.

    In training each stage takes the regions that the stage before has refined and the true boxes, matches and samples
    them by its own threshold, and passes on what it has refined of them; no gradient goes that way. A region that was a
    true box is not passed on. In test all regions pass through the stages, a region's scores are the mean of those that
    the stages gave it, each as it saw the region, and its box is that of the last stage.

    With masks each stage has a mask head, which learns from that stage's regions. In test all of them look at the final
    boxes, and the mean of their probabilities is the mask.

    Args:
        stages: With thresholds, coders of boxes and predictors of their own.
        loss_weights: Of the stages' losses.

    Source:
        arXiv 1712.00726, section 4. There all of the heads score the last regions; here each one scores its own, as in
        mmdetection, with which the SGE paper's detectors were trained (it takes the mean before the softmax, we take
        that of the probabilities). Masks by every stage: arXiv 1906.09756, and mmdetection.
    """

    def __init__(self, stages: Sequence[CascadeStage], loss_weights: Sequence[float] = LOSS_WEIGHTS) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.loss_weights = tuple(loss_weights)
        self._test_stages = len(stages)

    @property
    def test_stages(self) -> int:
        """How many of the stages are used in test, from the first on; set 1 to see what the first one alone gives.

        Raises:
            ConfigError: When it is set to what the cascade has not.
        """
        return self._test_stages

    @test_stages.setter
    def test_stages(self, stages: int) -> None:
        if not 1 <= stages <= len(self.stages):
            raise ConfigError(f"test_stages={stages} is not possible; the cascade has 1 to {len(self.stages)} stages")
        self._test_stages = stages

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Losses in train mode, detections in eval mode, as torchvision's heads return them.

        Args:
            features: The pyramid's levels.
            proposals: float32 (N, 4) for each image: left, top, right, bottom in pixels.
            image_shapes: Height and width of each image, in pixels.
            targets: `boxes`, `labels` and, with mask heads, `masks` of each image; only for training.

        Returns:
            The detections, with `boxes`, `labels`, `scores` and maybe `masks`; and the losses, weighted, with the
            number of their stage in their names.
        """
        scene = Scene(features, image_shapes)
        if self.training:
            return [], self._losses(scene, proposals, targets or [])
        return self._detections(scene, proposals), {}

    def _losses(self, scene: Scene, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for number, (stage, weight) in enumerate(zip(self._stages(), self.loss_weights, strict=True), 1):
            of_stage, proposals = stage.learn(scene, proposals, targets)
            losses |= {f"{name}_{number}": loss * weight for name, loss in of_stage.items()}
        return losses

    def _detections(self, scene: Scene, proposals: list[Tensor]) -> list[dict[str, Tensor]]:
        stages = self._stages()[: self.test_stages]
        probabilities = []
        for stage in stages:
            scores, deltas = stage.look(scene, proposals)
            probabilities.append(scores.softmax(dim=1))
            proposals = stage.refine(scene, deltas, proposals)
        mean = torch.stack(probabilities).mean(dim=0)
        # torchvision's way from here on begins with a softmax and deltas of each class; neither changes anything more.
        deltas = mean.new_zeros(1).expand(len(mean), 4 * mean.shape[1])
        kept = stages[-1].postprocess_detections(mean.log(), deltas, proposals, scene.sizes)
        detections = [{"boxes": b, "labels": n, "scores": s} for b, s, n in zip(*kept, strict=True)]
        if stages[-1].has_mask():
            for detection, masks in zip(detections, _masks(stages, scene, detections), strict=True):
                detection["masks"] = masks
        return detections

    def _stages(self) -> list[CascadeStage]:
        return cast(list[CascadeStage], list(self.stages))


def _masks(stages: Sequence[CascadeStage], scene: Scene, detections: list[dict[str, Tensor]]) -> list[Tensor]:
    """The masks of each image's detections: probabilities (N, 1, 28, 28), the mean over the stages."""
    boxes = [detection["boxes"] for detection in detections]
    labels = [detection["labels"] for detection in detections]
    by_stage = [maskrcnn_inference(stage.draw(scene, boxes), labels) for stage in stages]
    return [torch.stack(of_image).mean(dim=0) for of_image in zip(*by_stage, strict=True)]


def _box_losses(scores: Tensor, deltas: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """The losses of a stage: a mean over all its regions, also for the deltas, which only those on objects have."""
    regions = max(1, len(labels))
    on_objects = labels > 0
    delta = F.smooth_l1_loss(deltas[on_objects], wanted[on_objects], beta=_BETA, reduction="sum")
    return {
        "loss_classifier": F.cross_entropy(scores, labels, reduction="sum") / regions,
        "loss_box_reg": delta / regions,
    }


def _worth_passing_on(refined: Tensor, before: Tensor, true: Tensor) -> Tensor:
    """Which refined regions the next stage learns from: those with an area that were no true boxes themselves."""
    sides = refined[:, 2:] - refined[:, :2]
    was_true = (before[:, None] == true[None].to(before.dtype)).all(dim=2).any(dim=1)
    return (sides >= _LEAST_SIDE).all(dim=1) & ~was_true
