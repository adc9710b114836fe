"""Cascade R-CNN's mathematics against the same in float64, step by step, and what it must stand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_scenes import images, nothing, small_detector, target, two_targets
from torch import nn

from sgenet.detection.cascade import DELTA_WEIGHTS, LOSS_WEIGHTS, STAGE_IOUS, CascadeHeads, CascadeStage, Scene
from sgenet.detection.heads import AgnosticPredictor
from sgenet.errors import ConfigError

SIZES = [(96, 128), (110, 100)]
CLASSES = 4  # with the background


class Whereabouts(nn.Module):
    """Crops that tell where the region is, so that what the heads say follows from the boxes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[torch.Tensor]] = []

    def forward(self, features: object, boxes: list[torch.Tensor], sizes: object) -> torch.Tensor:
        self.seen.append(boxes)
        return torch.cat(boxes) / 100 - 0.5


def cascade(seed: int = 0, *, regions: int = 512, strength: float = 1.0) -> tuple[CascadeHeads, Whereabouts]:
    torch.manual_seed(seed)
    pool = Whereabouts()
    stages = []
    for iou, weights in zip(STAGE_IOUS, DELTA_WEIGHTS, strict=True):
        predictor = AgnosticPredictor(4, CLASSES)
        for parameter in predictor.parameters():
            nn.init.normal_(parameter, std=strength)
        stages.append(CascadeStage(pool, nn.Identity(), predictor, iou, iou, regions, 1.0, weights, 0.0, 1.0, 10_000))
    return CascadeHeads(stages), pool


