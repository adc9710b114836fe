"""What surgery did to a network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

__all__ = ["AttentionReport", "Placed", "attention_report"]

_ATTRIBUTE = "attention_report"


@dataclass(frozen=True)
class Placed:
    """One attention module that was put into a network.

    Attributes:
        module: Its name in the network.
        channels: Channels of its input.
        options: What it was built with.
        note: What was adapted to the place, or an empty string.
    """

    module: str
    channels: int
    options: dict[str, Any]
    note: str = ""


@dataclass(frozen=True)
class AttentionReport:
    """Where attention was put, and where not.

    Attributes:
        attention: Name of the attention module.
        placed: The modules, in the network's order.
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
        rows = [("module", "channels", "options", "note")]
        rows += [
            (p.module, str(p.channels), ", ".join(f"{k}={v}" for k, v in p.options.items()), p.note)
            for p in self.placed
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"passed over: {name} ({reason})" for name, reason in self.passed_over]
        return f"{self.attention} in {len(self.placed)} places\n" + "\n".join(lines)


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
