"""How long a step takes as a multiple of another step's time, and how much memory it needs.

The steps run in turn in one process (A, B, C, then C, B, A, then B, C, A, ...). What disturbs a machine lasts longer
than a round, so it disturbs numerator and denominator alike, and the median of the rounds' ratios is steady where the
times themselves are not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn

from sgenet.errors import ConfigError

__all__ = ["Ratio", "compare_latency", "inference_step", "latency_ratio", "peak_memory", "training_step"]

_LEAST_PAIRS = 5  # however long a step takes: quartiles of fewer say nothing
_SHORTEST = 1e-7  # seconds; what a clock that stood still is taken for


@dataclass(frozen=True)
class Ratio:
    """A time as a multiple of another step's, from pairs of measurements that follow each other.

    Attributes:
        median: Median of the pairs' ratios.
        lower: Their lower quartile.
        upper: Their upper quartile.
        pairs: Number of pairs.
        seconds: Median time of the step in seconds; it depends on the machine and on what else it does.
    """

    median: float
    lower: float
    upper: float
    pairs: int
    seconds: float


def compare_latency(
    reference: Callable[[], object],
    steps: Mapping[str, Callable[[], object]],
    *,
    pairs: int = 30,
    warmup: int = 3,
    budget_seconds: float = math.inf,
    least_seconds: float = 0.02,
    device: torch.device | str = "cpu",
    progress: Callable[[float], object] | None = None,
) -> dict[str, Ratio]:
    """Time steps in turn and compare each with the reference of the same round.

    The order rotates and is reversed every other round, so that no step always follows the same one. A step that is
    shorter than `least_seconds` is repeated within one measurement until it is not. Give a second copy of the reference
    among the steps: how far its ratio strays from 1 is the noise, below which no difference can be seen.

    Args:
        reference: The step that the others are compared with.
        steps: Steps by name.
        pairs: Rounds, each of which gives one pair for every step; at least 2.
        warmup: Rounds beforehand that do not count, at least 1: what happens only once, such as compilation, happens
            there, and the repetitions of short steps are found.
        budget_seconds: No round begins after this time, the warm-up not counted; five do in any case.
        least_seconds: The least time of one measurement.
        device: Where the steps compute; another one than the CPU is waited for.
        progress: Called after each measurement with the share that is done, 0 to 1.

    Returns:
        For each name its ratio to the reference.

    Raises:
        ConfigError: If `pairs` or `warmup` is too small.

    Examples:
        >>> ratios = compare_latency(lambda: sum(range(100)), {"again": lambda: sum(range(100))}, least_seconds=1e-4)
        >>> ratios["again"].pairs
        30
    """
    if pairs < 2 or warmup < 1:
        raise ConfigError(f"pairs={pairs}, warmup={warmup}: at least 2 pairs and 1 round of warm-up are needed")
    clocks = [_Clock(step, torch.device(device)) for step in (reference, *steps.values())]
    for _ in range(warmup):
        for clock in clocks:
            clock.warm_up(least_seconds)
    start = perf_counter()
    least = min(_LEAST_PAIRS, pairs)
    for number in range(pairs):
        if number >= least and perf_counter() - start >= budget_seconds:
            break
        for place, which in enumerate(_order(number, len(clocks)), 1):
            clocks[which].measure()
            if progress is not None:
                rounds = number + place / len(clocks)
                spent = min((perf_counter() - start) / max(budget_seconds, _SHORTEST), rounds / least)
                progress(min(1.0, max(rounds / pairs, spent)))
    baseline, *others = (clock.seconds for clock in clocks)
    return {name: _ratio(own, baseline) for name, own in zip(steps, others, strict=True)}


class _Clock:
    """Measures one step."""

    def __init__(self, step: Callable[[], object], device: torch.device) -> None:
        self.step = step
        self.device = device
        self.repetitions = 1
        self.seconds: list[float] = []  # of one repetition, by round

    def warm_up(self, least_seconds: float) -> None:
        """Run the step, and repeat it from now on as often as this time makes necessary."""
        once = max(self._elapsed(1), _SHORTEST)
        self.repetitions = max(self.repetitions, math.ceil(least_seconds / once))

    def measure(self) -> None:
        self.seconds.append(self._elapsed(self.repetitions) / self.repetitions)

    def _elapsed(self, repetitions: int) -> float:
        self._wait()
        start = perf_counter()
        for _ in range(repetitions):
            self.step()
        self._wait()
        return perf_counter() - start

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def _order(number: int, count: int) -> list[int]:
    """Who is measured when in a round: rotated by one every two rounds, backwards in every second."""
    rotated = [(number // 2 + offset) % count for offset in range(count)]
    return rotated[::-1] if number % 2 else rotated


def _ratio(own: list[float], baseline: list[float]) -> Ratio:
    ratios = [a / b for a, b in zip(own, baseline, strict=True)]
    lower, _, upper = quantiles(ratios, n=4, method="inclusive")
    return Ratio(median(ratios), lower, upper, len(ratios), median(own))


# --------------------------------------------------------------------------------------------- networks


def latency_ratio(
    models: Mapping[str, nn.Module],
    x: Tensor,
    *,
    baseline: str,
    pairs: int = 20,
    warmup: int = 3,
    mode: Literal["infer", "train"] = "infer",
) -> dict[str, Ratio]:
    """Time networks in turn and compare each with the baseline of the same round, as `compare_latency` does.

    Args:
        models: Networks by name, all on the device of `x`. Copies of them run; the networks are not changed.
        x: Their input.
        baseline: The name all others are compared with.
        pairs: Number of pairs, at least 2.
        warmup: Rounds beforehand that do not count, at least 1.
        mode: "infer" times a forward pass in eval mode without gradients; "train" a forward and a backward pass
            in train mode, without the optimizer's step.

    Returns:
        For each name of `models` its ratio to the baseline; under `baseline` itself, that of a copy of it: the noise.

    Raises:
        ConfigError: If `baseline` is none of the names, `mode` is neither, or `pairs` or `warmup` is too small.

    Examples:
        >>> nets = {"plain": nn.Conv2d(3, 4, 1), "double": nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))}
        >>> ratios = latency_ratio(nets, torch.randn(1, 3, 8, 8), baseline="plain", pairs=2, warmup=1)
        >>> sorted(ratios), ratios["double"].pairs
        (['double', 'plain'], 2)
    """
    if baseline not in models:
        raise ConfigError(f"baseline='{baseline}' is none of the networks: {', '.join(models)}")
    if mode not in ("infer", "train"):
        raise ConfigError(f"mode='{mode}' is not known; choose infer or train")
    run: Callable[[nn.Module, Tensor], object] = training_step if mode == "train" else inference_step

    def step(model: nn.Module) -> Callable[[], object]:
        network = copy.deepcopy(model).train(mode == "train")
        return lambda: run(network, x)

    steps = {name: step(model) for name, model in models.items()}
    return compare_latency(step(models[baseline]), steps, pairs=pairs, warmup=warmup, device=x.device)


def inference_step(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A forward pass without gradients.

    Args:
        network: A network in eval mode, or what compiling it gave.
        x: Its input.

    Returns:
        Its output.

    Examples:
        >>> inference_step(nn.Flatten(), torch.ones(2, 3, 4)).shape
        torch.Size([2, 12])
    """
    with torch.inference_mode():
        return network(x)


