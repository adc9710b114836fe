"""Find the places in a network where attention belongs, from a recording of one forward pass.

A residual sum is an addition of two maps of which one, the branch, has convolutions of its own, and the other, the
shortcut, at most one (a projection). In networks without sums the rules of `_Finder.concatenations` and
`_Finder.activations` name the places.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

from sgenet.attention import Attention
from sgenet.errors import ConfigError, did_you_mean
from sgenet.surgery.attachment import REPARAMETERISERS, free_name
from sgenet.surgery.blocks import has_slot, is_known_block, shortcut_slot
from sgenet.surgery.recording import Recording, Step, record

__all__ = ["Attach", "Position", "Site", "Sites", "find_sites"]

Position = Literal["residual", "pre", "post", "identity", "inner", "module", "stage"]
Attach = Literal["slot", "shortcut", "append", "block", "after", "before", "replace"]

_SUMS = frozenset({"add", "add_"})
_PARTS = frozenset({"slice", "split", "split_with_sizes", "chunk", "narrow"})
_NORMS = frozenset({"native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
                    "cudnn_batch_norm", "native_group_norm", "native_layer_norm"})  # fmt: skip
_ACTIVATIONS = frozenset({"relu", "relu_", "silu", "silu_", "gelu", "hardswish", "hardswish_", "hardtanh", "hardtanh_",
                          "leaky_relu", "leaky_relu_", "elu", "elu_", "mish", "clamp", "clamp_min", "clamp_",
                          "prelu", "_prelu_kernel"})  # fmt: skip
_FORGETTING = frozenset({"Identity", "Dropout", "Dropout2d", "DropPath", "StochasticDepth", "DropBlock2d"})
_NORM_CLASSES = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_ATTENTION_CLASSES = frozenset({
    "SEModule", "EffectiveSEModule", "SqueezeExcite", "SqueezeExcitation", "SqueezeExciteCl", "SELayer", "SEBlock",
    "SEAttention", "EcaModule", "CecaModule", "ECAAttention", "CbamModule", "LightCbamModule", "CBAM", "BAM",
    "CoordAttn", "SimpleCoordAttn", "EfficientLocalAttn", "StripAttn", "GatherExcite", "GlobalContext", "ContextBlock",
    "SpatialGroupEnhance",
})  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A place for attention.

    Attributes:
        module: Name that the attention module has, or will have, in the network.
        place: Name of the module that it is attached to.
        attach: How: "slot" (the host's own), "shortcut" (the host's own on the shortcut), "append" (to a Sequential),
            "block" (a known block that gets `attention`), "after" or "before" (around a module), "replace" (in place of
            other attention).
        channels: Channels of its input.
        stage: k where the map is 2**k times smaller than the image: 2 to 5 in a ResNet.
        kind: What was found there: "sum", "concatenation", "activation", "module" (named by the user), "attention".
        taken: Name of the attention module that the branch has already, or an empty string.
        size: Of the map, where the image has the size that was recorded.
        channels_last: Whether its input is (batch, *spatial, channels) instead of (batch, channels, *spatial).
    """

    module: str
    place: str
    attach: Attach
    channels: int
    stage: int
    kind: str
    taken: str
    size: tuple[int, ...]
    channels_last: bool


class Sites(NamedTuple):
    """What `find_sites` found.

    Attributes:
        found: The sites, in the order of the forward pass.
        taken: The attention modules that the network has already, as places for others instead of them.
        passed_over: Names of places that cannot take attention, each with the reason.
        part: Name of the part of the network that was run; empty for all of it.
    """

    found: tuple[Site, ...]
    taken: tuple[Site, ...]
    passed_over: tuple[tuple[str, str], ...]
    part: str


