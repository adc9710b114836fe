"""A benchmark's result, and its progress, for a reader at a terminal."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from sgenet.bench.result import BenchResult, BenchRow, key

__all__ = ["aligned", "print_bench", "shown_progress"]


def print_bench(result: BenchResult, stream: TextIO | None = None) -> None:
    """Print a benchmark's table, and below it what it holds for: by rich on a terminal, where that is installed.

    Args:
        result: From `bench`.
        stream: Where to; standard output if not given.
    """
    stream = sys.stdout if stream is None else stream
    names = 1 if result.settings.module is None else 2
    header, cells = _cells(result)
    if _has_rich(stream):
        _print_by_rich(_title(result), header, cells, names, stream)
    else:
        print(f"{_title(result)}\n\n{aligned(header, cells, names)}\n", file=stream)
    about = {name: value for name, value in result.circumstances.items() if name != "allocator"}
    print(_explanation(result), file=stream)
    print("  ".join(f"{name}: {value}" for name, value in about.items()), file=stream)
    print(f"allocator: {result.circumstances['allocator']}", file=stream)


def _cells(result: BenchResult) -> tuple[list[str], list[list[str]]]:
    with_memory = any(row.peak_bytes is not None for row in result.rows)
    with_input = result.settings.module is not None
    header = ["form", *(["input"] if with_input else []), "ms", "x", "quartiles", "pairs"]
    header += ["peak MB", "x peak"] if with_memory else []
    cells = [
        [
            row.form,
            *(["x".join(map(str, row.shape))] if with_input else []),
            *_times(row),
            *(_memory(row) if with_memory else []),
        ]
        for row in result.rows
    ]
    return header, cells


def _has_rich(stream: TextIO) -> bool:
    return stream.isatty() and importlib.util.find_spec("rich") is not None


def _print_by_rich(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], names: int, stream: TextIO
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < names else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="dim" if row[0].endswith(("again", "unfused")) else None)
    Console(file=stream).print(table)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns in plain text.

    Args:
        header: Their names.
        rows: Their cells.
        left: How many of them begin, and do not end, on one line.

    Returns:
        One line for the header and each row.

    Examples:
        >>> print(aligned(["", "ms"], [["plain", "1.25"], ["sge", "10.00"]]))
                  ms
        plain   1.25
        sge    10.00
    """
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    )


def _title(result: BenchResult) -> str:
    own = key(result.settings)
    what = "forward and backward pass" if own["mode"] == "train" else "forward pass"
    shape = f"batch {own['batch']}" + (f", {own['size']} px" if own["size"] else "")
    of = f"{own['what']}: {what}, {own['execution']}" if own["mode"] else f"{own['what']} by itself"
    return f"{of}, {own['dtype']}, {own['layout']}, {shape}"


def _explanation(result: BenchResult) -> str:
    if result.settings.module is not None:
        return (
            "x: median of the pairs' ratios to copy_ (one read and one write of the map) or, with a residual, to add_ "
            "and relu_;\n`again` is a second copy of that: the noise. `unfused`: in plain torch."
        )
    return (
        "x: median of the pairs' ratios to the plain network; `plain again` is a second copy of it: the noise.\n"
        "`unfused`: the attention in plain torch."
    )


def _times(row: BenchRow) -> list[str]:
    ratio = row.ratio
    ms = ratio.seconds * 1e3
    return [
        f"{ms:.3f}" if ms < 10 else f"{ms:.1f}",
        f"{ratio.median:.3f}",
        f"{ratio.lower:.3f}-{ratio.upper:.3f}",
        f"{ratio.pairs}",
    ]


def _memory(row: BenchRow) -> list[str]:
    if row.peak_bytes is None or row.peak_ratio is None:
        return ["", ""]
    return [f"{row.peak_bytes / 1e6:.1f}", f"{row.peak_ratio:.3f}"]


@contextmanager
def shown_progress(stream: TextIO | None = None) -> Iterator[Callable[[str, float], None]]:
    """A bar while something is measured: on a terminal, by rich where that is installed; nothing elsewhere.

    Args:
        stream: Where it is drawn; standard error if not given.

    Yields:
        What to call with the description and the share that is done.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield lambda what, share: None
    elif _has_rich(stream):
        with _rich_bar(stream) as show:
            yield show
    else:
        try:
            yield lambda what, share: print(f"\r\033[K{what} {share:4.0%}", end="", file=stream, flush=True)
        finally:
            print("\r\033[K", end="", file=stream, flush=True)


@contextmanager
def _rich_bar(stream: TextIO) -> Iterator[Callable[[str, float], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)
