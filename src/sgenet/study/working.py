"""A worker: a process that trains cells of a study, one after the other, until none is left.

`sgenet.study.running` starts it as `python -m sgenet.study.working`; it asks the storage for all it needs to know. Its
standard input is a pipe that says nothing: its end asks the worker to stop, or tells that the process which started it
is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sgenet.errors import SgenetError
from sgenet.study.storage import Claim, Result, Storage
from sgenet.study.training import Images, train_cell

__all__ = ["PATIENCE_SECONDS", "STOPPED", "URL_VARIABLE", "Task", "main", "work"]

URL_VARIABLE = "SGENET_STUDY_STORAGE"
"""The environment variable by which a worker gets the storage's URL: a command line would show its password."""

PATIENCE_SECONDS = 30.0
"""How long a worker that is to stop has for giving back what it is at."""

STOPPED, WRONG = 130, 2

_POLL_SECONDS = 1.0
_LONGEST_LINE = 400


@dataclass(frozen=True)
class Task:
    """What a worker is told.

    Attributes:
        name: The study's name in the storage.
        output: Its folder on this machine.
        session: Whose work its cells count as.
        limit: How many cells the session may take; None for all.
        only: By the name of a factor, the levels whose cells it may take; of other factors, all.
        threads: How many threads of torch it may use.
        machine: Settings that belong to this machine.
    """

    name: str
    output: str
    session: str = ""
    limit: int | None = None
    only: dict[str, list[str]] = field(default_factory=dict)
    threads: int | None = None
    machine: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """As one word of a command line."""
        return json.dumps(asdict(self))


def work(task: Task, url: str, stopped: Callable[[], bool] = lambda: False) -> None:
    """Train cells until none is left, or the session has had its share.

    Args:
        task: What to do.
        url: Of the storage.
        stopped: Asked at every step whether it is to stop.

    Raises:
        SgenetError: If the storage, the data or the disk cannot be used; the cell is given back.
        KeyboardInterrupt: If it is to stop; likewise.
    """
    if task.threads is not None:
        import torch

        torch.set_num_threads(task.threads)
    storage = Storage(url, task.name)
    definition = storage.definition()
    among = {cell.key for cell in definition.cells_of(task.only)}
    images = Images()

    def train(claim: Claim) -> Result:
        return train_cell(definition, claim, Path(task.output), images, task.machine, stopped)

    while not stopped() and (done := storage.work(definition, train, task.session, task.limit, among)) != "done":
        if done == "busy":  # one of the others may die yet
            time.sleep(_POLL_SECONDS)


def main(words: list[str]) -> int:
    """The process.

    Args:
        words: The task as JSON.

    Returns:
        Exit status: 0; 2 with one line on standard error; 130 where it was stopped.
    """
    signals: list[int] = []  # an event's lock might be held already where a signal comes

    def stop(number: int, _: object) -> None:
        signals.append(number)  # a library may swallow what is raised here
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)  # a shell's background job would ignore it
    threading.Thread(target=_stop_with_input, args=(signals,), daemon=True).start()
    try:
        work(Task(**json.loads(words[0])), os.environ[URL_VARIABLE], lambda: bool(signals))
    except KeyboardInterrupt:
        return STOPPED
    except (SgenetError, OSError, MemoryError) as error:
        sys.stderr.write(f"sgenet: error: {' '.join(str(error).split())[:_LONGEST_LINE]}\n")
        return WRONG
    return STOPPED if signals else 0


def _stop_with_input(signals: list[int]) -> None:
    """Stop when the input ends; if something swallows that, before long all the same."""
    os.read(sys.stdin.fileno(), 1)
    if not signals:
        os.kill(os.getpid(), signal.SIGINT)  # a signal also ends a wait, for a lock or a server
    time.sleep(PATIENCE_SECONDS)
    os._exit(STOPPED)  # the silence gives the cell back


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
