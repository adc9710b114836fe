"""Run a study on this machine: enter its cells, start workers, watch them, and report what is there."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgenet.errors import ConfigError, RunError
from sgenet.study.analysis import Analysis, analyse
from sgenet.study.definition import MACHINE_SETTINGS, Cell, Definition
from sgenet.study.storage import State, Storage
from sgenet.study.working import PATIENCE_SECONDS, STOPPED, URL_VARIABLE, Task

if TYPE_CHECKING:
    from sgenet.training.progress import Progress

__all__ = ["StudyResult", "open_study", "run_study", "write_report"]

_POLL_SECONDS = 0.5
_MOST_KILLED = 30  # workers that were killed, in one call: beyond, something on this machine kills them all


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """A study as a call left it.

    Attributes:
        output: Its folder.
        report: The report, one HTML file.
        analysis: What the results say.
        stopped: Why it ended before all cells were trained; empty where it did not.
    """

    output: Path
    report: Path
    analysis: Analysis
    stopped: str = ""


def run_study(
    definition: Definition,
    output: str | Path,
    *,
    storage: str | None = None,
    workers: int = 1,
    seconds: float | None = None,
    cells: int | None = None,
    only: Mapping[str, Sequence[str]] | None = None,
    threads: int | None = None,
    heartbeat: int | None = None,
    machine: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> StudyResult:
    """Train what a study lacks, and report.

    What is finished is not repeated, and what was interrupted goes on where its last checkpoint is. The same call on
    another machine, with the same storage, joins in.

    Args:
        definition: The study.
        output: Its folder: runs, report and, unless `storage` is given, results. Its name is the study's name in the
            storage; a folder that has results of its own may be renamed.
        storage: Where results go: `sqlite:///FILE` or `postgresql://...`; a file in `output` if not given.
        workers: How many cells are trained at once on this machine, if so many are left.
        seconds: Stop cleanly after so many; None: when all is done.
        cells: Train so many cells at most; None: all.
        only: By the name of a factor, the levels whose cells this call trains; None: all. The study stays what it is,
            and its report says what is missing.
        threads: Threads of torch for each worker; the machine's cores shared between them if not given. On a CPU they
            are part of what makes a result repeatable bit for bit.
        heartbeat: Seconds between two signs of life of a worker; one that is silent for three times as long is taken
            for dead, and its cell given to another. They are the study's, wherever it is worked on: None for those that
            it was begun with, or 20.
        machine: Settings of the training that belong to this machine: workers (of images), loader, accelerator,
            devices, and data where they lie elsewhere here.
        progress: Where to show how far the study is; the console if not given.

    Returns:
        What is there now, and where the report is.

    Raises:
        SgenetError: Before any work, if the definition, the folder, the data or the storage cannot be used; later, if
            no worker can go on. What is finished stays.
        KeyboardInterrupt: If the user stops it, or the system by SIGTERM; the same call goes on where it was.
    """
    output = Path(output)
    _check_call(definition, machine or {}, workers=workers, time=seconds, cells=cells, threads=threads)
    definition.cells_of(only or {})
    if progress is None:
        from sgenet.training.progress import ConsoleProgress

        progress = ConsoleProgress()
    _claim(output, storage)
    opened = Storage.of_folder(output, storage, heartbeat)
    costs = _costs(definition, machine or {})
    definition = opened.enter(definition)
    opened.note_costs(costs)
    for sentence in _before(definition):
        progress.line(sentence)
    share = max(1, (os.cpu_count() or 1) // workers)
    among = {cell.key for cell in definition.cells_of(only or {})}
    state = opened.state()
    left = len(among.intersection([*state.waiting, *state.running]))
    task = Task(
        name=opened.name,
        output=str(output.absolute()),
        session=uuid.uuid4().hex,
        limit=cells,
        only={name: list(levels) for name, levels in (only or {}).items()},
        threads=threads or share,
        machine=dict(machine or {}),
    )
    stopped = _Crew(task, opened.url, min(workers, left), output).watch(opened, definition, seconds, progress)
    return _reported(opened, definition, output, stopped, machine or {}, progress)


def open_study(output: str | Path, storage: str | None = None) -> tuple[Definition, State, Storage]:
    """A study that was run, or is being run.

    Args:
        output: Its folder.
        storage: As for `run_study`.

    Returns:
        What it asks, how far it is, and where its results are.

    Raises:
        RunError: If there is none.
    """
    output = Path(output)
    if storage is None and not (output / "study.db").is_file():
        raise RunError(f"'{output}' holds no study; give the folder of `sgenet study run`, or its --storage")
    opened = Storage.of_folder(output, storage)
    return opened.definition(), opened.state(), opened


def write_report(output: str | Path, storage: str | None = None) -> StudyResult:
    """Report what a study has found so far.

    Args:
        output: Its folder; the report goes there: `report.html`, `report.md`, `comparisons.csv`, `cells.csv`.
        storage: As for `run_study`.

    Returns:
        What is there, and where the report is.

    Raises:
        RunError: If there is no study, or the folder cannot be written.
    """
    from sgenet.training.progress import SilentProgress

    definition, _, opened = open_study(output, storage)
    return _reported(opened, definition, Path(output), "", {}, SilentProgress())


def _reported(
    opened: Storage,
    definition: Definition,
    output: Path,
    stopped: str,
    machine: Mapping[str, Any],
    progress: Progress,
) -> StudyResult:
    from sgenet.study.report import write_reports
    from sgenet.study.sections import gather
    from sgenet.study.table import summary

    analysis = analyse(definition, opened.state())
    sections = gather(analysis, opened, output, machine)
    report = write_reports(analysis, opened.costs(), output, sections)
    progress.line(f"\n{summary(analysis)}\nReport: {report}")
    return StudyResult(output, report, analysis, stopped)


# ------------------------------------------------------------------------------------------- before any work


def _check_call(definition: Definition, machine: Mapping[str, Any], **numbers: float | None) -> None:
    if definition.needs is not None:
        raise ConfigError(f"the study '{definition.name}' cannot be run yet: {definition.needs}")
    for name, value in numbers.items():
        if value is not None and not value > 0:  # nan is not above 0 either
            raise ConfigError(f"{name}={value} must be above 0")
    for name in machine:
        if name not in (*MACHINE_SETTINGS, "data"):
            raise ConfigError(f"'{name}' belongs to the study, not to a machine; change the definition")


def _claim(output: Path, storage: str | None) -> None:
    """See that the folder is a study's, or make it one."""
    try:
        if output.is_dir() and any(output.iterdir()) and not any((output / n).exists() for n in ("study.db", "runs")):
            raise RunError(f"'{output}' is not empty and holds no study; choose another --output")
        (output / "runs").mkdir(parents=True, exist_ok=True)
        if storage is None and not os.access(output, os.W_OK):
            raise RunError(f"'{output}' cannot be written: no permission; choose another --output")
    except OSError as error:
        raise RunError(f"'{output}' cannot be written: {error.strerror or error}; choose another --output") from error


