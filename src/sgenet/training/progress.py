"""What a training shows while it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["ConsoleProgress", "Progress", "SilentProgress"]


class Progress(Protocol):
    """Where a training reports to. A caller may pass its own, e.g. to show several trainings as one."""

    def start(self, description: str, total_steps: int, completed: int = 0) -> None:
        """Optimisation begins: so many steps in all, so many done before (when resumed)."""
        ...

    def advance(self, metrics: Mapping[str, float]) -> None:
        """One optimisation step is done; metrics are the newest known, e.g. epoch, loss, top1."""
        ...

    def epoch(self, row: Any) -> None:  # noqa: ANN401  # of the kind that the training has
        """An epoch is done, and its checkpoint written."""
        ...

    def line(self, text: str) -> None:
        """A line that stays, e.g. an epoch's result in words."""
        ...

    def stop(self) -> None:
        """Training ended, for whatever reason."""
        ...


class SilentProgress:
    """Shows nothing.

    Examples:
        >>> SilentProgress().line("not shown")
    """

    def start(self, description: str, total_steps: int, completed: int = 0) -> None:
        """Nothing."""

    def advance(self, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def epoch(self, row: Any) -> None:  # noqa: ANN401  # of the kind that the training has
        """Nothing."""

    def line(self, text: str) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class ConsoleProgress:
    """A bar with the time left and the newest metrics on a terminal; elsewhere only the lines.

    Args:
        console: A `rich.console.Console`; one on standard output if not given.
    """

    def __init__(self, console: Any = None) -> None:  # noqa: ANN401  # rich is imported only when it is used
        from rich.console import Console

        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True) if console is None else console
        self._bar: Any = None
        self._task: Any = None

    def start(self, description: str, total_steps: int, completed: int = 0) -> None:
        """Show the bar, on a terminal."""
        if not self._console.is_terminal:
            return
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[metrics]}", style="dim"),
            console=self._console,
            speed_estimate_period=120,
            transient=True,
        )
        self._task = self._bar.add_task(description, total=total_steps, completed=completed, metrics="")
        self._bar.start()

    def advance(self, metrics: Mapping[str, float]) -> None:
        """Move the bar by one step."""
        if self._bar is not None:
            self._bar.update(self._task, advance=1, metrics=_shown(metrics))

    def epoch(self, row: Any) -> None:  # noqa: ANN401  # of the kind that the training has
        """Nothing: there is a line for it."""

    def line(self, text: str) -> None:
        """Print a line above the bar; what the output's encoding lacks, as a file's name may hold, is escaped."""
        encoding = self._console.encoding
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        self._console.print(shown, markup=False, highlight=False)

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


_FORMATS = {
    "epoch": "epoch {:.0f}",
    "loss": "loss {:.3f}",
    "top1": "top-1 {:.1f}%",
    "images_per_second": "{:,.0f} images/s",
}


def _shown(metrics: Mapping[str, float]) -> str:
    return "  ".join(_FORMATS.get(name, name + " {:.4g}").format(value) for name, value in metrics.items())
