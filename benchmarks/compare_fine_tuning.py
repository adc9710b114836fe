"""Fine-tune trained networks with and without attention added to them.

    python benchmarks/compare_fine_tuning.py

For each seed, a plain ResNet-8 is trained on the generated shapes. Its top-1 is measured before and after SGE is put
into it: the two must be the same. Then it is trained further, as it is and with SGE, with the same seeds and settings.
The runs are kept in `runs/fine-tuning`; the same command goes on where it was stopped. The script prints every figure
and the 95% interval of the mean difference, and ends with status 1 where adding attention changed a top-1 or the
interval lies below 0.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import sgenet
from sgenet.classification.history import EpochRow
from sgenet.errors import SgenetError
from sgenet.study.statistics import compare
from sgenet.training.progress import ConsoleProgress
from sgenet.training.run_folder import RunFolder

MODEL = "resnet8_cifar"


def trained(folder: Path, **settings: Any) -> Path:  # noqa: ANN401  # settings of TrainConfig
    """The run of some settings on the shapes, trained if it is not there."""
    config = sgenet.make_config("shapes", model=MODEL, output=str(folder), **settings)
    run = RunFolder(folder)
    if not run.metrics.is_file():
        sgenet.train(config, progress=ConsoleProgress())
    elif len(run.read_metrics(EpochRow)) < config.epochs:
        sgenet.resume(folder, progress=ConsoleProgress())
    return folder


def last_top1(run: Path) -> float:
    """Top-1 after the last epoch, percent."""
    return RunFolder(run).read_metrics(EpochRow)[-1].val_top1


def top1_with_attention(run: Path) -> float:
    """Top-1 of a run's network as soon as SGE is in it, measured by the same evaluation."""
    model = sgenet.add_attention(sgenet.load(run), "sge")
    return sgenet.evaluate(run, model=model).top1


def main() -> int:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description="Fine-tune trained networks with and without attention.")
    parser.add_argument("--seeds", type=int, default=3, help="networks (3)")
    parser.add_argument("--epochs", type=int, default=8, help="of fine-tuning (8)")
    parser.add_argument("--lr", type=float, default=0.02, help="learning rate of fine-tuning (0.02)")
    parser.add_argument("--output", type=Path, default=Path("runs/fine-tuning"), help="folder of the runs")
    options = parser.parse_args()
    same, plain, attended = True, [], []
    for seed in range(options.seeds):
        base = trained(options.output / f"base-seed{seed}", seed=seed)
        before, inserted = sgenet.evaluate(base).top1, top1_with_attention(base)
        same = same and before == inserted
        settings: dict[str, Any] = {"seed": seed, "weights": str(base), "epochs": options.epochs, "lr": options.lr}
        without = trained(options.output / f"plain-seed{seed}", **settings)
        with_sge = trained(options.output / f"sge-seed{seed}", attention="sge", **settings)
        plain.append(last_top1(without))
        attended.append(last_top1(with_sge))
        print(
            f"seed {seed}: trained {before:.2f}%, with SGE put in {inserted:.2f}%; "
            f"fine-tuned without {plain[-1]:.2f}%, with {attended[-1]:.2f}%"
        )
    difference = compare(attended, plain)
    low, high = difference.interval or (float("nan"), float("nan"))
    print(f"with minus without: {difference.difference:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}")
    print("top-1 right after insertion:", "identical" if same else "CHANGED")
    return 0 if same and not high < 0 else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SgenetError as error:
        sys.exit(f"error: {error}")
