"""What sites are made of: the modules and the maps of one recording."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import nn

from sgenet.attention import Attention
from sgenet.errors import ConfigError
from sgenet.surgery.attachment import REPARAMETERISERS, free_name
from sgenet.surgery.blocks import is_known_block
from sgenet.surgery.recording import Recording, Step, record
from sgenet.surgery.sites import Attach, Site

__all__ = ["PARTS", "SUMS", "Places", "is_inside"]

SUMS = frozenset({"add", "add_"})
PARTS = frozenset({"slice", "split", "split_with_sizes", "chunk", "narrow"})
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


class Places:
    """The places of one recording, and what is there.

    Names of modules are relative to the part of the network that was run; sites have whole names.

    Args:
        model: The part of the network that was run.
        recording: Of its forward pass.
        prefix: What the names of the part's modules begin with in the network, e.g. "backbone.".

    Attributes:
        modules: The part's modules by name.
        recording: The recording.
        axes: Of the image, with batch and channels.
        attention: Names of the attention modules that are there already.
        passed_over: Reasons why blocks take no attention, by name.
    """

    def __init__(self, model: nn.Module, recording: Recording, prefix: str) -> None:
        self._model = model
        self.modules = dict(model.named_modules())
        self.recording = recording
        self.prefix = prefix
        self.axes = len(recording.steps[0].shape)
        self.passed_over: dict[str, str] = {}
        self.attention = {
            name for name, module in self.modules.items()
            if isinstance(module, Attention) or type(module).__name__ in _ATTENTION_CLASSES
        }  # fmt: skip

    def site(self, module: str, place: str, attach: Attach, end: Step, kind: str, taken: str) -> Site:
        """A site for attention on a step's result."""
        taken = taken and self.prefix + taken
        last = bool(self.channels_last(end))
        channels, size = (end.shape[-1], end.shape[1:-1]) if last else (end.shape[1], end.shape[2:])
        stage = round(math.log2(self.recording.steps[0].shape[-1] / size[-1]))
        return Site(self.prefix + module, self.prefix + place, attach, channels, stage, kind, taken, size, last)

    def behind(self, end: Step, kind: str, taken: str, *, block: str = "", names: list[str] | None = None) -> Site:
        """The best of the modules that return a step's result, for attention behind it."""
        names = (
            names
            or [name for name in self.used_once(end) if not block or is_inside(name, block)]
            or self.used_once(end)
        )
        for name in reversed(names):
            if type(self.modules[name]).__name__ in _FORGETTING and not any(self.modules[name].parameters()):
                return self.beside(name, "before", end, kind, taken)
        for name in reversed(names):
            if type(self.modules[name]).forward is nn.Sequential.forward and not self.channels_last(end):
                return self.beside(name, "append", end, kind, taken)
        if block and is_known_block(self.modules[block]):
            return self.beside(block, "block", end, kind, taken)
        return self.beside(names[-1], "after", end, kind, taken)

    def beside(self, name: str, attach: Attach, end: Step, kind: str, taken: str) -> Site:
        """The site of attention that becomes a child with what is at a place."""
        return self.site(f"{name}.{free_name(self.modules[name])}", name, attach, end, kind, taken)

    def used_once(self, step: Step) -> list[str]:
        """Modules that return a step's result and are used once, innermost first.

        Parts of a norm are left out: they are gone when norms are converted or frozen.
        """
        return [name for name in step.ends if name and self.recording.calls[name] == 1 and not self._in_norm(name)]

    def _in_norm(self, name: str) -> bool:
        above = name.rpartition(".")[0]
        while above:
            if isinstance(self.modules[above], _NORM_CLASSES):
                return True
            above = above.rpartition(".")[0]
        return False

    def returned(self, end: Step, total: Step | None) -> Step | None:
        """The last step at or before `end` that a module returns, over steps that have no weights."""
        steps, readers = self.recording.steps, self.recording.readers
        reader = total
        while True:
            others = [i for i in readers[end.index] if reader is None or i != reader.index]
            if others and total is not None and not all(steps[i].operation in PARTS for i in others):
                return None
            if self.used_once(end):
                return end
            weighted = [i for i in dict.fromkeys(end.reads) if self.recording.weighted(self.recording.past[i])]
            if len(weighted) != 1 or end.weighted or end.operation in SUMS:
                return None
            reader, end = end, steps[weighted[0]]

    def activated(self, step: Step) -> Step:
        """The step behind a step's norm and activation; itself where none follows."""
        return self._followed(step, _NORMS | _ACTIVATIONS)

    def normed(self, step: Step) -> Step:
        """The step behind a step's norm; itself where none follows."""
        return self._followed(step, _NORMS)

    def _followed(self, step: Step, operations: frozenset[str]) -> Step:
        """The last of the steps that follow one by one."""
        while True:
            readers = self.recording.readers[step.index]
            following = [self.recording.steps[i] for i in readers]
            same = [s for s in following if s.operation in operations]
            in_place = bool(same) and same[0].operation.endswith("_")
            if not same or (len(following) > 1 and not in_place):
                return step
            step = same[0]

    def executed(self, name: str) -> int:
        """The steps during a module's forward, as bits."""
        bits = 0
        for step in self.recording.steps:
            if name in step.inside:
                bits |= 1 << step.index
        return bits

    def attention_in(self, bits: int) -> str:
        """Name of an attention module that took part in some steps, or an empty string."""
        for step in self.recording.members(bits):
            for name in step.inside:
                if name in self.attention:
                    return name
        return ""

    def merging(self, step: Step) -> str | None:
        """The innermost module at work in a step that can turn its filters into fewer, but for the whole network."""
        for name in reversed(step.inside[1:]):
            if any(callable(getattr(self.modules[name], method, None)) for method in REPARAMETERISERS):
                return name
        return None

    def unreturned(self, step: Step, otherwise: str) -> str:
        """Why nothing can be put behind a step: the module that returns it is used again, or what is said otherwise."""
        again = [name for name in step.ends if name and self.recording.calls[name] > 1]
        return f"module '{again[0]}' is used {self.recording.calls[again[0]]} times in one pass" if again else otherwise

    def is_map(self, step: Step) -> bool:
        """Whether a result has a batch, channels, and as many spatial axes as the image."""
        return not self.refusal(step)

    def refusal(self, step: Step) -> str:
        """What a result is instead of a map; empty for a map."""
        if len(step.shape) != self.axes:
            return f"no map, but the shape {step.shape}"
        if self.channels_last(step) is None:
            return f"the shape {step.shape}, of which it cannot be told where the channels are"
        return ""

    def channels_last(self, step: Step) -> bool | None:
        """Whether a map's channels are its last axis instead of its second; None where it cannot be told."""
        axis = step.channels or self._axis_that_stays(step)
        if axis not in (1, len(step.shape) - 1):
            return None
        return axis != 1

    def _axis_that_stays(self, step: Step) -> int | None:
        """The one axis behind the batch that is as long for a larger image."""
        if self._larger is None:
            return None
        sizes = zip(step.shape, self._larger.steps[step.index].shape, strict=True)
        staying = [axis for axis, (size, larger) in enumerate(sizes) if axis and size == larger]
        return staying[0] if len(staying) == 1 else None

    @cached_property
    def _larger(self) -> Recording | None:
        """The same steps for an image twice as large; None where the network does not take it, or takes other steps."""
        batch, channels, *sides = self.recording.steps[0].shape
        try:
            larger = record(self._model, torch.zeros((batch, channels, *(2 * n for n in sides)), device="meta"))
        except ConfigError:
            return None
        same = [(s.operation, len(s.shape)) for s in larger.steps] == [
            (s.operation, len(s.shape)) for s in self.recording.steps
        ]
        return larger if same else None


def is_inside(name: str, block: str) -> bool:
    """Whether a module is in a block; everything is in the network itself, whose name is empty."""
    return not block or name.startswith(block + ".")