def some_boxes(count: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * torch.tensor([width, height])
    return corners.flatten(1)


def around(boxes: torch.Tensor, count: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """Boxes near others, so that all thresholds are met and missed."""
    generator = torch.Generator().manual_seed(seed)
    near = boxes.repeat(count, 1)
    sides = (near[:, 2:] - near[:, :2]).repeat(1, 2)
    near = near + (torch.rand(near.shape, generator=generator) - 0.5) * 0.5 * sides
    height, width = size
    return near.clamp(min=torch.zeros(4), max=torch.tensor([width, height, width, height], dtype=torch.float32))


# The reference, in float64, from the papers' formulas alone.


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def reference_look(stage: CascadeStage, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = boxes / 100 - 0.5
    layers = (stage.box_predictor.cls_score, stage.box_predictor.bbox_pred)
    return tuple(
        x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy() for layer in layers
    )


def reference_refine(boxes: np.ndarray, deltas: np.ndarray, number: int, size: tuple[int, int]) -> np.ndarray:
    """arXiv 1311.2524, appendix C, with deltas in units of their deviation: 0.1, 0.1, 0.2, 0.2 of the first stage."""
    x, y, w, h = (deltas / number * np.array([0.1, 0.1, 0.2, 0.2])).T
    w, h = (np.minimum(side, math.log(1000 / 16)) for side in (w, h))
    left, top, right, bottom = boxes.T
    width, height = right - left, bottom - top
    middle_x, middle_y = left + width / 2 + x * width, top + height / 2 + y * height
    width, height = width * np.exp(w), height * np.exp(h)
    moved = np.stack([middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2], 1)
    return np.clip(moved, 0, [size[1], size[0], size[1], size[0]])


def reference_wanted(boxes: np.ndarray, true: np.ndarray, number: int) -> np.ndarray:
    sides, true_sides = boxes[:, 2:] - boxes[:, :2], true[:, 2:] - true[:, :2]
    shift = ((true[:, :2] + true[:, 2:]) - (boxes[:, :2] + boxes[:, 2:])) / 2 / sides
    return np.concatenate([shift / 0.1, np.log(true_sides / sides) / 0.2], axis=1) * number


def reference_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = np.clip(corner, 0, None).prod(axis=2)
    area = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    return common / (area[0][:, None] + area[1][None] - common)


def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


def test_the_constants_are_the_papers():
    assert STAGE_IOUS == (0.5, 0.6, 0.7)
    assert LOSS_WEIGHTS == (1, 0.5, 0.25)
    # Deltas are divided by deviations of 0.1 and 0.2 in the first stage, and of a half and a third of that.
    for number, weights in enumerate(DELTA_WEIGHTS, 1):
        np.testing.assert_allclose(1 / np.array(weights), np.array([0.1, 0.1, 0.2, 0.2]) / number)


@pytest.mark.parametrize("name", ["cascade_rcnn", "cascade_mask_rcnn"])
def test_the_stages_of_a_detector_have_the_papers_thresholds_and_deltas(name):
    stages = small_detector(name).roi_heads.stages
    whole = target([[0, 0, 100, 50]])
    shares = [0.45, 0.55, 0.65, 0.75]
    proposals = torch.tensor([[0, 0, 100 * share, 50] for share in shares])
    deltas = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    for number, (stage, iou) in enumerate(zip(stages, STAGE_IOUS, strict=True), 1):
        seen, _, labels, _ = stage.select_training_samples([proposals], [whole])
        on_object = {box[2] / 100 for box, label in zip(seen[0].tolist(), labels[0].tolist(), strict=True) if label}
        assert sorted(on_object) == pytest.approx([share for share in [*shares, 1.0] if share >= iou])
        (refined,) = stage.refine(Scene({}, SIZES[:1]), deltas, [proposals])
        np.testing.assert_allclose(
            double(refined), reference_refine(double(proposals), double(deltas), number, SIZES[0]), atol=1e-3
        )


@pytest.mark.parametrize("used", [1, 2, 3])
def test_detections_are_of_refined_boxes_and_mean_scores(used):
    heads, pool = cascade()
    heads.eval().test_stages = used
    proposals = [some_boxes(7, SIZES[0], 1), some_boxes(5, SIZES[1], 2)]
    with torch.no_grad():
        detections, losses = heads({}, proposals, SIZES)
    assert losses == {}
    assert len(pool.seen) == used
    for detection, boxes, size in zip(detections, map(double, proposals), SIZES, strict=True):
        scores = []
        for number, stage in enumerate(list(heads.stages)[:used], 1):
            logits, deltas = reference_look(stage, boxes)
            scores.append(softmax(logits))
            boxes = reference_refine(boxes, deltas, number, size)
        mean = sum(scores) / used
        expected = sorted(
            (-mean[n, label], label, *boxes[n])
            for n in range(len(boxes))
            for label in range(1, CLASSES)
            if (boxes[n, 2:] - boxes[n, :2] >= 0.01).all()
        )
        found = [
            (-score, label, *box)
            for score, label, box in zip(
                *(detection[key].tolist() for key in ("scores", "labels", "boxes")), strict=True
            )
        ]
        np.testing.assert_allclose(sorted(found), expected, rtol=1e-4, atol=1e-3)


@given(st.integers(0, 10_000), st.floats(0.1, 30), st.integers(0, 2))
def test_refined_boxes_are_those_of_the_formula_and_inside_the_image(seed, strength, index):
    heads, _ = cascade()
    boxes = some_boxes(6, SIZES[0], seed)
    deltas = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) * strength
    (refined,) = heads.stages[index].refine(Scene({}, SIZES[:1]), deltas, [boxes])
    expected = reference_refine(double(boxes), double(deltas), index + 1, SIZES[0])
    np.testing.assert_allclose(double(refined), expected, rtol=1e-4, atol=2e-3)
    assert (refined >= 0).all()
    assert (refined <= torch.tensor([128, 96, 128, 96])).all()


def a_training_pass(heads: CascadeHeads, targets: list[dict], seed: int = 3) -> tuple[list[torch.Tensor], dict]:
    proposals = [
        torch.cat([around(t["boxes"], 6, size, seed), some_boxes(6, size, seed + 1)])
        for t, size in zip(targets, SIZES, strict=True)
    ]
    _, losses = heads.train()({}, proposals, SIZES, targets)
    return proposals, losses


TARGETS = [target([[10, 12, 60, 50], [30, 30, 90, 88]]), target([[5, 20, 70, 90]], (110, 100), [3])]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_stage_learns_from_what_the_one_before_has_refined_and_the_true_boxes(seed):
    heads, pool = cascade(seed, strength=0.3)
    proposals, losses = a_training_pass(heads, TARGETS)
    expected: dict[str, float] = {}
    current = [np.concatenate([double(p), double(t["boxes"])]) for p, t in zip(proposals, TARGETS, strict=True)]
    labels_seen = []
    for number, stage in enumerate(heads.stages, 1):
        seen = [double(boxes) for boxes in pool.seen[number - 1]]
        for mine, theirs in zip(seen, current, strict=True):
            np.testing.assert_allclose(_sorted(mine), _sorted(theirs), atol=2e-3)  # all are sampled: they are few
        cross_entropy, smooth, regions, following = 0.0, 0.0, 0, []
        for boxes, t, size in zip(seen, TARGETS, SIZES, strict=True):
            true = double(t["boxes"])
            iou = reference_iou(boxes, true)
            best = iou.argmax(axis=1)
            labels = np.where(iou.max(axis=1) >= STAGE_IOUS[number - 1], t["labels"].numpy()[best], 0)
            logits, deltas = reference_look(stage, boxes)
            cross_entropy -= np.log(softmax(logits)[np.arange(len(boxes)), labels]).sum()
            error = np.abs(deltas - reference_wanted(boxes, true[best], number))[labels > 0]
            smooth += np.where(error < 1 / 9, error**2 / 2 * 9, error - 1 / 18).sum()
            regions += len(boxes)
            was_true = (np.abs(boxes[:, None] - true[None]) == 0).all(axis=2).any(axis=1)
            refined = reference_refine(boxes, deltas, number, size)
            kept = ~was_true & (refined[:, 2:] - refined[:, :2] >= 0.01).all(axis=1)
            following.append(np.concatenate([refined[kept], true]))
            labels_seen += labels.tolist()
        expected[f"loss_classifier_{number}"] = cross_entropy / regions * LOSS_WEIGHTS[number - 1]
        expected[f"loss_box_reg_{number}"] = smooth / regions * LOSS_WEIGHTS[number - 1]
        current = following
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-3), name
    assert {0, 1, 2, 3} == set(labels_seen), "boxes on every object and on none were among them"


def _sorted(boxes: np.ndarray) -> np.ndarray:
    return boxes[np.lexsort(boxes.round(1).T)]


def test_no_gradient_goes_through_refined_boxes():
    heads, _ = cascade()
    _, losses = a_training_pass(heads, TARGETS)
    (losses["loss_classifier_2"] + losses["loss_box_reg_3"]).backward()
    first, second, third = (stage.box_predictor for stage in heads.stages)
    assert all(p.grad is None for p in first.parameters())
    assert second.cls_score.weight.grad.abs().sum() > 0
    assert second.bbox_pred.weight.grad is None
    assert third.bbox_pred.weight.grad.abs().sum() > 0


def test_a_stage_samples_as_many_regions_as_asked_for():
    heads, pool = cascade(regions=10)
    a_training_pass(heads, TARGETS)
    assert len(pool.seen) == 3
    assert all(len(boxes) <= 10 for seen in pool.seen for boxes in seen)
    assert len(pool.seen[0][0]) == 10


@pytest.mark.parametrize("proposals", [0, 4])
def test_images_without_objects_or_regions_have_finite_losses(proposals):
    heads, _ = cascade()
    targets = [nothing(SIZES[0]), nothing(SIZES[1])]
    boxes = [some_boxes(proposals, size, 5) for size in SIZES]
    _, losses = heads.train()({}, boxes, SIZES, targets)
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters())
    with torch.no_grad():
        detections, _ = heads.eval()({}, boxes, SIZES)
    assert len(detections) == 2


