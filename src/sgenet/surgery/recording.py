"""One forward pass, written down: which operation read what, inside which modules."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sgenet.errors import ConfigError
from sgenet.surgery.axes import channels_axis

__all__ = ["Recording", "Step", "example_input", "record"]

_WEIGHTED = frozenset({"convolution", "mm", "addmm", "bmm", "baddbmm", "_native_multi_head_attention"})
_WEIGHT_MAKERS = (WeightNorm, SpectralNorm, BasePruningMethod)  # hooks without which a module has no present weight
_SIDES = (224, 256, 299, 384, 64, 32)  # pixels that are tried where a network does not tell its input size


@dataclass
class Step:
    """One operation of a forward pass.

    Attributes:
        index: Its place in the order of the pass.
        operation: PyTorch's name for it, without namespace, e.g. "convolution".
        reads: The steps whose results it reads.
        shape: Of its (first) result.
        inside: The modules that were being executed, outermost first.
        begins: Modules that were given its result, outermost first.
        ends: Modules that returned its result, innermost first.
        kernel: Spatial size of the filter of a convolution, else empty.
        channelwise: Whether it is a convolution of each channel by itself.
        dim: The axis of a concatenation, None otherwise.
        channels: The axis that holds the channels, None where what made it does not tell.
    """

    index: int
    operation: str
    reads: tuple[int, ...]
    shape: tuple[int, ...]
    inside: tuple[str, ...] = ()
    begins: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    kernel: tuple[int, ...] = ()
    channelwise: bool = False
    dim: int | None = None
    channels: int | None = None

    @property
    def weighted(self) -> bool:
        """Whether it mixes channels or positions by weights: a convolution or a matrix product."""
        return self.operation in _WEIGHTED or "scaled_dot_product" in self.operation


class Recording:
    """The steps of one forward pass, and what can be asked about them.

    Attributes:
        steps: In order; step 0 is the network's input.
        calls: How often each module was called.
        shapes: Shape of what each module returned, where that was one tensor.
        inputs: Shape of the first tensor that each module was given.
        output: What the network returned, with the shape of each tensor for the tensor and a class for all else.
        values: The tensors of floats that it returned; empty after a pass without values.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.calls: Counter[str] = Counter()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.output: Any = None
        self.values: tuple[Tensor, ...] = ()
        self._past: list[int] | None = None
        self._readers: list[list[int]] | None = None

    @property
    def past(self) -> list[int]:
        """Of each step, the set of steps that its result depends on and itself, as bits."""
        if self._past is None:
            self._past = []
            for step in self.steps:
                bits = 1 << step.index
                for read in step.reads:
                    bits |= self._past[read]
                self._past.append(bits)
        return self._past

    @property
    def readers(self) -> list[list[int]]:
        """Of each step, the steps that read its result."""
        if self._readers is None:
            self._readers = [[] for _ in self.steps]
            for step in self.steps:
                for read in dict.fromkeys(step.reads):
                    self._readers[read].append(step.index)
        return self._readers

    def weighted(self, bits: int) -> list[Step]:
        """The convolutions and matrix products of a set of steps."""
        return [step for step in self.members(bits) if step.weighted]

    def members(self, bits: int) -> Iterator[Step]:
        """The steps of a set, in order."""
        while bits:
            low = bits & -bits
            yield self.steps[low.bit_length() - 1]
            bits ^= low


def record(model: nn.Module, example: Tensor | None = None) -> Recording:
    """Run a network once in eval mode and write down what it does.

    The pass runs on the meta device, on which tensors have shapes and no values, and where a network does not stand
    that, on a copy with its weights. The network itself stays untouched, and its hooks are not called.

    Args:
        model: The network.
        example: An input; by default zeros of a size that the network names or that works.

    Returns:
        The recording.

    Raises:
        ConfigError: If no forward pass works; the message holds the reason for the first input tried.
    """
    if example is not None and not isinstance(example, Tensor):
        raise ConfigError(f"example is a {type(example).__name__}; give one tensor, a batch as the network takes it")
    _check_shaped(model)
    examples = [example] if example is not None else [*_candidates(model)]
    reasons: list[Exception] = []
    for device in ("meta",) if any(tensor.is_meta for tensor in _tensors(model)) else ("meta", "cpu"):
        twin = _twin(model, device)
        reasons = []
        for candidate in examples:
            try:
                return _run(twin, _moved(candidate, device))
            except Exception as error:  # whatever a stranger's forward may raise
                reasons.append(error)
    raise ConfigError(
        f"{type(model).__name__} does not run on {tuple(examples[0].shape)}: {_words(reasons[0])}; "
        "give an input that it takes as example=..."
    )


def example_input(model: nn.Module) -> Tensor:
    """The input that `record` tries first."""
    return next(_candidates(model))


