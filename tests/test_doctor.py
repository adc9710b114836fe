from __future__ import annotations

import json
import os
import subprocess
import sys

import torch

from sgenet import ops
from sgenet.cli import main


def test_it_says_for_each_backend_whether_it_is_there_and_why_not(capsys):
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    for name, reason in ops.availability().items():
        assert said[f"backend {name}"].startswith("yes: " if reason is None else f"no: {reason}")
    assert said["torch"].startswith(torch.__version__)
    assert "float64 by reference" in said["SGE on cpu"]


def test_it_prints_a_line_each(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["sgenet", __import__("sgenet").__version__]
    assert all(len(line) < 200 for line in lines)


def test_a_backend_that_is_not_known_is_one_line():
    run = subprocess.run(
        [sys.executable, "-c", "from sgenet.cli import main; raise SystemExit(main(['doctor']))"],
        env={**os.environ, "SGENET_BACKEND": "gpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "SGENET_BACKEND=gpu: there is no such backend" in run.stderr