def _costs(definition: Definition, machine: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each combination's network costs; building them all also shows that their names and options are right."""
    kind, costs, classes = definition.kind, {}, None
    for combination in definition.combinations:
        config = definition.config(Cell(combination, 0), **machine)
        if classes is None:
            classes = len(kind.open_data(config).classes)
        costs[combination.name] = kind.cost(config, classes)
    return costs


def _before(definition: Definition) -> Iterator[str]:
    from sgenet.study.wording import detectable

    cells = len(definition.cells)
    yield f"{definition.title}: {len(definition.combinations)} networks x {definition.seeds} seeds, {cells} trainings"
    yield detectable(definition, definition.spread, definition.spread_source)


# ------------------------------------------------------------------------------------------------ the workers


class _Crew:
    """The workers of this machine: processes, so that one that dies takes nothing with it."""

    def __init__(self, task: Task, url: str, size: int, output: Path) -> None:
        self._task, self._url, self._size = task, url, size
        self._logs = output / "workers"
        self._processes: dict[subprocess.Popen[bytes], Path] = {}
        self._killed = 0
        self._started = 0
        self._pipe = -1
        self._own_end: int | None = None

    def watch(self, storage: Storage, definition: Definition, seconds: float | None, progress: Progress) -> str:
        """Show how far the study is until the workers are done; why they were stopped, if they were."""
        deadline = None if seconds is None else time.monotonic() + seconds
        shown = _Shown(definition, progress)
        stopped = ""
        try:
            with _interruptions() as signals, self._at_work():
                while self._processes:
                    shown.update(storage.state())
                    if signals:
                        raise KeyboardInterrupt
                    if deadline is not None and time.monotonic() >= deadline:
                        stopped = "the time is up"
                        self._stop()
                        break
                    self._look_after()
                    time.sleep(_POLL_SECONDS)
                shown.update(storage.state())
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(
                "stopped; what is finished is kept, and the same command goes on where it was"
            ) from stop
        finally:
            progress.stop()
        return stopped

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._logs.mkdir(parents=True, exist_ok=True)
        self._pipe, self._own_end = os.pipe()
        try:
            for _ in range(self._size):
                self._start()
            yield
        finally:
            try:
                self._stop()
            finally:
                os.close(self._pipe)

    def _start(self) -> None:
        self._started += 1
        log = self._logs / f"{os.getpid()}-{self._started}.log"
        command = [sys.executable, "-m", "sgenet.study.working", self._task.to_json()]
        with log.open("wb") as file:
            # In a session of its own: the terminal's Ctrl+C comes here alone, and is handed on once.
            process = subprocess.Popen(
                command,
                env=os.environ | {URL_VARIABLE: self._url},
                stdin=self._pipe,  # its end asks to stop; it ends with this process too, however that comes about
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes[process] = log

    def _look_after(self) -> None:
        """Replace workers that were killed; take those that are done off the list."""
        for process in [p for p in self._processes if p.poll() is not None]:
            log = self._processes.pop(process)
            code = process.returncode
            if code in (0, STOPPED):
                continue
            if code > 0:
                raise RunError(f"a worker ended with status {code}: {_last_line(log)} (its log: {log})")
            self._killed += 1
            if self._killed > _MOST_KILLED:
                raise RunError(
                    f"{self._killed} workers were killed (the last by signal {-code}); is memory short? Fewer workers "
                    "may help; what is finished is kept"
                )
            self._start()

    def _stop(self) -> None:
        """Ask all to stop, and wait until they have given back what they were at."""
        if self._own_end is not None:
            os.close(self._own_end)  # a signal would be lost on one that has still to import what it needs
            self._own_end = None
        for process in self._processes:
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:  # something swallowed it; its silence gives its cell back
                process.kill()
                process.wait()
        self._processes.clear()


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Let SIGTERM, by which systems end a process, do what Ctrl+C does, and neither be lost.

    What a handler raises is swallowed where it happens to come in a destructor, or when a weak reference is told of a
    death; so the list names those that came. (An event's lock might be held already where a signal comes.) Handlers
    that somebody else has set stay, and only the main thread may set any.
    """
    signals: list[int] = []

    def stop(number: int, _: object) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    may = threading.current_thread() is threading.main_thread()
    usual = (signal.default_int_handler, signal.SIG_DFL)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM) if may and signal.getsignal(n) in usual}
    try:
        for number in before:
            signal.signal(number, stop)
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Shown:
    """The study as one bar, over the epochs of all its trainings, whoever trains them."""

    def __init__(self, definition: Definition, progress: Progress) -> None:
        self._definition, self._progress = definition, progress
        self._metric = definition.compared
        each = {
            combination.key: definition.config(Cell(combination, 0)).epochs for combination in definition.combinations
        }
        self._epochs = {cell.key: each[cell.combination.key] for cell in definition.cells}
        self._told: set[str] | None = None
        self._done = 0

    def update(self, state: State) -> None:
        """Show what is new."""
        finished = state.results.keys() & self._epochs.keys()
        running = [last for last in state.running.values() if last is not None]
        done = sum(self._epochs[key] for key in finished) + sum(epoch for epoch, _ in running)
        if self._told is None:
            self._told = set(finished)
            self._done = done
            if finished:
                self._progress.line(f"{len(finished)} of {len(self._epochs)} trainings are there already.")
            self._progress.start(self._definition.name, sum(self._epochs.values()), done)
        metrics = {"trained": float(len(finished))}
        if running:
            metrics[self._metric.name] = running[-1][1]
        for _ in range(done - self._done):
            self._progress.advance(metrics)
        self._done = max(done, self._done)
        for key in sorted(finished - self._told):
            result = state.results[key]
            seconds = sum(row["seconds"] for row in result.history)
            found = f"{self._metric.name} {result.last(self._metric.key):.2f}%"
            self._told.add(key)
            self._progress.line(f"[{len(self._told)}/{len(self._epochs)}] {key}: {found}, {seconds:.0f} s of training")
        for key in sorted(state.failed.keys() - self._told):
            self._told.add(key)
            self._progress.line(f"failed: {key}: {state.failed[key]}")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("sgenet: error: ") if lines else "it said nothing"