def _candidates(model: nn.Module) -> Iterator[Tensor]:
    named = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    if isinstance(named, dict) and named.get("input_size"):
        yield torch.zeros((2, *named["input_size"]), device="meta")
    first = _first_convolution(model)
    axes = first.weight.dim() - 2
    sides = _SIDES if axes < 3 else (64, 32, 112)
    for side in sides:
        yield torch.zeros((2, first.in_channels, *[side] * axes), device="meta")


def _first_convolution(model: nn.Module) -> Any:  # noqa: ANN401  # Conv1d, Conv2d or Conv3d
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return module
    raise ConfigError(
        f"{type(model).__name__} has no convolution; sgenet's attention belongs into convolutional networks"
    )


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _check_shaped(model: nn.Module) -> None:
    if any(is_lazy(tensor) for tensor in _tensors(model)):
        raise ConfigError(
            f"{type(model).__name__} has lazy modules, whose weights have no shape yet; run one batch through it first"
        )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _moved(example: Tensor, device: str) -> Tensor:
    return torch.zeros_like(example, device=device) if example.is_meta else example.detach().to(device)


def _twin(model: nn.Module, device: str) -> nn.Module:
    """A copy of the network in eval mode, without its hooks; on the meta device it costs no memory."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        kept = {key: hook for key, hook in module._forward_pre_hooks.items() if isinstance(hook, _WEIGHT_MAKERS)}
        memo[id(module._forward_pre_hooks)] = OrderedDict(kept)
        memo[id(module._forward_hooks)] = OrderedDict()
        for value in vars(module).values():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                memo[id(value)] = value.detach().to(device, copy=True)  # deepcopy refuses what a weight maker made
    if device == "meta":
        for parameter in model.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        for buffer in model.buffers():
            memo[id(buffer)] = buffer.to("meta")
    try:
        return copy.deepcopy(model, memo).to(device).eval()
    except Exception as error:  # whatever a stranger's attributes may raise
        raise ConfigError(f"{type(model).__name__} cannot be copied for a trial run: {_words(error)}") from error


def _run(model: nn.Module, example: Tensor) -> Recording:
    example = example.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), example.dtype))
    recorder = _Recorder(model)
    recorder.begin(example)
    with torch.no_grad(), recorder.listening(), recorder:
        output = model(example)
    recording = recorder.recording
    recording.output = tree_map(_outline, output)
    recording.values = tuple(v for v in tree_leaves(output) if _has_values(v))
    return recording


def _outline(value: object) -> object:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value)


def _has_values(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta


class _Recorder(TorchDispatchMode):
    """Sees every operation under the modules, and by hooks, which module is at work."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = Recording()
        self._names = {module: name for name, module in model.named_modules()}
        self._inside: list[str] = []
        self._made: dict[int, int] = {}  # id of a tensor -> the step that made it
        self._alive: list[Tensor] = []  # ids are only unique among living objects

    def begin(self, example: Tensor) -> None:
        """Step 0: the input."""
        self._note(Step(0, "input", (), tuple(example.shape), channels=1), [example])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        made = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        read = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        reads = tuple(self._made[id(value)] for value in read if id(value) in self._made)
        if reads and made:
            operation = func._schema.name.partition("::")[2]
            step = Step(
                len(self.recording.steps), operation, reads, tuple(made[0].shape), tuple(name for name in self._inside)
            )
            if operation == "convolution":
                _describe_convolution(step, read[1], args)
            elif operation == "cat":
                step.dim = args[1] if len(args) > 1 else 0
            step.channels = channels_axis(operation, args, step.shape, [self._held(index) for index in reads])
            self._note(step, made)
        return result

    def _held(self, index: int) -> tuple[tuple[int, ...], int | None]:
        return self.recording.steps[index].shape, self.recording.steps[index].channels

    def _note(self, step: Step, made: list[Tensor]) -> None:
        self.recording.steps.append(step)
        for value in made:
            self._made[id(value)] = step.index
        self._alive += made

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hooks on every module, for the time of the pass; the network is a copy."""
        handles = [module.register_forward_pre_hook(self._enter, with_kwargs=True) for module in self._names]
        handles += [module.register_forward_hook(self._leave) for module in self._names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ANN401
        name = self._names[module]
        self._inside.append(name)
        self.recording.calls[name] += 1
        given = next((value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)), None)
        if given is not None and id(given) in self._made:
            self.recording.steps[self._made[id(given)]].begins.append(name)
            self.recording.inputs[name] = tuple(given.shape)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401
        del args
        name = self._names[module]
        self._inside.pop()
        if isinstance(output, Tensor) and id(output) in self._made:
            self.recording.steps[self._made[id(output)]].ends.append(name)
            self.recording.shapes[name] = tuple(output.shape)


def _describe_convolution(step: Step, weight: Tensor, args: Any) -> None:  # noqa: ANN401
    groups = args[8]
    step.kernel = tuple(weight.shape[2:])
    step.channelwise = groups > 1 and weight.shape[1] == 1