def test_boxes_that_were_moved_out_of_the_image_are_not_passed_on():
    heads, pool = cascade()
    predictor = heads.stages[0].box_predictor
    with torch.no_grad():
        predictor.bbox_pred.weight.zero_()
        predictor.bbox_pred.bias.copy_(torch.tensor([100.0, 0, 0, 0]))  # ten widths to the right
    _, losses = a_training_pass(heads, TARGETS)
    assert [len(boxes) for boxes in pool.seen[1]] == [2, 1], "the true boxes alone"
    assert sum(losses.values()).isfinite()


def test_masks_are_the_mean_of_what_all_stages_draw():
    detector = small_detector("cascade_mask_rcnn", score_threshold=0.0, detections_per_image=3).eval()
    biases = (-1.0, 0.5, 2.0)
    for stage, bias in zip(detector.roi_heads.stages, biases, strict=True):
        nn.init.zeros_(stage.mask_predictor.mask_fcn_logits.weight)
        nn.init.constant_(stage.mask_predictor.mask_fcn_logits.bias, bias)
    for used in (1, 2, 3):
        detector.roi_heads.test_stages = used
        with torch.no_grad():
            masks = detector(images())[0]["masks"]
        expected = sum(1 / (1 + math.exp(-bias)) for bias in biases[:used]) / used
        assert masks.max().item() == pytest.approx(expected, abs=1e-5)


def test_every_stage_has_heads_of_its_own_that_learn():
    detector = small_detector("cascade_mask_rcnn")
    losses = detector(images(), two_targets())
    assert {f"loss_mask_{n}" for n in (1, 2, 3)} < set(losses)
    sum(losses.values()).backward()
    gradients = [
        stage.get_parameter(name).grad
        for stage in detector.roi_heads.stages
        for name in ("box_head.fc6.weight", "mask_head.0.0.weight", "box_predictor.bbox_pred.weight")
    ]
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("stages", [0, 4])
def test_stages_that_there_are_not(stages):
    with pytest.raises(ConfigError, match=f"test_stages={stages} is not possible; the cascade has 1 to 3 stages"):
        cascade()[0].test_stages = stages


def test_a_new_cascade_leaves_regions_where_they_are():
    """Later stages would learn from wild boxes otherwise."""
    torch.manual_seed(0)
    predictor = AgnosticPredictor(1024, 91)
    scores, deltas = predictor(torch.rand(100, 1024))
    assert deltas.abs().max() < 0.3
    assert scores.softmax(1).max() < 0.1
