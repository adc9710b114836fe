"""What holds for every test."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from sgenet.training import SilentProgress

# Tests run in several processes beside each other; a pool of threads in each would only make them wait for one another.
# Set before torch is imported, and in the environment, so that programs that a test starts compute alike.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on what else the machine does: a timing is never a test.
settings.register_profile("sgenet", deadline=None)
settings.load_profile("sgenet")

_DATA = Path(os.environ.get("SGENET_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

# With --doctest-modules these would be collected as modules, and several of one name cannot be.
collect_ignore_glob = ["*conftest.py"]


class StopError(Exception):
    """Stands for whatever ends a training from outside."""


class StopAt(SilentProgress):
    """Ends the training after so many steps, and keeps what was said."""

    def __init__(self, step: int | None = None) -> None:
        self.step = step
        self.steps = 0
        self.lines: list[str] = []

    def advance(self, metrics: Any) -> None:
        self.steps += 1
        if self.steps == self.step:
            raise StopError

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="session")
def stop_at() -> type[StopAt]:
    return StopAt


@pytest.fixture(scope="session")
def stop_error() -> type[StopError]:
    return StopError


@pytest.fixture(scope="session")
def coco200(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 100 training and 100 validation images of COCO with their annotations, where they are at hand."""
    archive = _DATA / "coco200.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive}; set SGENET_TEST_DATA to the folder that holds it")
    folder = tmp_path_factory.mktemp("coco")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "coco200"
