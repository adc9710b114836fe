"""What must be settled before torch is imported: how this process gets its memory.

With its usual settings, glibc maps every block above 32 MB anew and gives it back at once, and the kernel clears each
page at its first touch. At large batches that is half of a network's time, and a ratio then compares page faults.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence

__all__ = ["ALLOCATORS", "allocator_settings", "prepare"]

ALLOCATORS = ("tuned", "default")

# Blocks below 8 GB come from the heap, and the heap keeps up to 16 GB that are free.
_TUNED = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
_ALSO_NAMED = ("MALLOC_ARENA_MAX", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES", "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE")


def prepare(words: Sequence[str], *, tuned: bool = True, start_again: Callable[[], object] | None = None) -> None:
    """Set what torch and glibc read only once; for the latter, start this program again where that is needed.

    It is not started again without glibc, where one of these settings is there already, or where this process was not
    started as `sgenet bench WORDS`, but calls the command from a program of its own.

    Args:
        words: The words of the command line, without the command's name.
        tuned: Whether glibc is to keep its memory.
        start_again: Replaces the process by one with the same arguments and `os.environ`.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler, which measures memory, tells what it starts
    mine = sys.argv[1:] == ["bench", *words]
    if not tuned or platform.libc_ver()[0] != "glibc" or not mine or any(name in os.environ for name in _TUNED):
        return
    os.environ.update(_TUNED)
    (start_again or _start_again)()


def _start_again() -> None:
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def allocator_settings(environment: Mapping[str, str] | None = None) -> str:
    """The settings that are in force for memory on the CPU, by name.

    Args:
        environment: The process's if not given.

    Returns:
        `NAME=VALUE NAME=VALUE`, or "default".

    Examples:
        >>> allocator_settings({"MALLOC_TOP_PAD_": "65536", "PATH": "/bin"})
        'MALLOC_TOP_PAD_=65536'
        >>> allocator_settings({})
        'default'
    """
    environment = os.environ if environment is None else environment
    return " ".join(f"{n}={environment[n]}" for n in (*_TUNED, *_ALSO_NAMED) if environment.get(n)) or "default"
