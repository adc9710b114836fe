"""The allocator's settings: the command starts itself again once, and only where that is its own process."""

import os
import platform
import subprocess
import sys

import pytest

from sgenet.bench.environment import allocator_settings, prepare

WORDS = ["resnet18", "--batch", "2"]


@pytest.fixture
def own_process(monkeypatch):
    """As if this process were `sgenet bench` with these words, on Linux with glibc."""
    monkeypatch.setattr(sys, "argv", ["sgenet", "bench", *WORDS])
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "KINETO_LOG_LEVEL"):
        monkeypatch.setenv(name, "")  # so that what a test sets is undone
        monkeypatch.delenv(name)


def starts(words=WORDS, **options):
    """How often a process would be started again, by the thresholds that it would have."""
    started = []
    prepare(words, start_again=lambda: started.append(os.environ["MALLOC_MMAP_THRESHOLD_"]), **options)
    return started


def test_the_process_starts_again_once_with_the_settings(own_process):
    assert starts() == ["8589934592"]
    assert allocator_settings() == "MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184"
    assert starts() == []


def test_it_does_not_where_the_default_is_asked_for(own_process):
    assert starts(tuned=False) == []
    assert "MALLOC_MMAP_THRESHOLD_" not in os.environ


def test_it_does_not_where_the_user_has_set_one(own_process, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert starts() == []
    assert "MALLOC_MMAP_THRESHOLD_" not in os.environ


def test_it_does_not_without_glibc(own_process, monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert starts() == []


def test_it_does_not_in_a_program_that_calls_the_command(own_process):
    assert starts(["resnet34"]) == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_a_process_that_starts_again_keeps_its_words():
    code = (
        "import os, sys; from sgenet.bench.environment import prepare; prepare(sys.argv[2:]);"
        "print(os.environ['MALLOC_TRIM_THRESHOLD_'], *sys.argv[1:])"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", code, "bench", "a b", "--x"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["17179869184", "bench", "a", "b", "--x"]


def test_other_settings_of_memory_are_named():
    assert allocator_settings({"LD_PRELOAD": "/lib/libjemalloc.so"}) == "LD_PRELOAD=/lib/libjemalloc.so"
    assert allocator_settings({"MALLOC_ARENA_MAX": ""}) == "default"
