"""Rows of a benchmark: columns, files, and the table that a reader sees."""

import csv
import io

import pytest

from sgenet.bench import BenchResult, BenchRow, BenchSettings
from sgenet.bench.result import add_rows
from sgenet.bench.table import print_bench, shown_progress
from sgenet.errors import ConfigError
from sgenet.timing import Ratio

NETWORK = BenchResult(
    BenchSettings(mode="train", dtype="bfloat16", compile=True),
    (
        BenchRow("plain again", "plain", (8, 3, 224, 224), Ratio(1.002, 0.99, 1.01, 30, 0.2), 747_000_000, 1.0),
        BenchRow("sge", "plain", (8, 3, 224, 224), Ratio(1.0312, 1.02, 1.05, 30, 0.0061), 750_000_000, 1.004),
    ),
    {"backend": "cpu", "allocator": "MALLOC_TRIM_THRESHOLD_=17179869184", "device": "AMD EPYC", "threads": 2},
)
MODULE = BenchResult(
    BenchSettings(module="sge"),
    (BenchRow("forward", "copy_", (8, 256, 56, 56), Ratio(1.2, 1.1, 1.3, 30, 0.0015)),),
    {"allocator": "default"},
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(result, stream=None):
    stream = stream or io.StringIO()
    print_bench(result, stream)
    return stream.getvalue()


def test_a_row_holds_the_settings_the_figures_and_the_machine():
    row = NETWORK.to_rows()[1]
    assert row["what"] == "resnet50"
    assert (row["mode"], row["execution"], row["dtype"], row["layout"]) == (
        "train",
        "compile",
        "bfloat16",
        "channels_last",
    )
    assert (row["form"], row["baseline"], row["input"], row["pairs"]) == ("sge", "plain", "8x3x224x224", 30)
    assert (row["ratio"], row["lower quartile"], row["upper quartile"], row["ms"]) == (1.0312, 1.02, 1.05, 6.1)
    assert (row["peak MB"], row["peak ratio"], row["threads"]) == (750.0, 1.004, 2)


def test_rows_are_appended_below_one_header(tmp_path):
    file = tmp_path / "new" / "speed.csv"
    add_rows(file, NETWORK.to_rows())
    add_rows(file, NETWORK.to_rows()[:1])
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["form"] for row in rows] == ["plain again", "sge", "plain again"]
    assert float(rows[1]["ratio"]) == 1.0312


def test_rows_do_not_go_below_other_columns(tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="has other columns"):
        add_rows(file, NETWORK.to_rows())
    assert file.read_text() == "a,b\n1,2\n"


def test_the_table_of_a_network_in_plain_text():
    text = printed(NETWORK)
    lines = text.splitlines()
    assert lines[0] == "resnet50: forward and backward pass, compile, bfloat16, channels_last, batch 8, 224 px"
    assert lines[2].split() == ["form", "ms", "x", "quartiles", "pairs", "peak", "MB", "x", "peak"]
    assert lines[3].split() == ["plain", "again", "200.0", "1.002", "0.990-1.010", "30", "747.0", "1.000"]
    assert lines[4].split() == ["sge", "6.100", "1.031", "1.020-1.050", "30", "750.0", "1.004"]
    assert "backend: cpu  device: AMD EPYC  threads: 2" in text
    assert lines[-1] == "allocator: MALLOC_TRIM_THRESHOLD_=17179869184"
    assert max(map(len, lines)) < 120


def test_the_table_of_a_module_names_its_input_and_no_memory():
    text = printed(MODULE)
    assert "module sge by itself, float32, channels_last, batch 8" in text
    assert "8x256x56x56" in text
    assert "peak" not in text


def test_a_terminal_shows_the_same_figures():
    text = printed(NETWORK, Terminal())
    for shown in ("plain again", "1.031", "1.020-1.050", "750.0", "AMD EPYC"):
        assert shown in text


def test_without_rich_a_terminal_shows_plain_text(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert printed(NETWORK, Terminal()) == printed(NETWORK)
    stream = Terminal()
    with shown_progress(stream) as show:
        show("measuring", 0.5)
    assert "measuring  50%" in stream.getvalue()
    assert stream.getvalue().endswith("\033[K")


def test_without_rich_the_line_is_taken_back_where_an_error_ends_the_work(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    stream = Terminal()

    def fail():
        with shown_progress(stream) as show:
            show("measuring", 0.5)
            raise ConfigError("too large")

    with pytest.raises(ConfigError, match="too large"):
        fail()
    assert stream.getvalue().endswith("\033[K")


def test_progress_is_for_terminals():
    quiet, terminal = io.StringIO(), Terminal()
    for stream in (quiet, terminal):
        with shown_progress(stream) as show:
            show("measuring", 0.5)
    assert quiet.getvalue() == ""
    assert "measuring" in terminal.getvalue()
