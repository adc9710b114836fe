"""What was done to a network to make it faster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

__all__ = ["Left", "OptimizationReport", "optimization_report"]

REPORT_ATTRIBUTE = "optimization_report"
_SHOWN = 3  # modules that are named in one line


def optimization_report(model: nn.Module) -> OptimizationReport | None:
    """What `optimize` did to a network.

    Args:
        model: What it returned, or any network.

    Returns:
        The report; None for a network that it did not return.

    Examples:
        >>> from sgenet.inference import optimize
        >>> optimization_report(optimize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))).norms
        1
    """
    return getattr(model, REPORT_ATTRIBUTE, None)


class Left(NamedTuple):
    """Something that was left as it is.

    Attributes:
        module: Its name in the network.
        reason: Why.
    """

    module: str
    reason: str


@dataclass
class OptimizationReport:
    """What `optimize` did.

    Attributes:
        norms: Batch norms that became a part of the layer in front of them.
        joins: Attention modules that are one operator with the sum and the ReLU behind them.
        factors: Constant factors of attention modules that became a part of the layer in front of them.
        in_place: Sums and ReLUs that write over their input and did not before.
        left: What was left as it is, in the network's order.
    """

    norms: int = 0
    joins: int = 0
    factors: int = 0
    in_place: int = 0
    left: list[Left] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many things were done."""
        return self.norms + self.joins + self.factors + self.in_place

    def __str__(self) -> str:
        """One line for what was done, and one for each thing that was left."""
        done = (
            f"{_counted(self.norms, 'norm')} folded, {_counted(self.joins, 'attention module')} joined with sum and "
            f"ReLU, {_counted(self.factors, 'factor')} folded, {_counted(self.in_place, 'step')} in place"
        )
        alike: dict[str, list[str]] = {}
        for module, reason in self.left:
            alike.setdefault(reason, []).append(module or "the network")
        return "\n".join([done, *(f"left: {_shortened(names)}: {reason}" for reason, names in alike.items())])

    def leave(self, name: str, reason: str) -> None:
        """Say of a module that it stays as it is, unless a reason was given already."""
        if all(left.module != name for left in self.left):
            self.left.append(Left(name, reason))


def _shortened(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= _SHOWN else f"{names[0]} and {len(names) - 1} more"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
