"""`sgenet bench`: a tiny benchmark from the shell, and mistakes on one line."""

import csv
import json

import pytest

from sgenet.cli import main

TINY = ["resnet8_cifar", "--size", "32", "--batch", "1", "--pairs", "5", "--time", "0.01", "--device", "cpu"]


def test_a_tiny_benchmark_prints_a_table_and_keeps_its_rows(tmp_path, capsys):
    file = tmp_path / "rows.csv"
    assert main(["bench", *TINY, "--attention", "sge,eca", "--csv", str(file)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("resnet8_cifar: forward pass, eager, float32, channels_last, batch 1, 32 px\n")
    assert "\nallocator: " in text
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["form"] for row in rows] == ["plain again", "sge", "sge unfused", "eca"]
    assert all(row["form"] in text for row in rows)
    assert all(float(row["ratio"]) > 0 and row["pairs"] == "5" and row["torch"] and row["date"] for row in rows)


def test_json_holds_the_same_columns(capsys):
    assert main(["bench", *TINY, "--mode", "train", "--attention", "eca", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["form"] for row in rows] == ["plain again", "eca"]
    assert rows[1]["peak MB"] > 0


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
