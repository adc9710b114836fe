from __future__ import annotations

import io
import os

from rich.console import Console

from sgenet.training import ConsoleProgress


def test_on_a_terminal_there_is_a_bar_with_the_time_left_and_the_metrics():
    screen = io.StringIO()
    progress = ConsoleProgress(Console(file=screen, force_terminal=True, width=120))
    progress.start("net on data", total_steps=4, completed=1)
    progress.advance({"epoch": 1, "loss": 2.5, "top1": 40.0, "images_per_second": 1234.5})
    progress.line("epoch 1 [x] done")
    progress.stop()
    shown = screen.getvalue()
    for part in ("net on data", "50%", "epoch 1", "loss 2.500", "top-1 40.0%", "1,234 images/s", "epoch 1 [x] done"):
        assert part in shown


def test_elsewhere_there_are_only_the_lines():
    file = io.StringIO()
    progress = ConsoleProgress(Console(file=file, force_terminal=False))
    progress.start("net on data", total_steps=4)
    progress.advance({"loss": 2.5})
    progress.line("epoch 1/2  top-1 40.0%")
    progress.stop()
    assert file.getvalue() == "epoch 1/2  top-1 40.0%\n"


def test_names_that_the_output_cannot_show_are_escaped():
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    ConsoleProgress(Console(file=file)).line("left out: " + os.fsdecode(b"caf\xe9.png"))
    file.flush()
    assert file.buffer.getvalue() == b"left out: caf\\udce9.png\n"
