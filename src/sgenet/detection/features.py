"""A classifier's feature maps at the strides that a detector works on, without its classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sgenet.errors import ConfigError
from sgenet.models import describe
from sgenet.surgery.recording import Recording, Step, record

__all__ = ["STRIDES", "FeatureTrunk", "feature_trunk", "record_maps"]

STRIDES = (4, 8, 16, 32)
"""How much smaller than the image the maps C2 to C5 are."""

_SIDE = 256  # pixels of the square that a network is recorded with: a multiple of every stride
_PROBE = (128, 160)  # pixels of the image that a trunk is tried with: small, not square, multiples of every stride


class FeatureTrunk(nn.Module):
    """A network up to its last feature map; the maps are its output, the finest first.

    Attributes:
        channels: Of the four maps.
        reached: For each map, the names of the parameters that it depends on.
        description: From which `sgenet.models.build` builds the whole classifier again.

    Shape:
        (B, 3, H, W) to a dictionary with the keys "0" to "3": (B, channels[i], H / stride, W / stride) for the strides
        4, 8, 16 and 32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.channels: tuple[int, ...] = ()
        self.reached: tuple[frozenset[str], ...] = ()
        self.description: dict[str, Any] = {}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The maps by level."""
        raise NotImplementedError


def feature_trunk(network: nn.Module, *, name: str = "") -> FeatureTrunk:
    """Make a classifier a trunk of feature maps: the last map of each stride.

    A network of timm is asked for its maps. In any other one the modules are followed that hand a map from one to the
    next, at the top level and within a top-level `Sequential`, and what comes after the last map is cut off. The
    modules keep their names, so that the keys of a ResNet's trunk are those of torchvision's detectors. The 3x3 stem of
    a ResNet for small images (`stem="small"`) gets the strides of the usual stem: 2 in its convolution, and the
    max-pool again; its weights stay.

    Args:
        network: A classifier from `sgenet.create_model`, with or without attention. It is used up.
        name: The network's name, for messages.

    Returns:
        The trunk, in training mode.

    Raises:
        ConfigError: If the network has no maps of the strides 4, 8, 16 and 32; the message says which ones it has.

    Examples:
        >>> from sgenet.models import create_model
        >>> trunk = feature_trunk(create_model("sge_resnet18"))
        >>> trunk.channels, [tuple(m.shape[2:]) for m in trunk(torch.zeros(2, 3, 128, 160)).values()]
        ((64, 128, 256, 512), [(32, 40), (16, 20), (8, 10), (4, 5)])
        >>> feature_trunk(create_model("resnet8_cifar"), name="resnet8_cifar")
        Traceback (most recent call last):
        ...
        sgenet.errors.ConfigError: 'resnet8_cifar' has no feature maps of stride 8, 16, 32, which a detector needs; it
        has strides 1, 2, 4; choose another network, e.g. sge_resnet50
    """
    name = name or type(network).__name__
    description = describe(network)
    if ((description["host"] or {}).get("options") or {}).get("stem") == "small":
        _open_stem(network)
    knows_its_maps = hasattr(network, "forward_intermediates") and hasattr(network, "prune_intermediate_layers")
    trunk = _AskedTrunk(network, name) if knows_its_maps else _WalkedTrunk(network, name)
    trunk.description = description
    trial = _try(trunk, name)
    trunk.channels = tuple(m.shape[1] for m in trial.maps)
    trunk.reached = tuple(trial.behind(m) for m in trial.maps)
    used = frozenset[str]().union(*trunk.reached)
    for key, parameter in trunk.named_parameters():
        if key not in used:  # it would wait for a gradient, and distributed training with it
            parameter.requires_grad_(False)
    return trunk.train()


def record_maps(network: nn.Module, name: str) -> Recording:
    """One forward pass of a network on an image of a size that every stride divides.

    Args:
        network: The network; it stays as it is.
        name: Its name, for the message.

    Returns:
        The recording.

    Raises:
        ConfigError: If the network does not take such images.
    """
    try:
        return record(network, torch.zeros(2, 3, _SIDE, _SIDE))
    except ConfigError as error:
        reason = str(error).partition(": ")[2].partition("; give an input")[0]  # a detector is given none
        raise _unusable(name, (_SIDE, _SIDE), reason) from error


class _WalkedTrunk(FeatureTrunk):
    """The modules that hand the map on, under the host's names."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        steps = list(_steps(network, record_maps(network, name)))
        last = {step.stride: index for index, step in enumerate(steps) if step.stride is not None}
        _check_strides(name, last)
        self._walk = tuple(step.module for step in steps[: last[STRIDES[-1]] + 1])
        self._levels = {steps[last[stride]].module: str(level) for level, stride in enumerate(STRIDES)}
        for module in dict.fromkeys(step.partition(".")[0] for step in self._walk):
            self.add_module(module, network.get_submodule(module))
            if module not in self._walk:
                _cut(self.get_submodule(module), keep=[step for step in self._walk if step.startswith(f"{module}.")])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The maps by level."""
        maps: dict[str, Tensor] = {}
        for module in self._walk:
            x = self.get_submodule(module)(x)
            if module in self._levels:
                maps[self._levels[module]] = x
        return maps


class _AskedTrunk(FeatureTrunk):
    """A network of timm, which knows its maps itself."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = network
        asked = cast(Any, network)
        last = {int(entry["reduction"]): index for index, entry in enumerate(asked.feature_info)}
        _check_strides(name, last)
        self._indices = [last[stride] for stride in STRIDES]
        asked.prune_intermediate_layers(self._indices, prune_norm=True, prune_head=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The maps by level."""
        maps = cast(Any, self.network).forward_intermediates(
            x, indices=self._indices, norm=False, output_fmt="NCHW", intermediates_only=True
        )
        return {str(level): m for level, m in enumerate(maps)}


class _Step(NamedTuple):
    """A module on the way of the map, and how much smaller than the image its result is; None where it is no map."""

    module: str
    stride: int | None


def _steps(network: nn.Module, recording: Recording) -> Iterator[_Step]:
    """The modules that hand the map on, in order; those of a `Sequential` in which the stride changes one by one."""
    for module in _handed_on(network, recording):
        inner = [f"{module}.{child}" for child, _ in network.get_submodule(module).named_children()]
        strides = {stride for child in inner if (stride := _stride(recording.shapes.get(child))) is not None}
        plain = type(network.get_submodule(module)).forward is nn.Sequential.forward
        if plain and len(strides) > 1:
            yield from (_Step(child, _stride(recording.shapes.get(child))) for child in inner)
        else:
            yield _Step(module, _stride(recording.shapes.get(module)))


def _handed_on(network: nn.Module, recording: Recording) -> Iterator[str]:
    """Names of the direct children through which the image goes, as long as nothing is done between two of them."""
    waiting = [child for child, _ in network.named_children() if recording.calls[child] == 1]
    step: Step | None = recording.steps[0]
    while step is not None:
        child = next((name for name in step.begins if name in waiting), None)
        if child is None:
            return
        waiting.remove(child)
        yield child
        step = next((s for s in recording.steps if child in s.ends), None)


def _stride(shape: tuple[int, ...] | None) -> int | None:
    if shape is None or len(shape) != 4 or shape[2] != shape[3] or shape[2] < 2 or _SIDE % shape[2]:
        return None
    return _SIDE // shape[2]


def _check_strides(name: str, present: dict[int, int]) -> None:
    lacking = [str(stride) for stride in STRIDES if stride not in present]
    if lacking:
        has = f"strides {', '.join(map(str, sorted(present)))}" if present else "none that divides the image"
        raise ConfigError(
            f"'{name}' has no feature maps of stride {', '.join(lacking)}, which a detector needs; it has {has}; "
            "choose another network, e.g. sge_resnet50"
        )


def _cut(sequence: nn.Module, keep: Sequence[str]) -> None:
    """Take off what comes in a sequence after the modules to keep, which have their full names."""
    for child in [child for child, _ in sequence.named_children()][len(keep) :]:
        delattr(sequence, child)


def _open_stem(network: nn.Module) -> None:
    """Give a ResNet's stem for small images the strides of the usual one."""
    stem = cast(Any, network)
    stem.conv1.stride = (2, 2)
    stem.maxpool = nn.MaxPool2d(3, stride=2, padding=1)


class _Trial:
    """The maps of a small image, and what they were computed from.

    Args:
        trunk: Computes the maps.
        device: "meta", where tensors have shapes and no contents, or "cpu".
    """

    def __init__(self, trunk: FeatureTrunk, device: str) -> None:
        self._tensors = {
            key: tensor.detach().to(device).requires_grad_(isinstance(tensor, nn.Parameter))
            for key, tensor in (*trunk.named_parameters(), *trunk.named_buffers())
        }
        self.maps: list[Tensor] = list(
            functional_call(trunk, self._tensors, torch.zeros((2, 3, *_PROBE), device=device)).values()
        )

    def behind(self, result: Tensor) -> frozenset[str]:
        """Names of the parameters that a map depends on."""
        names = {id(tensor): key for key, tensor in self._tensors.items()}
        waiting: list[Any] = [result.grad_fn]
        seen, found = set(waiting), set()
        while waiting:
            node = waiting.pop()
            if hasattr(node, "variable"):
                found.add(names[id(node.variable)])
            following = {after for after, _ in getattr(node, "next_functions", ())} - seen - {None}
            seen |= following
            waiting += following
        return frozenset(found)


def _try(trunk: FeatureTrunk, name: str) -> _Trial:
    """A trial on an image that is not square; each map must have the size that its stride says."""
    trial = _run(trunk.eval(), name)
    for stride, result in zip(STRIDES, trial.maps, strict=True):
        size = tuple(result.shape[2:])
        expected = tuple(side // stride for side in _PROBE)
        if size != expected:
            raise ConfigError(
                f"'{name}' cannot be a detector's backbone: of an image of {_PROBE[0]} x {_PROBE[1]} pixels its map of "
                f"stride {stride} has the size {size} instead of {expected}; choose another network, e.g. sge_resnet50"
            )
    return trial


def _run(trunk: FeatureTrunk, name: str) -> _Trial:
    reason: Exception | None = None
    for device in ("meta", "cpu"):
        try:
            return _Trial(trunk, device)
        except Exception as error:  # whatever a stranger's forward may raise
            reason = error
    raise _unusable(name, _PROBE, reason)


def _unusable(name: str, size: tuple[int, int], reason: object) -> ConfigError:
    words = " ".join(str(reason).split())[:200]
    return ConfigError(
        f"'{name}' cannot be a detector's backbone: it does not run on an image of {size[0]} x {size[1]} pixels: "
        f"{words}; choose a convolutional network that takes every size"
    )
