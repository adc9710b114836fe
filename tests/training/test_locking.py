from __future__ import annotations

import os
import signal
import time

import pytest

from sgenet.classification import TrainConfig
from sgenet.errors import RunError
from sgenet.training.resuming import reopen
from sgenet.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.setattr("sgenet.training.run_folder.describe_environment", dict)


def test_a_run_is_one_trainings(tmp_path):
    run = RunFolder.create(TrainConfig(output=str(tmp_path / "run")), "x")
    with pytest.raises(RunError, match=rf"run' is being trained by process {os.getpid()} on .*--resume .*run"):
        reopen(run.path, TrainConfig).claim()
    run.release()
    reopen(run.path, TrainConfig).claim().release()


def test_a_killed_process_and_its_children_hold_nothing(tmp_path):
    """A loader's workers live on for some seconds after the process that forked them."""
    run = RunFolder.create(TrainConfig(output=str(tmp_path / "run")), "x")
    run.release()
    inside, outside = os.pipe()
    holder = os.fork()
    if holder == 0:
        reopen(run.path, TrainConfig).claim()
        worker = os.fork()
        if worker:
            os.write(outside, str(worker).encode())
        while True:
            time.sleep(60)
    worker = int(os.read(inside, 100))
    try:
        with pytest.raises(RunError, match=f"process {holder} on"):
            reopen(run.path, TrainConfig).claim()
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        reopen(run.path, TrainConfig).claim().release()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_run_that_went_on_meanwhile_is_not_claimed(tmp_path):
    run = RunFolder.create(TrainConfig(output=str(tmp_path / "run")), "x")
    run.release()
    stopped = reopen(run.path, TrainConfig)
    (run.checkpoints / "index.json").write_text('{"last": "step-00000005"}')
    (run.checkpoints / "step-00000005").mkdir()
    for _ in range(2):
        with pytest.raises(RunError, match="another training went on"):
            stopped.claim()
