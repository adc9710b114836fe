from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import torch

from sgenet import ops
from sgenet.cli import main
from sgenet.extras import EXTRAS, modules_of


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


def test_a_missing_torchvision_is_said(capsys, monkeypatch):
    version = metadata.version

    def without(name):
        if name == "torchvision":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["torchvision"].startswith("missing")


def test_it_takes_the_compiler_that_inductor_takes():
    run = subprocess.run(
        [sys.executable, "-m", "sgenet.cli", "doctor", "--json"],
        env={**os.environ, "CXX": "nowhere++"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(run.stdout)["torch.compile"]
    assert said.startswith("no: ")
    assert "CXX=nowhere++" in said


def test_an_extra_is_there_only_with_the_one_that_it_builds_on(capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else find_spec(name))
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    for name in ("train", "detect", "study"):
        assert said[f"extra {name}"].startswith("no: timm missing")
        assert f"'sgenet[{name}]'" in said[f"extra {name}"]


def test_extras_build_on_each_other_as_the_package_declares():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for name in EXTRAS:
        on_train = "sgenet[train]" in project["optional-dependencies"][name]
        assert (set(EXTRAS["train"]) <= set(modules_of(name))) == (on_train or name == "train")
