"""Training comparisons for one GPU without a network: a queue of short trials, most valuable first.

    python benchmarks/gpu_evidence.py --data FOLDER_WITH_THE_ARCHIVES

FOLDER holds `cifar10.tar.xz` and `tiny-imagenet-000-049.tar.xz` (image folders: train/CLASS/*, val/CLASS/*). Every
trial is one training run with the package's own trainer; its images are held on the GPU and augmented there in
batches. A finished trial is one row of the CSV file and is not repeated, so that an interrupted queue goes on where it
was. Before the queue starts, the attention modules are compared between GPU and CPU. The table is printed last.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import os
import platform
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torchvision

import sgenet
from sgenet.classification.progress import SilentProgress

ATTENTION = ("none", "sge", "se")
SEEDS = (0, 1, 2)
LIMIT_SECONDS = 180.0

TINY_FILES = 16  # a class
ARCHIVES = {"cifar10": "cifar10.tar.xz", "tiny-imagenet": "tiny-imagenet-000-049.tar.xz"}

# Images held on the GPU are augmented by padded crops and flips.
SMALL_CROPS = {"batch_size": 256, "lr": 0.2, "crop": "pad", "pad": 8}

# Epochs are chosen so that a trial stays under three minutes on a data-centre GPU; all networks of a data set share
# batch size and learning rate, so that only the attention differs.
COMPARISONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("cifar10", "resnet20_cifar", {"recipe": "cifar", "epochs": 30, "batch_size": 256, "lr": 0.2}),
    ("tiny-imagenet", "resnet18", {"recipe": "tiny_imagenet", "epochs": 30, **SMALL_CROPS}),
    ("tiny-imagenet", "resnet50", {"recipe": "tiny_imagenet", "epochs": 15, **SMALL_CROPS}),
)

COLUMNS = (
    "data",
    "network",
    "attention",
    "seed",
    "epochs",
    "batch_size",
    "top1_last",
    "val_loss",
    "train_loss",
    "seconds",
    "device",
    "torch",
    "torchvision",
    "sgenet",
    "date",
)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run of the queue."""

    data: str
    network: str
    attention: str
    seed: int
    settings: tuple[tuple[str, Any], ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What makes a row of the CSV file this trial's."""
        epochs, batch = (str(dict(self.settings)[k]) for k in ("epochs", "batch_size"))
        return (self.data, self.network, self.attention, str(self.seed), epochs, batch)


def queue(tiny: bool) -> Iterator[Trial]:
    """All trials, most valuable first: a full comparison of one network before the next network."""
    for data, network, settings in COMPARISONS:
        chosen = settings | {"epochs": 1, "batch_size": 64} if tiny else settings
        for seed in SEEDS[:1] if tiny else SEEDS:
            for attention in ATTENTION:
                yield Trial(data, network, attention, seed, tuple(chosen.items()))


def unpack(archives: Path, target: Path, names: set[str], *, tiny: bool) -> dict[str, Path]:
    """Unpack the archives that the queue needs, and return the image folder of each data set.

    Of a tiny queue's, a few images of each class.
    """
    folders = {}
    for name in sorted(names):
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
    settings = dict(trial.settings)
    prefix = "" if trial.attention == "none" else f"{trial.attention}_"
    config = sgenet.make_config(
        settings.pop("recipe"),
        model=prefix + trial.network,
        data=str(folder),
        seed=trial.seed,
        accelerator=accelerator,
        devices="1",
        loader="resident",
        output=str(scratch / f"{trial.data}-{prefix}{trial.network}-{trial.seed}-{os.getpid()}-{time.time_ns()}"),
        **settings,
    )
    began = time.perf_counter()
    result = sgenet.train(config, progress=SilentProgress())
    seconds = time.perf_counter() - began
    last = result.history[-1]
    return dict(
        zip(
            COLUMNS,
            (
                *trial.key,
                f"{last.val_top1:.3f}",
                f"{last.val_loss:.5f}",
                f"{last.train_loss:.5f}",
                f"{seconds:.1f}",
                device_name(accelerator),
                torch.__version__,
                torchvision.__version__,
                sgenet.__version__,
                datetime.datetime.now(datetime.UTC).date().isoformat(),
            ),
            strict=True,
        )
    )


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


def print_table(rows: list[dict[str, str]]) -> None:
    """Mean and standard deviation over seeds, and the difference to the plain network, paired by seed."""
    print("\ntop-1 of the last epoch, percent: mean ± standard deviation over seeds; difference paired by seed")
    print(
        f"{'data':14s} {'network':16s} {'attention':9s} {'seeds':>5s} "
        f"{'top-1':>14s} {'minus plain':>14s} {'seconds':>8s}"
    )
    groups: dict[tuple[str, str, str, str], dict[str, dict[str, dict[str, str]]]] = {}
    for row in rows:
        place = (row["data"], row["network"], row["epochs"], row["device"])
        groups.setdefault(place, {}).setdefault(row["attention"], {})[row["seed"]] = row
    for (data, network, _, _), by_attention in groups.items():
        plain = by_attention.get("none", {})
        for attention, by_seed in by_attention.items():
            top1 = [float(r["top1_last"]) for r in by_seed.values()]
            pairs = [float(r["top1_last"]) - float(plain[s]["top1_last"]) for s, r in by_seed.items() if s in plain]
            seconds = mean(float(r["seconds"]) for r in by_seed.values())
            difference = "" if attention == "none" else spread(pairs)
            print(
                f"{data:14s} {network:16s} {attention:9s} {len(top1):5d} {spread(top1):>14s} {difference:>14s} "
                f"{seconds:8.1f}{'  over the limit' if seconds > LIMIT_SECONDS else ''}"
            )


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "-"
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def main() -> int:
    """Run the queue."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("SGENET_TEST_DATA", "../shared/data")), help="the archives"
    )
    parser.add_argument("--results", type=Path, help="the CSV file (default: benchmarks/results/gpu_evidence-GPU.csv)")
    parser.add_argument("--time", type=float, default=540.0, help="start no trial that would end after so many seconds")
    parser.add_argument("--tiny", action="store_true", help="a wiring check on any machine: one epoch, one seed")
    options = parser.parse_args()
    accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "cpu" and not options.tiny:
        print("gpu_evidence: this machine has no CUDA device; --tiny checks the wiring without one", file=sys.stderr)
        return 2
    began = time.monotonic()
    default = Path(__file__).parent / "results" / f"gpu_evidence-{device_name(accelerator).replace(' ', '-')}.csv"
    with tempfile.TemporaryDirectory() as scratch:
        results = options.results or (Path(scratch) / "tiny.csv" if options.tiny else default)
        check_modules("cuda" if accelerator == "gpu" else "cpu")
        run_queue(options, accelerator, results, Path(scratch), began)
        print_table(read_rows(results))
    return 0


def run_queue(options: argparse.Namespace, accelerator: str, results: Path, scratch: Path, began: float) -> None:
    """Run what is not finished yet, as far as the time allows."""
    rows: list[dict[str, Any]] = list(read_rows(results))
    finished = {tuple(r[c] for c in COLUMNS[:6]) for r in rows}
    trials = [t for t in queue(options.tiny) if t.key not in finished]
    folders = unpack(options.data, scratch, {t.data for t in trials}, tiny=options.tiny)
    print(f"{len(finished)} trials finished before, {len(trials)} to run; results in {results}")
    longest = 0.0
    for number, trial in enumerate(trials, start=1):
        if time.monotonic() - began + longest > options.time:
            print(f"time is up: {len(trials) - number + 1} trials are left; start again to go on")
            return
        row = run_trial(trial, folders[trial.data], scratch, accelerator)
        rows.append(row)
        write_rows(results, rows)
        longest = max(longest, float(row["seconds"]))
        print(
            f"[{number}/{len(trials)}] {' '.join(trial.key)}: top-1 {row['top1_last']} % in {row['seconds']} s",
            flush=True,
        )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; finished trials are kept, and the same command goes on with the next")