def find_sites(
    model: nn.Module,
    position: Position = "residual",
    *,
    modules: str | Sequence[str] | None = None,
    example: Tensor | None = None,
) -> Sites:
    """The places of one kind in any convolutional network.

    Args:
        model: The network. One that takes no plain batch of images (a detector) is searched part by part.
        position: Where, by the names of SENet's figure 5: "residual" (end of the branch, before the sum), "pre" (begin
            of the branch), "post" (after the sum and its activation), "identity" (on the shortcut), "inner" (after the
            branch's last convolution wider than 1x1), "module" (output of a module that ends in a concatenation), and
            "stage" (after the last sum of every stage but the last, where BAM belongs). Networks without sums have
            their "residual" places at the end of each new part of a concatenation, else after such a module, else
            after each convolution's activation.
        modules: Names of modules, as glob patterns; attention goes behind each of them instead.
        example: An input, for a network that does not run on zeros of a usual size.

    Returns:
        The sites.

    Raises:
        ConfigError: If the network has no convolution, cannot be run, or a pattern names nothing usable.

    Source:
        Positions: arXiv 1709.01507v4, figure 5.

    Examples:
        >>> import torchvision
        >>> sites = find_sites(torchvision.models.resnet18())
        >>> [site.module for site in sites.found][:2]
        ['layer1.0.attention', 'layer1.1.attention']
        >>> [site.stage for site in sites.found]
        [2, 2, 3, 3, 4, 4, 5, 5]
    """
    if position not in get_args(Position):
        raise ConfigError(
            f"there is no position '{position}'.{did_you_mean(position, get_args(Position))} "
            f"Known: {', '.join(get_args(Position))}"
        )
    patterns = [modules] if isinstance(modules, str) else modules
    try:
        return _Finder(model, record(model, example), "").find(position, patterns)
    except ConfigError as error:
        if example is not None or patterns is not None:
            raise
        return _find_in_parts(model, position, error)


def _find_in_parts(model: nn.Module, position: Position, reason: ConfigError) -> Sites:
    """Sites of the first part of a network that runs on images; a detector's backbone."""
    waiting = list(model.named_children())
    while waiting:
        name, part = waiting.pop(0)
        try:
            sites = _Finder(part, record(part), f"{name}.").find(position, None)
        except ConfigError:
            waiting += [(f"{name}.{child}", inner) for child, inner in part.named_children()]
            continue
        if sites.found:
            return sites
    raise reason


class _Branch(NamedTuple):
    """A residual sum."""

    total: Step
    end: Step
    shortcut: Step
    own: int  # the steps that only the branch has behind it
    shortcut_own: int


