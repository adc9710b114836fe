"""Studies for one GPU without a network: a queue of short trainings, most valuable first.

    python benchmarks/gpu_evidence.py --data FOLDER_WITH_THE_ARCHIVES
    python benchmarks/gpu_evidence.py --list          what there is to do, and what is done

FOLDER holds `cifar10.tar.xz` and `tiny-imagenet-000-049.tar.xz` (image folders: train/CLASS/*, val/CLASS/*). The
comparisons are studies of the package on these images; a trial is one cell of one of them, trained by the package's own
trainer: a classifier with its images held on the GPU, or a detector, after the classifier that it starts from, on the
drawn scenes of `shapes`. A finished trial is one row of the CSV file and is not repeated, so that an interrupted queue
goes on where it was; one that failed is a row with its reason, and is tried again another time. Before the queue
starts, the attention modules are compared between GPU and CPU. The table is printed last. It needs no database: the
package's `sgenet study run` would ask for Optuna.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import importlib.util
import json
import math
import os
import platform
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torchvision

import sgenet
from sgenet.errors import SgenetError
from sgenet.study.definition import Cell, Combination, Definition, load_study
from sgenet.study.kinds import START
from sgenet.study.statistics import compare, holm, standard_deviation
from sgenet.training.progress import SilentProgress

LIMIT_SECONDS = 180.0
TINY_FILES = 16  # a class
ARCHIVES = {"cifar10": "cifar10.tar.xz", "tiny-imagenet": "tiny-imagenet-000-049.tar.xz"}

# Epochs are chosen so that a trial stays under three minutes on a data-centre GPU; all networks of a comparison share
# batch size and learning rate, so that only what is compared differs. Images held on the GPU are augmented by padded
# crops and flips.
CIFAR: dict[str, Any] = {"recipe": "cifar", "epochs": 30, "batch_size": 256, "lr": 0.2}
TINY: dict[str, Any] = {"recipe": "tiny_imagenet", "batch_size": 256, "lr": 0.2, "crop": "pad", "pad": 8}
ABLATIONS = (
    *("sge-normalisation", "sge-init", "sge-groups", "sge-position"),
    *("se-reduction", "se-squeeze", "se-excitation", "se-stages", "se-integration", "se-3x3", "se-no-squeeze"),
)

OF_BOTTLENECKS, BOTTLENECKS = ("sge-position", "se-3x3"), "resnet11_cifar"  # they ask of places that others lack

COLUMNS = (
    *("comparison", "data", "network", "level", "seed", "epochs", "batch_size"),
    *("metric", "figure", "further", "train_loss", "seconds"),
    *("device", "torch", "torchvision", "sgenet", "date", "error"),
)
KEY = 7  # columns
DETECTORS_NEED = "faster_coco_eval"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A study on one of the data sets: on that of an archive, or on `shapes`."""

    name: str
    data: str
    study: Definition


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of the queue."""

    comparison: Comparison
    cell: Cell

    @property
    def key(self) -> tuple[str, ...]:
        """What makes a row of the CSV file this trial's."""
        study = self.comparison.study
        config = study.config(self.cell)
        return (
            self.comparison.name,
            self.comparison.data,
            config.model if study.trains == "classifiers" else config.backbone,
            self.cell.combination.name,
            str(self.cell.seed),
            str(config.epochs),
            str(config.batch_size),
        )


