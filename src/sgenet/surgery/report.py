"""What surgery did to a network."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from sgenet.attention import Attention, attention_class

__all__ = ["AttentionReport", "Placed", "attention_report"]

_ATTRIBUTE = "attention_report"


@dataclass(frozen=True)
class Placed:
    """One attention module that was put into a network.

    Attributes:
        module: Its name in the network, with which its keys in the state_dict begin.
        channels: Channels of its input.
        stage: k where its map is 2**k times smaller than the image.
        place: Name of the host's module that it is attached to.
        attach: How, as `Site.attach`.
        options: What it was built with.
        note: What was adapted to the place or displaced, or an empty string.
        channels_last: Whether its input is (batch, *spatial, channels).
    """

    module: str
    channels: int
    stage: int
    place: str
    attach: str
    options: dict[str, Any]
    note: str = ""
    channels_last: bool = False


@dataclass(frozen=True)
class AttentionReport:
    """Where attention was put, and where not.

    Attributes:
        attention: Name of the attention module.
        placed: The modules, in the order of the forward pass.
        passed_over: Names of places that were left as they are, each with the reason.
    """

    attention: str
    placed: tuple[Placed, ...]
    passed_over: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AttentionReport:
        """The report that `to_dict` wrote."""
        return cls(
            values["attention"],
            tuple(Placed(**p) for p in values["placed"]),
            tuple((name, reason) for name, reason in values["passed_over"]),
        )

    def __str__(self) -> str:
        rows = [("module", "stage", "channels", "attached", "options", "note")]
        usual = default_options(attention_class(self.attention))
        rows += [(p.module, str(p.stage), str(p.channels), _how(p), _options(p, usual), p.note) for p in self.placed]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"passed over: {name} ({reason})" for name, reason in self.passed_over]
        places = "1 place" if len(self.placed) == 1 else f"{len(self.placed)} places"
        return f"{self.attention} in {places}\n" + "\n".join(lines)


def attention_report(model: nn.Module) -> AttentionReport | None:
    """The report of the surgery that `model` has been through, or None.

    Examples:
        >>> attention_report(nn.Conv2d(3, 8, 1)) is None
        True
    """
    return getattr(model, _ATTRIBUTE, None)


def set_attention_report(model: nn.Module, report: AttentionReport) -> None:
    """Keep `report` with the network: it survives deepcopy and pickle, and a checkpoint is described with it."""
    setattr(model, _ATTRIBUTE, report)


def forget_attention_report(model: nn.Module) -> None:
    """Take the report off a network that has no attention any more."""
    delattr(model, _ATTRIBUTE)


def _how(placed: Placed) -> str:
    words = {"slot": "slot of", "shortcut": "shortcut of", "append": "end of", "block": "in", "replace": "instead of"}
    return f"{words.get(placed.attach, placed.attach)} {placed.place}"


def default_options(cls: type[Attention]) -> dict[str, Any]:
    """The options of a module's class that shape it: complete, so that a description outlives a changed default."""
    parameters = inspect.signature(cls).parameters
    return {k: p.default for k, p in parameters.items() if k not in ("channels", "device", "dtype")}


def _options(placed: Placed, usual: dict[str, Any]) -> str:
    """The groups, and what is not as usual."""
    words = []
    for name, value in placed.options.items():
        if name == "groups" and isinstance(value, int):
            words.append(f"groups={value} of {placed.channels // value} channels")
        elif value != usual.get(name):
            words.append(f"{name}={value}")
    return ", ".join(words)
