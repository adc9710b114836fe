"""Attach attention where PyTorch's own tools go on seeing it, and take it off again.

No hooks on modules and no changed classes of norms: both vanish silently when norms are converted, frozen or folded.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from sgenet.attention import Attention
from sgenet.surgery.blocks import with_attention, without_attention

__all__ = ["REPARAMETERISERS", "Attended", "attach", "detach", "forget_displaced", "free_name", "remembers_displaced"]

REPARAMETERISERS = ("fuse", "reparameterize", "switch_to_deploy")
"""Methods by which timm and others merge the filters of a module; what has one may be replaced by what it returns."""

_INNER = "inner"


class Attended(nn.Module):
    """A module of the host with attention before or after it, under the host's keys.

    In the state_dict the host's module keeps its keys, and attention's begin with `attention.`. Attributes of the
    host's module can be read and set through this one.

    Args:
        inner: The host's module.
        attention: The attention module.
        name: The name of the attention module in this one.
        first: Whether attention comes before the host's module.
        channels_last: Whether the host's maps are (batch, *spatial, channels).

    Examples:
        >>> norm = Attended(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, bias=False))
        >>> sorted(norm.state_dict())
        ['attention.weight', 'bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight']
        >>> norm.num_features
        8
    """

    def __init__(
        self,
        inner: nn.Module,
        attention: nn.Module,
        name: str = "attention",
        *,
        first: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.attention_name = name
        self.first = first
        self.channels_last = channels_last
        self.training = inner.training
        self._loading: tuple[str, list[str]] = ("", [])  # prefix of the keys, and what goes wrong with them
        self.register_load_state_dict_post_hook(_name_as_saved)  # type: ignore[no-untyped-call]
        self.add_module(_INNER, inner)
        self.add_module(name, attention)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # whatever the host's module takes
        """What the host's module computes, with attention on its first argument or on its result."""
        inner = self.get_submodule(_INNER)
        if self.first:
            return inner(self._attend(args[0]), *args[1:], **kwargs)
        return self._attend(inner(*args, **kwargs))

    def _attend(self, x: Tensor) -> Tensor:
        attention = self.get_submodule(self.attention_name)
        if self.channels_last:
            return attention(x.movedim(-1, 1)).movedim(1, -1)  # type: ignore[no-any-return]
        return attention(x)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in REPARAMETERISERS or name.startswith("__"):
                raise  # else the merged module, or a deepcopy, would take the place of this one without attention
            return getattr(super().__getattr__(_INNER), name)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        inner = self.__dict__.get("_modules", {}).get(_INNER)
        own = name in self.__dict__ or name in self.__dict__.get("_modules", {}) or hasattr(type(self), name)
        if own or inner is None or not hasattr(inner, name):
            super().__setattr__(name, value)
        else:
            setattr(inner, name, value)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # torch's overloads
        """The state with the host's module under its own keys."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        _rename(state, f"{prefix}{_INNER}.", prefix)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        attention = f"{prefix}{self.attention_name}."
        own = [key for key in state_dict if key.startswith(prefix) and not key.startswith(attention)]
        for key in own:
            state_dict[f"{prefix}{_INNER}.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        self._loading = (prefix, args[-1])
        super()._load_from_state_dict(state_dict, prefix, *args)


def free_name(host: nn.Module) -> str:
    """A name for attention beside the children of a module of the host: `attention` where it is free."""
    return "added_attention" if hasattr(host, "attention") else "attention"


def attach(model: nn.Module, place: str, how: str, attention: Attention, *, channels_last: bool = False) -> None:
    """Put attention at a place of a `Site`.

    Args:
        model: The network; changed in place.
        place: Name of the module that it is attached to.
        how: As `Site.attach`.
        attention: The attention module.
        channels_last: As `Site.channels_last`.
    """
    host = model.get_submodule(place)
    if how in ("slot", "shortcut"):
        name = {"slot": "se", "shortcut": "downsample"}[how]
        _remember(attention, getattr(host, name))
        setattr(host, name, attention)
    elif how == "replace":
        _remember(attention, host)
        model.set_submodule(place, attention)
    elif how == "append":
        host.add_module(free_name(host), attention)
    elif how == "block":
        model.set_submodule(place, with_attention(host, attention))
    else:
        first = how == "before"
        wrapped = Attended(host, attention, free_name(host), first=first, channels_last=channels_last)
        model.set_submodule(place, wrapped)


def detach(model: nn.Module, module: str, place: str, how: str) -> None:
    """Undo `attach`; the host keeps its present weights.

    Args:
        model: The network; changed in place.
        module: Name of the attention module.
        place: As `attach`.
        how: As `attach`.
    """
    host = model.get_submodule(place)
    if how in ("slot", "shortcut", "replace"):
        displaced = _remembered(model.get_submodule(module))
        parent, _, name = module.rpartition(".")
        if isinstance(displaced, nn.Module):
            _follow(displaced, model)
        setattr(model.get_submodule(parent), name, displaced)
    elif how == "append":
        delattr(host, module.rpartition(".")[2])
    elif how == "block":
        model.set_submodule(place, without_attention(host))
    else:
        model.set_submodule(place, host.get_submodule(_INNER))


def forget_displaced(attention: nn.Module) -> None:
    """Let attention that stands in the place of the host's own not be taken for something that can be undone."""
    del attention.__dict__["displaced"]


def remembers_displaced(attention: nn.Module) -> bool:
    """Whether attention knows what it displaced, so that `detach` can put it back."""
    return "displaced" in vars(attention)


def _remember(attention: Attention, displaced: nn.Module | None) -> None:
    # In a tuple, a module is no submodule: its keys are not the network's as long as it is out of it.
    attention.__dict__["displaced"] = (displaced,)


def _remembered(attention: nn.Module) -> nn.Module | None:
    (displaced,) = attention.__dict__["displaced"]
    return displaced  # type: ignore[no-any-return]


def _follow(displaced: nn.Module, model: nn.Module) -> None:
    """Take what was out of the network for a while to where the network is now."""
    beacon = next(model.parameters(), torch.empty(0))
    displaced.to(device=beacon.device, dtype=beacon.dtype).train(model.training)


def _rename(state: MutableMapping[str, Any], old: str, new: str) -> None:
    for key in [key for key in state if key.startswith(old)]:
        state[new + key.removeprefix(old)] = state.pop(key)
    metadata = getattr(state, "_metadata", {})
    for key in [key for key in metadata if (key + ".").startswith(old)]:
        metadata[(new + (key + ".").removeprefix(old)).rstrip(".")] = metadata.pop(key)


def _name_as_saved(module: Attended, incompatible: Any) -> None:  # noqa: ANN401  # torch's private class
    """After loading: take the wrapper's own part out of the keys that errors name."""
    prefix, errors = module._loading
    module._loading = ("", [])
    key = re.compile(rf"(?<![\w.]){re.escape(prefix + _INNER)}\.")
    for texts in (incompatible.missing_keys, incompatible.unexpected_keys, errors):
        texts[:] = [key.sub(prefix, text) for text in texts]
