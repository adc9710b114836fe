"""Small images with objects, and detectors that are quick on them."""

from __future__ import annotations

import torch

import sgenet
from sgenet.detection.detectors import create_detector

SMALL = {
    "image_min_size": 128,
    "image_max_size": 160,
    "anchor_sizes": [8, 16, 32, 64, 128],
    "fpn_channels": 32,
}
SMALL_REGIONS = {
    "box_features": 32,
    "rois_per_image": 32,
    "roi_canonical_size": 45,
    "proposals_before_nms": [200, 100],
    "proposals_after_nms": [100, 50],
}
SMALL_MASKS = {"mask_channels": 16, "mask_layers": 1}
OPTIONS = {
    "faster_rcnn": SMALL | SMALL_REGIONS,
    "mask_rcnn": SMALL | SMALL_REGIONS | SMALL_MASKS,
    "cascade_rcnn": SMALL | SMALL_REGIONS,
    "cascade_mask_rcnn": SMALL | SMALL_REGIONS | SMALL_MASKS,
    "retinanet": SMALL,
}


def small_detector(name: str, backbone: str = "sge_resnet18", classes: int = 3, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_detector(name, backbone, classes, **(OPTIONS[name] | options))


def images(sizes: tuple[tuple[int, int], ...] = ((96, 128), (110, 100))) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def target(boxes: list[list[float]], size: tuple[int, int] = (96, 128), labels: list[int] | None = None) -> dict:
    """Objects that fill their boxes."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = True
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels if labels is not None else [1 + i % 3 for i in range(len(boxes))]),
        "masks": masks,
    }


def two_targets() -> list[dict]:
    """One image with two objects, one with none."""
    return [target([[10, 12, 60, 50], [30, 30, 90, 88]]), nothing((110, 100))]


def nothing(size: tuple[int, int] = (96, 128)) -> dict:
    return {**target([], size), "labels": torch.zeros(0, dtype=torch.int64)}


def shaken(model: torch.nn.Module, amount: float = 0.1) -> torch.nn.Module:
    """With other weights and statistics than a new network has."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.add_(torch.rand(tensor.shape, generator=generator) * amount * (tensor.abs().mean() + 1e-3))
    return model


def saved_classifier(path: object, name: str, **options: object) -> torch.nn.Module:
    """A classifier with weights of its own, written to a file."""
    network = shaken(sgenet.create_model(name, 5, **options), 0.2)
    sgenet.save(network, path)
    return network.eval()
