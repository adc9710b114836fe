"""Annotations, results that no detector gave, and the figures that pycocotools finds for them."""

import contextlib
import copy
import functools
import io
import json
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sgenet.detection.evaluation import FIGURES

_DATA = Path(os.environ.get("SGENET_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


@functools.cache
def _read_annotations():
    name = "coco200/annotations/instances_val2017.json"
    if (_DATA / name).is_file():
        return json.loads((_DATA / name).read_text(encoding="utf-8"))
    archive = _DATA / "coco200.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive}; set SGENET_TEST_DATA to the folder that holds it")
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile(name))


def real_annotations():
    """COCO's annotations of 100 images, to which some regions of many objects are added: these images have none."""
    annotations = copy.deepcopy(_read_annotations())
    sizes = {image["id"]: (image["height"], image["width"]) for image in annotations["images"]}
    for number, annotation in enumerate(annotations["annotations"]):
        if number % 11 == 0:
            height, width = sizes[annotation["image_id"]]
            left, top, right, bottom = (int(edge) for edge in corners(annotation["bbox"]))
            rectangle = [[left, top, right, top, right, bottom, left, bottom]]
            region = coco_masks.merge(coco_masks.frPyObjects(rectangle, height, width))
            annotation.update(iscrowd=1, segmentation=uncompressed(region))
    return annotations


def uncompressed(mask):
    """How many zeros, then ones, then zeros, ..., column by column."""
    pixels = np.concatenate([[0], coco_masks.decode([mask])[..., 0].T.flatten()])
    changes = np.flatnonzero(np.diff(pixels))
    counts = np.diff(np.concatenate([[0], changes, [len(pixels) - 1]]))
    return {"size": list(mask["size"]), "counts": counts.tolist()}


def corners(box):
    left, top, width, height = box
    return left, top, left + width, top + height


def jittered(box, random_, share):
    left, top, width, height = box
    return [
        left + width * random_.uniform(-share, share),
        top + height * random_.uniform(-share, share),
        width * random_.uniform(1 - share, 1 + share),
        height * random_.uniform(1 - share, 1 + share),
    ]


def make_results(annotations, seed=0, found=0.8):
    """Results with all that is difficult.

    True objects a little off, some found twice or more, some under another name, some with a score that others have
    too; objects where there are none; one image with 150 detections of one class; images without any.
    """
    random_ = random.Random(seed)
    categories = [category["id"] for category in annotations["categories"]]
    images = [image["id"] for image in annotations["images"]]
    without = set(images[::7])
    results = []

    def add(image_id, category_id, box):
        score = random_.choice([random_.random(), round(random_.random(), 1)])
        results.append({"image_id": image_id, "category_id": category_id, "bbox": box, "score": score})

    for annotation in annotations["annotations"]:
        if annotation["image_id"] in without:
            continue
        while random_.random() < found * 0.7:
            name = annotation["category_id"] if random_.random() < 0.9 else random_.choice(categories)
            add(annotation["image_id"], name, jittered(annotation["bbox"], random_, random_.choice([0.0, 0.08, 0.2])))
    for _ in range(200):
        box = [random_.uniform(0, 300), random_.uniform(0, 200), random_.uniform(0, 150), random_.uniform(0, 150)]
        add(random_.choice(images), random_.choice(categories), box)
    crowded = next(a for a in annotations["annotations"] if a["image_id"] not in without)
    for _ in range(150):
        add(crowded["image_id"], crowded["category_id"], jittered(crowded["bbox"], random_, 0.4))
    random_.shuffle(results)
    return results


def with_masks(results, annotations, *, boxes=True):
    """The same results with masks: hexagons in the boxes, in each of the forms that COCO has."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in annotations["images"]}
    masked = []
    for number, result in enumerate(results):
        height, width = sizes[result["image_id"]]
        left, top, right, bottom = corners(result["bbox"])
        middle, quarter = (top + bottom) / 2, (right - left) / 8
        outline = [left, middle, left + quarter, top, right - quarter, top, right, middle]
        outline += [right - quarter, bottom, left + quarter, bottom]
        mask = coco_masks.merge(coco_masks.frPyObjects([outline], height, width))
        forms = [
            {"size": mask["size"], "counts": mask["counts"].decode()},
            mask,
            [outline],
            uncompressed(mask),
        ]
        masked.append({name: value for name, value in result.items() if boxes or name != "bbox"})
        # Of results without boxes pycocotools takes the compressed forms only.
        masked[-1]["segmentation"] = forms[number % (4 if boxes else 2)]
    return masked


def reference(annotations, results, kind="bbox", **parameters):
    """What pycocotools finds: by name, None for its -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(annotations)
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), kind)
        for name, value in parameters.items():
            setattr(judge.params, name, value)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {name: None if value < 0 else value for name, value in zip(FIGURES, judge.stats.tolist(), strict=True)}
