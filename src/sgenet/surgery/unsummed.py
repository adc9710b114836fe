"""The rules for networks without residual sums: concatenations, else activations."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from sgenet.surgery.places import PARTS, Places, is_inside
from sgenet.surgery.recording import Step
from sgenet.surgery.sites import Site

__all__ = ["Unsummed"]


class Unsummed:
    """Sites of a recording where nothing is added up."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._recording = places.recording

    def _concatenations(self) -> Iterator[tuple[Step, list[int], list[int]]]:
        """Each concatenation of channels, with its parts that are passed on, and those that are computed."""
        past = self._recording.past
        for step in self._recording.steps:
            if (
                step.operation != "cat"
                or len(step.shape) != self._places.axes
                or step.dim not in (1, 1 - self._places.axes)
            ):
                continue
            passed: list[int] = []
            computed: list[int] = []
            for part in dict.fromkeys(step.reads):
                others = 0
                for other in step.reads:
                    others |= past[other] if other != part else 0
                (computed if self._recording.weighted(past[part] & ~others) else passed).append(part)
            yield step, passed, computed

    def new_parts(self) -> Iterator[Site]:
        """The end of what a block adds to a concatenation that passes on what was there (DenseNet, ShuffleNet)."""
        for step, passed, computed in self._concatenations():
            for part in computed if passed else []:
                end = self._recording.steps[part]
                if not self._adds(step, passed, end):
                    continue
                last = self._places.returned(end, None)
                if last is not None and self._places.is_map(last):
                    yield self._places.behind(last, "concatenation", "")
                else:
                    self._places.passed_over[step.inside[-1]] = "no module returns the new part of the concatenation"

    def _adds(self, step: Step, passed: list[int], end: Step) -> bool:
        """Whether a part is new beside parts that come from outside the block, or was computed from all of them."""
        block, past = step.inside[-1], self._recording.past
        from_outside = all(self._comes_from_outside(part, block) for part in passed)
        own = past[end.index]
        for part in passed:
            own &= ~past[part]
        return from_outside or any(s.operation == "cat" for s in self._recording.members(own))

    def _comes_from_outside(self, part: int, block: str) -> bool:
        step = self._recording.steps[part]
        while step.operation in PARTS | {"view", "select", "transpose", "clone", "_unsafe_view"} and step.reads:
            step = self._recording.steps[step.reads[0]]
        return block not in step.inside

    def concatenating_modules(self) -> Iterator[Site]:
        """The output of every module that concatenates what it computed (Inception, VoVNet, SelecSLS)."""
        for step, passed, computed in self._concatenations():
            name = self._block_of(step)
            if not name or not computed or len(computed) + len(passed) < 2:
                continue
            if name not in self._recording.shapes:  # it returns more than a tensor
                name = self._outermost_begun(step, name) or ""
            if name and self._recording.calls[name] == 1:
                end = next(s for s in self._recording.steps if name in s.ends)
                if self._places.is_map(end):
                    yield self._places.behind(
                        end, "concatenation", self._places.attention_in(self._places.executed(name)), names=[name]
                    )

    def _block_of(self, step: Step) -> str:
        """The module that executes a step; of a list of layers, the module that it belongs to."""
        name = step.inside[-1]
        while (
            isinstance(self._places.modules[name], nn.Sequential) and name.rpartition(".")[0] in self._recording.shapes
        ):
            name = name.rpartition(".")[0]
        return name

    def _outermost_begun(self, step: Step, block: str) -> str | None:
        """The largest module in a block that is given a step's result and returns a tensor."""
        names = [n for n in step.begins if is_inside(n, block) and n in self._recording.shapes]
        return names[0] if names else None

    def activations(self) -> Iterator[Site]:
        """After the activation of each convolution that is not channelwise, but for a strided stem (VGG, MobileNet)."""
        image = self._recording.steps[0].shape
        for step in (s for s in self._recording.steps if s.operation == "convolution"):
            first = len(self._recording.weighted(self._recording.past[step.index])) == 1
            strided_stem = first and step.shape[2:] != image[2:]
            if step.channelwise or strided_stem or not self._places.is_map(step) or set(step.shape[2:]) == {1}:
                continue
            end = self._places.activated(self._merged_step(step))
            merged = self._places.merging(step)
            names = [name for name in self._places.used_once(end) if not merged or not is_inside(name, merged)]
            if names and self._places.is_map(end):
                yield self._places.behind(end, "activation", self._places.attention_in(1 << end.index), names=names[:1])

    def _merged_step(self, step: Step) -> Step:
        """The result of the filters that a convolution can be merged with; of any other, its own."""
        name = self._places.merging(step)
        ends = [s for s in self._recording.steps if name in s.ends] if name else []
        return ends[0] if ends else step
