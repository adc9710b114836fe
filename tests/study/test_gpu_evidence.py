"""The queue of trainings for one GPU: what fails does not end it, and its table is of what it asks now."""

import argparse
import sys
import time
from pathlib import Path

from sgenet.errors import RunError
from sgenet.study import load_study

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_evidence as script


def test_a_trial_that_fails_is_a_row_and_the_queue_goes_on(tmp_path, monkeypatch, capsys):
    study = load_study("sge-init").with_settings(seeds=1, data="cifar10", epochs=1)
    comparison = script.Comparison("sge-init", "cifar10", study)
    trials = [script.Trial(comparison, cell) for cell in comparison.study.cells]

    def run_trial(trial, *where):
        if trial is trials[1]:
            raise RunError("the loss\nis nan")
        return script.row_of(trial, "cpu", metric="val_top1", figure="50.0", seconds="1.0")

    monkeypatch.setattr(script, "run_trial", run_trial)
    monkeypatch.setattr(script, "queue", lambda tiny: iter(trials))
    monkeypatch.setattr(script, "comparisons", lambda tiny: [comparison])
    monkeypatch.setattr(script, "unpack", lambda *where, **how: {"cifar10": tmp_path})
    options = argparse.Namespace(tiny=True, data=tmp_path, time=60.0)
    file = tmp_path / "rows.csv"
    script.run_queue(options, "cpu", file, tmp_path, time.monotonic())
    rows = script.read_rows(file)
    assert [row["error"] for row in rows] == ["", "the loss is nan", "", ""]
    capsys.readouterr()
    other = {**rows[0], "epochs": "30", "figure": "99.0"}
    script.print_table([*rows, other], tiny=True)
    said = capsys.readouterr().out
    assert "failed: the loss is nan" in said
    assert "99.0" not in said
    assert said.count("50.00") == 3
    script.run_queue(options, "cpu", file, tmp_path, time.monotonic())
    assert "3 trials finished before, 1 to run" in capsys.readouterr().out
