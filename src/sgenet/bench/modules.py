"""A module by itself, beside what the memory of the machine needs at least to read a map and write one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from sgenet.attention import SpatialGroupEnhance, create_attention
from sgenet.bench.failure import explained
from sgenet.bench.networks import draw_weights
from sgenet.bench.result import BenchRow
from sgenet.bench.settings import BenchSettings
from sgenet.ops import scale_channels_, spatial_group_enhance_, use_backend
from sgenet.ops.spatial_group_enhance import spatial_group_enhance_backward, spatial_group_enhance_forward
from sgenet.timing import compare_latency

__all__ = ["STAGES", "module_rows"]

# ResNet-50's four stages at 224 pixels: channels and height.
STAGES = ((256, 56), (512, 28), (1024, 14), (2048, 7))

_USUAL_CACHE = 64 << 20  # bytes, where the machine does not tell
_MOST_STEPS = 12  # of one comparison
_Step = Callable[[], object]
_Build = Callable[[], _Step]
_T = TypeVar("_T")


def module_rows(settings: BenchSettings, progress: Callable[[str, float], object]) -> list[BenchRow]:
    """Measure a module at each stage: both passes against copying the map, and its sum with a shortcut.

    Args:
        settings: What to measure, with a device and a module.
        progress: Called with what is being done and the share that is done.

    Returns:
        A row for each form at each stage.
    """
    rows = []
    for number, (channels, side) in enumerate(STAGES):
        shape = (settings.batch, channels, side, side)
        with explained(f"the module '{settings.module}'", settings):
            maps = _Maps(shape, settings)
            for part, (baseline, plain, forms) in enumerate(maps.comparisons()):
                steps = {baseline: plain(), f"{baseline} again": plain(), **_in_both_forms(forms)}
                maps.go_round(steps.values())
                ratios = compare_latency(
                    steps.pop(baseline),
                    steps,
                    pairs=settings.pairs,
                    budget_seconds=settings.seconds / (2 * len(STAGES)),
                    device=settings.device,
                    progress=partial(_share, progress, f"maps of {side} x {side}", 2 * number + part),
                )
                rows += [BenchRow(form, baseline, shape, ratio) for form, ratio in ratios.items()]
    return rows


def _share(progress: Callable[[str, float], object], what: str, before: int, done: float) -> None:
    progress(what, (before + done) / (2 * len(STAGES)))


class _Maps:
    """Steps that work on maps of one shape.

    In a network a module's input comes from far away: other maps have passed through the caches since it was written.
    So each step goes round several maps, more than the caches hold, and keeps as many results, so that memory for the
    next one is as cold; and no two steps work on the same maps at a time. What is copied goes into maps that are there
    already. What wants no gradient runs in inference mode, as in a network.
    """

    def __init__(self, shape: tuple[int, ...], settings: BenchSettings) -> None:
        self.settings = settings
        self.dtype: torch.dtype = getattr(torch, settings.dtype)
        self.layout = torch.channels_last if settings.layout == "channels_last" else torch.contiguous_format
        self.shape = shape
        size = math.prod(shape) * self.dtype.itemsize
        self.count = max(2, math.ceil(4 * _cache_bytes(settings.device) / size))
        self.inputs = self._new()
        self.others = self._new()
        self.overwritten = self._new()
        module = create_attention(settings.module or "", shape[1])
        draw_weights(module)
        self.module = module.to(settings.device, self.dtype)
        self.begun = 0  # steps that go round

    def _new(self) -> list[Tensor]:
        def one() -> Tensor:
            values = torch.randn(self.shape, device=self.settings.device)
            return values.to(self.dtype).to(memory_format=self.layout)

        return [one() for _ in range(self.count)]

    def comparisons(self) -> tuple[tuple[str, _Build, dict[str, _Build]], ...]:
        """What is measured: a baseline's name, how to build its step, and how to build those beside it."""
        passes: dict[str, _Build] = {
            "forward": self._forward,
            "backward": self._backward,
            "forward+backward": self._both,
        }
        if isinstance(self.module, SpatialGroupEnhance):
            passes["backward operator"] = self._backward_operator
        return (("copy_", self._copies, passes), ("add_ relu_", self._sums, {"residual+ReLU": self._joined}))

    def _rounds(self, *maps: Sequence[_T]) -> Iterator[tuple[_T, ...]]:
        """One after the other of some maps side by side, for ever, beginning elsewhere than the step before."""
        places = list(zip(*maps, strict=True))
        first = self.begun * max(1, self.count // _MOST_STEPS) % self.count
        self.begun += 1
        return cycle(places[first:] + places[:first])

    def go_round(self, steps: Iterable[_Step]) -> None:
        """Let each step touch all of its memory once: a page that is new to the process takes far longer."""
        for step in steps:
            for _ in range(self.count + 1):
                step()

    def _copies(self) -> _Step:
        """One read and one write of the map."""
        pairs = self._rounds(self.inputs, [torch.empty_like(x) for x in self.inputs])

        def step() -> None:
            x, out = next(pairs)
            with torch.inference_mode():
                out.copy_(x)

        return step

    def _sums(self) -> _Step:
        """What a plain residual block ends with."""
        pairs = self._rounds(self.overwritten, self.others)

        def step() -> None:
            x, shortcut = next(pairs)
            with torch.inference_mode():
                x.add_(shortcut).relu_()

        return step

    def _forward(self) -> _Step:
        module = copy.deepcopy(self.module).requires_grad_(False)
        inputs, kept = self._rounds(self.inputs), _Ring[Tensor](self.count)

        def step() -> None:
            with torch.inference_mode():
                kept.put(module(*next(inputs)))

        return step

    def _backward(self) -> _Step:
        leaves = [x.detach().requires_grad_() for x in self.inputs]
        outputs = [self.module(leaf) for leaf in leaves]
        turns = self._rounds(leaves, outputs, self.others)
        parameters, kept = tuple(self.module.parameters()), _Ring[tuple[Tensor, ...]](self.count)

        def step() -> None:
            leaf, output, grad = next(turns)
            kept.put(torch.autograd.grad(output, (leaf, *parameters), grad, retain_graph=True))

        return step

    def _backward_operator(self) -> _Step:
        """What autograd calls, called without autograd: between the two lies what any gradient costs."""
        module = copy.deepcopy(self.module).requires_grad_(False)
        settings = (module.groups, module.eps, module.scale)
        with torch.inference_mode():
            saved = [spatial_group_enhance_forward(x, module.weight, module.bias, *settings)[1:] for x in self.inputs]
        turns = self._rounds(self.inputs, saved, self.others)
        kept = _Ring[object](self.count)

        def step() -> None:
            x, values, grad = next(turns)
            with torch.inference_mode():
                gradients = spatial_group_enhance_backward(
                    grad, x, None, module.weight, module.bias, *values, *settings, False, False
                )
                kept.put(gradients)

        return step

    def _both(self) -> _Step:
        turns = self._rounds([x.detach().requires_grad_() for x in self.inputs], self.others)
        parameters, kept = tuple(self.module.parameters()), _Ring[tuple[Tensor, ...]](self.count)

        def step() -> None:
            leaf, grad = next(turns)
            kept.put(torch.autograd.grad(self.module(leaf), (leaf, *parameters), grad))

        return step

    def _joined(self) -> _Step:
        module = copy.deepcopy(self.module).requires_grad_(False)
        turns = self._rounds(self.overwritten, self.others)
        join = _joins_with(module)

        def step() -> None:
            x, shortcut = next(turns)
            with torch.inference_mode():
                join(x, shortcut)

        return step


def _joins_with(module: nn.Module) -> Callable[[Tensor, Tensor], object]:
    """The operator behind a module's sum with a shortcut; beside torch's two, without the module around it."""
    if isinstance(module, SpatialGroupEnhance):
        parameters = (module.weight, module.bias, module.groups, module.eps, module.scale)
        return lambda x, shortcut: spatial_group_enhance_(x, *parameters, shortcut, True)
    gate: Callable[[Tensor], Tensor] = module.gate  # type: ignore[assignment]
    return lambda x, shortcut: scale_channels_(x, gate(x).flatten(1), shortcut, True)


def _in_both_forms(builds: dict[str, _Build]) -> dict[str, _Step]:
    steps = {}
    for name, build in builds.items():
        steps[name] = build()
        with use_backend("reference"):
            steps[f"{name} unfused"] = _unfused(build())
    return steps


def _unfused(step: _Step) -> _Step:
    def by_reference() -> None:
        with use_backend("reference"):
            step()

    return by_reference


class _Ring(Generic[_T]):
    """Keeps the last results, so that the allocator does not hand out again at once what is still in a cache."""

    def __init__(self, count: int) -> None:
        self.places: list[_T | None] = [None] * count
        self.next = 0

    def put(self, result: _T) -> None:
        """Keep this one, and let the oldest go."""
        self.places[self.next] = result
        self.next = (self.next + 1) % len(self.places)


def _cache_bytes(device: str) -> int:
    """The size of the last cache before memory."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    units = {"K": 1 << 10, "M": 1 << 20}
    found = [
        int(text[:-1]) * units[text[-1]]
        for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
        if (text := file.read_text().strip())[-1:] in units
    ]
    return max(found, default=_USUAL_CACHE)
