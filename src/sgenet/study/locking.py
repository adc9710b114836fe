"""A lock between processes of one machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["alone"]


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock, and hold it.

    The system lets go of it when the process ends, however it ends.

    Args:
        path: Its file, which is made where it is missing, and stays.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where one process may work at a time
        yield
        return
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