def comparisons(tiny: bool) -> list[Comparison]:
    """All studies, most valuable first."""
    short = {"epochs": 1, "batch_size": 64, "lr": 0.05} if tiny else {}

    def study(name: str, data: str, seeds: int, levels: tuple[str, ...] = (), **settings: Any) -> Definition:  # noqa: ANN401
        asked = load_study(name).with_settings(seeds=1 if tiny else seeds, data=data, **{**settings, **short})
        return asked.with_levels({"attention": levels}) if levels else asked

    first, five = ("none", "sge", "se"), ("none", "sge", "se", "cbam", "eca")
    family = "attention-comparison"
    found = [
        Comparison("cifar10 resnet20", "cifar10", study(family, "cifar10", 5, first, model="resnet20_cifar", **CIFAR)),
        Comparison(
            "tiny-imagenet resnet18",
            "tiny-imagenet",
            study(family, "tiny-imagenet", 3, five, model="resnet18", epochs=30, **TINY),
        ),
        Comparison(
            "tiny-imagenet resnet50",
            "tiny-imagenet",
            study(family, "tiny-imagenet", 3, five, model="resnet50", epochs=15, **TINY),
        ),
        Comparison(
            "cifar10 resnet20", "cifar10", study(family, "cifar10", 5, model="resnet20_cifar", **CIFAR)
        ),  # the rest
        Comparison("cifar10 resnet56", "cifar10", study(family, "cifar10", 5, first, model="resnet56_cifar", **CIFAR)),
    ]
    if importlib.util.find_spec(DETECTORS_NEED) is not None:
        asked = load_study("detectors").with_levels({"detector": ("retinanet",)})
        found.insert(
            3, Comparison("shapes retinanet", "shapes", asked.tiny() if tiny else asked.with_settings(seeds=3))
        )
    # Its stages are told by the size of their maps, of which a half of the image's is the first.
    halved: dict[str, dict[str, Any]] = {"se-stages": {"model_options": {"stem_stride": 2}}}
    for name in ABLATIONS:
        host = BOTTLENECKS if name in OF_BOTTLENECKS else "resnet20_cifar"
        asked = study(name, "cifar10", 3, model=host, **CIFAR, **halved.get(name, {}))
        found.append(Comparison(name, "cifar10", asked))
    return found


def queue(tiny: bool) -> Iterator[Trial]:
    """All trials: within a comparison seed after seed, so that one that stops early has compared what it has."""
    seen = set()
    for comparison in comparisons(tiny):
        for cell in comparison.study.cells:
            if (comparison.name, cell.key) not in seen:
                seen.add((comparison.name, cell.key))
                yield Trial(comparison, cell)


def unpack(archives: Path, target: Path, names: set[str], *, tiny: bool) -> dict[str, Path]:
    """Unpack the archives that the queue needs, and return the image folder of each data set.

    Of a tiny queue's, a few images of each class.
    """
    folders = {"shapes": Path("shapes")}
    for name in sorted(names & ARCHIVES.keys()):
        archive = archives / ARCHIVES[name]
        if not archive.is_file():
            raise SystemExit(f"gpu_evidence: {archive} is missing; give the folder that holds it with --data")
        if not (target / name).is_dir():
            with tarfile.open(archive) as opened:
                opened.extractall(target, few_a_folder(opened) if tiny else None, filter="data")
        folders[name] = target / name
    return folders


