"""What a demonstration measured: the figures that its table and its report show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgenet.classification.run_folder import EpochRow
    from sgenet.cost import Cost
    from sgenet.timing import Ratio

__all__ = ["DemoResult", "NetworkResult", "SeedRun"]


@dataclass(frozen=True)
class SeedRun:
    """One network trained once.

    Attributes:
        seed: Seed of the run: its initial weights, the order of its images and their augmentation.
        run: Its folder.
        command: The command line that repeats it.
        history: One row an epoch.
    """

    seed: int
    run: Path
    command: str
    history: tuple[EpochRow, ...]

    @property
    def top1(self) -> float:
        """Validation top-1 of the last epoch, in percent."""
        return self.history[-1].val_top1


@dataclass(frozen=True)
class NetworkResult:
    """One network over all seeds.

    Attributes:
        model: Its name for `sgenet.create_model`.
        title: What the report calls it: "plain", "SE", "SGE".
        cost: Counted costs for one image of the demonstration's size.
        inference: Time of a forward pass as a multiple of the first network's.
        training: Time of a forward and a backward pass as a multiple of the first network's.
        runs: One entry a seed.
    """

    model: str
    title: str
    cost: Cost
    inference: Ratio
    training: Ratio
    runs: tuple[SeedRun, ...]

    @property
    def top1(self) -> tuple[float, ...]:
        """Last-epoch validation top-1 of each seed, in percent."""
        return tuple(run.top1 for run in self.runs)

    @property
    def mean(self) -> float:
        """Mean of `top1`."""
        return fmean(self.top1)

    @property
    def std(self) -> float | None:
        """Sample standard deviation of `top1`; None for a single seed, which shows no spread."""
        return stdev(self.top1) if len(self.top1) > 1 else None


@dataclass(frozen=True)
class DemoResult:
    """A finished demonstration.

    Attributes:
        output: Its folder.
        report: The report, a single HTML file.
        networks: The networks; the first is the plain one, which the others are compared with.
        trained: Number of runs trained by this call; 0 where all of them were there already.
    """

    output: Path
    report: Path
    networks: tuple[NetworkResult, ...]
    trained: int