class _Finder:
    """Places in one recording. Names in it are relative to the part that was run; sites have whole names."""

    def __init__(self, model: nn.Module, recording: Recording, prefix: str) -> None:
        self._modules = dict(model.named_modules())
        self._recording = recording
        self._prefix = prefix
        self._axes = len(recording.steps[0].shape)
        self._passed: dict[str, str] = {}
        self._attention = {
            name for name, module in self._modules.items()
            if isinstance(module, Attention) or type(module).__name__ in _ATTENTION_CLASSES
        }  # fmt: skip

    def find(self, position: Position, patterns: Sequence[str] | None) -> Sites:
        """The sites of a position, or behind the modules that patterns name."""
        if patterns is not None:
            return self._sites(self._named(patterns))
        if position == "module":
            return self._sites(self._concatenated_modules())
        branches = self._branches()
        if position == "residual":
            found = self._standard(branches)
        elif position == "stage":
            found = self._stage_ends(list(self._after_sums(branches)))
        else:
            rule = {
                "pre": self._before_branches,
                "post": self._after_sums,
                "identity": self._on_shortcuts,
                "inner": self._behind_wide_convolutions,
            }
            found = list(rule[position](branches))
        return self._sites(found)

    def _standard(self, branches: list[_Branch]) -> list[Site]:
        """Where attention goes if nobody says where. A single sum does not make a residual network (LCNetV2's)."""
        sums = list(self._residual(branches))
        if len(sums) > 1:
            return sums
        others = list(self._new_parts()) or list(self._concatenated_modules()) or list(self._activated())
        return others if not sums or len({site.stage for site in others}) > 2 else sums

    def _sites(self, found: Iterable[Site]) -> Sites:
        by_name: dict[str, Site] = {}
        for site in found:
            by_name.setdefault(site.module, site)
        passed = [(n, reason) for n, reason in self._passed.items() if not self._holds_any(n, by_name.values())]
        named = tuple((self._prefix + name, reason) for name, reason in passed)
        return Sites(tuple(by_name.values()), tuple(self._taken()), named, self._prefix.rstrip("."))

    def _holds_any(self, block: str, sites: Iterable[Site]) -> bool:
        """Whether a block has a site in spite of a sum without one: Res2Net's blocks have sums inside."""
        whole = self._prefix + block
        return any(site.place == whole or _inside(site.place, whole) for site in sites)

    def _taken(self) -> Iterator[Site]:
        """The attention that is there, where it gets one map and returns another of the same shape."""
        for name in self._recording.calls:
            inner = any(_inside(name, other) for other in self._attention if other != name)
            if name not in self._attention or inner or self._recording.calls[name] != 1:
                continue
            end = next((step for step in self._recording.steps if name in step.ends), None)
            if end is not None and self._is_map(end) and self._recording.inputs.get(name) == end.shape:
                yield self._site(name, name, "replace", end, "attention", "")

    # The sums

    def _branches(self) -> list[_Branch]:
        """Every residual sum, in order."""
        found = []
        for step in self._recording.steps:
            attention = any(name in self._attention for name in step.inside)
            if step.operation in _SUMS and len(step.reads) == 2 and len(step.shape) == self._axes and not attention:
                branch = self._branch(step)
                if branch is not None:
                    found.append(branch)
        return found

    def _branch(self, total: Step) -> _Branch | None:
        steps, past = self._recording.steps, self._recording.past
        a, b = total.reads
        if a == b or steps[a].shape != steps[b].shape:
            return None
        own_a, own_b = past[a] & ~past[b], past[b] & ~past[a]
        count_a, count_b = len(self._recording.weighted(own_a)), len(self._recording.weighted(own_b))
        if count_a > count_b and count_b <= 1:
            branch = _Branch(total, steps[a], steps[b], own_a, own_b)
        elif count_b > count_a and count_a <= 1:
            branch = _Branch(total, steps[b], steps[a], own_b, own_a)
        else:
            return None
        return None if self._merges_filters(branch) else branch

    def _merges_filters(self, branch: _Branch) -> bool:
        """Whether a sum is inside a convolution of filters side by side that can be merged into one (RepVGG's)."""
        if self._reparameterisable(branch.total) is None:
            return False
        own = self._recording.weighted(branch.own)
        behind = [self._recording.weighted(self._recording.past[s.index] & branch.own) for s in own]
        return max(map(len, behind)) == 1

    def _reparameterisable(self, step: Step) -> str | None:
        """The innermost module at work in a step that can turn its filters into fewer, but for the whole network."""
        for name in reversed(step.inside[1:]):
            if any(callable(getattr(self._modules[name], method, None)) for method in REPARAMETERISERS):
                return name
        return None

    def _residual(self, branches: list[_Branch]) -> Iterator[Site]:
        for branch in branches:
            block = branch.total.inside[-1]
            end = self._returned(branch.end, branch.total)
            if end is None:
                self._passed[block] = "no module returns the end of the branch"
            elif not self._is_map(end):
                self._passed[block] = f"not a map, but of shape {end.shape}"
            else:
                yield self._residual_site(block, end, branch)

    def _residual_site(self, block: str, end: Step, branch: _Branch) -> Site:
        taken = self._attention_in(branch.own)
        if has_slot(self._modules[block]):
            return self._site(f"{block}.se", block, "slot", end, "sum", taken)
        return self._behind(end, "sum", taken, block=block)

    def _after_sums(self, branches: list[_Branch]) -> Iterator[Site]:
        for branch in branches:
            block, last = branch.total.inside[-1], self._activated_step(branch.total)
            names = [name for name in self._once(last) if block and (name == block or _inside(name, block))]
            if names and self._is_map(last):
                yield self._behind(last, "sum", self._attention_in(branch.own), names=names)
            else:
                self._passed[block] = "the sum is not what a module returns"

    def _before_branches(self, branches: list[_Branch]) -> Iterator[Site]:
        for branch in branches:
            block = branch.total.inside[-1]
            entries = self._entries(branch)
            if len(entries) == 1 and self._is_map(self._recording.steps[entries[0][0]]):
                start, name = entries[0]
                step = self._recording.steps[start]
                taken = self._attention_in(branch.own)
                yield self._beside(name, "before", step, "sum", taken)
            else:
                self._passed[block] = "the branch does not begin with one module"

    def _entries(self, branch: _Branch) -> list[tuple[int, str]]:
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
        names = [n for n in begun if n in step.inside and _inside(n, block) and self._recording.calls[n] == 1]
        return names[0] if names else None

    def _on_shortcuts(self, branches: list[_Branch]) -> Iterator[Site]:
        for branch in branches:
            block, end, taken = branch.total.inside[-1], branch.shortcut, self._attention_in(branch.own)
            slot = shortcut_slot(self._modules[block])
            names = [name for name in self._once(end) if _inside(name, block)]
            if names and self._is_map(end):
                yield self._behind(end, "sum", taken, names=names)
            elif slot is not None and self._is_map(end):
                yield self._site(f"{block}.{slot}", block, "shortcut", end, "sum", taken)
            else:
                self._passed[block] = "no module is on the shortcut"

    def _behind_wide_convolutions(self, branches: list[_Branch]) -> Iterator[Site]:
        for branch in branches:
            block = branch.total.inside[-1]
            wide = [s for s in self._recording.weighted(branch.own) if s.kernel and max(s.kernel) > 1]
            wide = [s for s in wide if not self._attention_in(1 << s.index)]
            if not wide:
                self._passed[block] = "the branch has no convolution wider than 1x1"
                continue
            end = self._normed_step(wide[-1])
            names = [name for name in self._once(end) if _inside(name, block)]
            if names and self._is_map(end):
                yield self._behind(end, "sum", self._attention_in(branch.own), names=names)
            else:
                self._passed[block] = "no module returns the result of the convolution"

    def _stage_ends(self, found: list[Site]) -> list[Site]:
        last = {site.stage: site for site in found}
        return [last[stage] for stage in sorted(last)[:-1]]

    # The rules for networks without sums

    def _concatenations(self) -> Iterator[tuple[Step, list[int], list[int]]]:
        """Each concatenation of channels, with its parts that are passed on, and those that are computed."""
        past = self._recording.past
        for step in self._recording.steps:
            if step.operation != "cat" or len(step.shape) != self._axes or step.dim not in (1, 1 - self._axes):
                continue
            passed: list[int] = []
            computed: list[int] = []
            for part in dict.fromkeys(step.reads):
                others = 0
                for other in step.reads:
                    others |= past[other] if other != part else 0
                (computed if self._recording.weighted(past[part] & ~others) else passed).append(part)
            yield step, passed, computed

    def _new_parts(self) -> Iterator[Site]:
        """The end of what a block adds to a concatenation that passes on what was there (DenseNet, ShuffleNet)."""
        for step, passed, computed in self._concatenations():
            for part in computed if passed else []:
                end = self._recording.steps[part]
                if not self._adds(step, passed, end):
                    continue
                last = self._returned(end, None)
                if last is not None and self._is_map(last):
                    yield self._behind(last, "concatenation", "")
                else:
                    self._passed[step.inside[-1]] = "no module returns the new part of the concatenation"

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
        while step.operation in _PARTS | {"view", "select", "transpose", "clone", "_unsafe_view"} and step.reads:
            step = self._recording.steps[step.reads[0]]
        return block not in step.inside

    def _concatenated_modules(self) -> Iterator[Site]:
        """The output of every module that concatenates what it computed (Inception, VoVNet, SelecSLS)."""
        for step, passed, computed in self._concatenations():
            name = self._block_of(step)
            if not name or not computed or len(computed) + len(passed) < 2:
                continue
            if name not in self._recording.shapes:  # it returns more than a tensor
                name = self._outermost_begun(step, name) or ""
            if name and self._recording.calls[name] == 1:
                end = next(s for s in self._recording.steps if name in s.ends)
                if self._is_map(end):
                    yield self._behind(end, "concatenation", self._attention_in(self._executed(name)), names=[name])

    def _block_of(self, step: Step) -> str:
        """The module that executes a step; of a list of layers, the module that it belongs to."""
        name = step.inside[-1]
        while isinstance(self._modules[name], nn.Sequential) and name.rpartition(".")[0] in self._recording.shapes:
            name = name.rpartition(".")[0]
        return name

    def _outermost_begun(self, step: Step, block: str) -> str | None:
        """The largest module in a block that is given a step's result and returns a tensor."""
        names = [n for n in step.begins if _inside(n, block) and n in self._recording.shapes]
        return names[0] if names else None

    def _activated(self) -> Iterator[Site]:
        """After the activation of each convolution that is not channelwise, but for a strided stem (VGG, MobileNet)."""
        image = self._recording.steps[0].shape
        for step in (s for s in self._recording.steps if s.operation == "convolution"):
            first = len(self._recording.weighted(self._recording.past[step.index])) == 1
            strided_stem = first and step.shape[2:] != image[2:]
            if step.channelwise or strided_stem or not self._is_map(step) or set(step.shape[2:]) == {1}:
                continue
            end = self._activated_step(self._merged_step(step))
            merged = self._reparameterisable(step)
            names = [name for name in self._once(end) if not merged or not _inside(name, merged)]
            if names:
                yield self._behind(end, "activation", self._attention_in(1 << end.index), names=names[:1])

    def _merged_step(self, step: Step) -> Step:
        """The result of the filters that a convolution can be merged with; of any other, its own."""
        name = self._reparameterisable(step)
        ends = [s for s in self._recording.steps if name in s.ends] if name else []
        return ends[0] if ends else step

    def _named(self, patterns: Sequence[str]) -> Iterator[Site]:
        """Behind each module that a pattern names."""
        for pattern in patterns:
            names = [n for n in self._recording.shapes if n and fnmatchcase(n, pattern)]
            if not names:
                hint = did_you_mean(pattern, self._recording.shapes)
                raise ConfigError(f"no module that returns a tensor is named '{pattern}'.{hint}")
            for name in names:
                end = next(step for step in self._recording.steps if name in step.ends)
                if self._recording.calls[name] > 1:
                    raise ConfigError(
                        f"module '{name}' is used {self._recording.calls[name]} times in one pass; "
                        "attention behind it would mix places: name modules that are used once"
                    )
                if not self._is_map(end):
                    raise ConfigError(
                        f"module '{name}' returns {tuple(end.shape)}; attention takes (batch, channels, "
                        f"{self._axes - 2} spatial axes): name another module"
                    )
                yield self._behind(end, "module", "", names=[name])

    # What sites are made of

    def _site(self, module: str, place: str, attach: Attach, end: Step, kind: str, taken: str) -> Site:
        taken = taken and self._prefix + taken
        last = self._channels_last(end)
        channels, size = (end.shape[-1], end.shape[1:-1]) if last else (end.shape[1], end.shape[2:])
        stage = round(math.log2(self._recording.steps[0].shape[-1] / size[-1]))
        return Site(self._prefix + module, self._prefix + place, attach, channels, stage, kind, taken, size, last)

    def _behind(self, end: Step, kind: str, taken: str, *, block: str = "", names: list[str] | None = None) -> Site:
        """The best of the modules that return a step's result, for attention behind it."""
        names = names or [name for name in self._once(end) if not block or _inside(name, block)] or self._once(end)
        for name in reversed(names):
            if type(self._modules[name]).__name__ in _FORGETTING and not any(self._modules[name].parameters()):
                return self._beside(name, "before", end, kind, taken)
        for name in reversed(names):
            if type(self._modules[name]).forward is nn.Sequential.forward and not self._channels_last(end):
                return self._beside(name, "append", end, kind, taken)
        if block and is_known_block(self._modules[block]):
            return self._beside(block, "block", end, kind, taken)
        return self._beside(names[-1], "after", end, kind, taken)

    def _beside(self, name: str, attach: Attach, end: Step, kind: str, taken: str) -> Site:
        """The site of attention that becomes a child with what is at a place."""
        return self._site(f"{name}.{free_name(self._modules[name])}", name, attach, end, kind, taken)

    def _once(self, step: Step) -> list[str]:
        """Modules that return a step's result and are used once, innermost first.

        Parts of a norm are left out: they are gone when norms are converted or frozen.
        """
        return [name for name in step.ends if name and self._recording.calls[name] == 1 and not self._in_norm(name)]

    def _in_norm(self, name: str) -> bool:
        above = name.rpartition(".")[0]
        while above:
            if isinstance(self._modules[above], _NORM_CLASSES):
                return True
            above = above.rpartition(".")[0]
        return False

    def _returned(self, end: Step, total: Step | None) -> Step | None:
        """The last step at or before `end` that a module returns, over steps that have no weights."""
        steps, readers = self._recording.steps, self._recording.readers
        reader = total
        while True:
            others = [i for i in readers[end.index] if reader is None or i != reader.index]
            if others and total is not None and not all(steps[i].operation in _PARTS for i in others):
                return None
            if self._once(end):
                return end
            weighted = [i for i in dict.fromkeys(end.reads) if self._recording.weighted(self._recording.past[i])]
            if len(weighted) != 1 or end.weighted or end.operation in _SUMS:
                return None
            reader, end = end, steps[weighted[0]]

    def _activated_step(self, step: Step) -> Step:
        return self._followed(step, _NORMS | _ACTIVATIONS)

    def _normed_step(self, step: Step) -> Step:
        return self._followed(step, _NORMS)

    def _followed(self, step: Step, operations: frozenset[str]) -> Step:
        """The last of the steps that follow one by one."""
        while True:
            readers = self._recording.readers[step.index]
            following = [self._recording.steps[i] for i in readers]
            same = [s for s in following if s.operation in operations]
            in_place = bool(same) and same[0].operation.endswith("_")
            if not same or (len(following) > 1 and not in_place):
                return step
            step = same[0]

    def _executed(self, name: str) -> int:
        bits = 0
        for step in self._recording.steps:
            if name in step.inside:
                bits |= 1 << step.index
        return bits

    def _attention_in(self, bits: int) -> str:
        """Name of an attention module that took part in some steps, or an empty string."""
        for step in self._recording.members(bits):
            for name in step.inside:
                if name in self._attention:
                    return name
        return ""

    def _is_map(self, step: Step) -> bool:
        """Whether a result has a batch, channels, and as many spatial axes as the image."""
        return len(step.shape) == self._axes

    def _channels_last(self, step: Step) -> bool:
        """Whether a map's channels are its last axis; a square image tells by which axes are as long as each other."""
        image = self._recording.steps[0].shape
        square = len(set(image[2:])) == 1 and self._axes > 3
        return square and len(set(step.shape[2:])) > 1 and len(set(step.shape[1:-1])) == 1


def _inside(name: str, block: str) -> bool:
    return not block or name.startswith(block + ".")