def few_a_folder(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The first files of each folder of an archive."""
    seen: Counter[str] = Counter()
    for member in archive:
        folder = member.name.rpartition("/")[0]
        seen[folder] += member.isfile()
        if not member.isfile() or seen[folder] <= TINY_FILES:
            yield member


def check_modules(device: str) -> None:
    """Compare every attention module between `device` and a float64 computation on the CPU."""
    print(f"modules on {device} against float64 on the CPU (largest difference, forward / gradient of x):")
    for name in sgenet.list_attention():
        torch.manual_seed(0)
        module = sgenet.create_attention(name, 256).double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_()
        x = torch.randn(8, 256, 14, 14, dtype=torch.float64, requires_grad=True)
        expected = module(x)
        expected.square().mean().backward()
        for layout in (torch.contiguous_format, torch.channels_last):
            module = module.float().to(device)
            other = x.detach().float().to(device).contiguous(memory_format=layout).requires_grad_()
            y = module(other)
            y.square().mean().backward()
            assert x.grad is not None
            assert other.grad is not None
            forward = (y.double().cpu() - expected).abs().max().item()
            backward = ((other.grad.double().cpu() - x.grad).abs().max() / x.grad.abs().max()).item()
            print(f"  {name:6s} {str(layout).removeprefix('torch.'):18s} {forward:.1e} / {backward:.1e}")
            if not (forward < 1e-3 and backward < 1e-3):
                raise SystemExit(f"gpu_evidence: {name} differs on {device}; nothing was trained")


def run_trial(trial: Trial, folder: Path, scratch: Path, accelerator: str) -> dict[str, Any]:
    """Train once; return the row of the CSV file."""
    study, cell = trial.comparison.study, trial.cell
    output = scratch / f"{cell.folder}-{os.getpid()}-{time.time_ns()}"
    machine = {"data": str(folder), "accelerator": accelerator, "devices": "1"}
    resident = {"loader": "resident"}
    start = study.start(cell, output, **machine, **resident)
    config = study.config(cell, output, **machine, **(resident if study.trains == "classifiers" else {}))
    began = time.perf_counter()
    found: dict[str, float] = {}
    if start is not None:
        found[START] = sgenet.train(start, progress=SilentProgress()).history[-1].val_top1
    (*_, row) = study.kind.train(config, study.kind.open_data(config), SilentProgress())
    last = dataclasses.asdict(row) | found
    further = {m.key: round(last[m.key], 3) for m in study.kind.metrics if math.isfinite(last.get(m.key, math.nan))}
    further.pop(study.compared.key, None)
    figures = {
        "metric": study.compared.key,
        "figure": f"{last[study.compared.key]:.3f}",
        "further": json.dumps(further),
        "train_loss": f"{last['train_loss']:.5f}",
        "seconds": f"{time.perf_counter() - began:.1f}",
    }
    return row_of(trial, accelerator, **figures)


def row_of(trial: Trial, accelerator: str, **figures: str) -> dict[str, Any]:
    """A row of the CSV file; what it has no figures of is empty."""
    known = {
        **dict(zip(COLUMNS, trial.key, strict=False)),
        "device": device_name(accelerator),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "sgenet": sgenet.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    return dict.fromkeys(COLUMNS, "") | known | figures


def device_name(accelerator: str) -> str:
    """The GPU's name, or the processor's architecture."""
    return torch.cuda.get_device_name() if accelerator == "gpu" else f"cpu {platform.machine()}"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The finished trials."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace the CSV file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def print_table(rows: list[dict[str, str]], tiny: bool) -> None:
    """Mean and standard deviation over seeds; the difference to the baseline, paired by seed, with its p after Holm."""
    print("\nlast epoch, percent: mean ± std over seeds; difference paired by seed, 95% interval; p: Holm")
    print(
        f"{'comparison':24s} {'level':18s} {'seeds':>5s} {'figure':>20s} {'difference':>30s} {'p':>7s} {'seconds':>8s}"
    )
    whole = {comparison.name: comparison for comparison in comparisons(tiny)}  # of two of a name the larger one
    for comparison in whole.values():
        asked = {Trial(comparison, cell).key for cell in comparison.study.cells}
        own = [row for row in rows if key_of(row) in asked]
        if any(not row["error"] for row in own):
            print_comparison(comparison, [row for row in own if not row["error"]])
        for row in own:
            if row["error"]:
                print(f"{comparison.name:24s} {row['level']:18s} seed {row['seed']} failed: {row['error']}")


def key_of(row: dict[str, str]) -> tuple[str, ...]:
    """Which trial a row is of."""
    return tuple(row[column] for column in COLUMNS[:KEY])


def print_comparison(comparison: Comparison, rows: list[dict[str, str]]) -> None:
    """The lines of one comparison."""
    by_level: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        by_level.setdefault(row["level"], {})[row["seed"]] = row
    plain_one = next(row.name for row in comparison.study.combinations if is_baseline(comparison.study, row))
    base = by_level.get(plain_one, {})
    found = {}
    for level, by_seed in by_level.items():
        seeds = sorted(by_seed.keys() & base.keys())
        if level != plain_one and seeds:
            own, plain = ([float(which[s]["figure"]) for s in seeds] for which in (by_seed, base))
            found[level] = compare(own, plain, comparison.study.comparisons)
    tested = [level for level in found if found[level].p is not None]
    p_values = holm([found[level].p or 0.0 for level in tested], comparison.study.comparisons)
    adjusted = dict(zip(tested, p_values, strict=True))
    for level, by_seed in by_level.items():
        figures = [float(row["figure"]) for row in by_seed.values()]
        seconds = mean(float(row["seconds"]) for row in by_seed.values())
        difference, p = "", f"{adjusted[level]:.3f}" if level in adjusted else ""
        if level in found:
            low, high = found[level].interval or (float("nan"), float("nan"))
            difference = f"{found[level].difference:+.2f} ({low:+.2f} to {high:+.2f})"
        print(
            f"{comparison.name:24s} {level:18s} {len(figures):5d} "
            f"{f'{comparison.study.compared.name} {spread(figures)}':>20s} {difference:>30s} {p:>7s} "
            f"{seconds:8.1f}{'  over the limit' if seconds > LIMIT_SECONDS else ''}"
        )


def is_baseline(study: Definition, combination: Combination) -> bool:
    """Whether the others are compared with it; all these studies have one set of circumstances."""
    return combination.levels[study.compare] == study.baseline


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    deviation = standard_deviation(values)
    return f"{mean(values):.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def main() -> int:
    """Run the queue."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("SGENET_TEST_DATA", "../shared/data")), help="the archives"
    )
    parser.add_argument("--results", type=Path, help="the CSV file (default: benchmarks/results/gpu_evidence-GPU.csv)")
    parser.add_argument("--time", type=float, default=540.0, help="start no trial that would end after so many seconds")
    parser.add_argument("--tiny", action="store_true", help="a wiring check on any machine: one epoch, one seed")
    parser.add_argument("--list", action="store_true", help="train nothing; print how much there is to do")
    options = parser.parse_args()
    accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if options.list:
        for comparison in comparisons(options.tiny):
            print(f"{comparison.name:24s} {len(comparison.study.cells):4d} trials")
        return 0
    if accelerator == "cpu" and not options.tiny:
        print("gpu_evidence: this machine has no CUDA device; --tiny checks the wiring without one", file=sys.stderr)
        return 2
    began = time.monotonic()
    default = Path(__file__).parent / "results" / f"gpu_evidence-{device_name(accelerator).replace(' ', '-')}.csv"
    with tempfile.TemporaryDirectory() as scratch:
        results = options.results or (Path(scratch) / "tiny.csv" if options.tiny else default)
        check_modules("cuda" if accelerator == "gpu" else "cpu")
        run_queue(options, accelerator, results, Path(scratch), began)
        print_table(read_rows(results), options.tiny)
    return 0


