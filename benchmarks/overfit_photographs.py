"""Whether detectors can learn the first photographs of COCO by heart: it shows boxes, masks, targets and evaluation.

    python benchmarks/overfit_photographs.py COCO                        three detectors; about 20 minutes on two cores
    python benchmarks/overfit_photographs.py COCO --detectors retinanet

COCO is a folder in COCO's layout with `annotations/instances_train2017.json`. Each detector starts from random weights
and sees the same twenty images at 256 pixels in every epoch, by the recipe `small` without flipping and with twice its
learning rate; it is evaluated on those it was trained on. Rows are added to `results/photographs-<device>.csv`; the
status is 1 where AP50 stays below 0.6 or the time beyond 15 minutes. Runs are kept in the folder `--output`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from time import perf_counter

from recording import results_file
from sgenet.bench.measuring import circumstances
from sgenet.bench.result import add_rows
from sgenet.bench.table import aligned
from sgenet.detection import list_detectors, make_detect_config, train_detector

IMAGES, EPOCHS, LR = 20, {"faster_rcnn": 60, "mask_rcnn": 45, "retinanet": 45}, 0.001
LEAST_AP50, MOST_SECONDS = 60.0, 15 * 60


def first_images(data: Path, folder: Path) -> Path:
    """A file of the first training images and their objects."""
    whole = json.loads((data / "annotations" / "instances_train2017.json").read_text(encoding="utf-8"))
    images = whole["images"][:IMAGES]
    ids = {image["id"] for image in images}
    objects = [each for each in whole["annotations"] if each["image_id"] in ids]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"first_{IMAGES}.json"
    file.write_text(json.dumps({**whole, "images": images, "annotations": objects}), encoding="utf-8")
    return file


def main() -> int:
    """Train, record, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="COCO", help="a folder in COCO's layout")
    parser.add_argument("--detectors", default=",".join(EPOCHS), help="names, with commas between them")
    parser.add_argument("--backbone", default="sge_resnet18")
    parser.add_argument("--output", type=Path, default=Path("photographs"), help="the folder of the runs")
    parser.add_argument("--results", type=Path, help="the CSV file")
    options = parser.parse_args()
    names = options.detectors.split(",")
    if unknown := sorted(set(names) - set(list_detectors())):
        parser.error(f"there is no detector {', '.join(unknown)}; known: {', '.join(list_detectors())}")
    if not (options.data / "annotations" / "instances_train2017.json").is_file():
        parser.error(f"'{options.data}' has no annotations/instances_train2017.json; give a folder in COCO's layout")
    file, images = str(first_images(options.data, options.output).resolve()), "train2017"
    about = circumstances("cpu")
    results = options.results or results_file("photographs", about["device"])
    lines = []
    for name in names:
        config = make_detect_config(
            "small",
            detector=name,
            backbone=options.backbone,
            data=str(options.data),
            data_options={"train_json": file, "train_images": images, "val_json": file, "val_images": images},
            flip=0.0,
            lr=LR,
            epochs=EPOCHS.get(name, 45),
            output=str(options.output / f"{name}-{options.backbone}"),
        )
        start = perf_counter()
        last = train_detector(config).history[-1]
        seconds = perf_counter() - start
        figures = {"epochs": config.epochs, "AP": f"{last.ap:.2f}", "AP50": f"{last.ap50:.2f}"}
        has_masks = not math.isnan(last.mask_ap50)
        figures |= {"mask AP50": f"{last.mask_ap50:.2f}" if has_masks else "", "seconds": f"{seconds:.0f}"}
        row = {"detector": name, "backbone": options.backbone, "images": IMAGES, **figures}
        add_rows(results, [{**row, **about}])
        good = last.ap50 >= LEAST_AP50 and seconds <= MOST_SECONDS
        lines.append([*map(str, row.values()), "yes" if good else "NO"])
    header = ("detector", "backbone", "images", *figures, f"AP50 >= {LEAST_AP50:g} in {MOST_SECONDS // 60} min")
    print(f"\n{aligned(header, lines, left=2)}\n\nrows added to {results}")
    return 1 if any(line[-1] == "NO" for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
