from __future__ import annotations

import csv
import json
import os
import subprocess

import pytest

from sgenet.classification import EpochRow, TrainConfig
from sgenet.errors import RunError
from sgenet.training.environment import describe_environment
from sgenet.training.run_folder import RunFolder
from sgenet.writing import write_whole

ROW = EpochRow(1, 10, 0.1, 2.5, 10.0, 2.4, 12.5, 50.0, 100.0, 3.0)


def test_runs_of_one_name_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [RunFolder.create(TrainConfig(), "sge-timm:resnet50-my photos").path.as_posix() for _ in range(2)]
    assert names == ["runs/sge-timm-resnet50-my-photos-1", "runs/sge-timm-resnet50-my-photos-2"]


def test_a_run_holds_settings_and_environment(tmp_path):
    config = TrainConfig(output=str(tmp_path / "deep" / "run"), epochs=3)
    run = RunFolder.create(config, "x")
    assert RunFolder.open(run.path).read_config(TrainConfig) == config
    run.add_session()
    sessions = json.loads((run.path / "environment.json").read_text())["sessions"]
    assert len(sessions) == 2
    assert sessions[0]["versions"]["torch"]
    assert sessions[0]["machine"]["threads"] >= 1


@pytest.mark.parametrize("text", ['{"sessions": [{"sta', "[]", '{"sessions": 1}', "\xff"])
def test_a_damaged_record_of_environments_is_put_aside(tmp_path, text, monkeypatch):
    monkeypatch.setattr("sgenet.training.run_folder.describe_environment", lambda: {"command": ["sgenet"]})
    (tmp_path / "environment.json").write_bytes(text.encode("latin-1"))
    RunFolder(tmp_path).add_session()
    assert json.loads((tmp_path / "environment.json").read_text()) == {"sessions": [{"command": ["sgenet"]}]}
    assert (tmp_path / "environment.damaged.json").read_bytes() == text.encode("latin-1")


def test_metrics_are_one_row_an_epoch(tmp_path):
    run = RunFolder(tmp_path)
    run.write_metrics(EpochRow, [ROW, ROW])
    run.write_metrics(EpochRow, [ROW])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["val_top1"] == "12.5"
    assert [*row] == [
        "epoch", "step", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "images_per_second",
        "seconds",
    ]  # fmt: skip
    assert run.read_metrics(EpochRow) == (ROW,)


@pytest.mark.parametrize("text", ["epoch,step\n1,2\n", "epoch,step,lr,train_loss\n1,2,x,3\n", "\xff"])
def test_metrics_that_are_none_are_an_error(tmp_path, text):
    (tmp_path / "metrics.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"metrics\.csv' cannot be read"):
        RunFolder(tmp_path).read_metrics(EpochRow)


def test_an_output_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for check in (RunFolder.check, lambda path: RunFolder.create(TrainConfig(output=path), "x")):
        with pytest.raises(RunError, match="not empty"):
            check(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    run = RunFolder.create(TrainConfig(output=str(tmp_path / "run")), "x")
    with pytest.raises(RunError, match="--resume"):
        RunFolder.check(str(run.path))


def test_an_output_that_cannot_be_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"file' is a file|cannot be written"):
            RunFolder.check(str(output))
    with pytest.raises(RunError, match=r"cannot be written.*another --output"):
        RunFolder.create(TrainConfig(output="/proc/sgenet"), "x")


def test_a_link_that_leads_nowhere_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(tmp_path / "unmounted")
    with pytest.raises(RunError, match=r"output 'runs'.*the link 'runs' leads nowhere"):
        RunFolder.check(None)
    with pytest.raises(RunError, match=r"the link '.*runs' leads nowhere.*another --output"):
        RunFolder.check("runs/mine")
    with pytest.raises(RunError, match=r"output 'runs' cannot be written"):
        RunFolder.create(TrainConfig(), "x")


def test_a_folder_without_settings_is_no_run(tmp_path):
    with pytest.raises(RunError, match=r"config\.yaml"):
        RunFolder.open(tmp_path)


def test_git_state_is_that_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_environment()["git"] is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    (tmp_path / "a.txt").write_text("1")
    for words in (["init", "-q"], ["add", "a.txt"], [*identity, "commit", "-q", "--no-verify", "-m", "a"]):
        subprocess.run(["git", *words], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert describe_environment()["git"] == {"commit": head, "changed": False}
    (tmp_path / "a.txt").write_text("2")
    assert describe_environment()["git"] == {"commit": head, "changed": True}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_whole(file, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_whole(file, "new")
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