def run_queue(options: argparse.Namespace, accelerator: str, results: Path, scratch: Path, began: float) -> None:
    """Run what is not finished yet, as far as the time allows."""
    rows: list[dict[str, Any]] = [row for row in read_rows(results) if not row["error"]]  # those are tried again
    finished = {key_of(row) for row in rows}
    trials = [t for t in queue(options.tiny) if t.key not in finished]
    needed = {t.comparison.data for t in trials}
    folders = unpack(options.data, scratch, needed, tiny=options.tiny)
    print(f"{len(finished)} trials finished before, {len(trials)} to run; results in {results}")
    longest = 0.0
    for number, trial in enumerate(trials, start=1):
        if time.monotonic() - began + longest > options.time:
            print(f"time is up: {len(trials) - number + 1} trials are left; start again to go on")
            return
        try:
            row = run_trial(trial, folders[trial.comparison.data], scratch, accelerator)
            said = f"{row['metric']} {row['figure']} % in {row['seconds']} s"
            longest = max(longest, float(row["seconds"]))
        except SgenetError as error:
            row = row_of(trial, accelerator, error=" ".join(str(error).split()))
            said = f"failed: {row['error']}"
        rows.append(row)
        write_rows(results, rows)
        print(f"[{number}/{len(trials)}] {' '.join(trial.key)}: {said}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; finished trials are kept, and the same command goes on with the next")
