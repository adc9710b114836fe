"""The right to train in a run folder, which one process has at a time."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sgenet.errors import RunError

__all__ = ["RunLock"]


class RunLock:
    """A lock on a file, which the system lets go of when the process ends, however it ends.

    Args:
        path: The file, which is made where it is missing, and stays.

    Raises:
        RunError: If another process holds it, or another training of this one; the message names it.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     lock = RunLock(Path(run) / ".lock")
        ...     lock.release()
    """

    def __init__(self, path: Path) -> None:
        self._file: int | None = None
        try:
            import fcntl
        except ImportError:  # Windows, where nothing keeps a second process away
            return
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(file, 1000, 0).decode(errors="replace") or "another process"
            os.close(file)
            raise RunError(
                f"'{path.parent}' is being trained by {holder}; wait until that training ends, or stop it and go on "
                f"with --resume {path.parent}"
            ) from error
        except OSError:  # a file system without locks
            os.close(file)
            return
        self._file = file
        _held.add(self)
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def release(self) -> None:
        """Let the next process train here."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            _held.discard(self)


_held: set[RunLock] = set()


def _let_go() -> None:
    """In a forked process, such as a loader's worker: it may live on for a while when the one that holds is killed."""
    for lock in tuple(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
