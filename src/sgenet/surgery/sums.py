"""The rules for residual networks.

A residual sum is an addition of two maps of which one, the branch, has convolutions of its own, and the other, the
shortcut, at most one (a projection).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sgenet.surgery.blocks import has_slot, shortcut_slot
from sgenet.surgery.places import SUMS, Places, is_inside
from sgenet.surgery.recording import Step
from sgenet.surgery.sites import Site

__all__ = ["ResidualSums"]


class Branch(NamedTuple):
    """A residual sum."""

    total: Step
    end: Step
    shortcut: Step
    own: int  # the steps that only the branch has behind it


class ResidualSums:
    """The residual sums of a recording, and the sites around them: a rule for each position."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._recording = places.recording
        self._branches = [*self._find()]

    def _find(self) -> Iterator[Branch]:
        for step in self._recording.steps:
            in_attention = any(name in self._places.attention for name in step.inside)
            of_maps = len(step.reads) == 2 and len(step.shape) == self._places.axes
            if step.operation in SUMS and of_maps and not in_attention:
                branch = self._branch(step)
                if branch is not None:
                    yield branch

    def _branch(self, total: Step) -> Branch | None:
        steps, past = self._recording.steps, self._recording.past
        a, b = total.reads
        if a == b or steps[a].shape != steps[b].shape:
            return None
        own_a, own_b = past[a] & ~past[b], past[b] & ~past[a]
        count_a, count_b = len(self._recording.weighted(own_a)), len(self._recording.weighted(own_b))
        if count_a > count_b and count_b <= 1:
            branch = Branch(total, steps[a], steps[b], own_a)
        elif count_b > count_a and count_a <= 1:
            branch = Branch(total, steps[b], steps[a], own_b)
        else:
            return None
        return None if self._merges_filters(branch) else branch

    def _merges_filters(self, branch: Branch) -> bool:
        """Whether a sum is inside a convolution of filters side by side that can be merged into one (RepVGG's)."""
        if self._places.merging(branch.total) is None:
            return False
        own = self._recording.weighted(branch.own)
        behind = [self._recording.weighted(self._recording.past[s.index] & branch.own) for s in own]
        return max(map(len, behind)) == 1

    def residual(self) -> Iterator[Site]:
        """At the end of the branch, before the sum."""
        for branch in self._branches:
            block = branch.total.inside[-1]
            end = self._places.returned(branch.end, branch.total)
            if end is None:
                reason = self._places.unreturned(branch.end, "no module returns the end of the branch")
                self._places.passed_over[block] = reason
            elif not self._places.is_map(end):
                self._places.passed_over[block] = f"the branch ends in {self._places.refusal(end)}"
            else:
                yield self._residual_site(block, end, branch)

    def _residual_site(self, block: str, end: Step, branch: Branch) -> Site:
        taken = self._places.attention_in(branch.own)
        if has_slot(self._places.modules[block]):
            return self._places.site(f"{block}.se", block, "slot", end, "sum", taken)
        return self._places.behind(end, "sum", taken, block=block)

    def pre(self) -> Iterator[Site]:
        """At the begin of the branch."""
        for branch in self._branches:
            block = branch.total.inside[-1]
            entries = self._entries(branch)
            if len(entries) == 1 and self._places.is_map(self._recording.steps[entries[0][0]]):
                start, name = entries[0]
                step = self._recording.steps[start]
                taken = self._places.attention_in(branch.own)
                yield self._places.beside(name, "before", step, "sum", taken)
            else:
                self._places.passed_over[block] = "the branch does not begin with one module"

    def _entries(self, branch: Branch) -> list[tuple[int, str]]:
        """The modules with which a branch begins, each with the step that it is given."""
        block, steps = branch.total.inside[-1], self._recording.steps
        found: dict[str, int] = {}
        for step in self._recording.members(branch.own):
            for read in step.reads:
                if branch.own >> read & 1:
                    continue
                name = self._outermost(steps[read].begins, step, block)
                found.setdefault(name or f"?{step.index}", read)
        return [(read, name) for name, read in found.items()] if not any(n[0] == "?" for n in found) else []

    def _outermost(self, begun: list[str], step: Step, block: str) -> str | None:
        names = [n for n in begun if n in step.inside and is_inside(n, block) and self._recording.calls[n] == 1]
        return names[0] if names else None

    def post(self) -> Iterator[Site]:
        """After the sum and its activation."""
        for branch in self._branches:
            block, last = branch.total.inside[-1], self._places.activated(branch.total)
            names = [
                name for name in self._places.used_once(last) if block and (name == block or is_inside(name, block))
            ]
            if names and self._places.is_map(last):
                yield self._places.behind(last, "sum", self._places.attention_in(branch.own), names=names)
            else:
                self._places.passed_over[block] = self._places.unreturned(last, "the sum is not what a module returns")

    def identity(self) -> Iterator[Site]:
        """On the shortcut."""
        for branch in self._branches:
            block, end, taken = branch.total.inside[-1], branch.shortcut, self._places.attention_in(branch.own)
            slot = shortcut_slot(self._places.modules[block])
            names = [name for name in self._places.used_once(end) if is_inside(name, block)]
            if names and self._places.is_map(end):
                yield self._places.behind(end, "sum", taken, names=names)
            elif slot is not None and self._places.is_map(end):
                yield self._places.site(f"{block}.{slot}", block, "shortcut", end, "sum", taken)
            else:
                self._places.passed_over[block] = "no module is on the shortcut"

    def inner(self) -> Iterator[Site]:
        """After the branch's last convolution wider than 1x1, and its norm."""
        for branch in self._branches:
            block = branch.total.inside[-1]
            wide = [s for s in self._recording.weighted(branch.own) if s.kernel and max(s.kernel) > 1]
            wide = [s for s in wide if not self._places.attention_in(1 << s.index)]
            if not wide:
                self._places.passed_over[block] = "the branch has no convolution wider than 1x1"
                continue
            end = self._places.normed(wide[-1])
            names = [name for name in self._places.used_once(end) if is_inside(name, block)]
            if names and self._places.is_map(end):
                yield self._places.behind(end, "sum", self._places.attention_in(branch.own), names=names)
            else:
                reason = self._places.unreturned(end, "no module returns the result of the convolution")
                self._places.passed_over[block] = reason

    def stage(self) -> Iterator[Site]:
        """After the last sum of every stage but the last."""
        last = {site.stage: site for site in self.post()}
        yield from (last[stage] for stage in sorted(last)[:-1])
