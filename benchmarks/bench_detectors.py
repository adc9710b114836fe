"""Time a detector's training step with attention in its backbone, as a multiple of the plain detector's.

    python benchmarks/bench_detectors.py                     every setting; about ten minutes on two cores
    python benchmarks/bench_detectors.py --only retinanet    those whose name matches

Each step is forward, backward and AdamW's update in bfloat16 (autocast), channels last, on drawn scenes with boxes and
masks; plain, a second plain one (the noise), SE and SGE take turns in one run. All have the same weights, attention
starts as the identity, and the learning rate is 0: so all find the same regions, on whose number the rest of a step
depends. Rows are added to `results/detectors-<device>.csv`; the status is 1 where SGE's promised ratio is not met.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recording import results_file
from sgenet.attention import Attention
from sgenet.bench.measuring import circumstances
from sgenet.bench.result import add_rows
from sgenet.bench.table import aligned
from sgenet.data.shapes_detection import ShapesDetectionSource
from sgenet.detection import create_detector
from sgenet.timing import compare_latency

MUST = 1.05
FORMS = {"plain": "", "plain again": "", "se": "se_", "sge": "sge_"}
ROUNDS, SECONDS, WARMUP = 30, 75.0, 1  # a step is long: what happens only once is over after one


@dataclass(frozen=True)
class Setting:
    """A detector, and what it trains on."""

    detector: str
    backbone: str
    size: int
    batch: int

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.detector}, {self.backbone}, {self.size} px, batch {self.batch}"


SETTINGS = (
    Setting("faster_rcnn", "resnet18", 128, 4),
    Setting("retinanet", "resnet18", 128, 4),
    Setting("faster_rcnn", "resnet50", 512, 2),
    Setting("mask_rcnn", "resnet50", 512, 2),
    Setting("cascade_rcnn", "resnet50", 512, 2),
    Setting("retinanet", "resnet50", 512, 2),
)


def build(setting: Setting, prefix: str, classes: int) -> nn.Module:
    """A detector with attention that starts as the identity."""
    detector = create_detector(
        setting.detector,
        f"{prefix}{setting.backbone}",
        num_classes=classes,
        image_min_size=setting.size,
        image_max_size=setting.size,
        anchor_sizes=(16, 32, 64, 128, 256),
        norm_eval=True,
    )
    for module in detector.modules():
        if isinstance(module, Attention):
            module.start_as_identity()
    return detector


def training_step(setting: Setting, prefix: str, device: str) -> Callable[[], None]:
    """One optimisation step of a detector whose images, targets and weights stay the same."""
    source = ShapesDetectionSource("train", setting.batch, image_size=setting.size)
    detector = build(setting, prefix, len(source.classes))
    torch.manual_seed(0)
    plain = build(setting, "", len(source.classes))
    detector.load_state_dict(plain.state_dict(), strict=False)  # all but attention's own
    detector = detector.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.0)
    images = [source.load(index).to(device).float() / 255 for index in range(setting.batch)]
    targets: list[dict[str, Any]] = []
    for index in range(setting.batch):
        objects = source.target(index, masks=True)
        assert objects.masks is not None
        targets.append(
            {
                "boxes": objects.boxes.to(device),
                "labels": objects.labels.to(device) + 1,
                "masks": objects.masks.to(device, torch.uint8),
            }
        )

    def step() -> None:
        torch.manual_seed(0)  # the same regions are drawn each time
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            losses = detector(images, targets)
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack([value.float() for value in losses.values()]).sum())
        optimizer.step()

    return step


def main() -> int:
    """Measure, record, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", metavar="PATTERN", default="", help="a regular expression, found in the name")
    parser.add_argument("--results", type=Path, help="the CSV file")
    options = parser.parse_args()
    about = circumstances(options.device)
    results = options.results or results_file("detectors", about["device"])
    lines = []
    for setting in SETTINGS:
        if not re.search(options.only, setting.name):
            continue
        print(f"{setting.name} ...", flush=True)
        steps = {form: training_step(setting, prefix, options.device) for form, prefix in FORMS.items()}
        others = {form: step for form, step in steps.items() if form != "plain"}
        ratios = compare_latency(
            steps["plain"], others, pairs=ROUNDS, warmup=WARMUP, budget_seconds=SECONDS, device=options.device
        )
        for form, ratio in ratios.items():
            figures = {"ratio": f"{ratio.median:.4f}", "lower quartile": f"{ratio.lower:.4f}"}
            figures |= {"upper quartile": f"{ratio.upper:.4f}", "pairs": str(ratio.pairs)}
            figures |= {"ms": f"{1e3 * ratio.seconds:.1f}"}
            add_rows(results, [{"what": setting.name, "form": form, "baseline": "plain", **figures, **about}])
            spread = f"{ratio.lower:.3f}-{ratio.upper:.3f}"
            holds = ("yes" if ratio.median <= MUST else "NO") if form == "sge" else ""
            lines.append([setting.name, form, f"{ratio.median:.3f}", spread, str(ratio.pairs), holds])
    header = ("training step", "form", "multiple of plain", "quartiles", "pairs", f"<= {MUST:g}")
    print(f"\n{aligned(header, lines, left=2)}\n\nrows added to {results}")
    return 1 if any(line[-1] == "NO" for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