def training_step(
    network: nn.Module, x: Tensor, *, run: Callable[[Tensor], Tensor] | None = None, autocast: torch.dtype | None = None
) -> None:
    """A forward and a backward pass without an optimizer's step; the gradients are dropped, as the next step would.

    Args:
        network: A network in train mode.
        x: Its input.
        run: What is called in its place, e.g. what compiling it gave.
        autocast: The dtype that the forward pass casts to; None for no casts.

    Examples:
        >>> training_step(nn.Linear(2, 1), torch.eye(2))
    """
    with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None):
        out = (run or network)(x)
    # Of any output a scalar whose gradient is not constant, at the price of two passes over a few logits.
    out.float().square().mean().backward()
    network.zero_grad(set_to_none=True)


# ----------------------------------------------------------------------------------------------- memory


def peak_memory(step: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most bytes that tensors took at any time during a step, above what they took when it began.

    Tensors that exist before the step, such as parameters, are not counted; gradients that it creates are. On a CPU the
    profiler reports what torch's allocator hands out and gets back; the memory that a library takes for itself is not
    seen. What the step frees must come from the step: run it once before, with everything left as it is found.

    Args:
        step: Runs once.
        device: Where it computes, a CPU or a CUDA device.

    Returns:
        Bytes.

    Raises:
        ConfigError: If the device keeps no account of its memory.

    Examples:
        >>> peak_memory(lambda: (torch.empty(1000, dtype=torch.uint8), torch.empty(500, dtype=torch.uint8)))
        1500
    """
    device = torch.device(device)
    if device.type == "cuda":
        return _peak_of_cuda(step, device)
    if device.type != "cpu":
        raise ConfigError(f"memory is measured on a CPU or a CUDA device, not on '{device}'")
    return _peak_of_cpu(step)


def _peak_of_cuda(step: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_of_cpu(step: Callable[[], object]) -> int:
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        step()
    if profile.profiler is None or profile.profiler.kineto_results is None:
        raise ConfigError("this torch has no profiler, by which memory is measured on a CPU")
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
