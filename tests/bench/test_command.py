"""`sgenet bench`: a tiny benchmark from the shell, and mistakes on one line."""

import csv
import json

import pytest

from sgenet.bench import BenchResult, BenchRow, BenchSettings
from sgenet.bench.result import COLUMNS
from sgenet.cli import main
from sgenet.timing import Ratio

TINY = ["resnet8_cifar", "--size", "32", "--batch", "1", "--pairs", "5", "--time", "0.01", "--device", "cpu"]


def test_a_tiny_benchmark_prints_a_table_and_keeps_its_rows(tmp_path, capsys):
    file = tmp_path / "rows.csv"
    assert main(["bench", *TINY, "--attention", "sge,eca", "--csv", str(file)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("resnet8_cifar: forward pass, eager, float32, channels_last, batch 1, 32 px\n")
    assert "\nallocator: " in text
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert [row["form"] for row in rows] == ["plain again", "sge", "sge unfused", "eca"]
    assert all(row["form"] in text for row in rows)
    assert all(float(row["ratio"]) > 0 and row["pairs"] == "5" and row["torch"] and row["date"] for row in rows)


def test_json_holds_the_same_columns(capsys):
    assert main(["bench", *TINY, "--mode", "train", "--attention", "eca", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["form"] for row in rows] == ["plain again", "eca"]
    assert rows[1]["peak MB"] > 0


@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("other.csv", b"a,b\n1,2\n", "has other columns"),
        ("photo.png", b"\x89PNG\r\n\x1a\n\x00", "cannot take rows of a CSV file: 'utf-8' codec"),
        ("folder", None, "cannot take rows of a CSV file: Is a directory"),
        ("other.csv/rows.csv", b"", "cannot take rows of a CSV file: Not a directory"),
    ],
)
def test_a_file_that_cannot_take_the_rows_is_known_before_anything_is_measured(
    name, contents, reason, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sgenet.bench.measuring.bench", lambda *_: pytest.fail("it measures"))
    file = tmp_path / name
    if contents is None:
        file.mkdir()
    elif contents:
        file.write_bytes(contents)
    else:
        file.parent.write_text("mine")
    assert main(["bench", *TINY, "--csv", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sgenet: error: '{file}' {reason}")
    assert error.count("\n") == 1
    assert contents is None or not contents or file.read_bytes() == contents


def test_what_was_measured_is_shown_though_the_file_no_longer_takes_it(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.csv"

    def bench(settings: BenchSettings, show: object) -> BenchResult:
        file.write_text("a,b\n1,2\n")
        row = BenchRow("sge", "plain", (1, 3, 32, 32), Ratio(1.0312, 1.02, 1.05, 5, 0.0061))
        return BenchResult(settings, (row,), {"allocator": "default"})

    monkeypatch.setattr("sgenet.bench.measuring.bench", bench)
    assert main(["bench", *TINY, "--csv", str(file)]) == 2
    captured = capsys.readouterr()
    assert "1.031" in captured.out
    assert "has other columns" in captured.err


def test_a_network_without_a_place_for_attention_gets_advice_that_the_command_can_take(capsys):
    assert main(["bench", "timm:test_vit", *TINY[1:], "--attention", "sge"]) == 2
    error = capsys.readouterr().err
    assert "'sge' cannot be put into timm:test_vit: " in error
    assert "choose another network" in error
    assert "modules=" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet5O"], "Did you mean 'resnet50'"),
        (["--batch", "0"], "batch=0 must be at least 1"),
        (["--batch", "many"], "argument --batch"),
        (["--attention", ","], "no attention is named"),
        (["resnet8_cifar", "--attention", "sgee", "--device", "cpu"], "sgee"),
        (["--module", "cbam"], "module='cbam' is not known"),
        (["--module", "sge", "--mode", "train"], "leaves nothing for mode"),
        (["--freeze"], "give --compile too"),
        (["--device", "nowhere"], "device='nowhere' cannot be used here"),
        (["--allocator", "jemalloc"], "argument --allocator"),
    ],
)
def test_a_mistake_is_one_line(words, message, capsys):
    assert main(["bench", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sgenet: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
