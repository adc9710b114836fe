"""Time how fast images come in, on one core: drawn shapes by size, and JPEG files decoded and augmented for training.

    python benchmarks/bench_data.py

Each figure is the median of the rounds, with quartiles, in images a second; rows are added to
`results/data-<device>.csv`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles

import torch
from torchvision.io import write_jpeg

from recording import results_file
from sgenet.bench.measuring import circumstances
from sgenet.bench.result import add_rows
from sgenet.data import Augmentation, FileSource, ImageSource, Preprocessing, train_loader
from sgenet.data.shapes import ShapesSource

SIZES = (32, 64, 224)
PHOTO = 500, 375  # width and height of a usual photograph of ImageNet


def rates(images: int, rounds: int, work: Callable[[int], None]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of images a second; `work` gets the number of the round."""
    work(rounds)  # what is only done once is done now
    found = []
    for number in range(rounds):
        start = time.perf_counter()
        work(number)
        found.append(images / (time.perf_counter() - start))
    lower, middle, upper = quantiles(found, n=4, method="inclusive")
    return lower, middle, upper


def draw(source: ImageSource, images: int) -> Callable[[int], None]:
    """Draw the next `images` pictures."""

    def work(number: int) -> None:
        for index in range(number * images, (number + 1) * images):
            source.load(index)

    return work


def decode(folder: Path, images: int) -> Callable[[int], None]:
    """Read, decode and augment as in training with 224 pixels, in this process."""
    width, height = PHOTO
    for index in range(images):
        # Smooth colours compress as a photograph does; noise would not.
        coarse = torch.randint(256, (1, 3, height // 25, width // 25), dtype=torch.uint8)
        smooth = torch.nn.functional.interpolate(coarse.float(), (height, width), mode="bicubic")
        write_jpeg(smooth[0].clamp(0, 255).to(torch.uint8), str(folder / f"{index}.jpg"), quality=90)
    source = FileSource([f"{i}.jpg" for i in range(images)], [0] * images, ["photo"], root=folder)

    def work(number: int) -> None:
        loader = train_loader(source, Preprocessing(), Augmentation(), batch_size=16, seed=0, epoch=number)
        for _ in loader:
            pass

    return work


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="a round; a multiple of 16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, help="the CSV file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = circumstances("cpu")
    results = options.results or results_file("data", about["device"])
    with tempfile.TemporaryDirectory() as folder:
        drawn = options.images * (options.rounds + 1)
        work = {
            f"shapes {size} px": draw(ShapesSource("train", drawn, image_size=size), options.images) for size in SIZES
        }
        work["JPEG files 500x375 to 224 px"] = decode(Path(folder), options.images)
        for name, step in work.items():
            lower, middle, upper = rates(options.images, options.rounds, step)
            print(f"{name:30} {middle:8.0f} [{lower:.0f}, {upper:.0f}] images a second", flush=True)
            measured = {"what": name, "images a second": f"{middle:.1f}"}
            measured |= {"lower quartile": f"{lower:.1f}", "upper quartile": f"{upper:.1f}", "rounds": options.rounds}
            add_rows(results, [measured | about])
    print(f"rows added to {results}")


if __name__ == "__main__":
    main()
