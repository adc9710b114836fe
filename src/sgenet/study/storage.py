"""Where a study keeps what it found: an Optuna storage, in a file or on a server that several machines share.

Each cell of the grid is entered as a trial that waits. A worker takes the first in the order of the grid, tells the
storage every few seconds that it is alive, and completes it with its result. A trial whose worker stops waits again;
one whose worker falls silent is failed, and entered again in its place; what a worker says of a trial that was taken
from it is refused. So there is at most one result a cell.

Everything a report needs is in the storage; run folders may lie on other machines.
"""

from __future__ import annotations

import logging
import math
import threading
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sgenet.errors import ConfigError, RunError, SgenetError
from sgenet.study.definition import FINGERPRINT, Cell, Definition
from sgenet.study.locking import alone

__all__ = ["Claim", "Result", "State", "Storage", "Superseded", "file_url", "shown_url"]

HEARTBEAT_SECONDS = 20
"""How often the workers of a study say that they are alive, unless it was entered with another interval; one that has
not for three times as long is taken for dead."""

_FILE_TIMEOUT = 120  # seconds that a process waits for others to finish writing to a file
_SERVER_TIMEOUT = 15
_MOST_SEEDS = 10_000
_LONGEST_REASON = 400
_DEFINITION, _HEARTBEAT, _COSTS, _TIMES = "definition", "heartbeat", "costs", "times"  # of the study
_SILENCE = 3  # heartbeats
_SEED = "seed"  # a trial's parameter, beside the factors
_CELL, _ERROR, _SESSION, _RESULT = "cell", "error", "session", "result"  # of a trial
_ATTEMPTS = "attempts"  # of a trial: how often it broke
_MOST_ATTEMPTS = 2


class Superseded(Exception):  # noqa: N818  # no error: what it says is that there is nothing more to do
    """The trial was given to another worker, because this one was silent for too long."""


@dataclass(frozen=True)
class Result:
    """What a cell's training came to.

    Attributes:
        history: One row an epoch: figures by the name of their column.
        command: The command line that repeats it.
        run: Its run folder, on the machine that finished it.
        environment: Of that machine, see `describe_environment`.
    """

    history: tuple[Mapping[str, float], ...]
    command: str
    run: str
    environment: Mapping[str, Any]

    def last(self, column: str) -> float:
        """A figure of the last epoch; nan where it has none."""
        return self.history[-1].get(column, math.nan)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values; a figure that is no number is None in them."""
        columns = list(self.history[0])
        rows = [[row[name] if math.isfinite(row[name]) else None for name in columns] for row in self.history]
        return {
            "columns": columns,
            "history": rows,
            "command": self.command,
            "run": self.run,
            "environment": dict(self.environment),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Result:
        """What `to_dict` gave."""
        rows = [[math.nan if value is None else value for value in row] for row in values["history"]]
        history = tuple(dict(zip(values["columns"], row, strict=True)) for row in rows)
        return cls(history, values["command"], values["run"], values["environment"])


@dataclass(frozen=True)
class State:
    """How far a study is.

    Attributes:
        results: By cell.
        running: Cells at work, each with the last epoch that it has told of and that epoch's figure, or None.
        waiting: Cells that nobody has taken.
        failed: Cells that cannot be trained, with the reason.
    """

    results: Mapping[str, Result]
    running: Mapping[str, tuple[int, float] | None]
    waiting: tuple[str, ...]
    failed: Mapping[str, str]


class Claim:
    """A cell that is this worker's to train.

    Attributes:
        cell: Which.
    """

    def __init__(self, cell: Cell, storage: RDBStorage, trial: int, column: str) -> None:
        self.cell = cell
        self._storage, self._trial, self._column = storage, trial, column

    def report(self, epoch: int, figure: float) -> None:
        """Tell of an epoch, and of the figure that the study compares.

        Raises:
            Superseded: If the cell is another worker's now.
        """
        with self._mine():
            self._storage.set_trial_intermediate_value(self._trial, epoch, figure)

    def fail(self, reason: str) -> None:
        """The cell cannot be trained.

        Raises:
            Superseded: As `report`.
        """
        with self._mine():
            self._storage.set_trial_user_attr(self._trial, _ERROR, reason)
            self._storage.set_trial_state_values(self._trial, TrialState.FAIL)

    def complete(self, result: Result) -> None:
        """The cell has been trained; it failed where the figure that the study compares is no number.

        Raises:
            Superseded: As `report`.
        """
        figure = result.last(self._column)
        if not math.isfinite(figure):
            self.fail(f"its {self._column} is no number: the validation images have nothing to measure it on")
            return
        with self._mine():
            self._storage.set_trial_user_attr(self._trial, _RESULT, result.to_dict())
            self._storage.set_trial_state_values(self._trial, TrialState.COMPLETE, [figure])

    def give_back(self) -> None:
        """Let the cell wait for another worker, or another time.

        Raises:
            Superseded: As `report`.
        """
        with self._mine():
            self._storage.set_trial_state_values(self._trial, TrialState.WAITING)

    def broke(self, reason: str) -> bool:
        """The training broke: the cell waits for another attempt, or has failed where it had its attempts.

        Args:
            reason: Why.

        Returns:
            Whether it has failed.

        Raises:
            Superseded: As `report`.
        """
        with self._mine():
            attempts = self._storage.get_trial(self._trial).user_attrs.get(_ATTEMPTS, 0) + 1
            self._storage.set_trial_user_attr(self._trial, _ATTEMPTS, attempts)
        if attempts < _MOST_ATTEMPTS:
            self.give_back()
            return False
        self.fail(f"{reason} (twice)")
        return True

    @contextmanager
    def alive(self, seconds: float) -> Iterator[None]:
        """Tell the storage so every few seconds."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(seconds):
                # A server that is away for a moment: the next time may reach it.
                with suppress(SQLAlchemyError, StorageInternalError):
                    self._storage.record_heartbeat(self._trial)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @contextmanager
    def _mine(self) -> Iterator[None]:
        try:
            yield
        except UpdateFinishedTrialError as error:
            raise Superseded from error


class Storage:
    """A study's storage.

    Args:
        url: `sqlite:///FILE`, or `postgresql://USER:PASSWORD@HOST/DATABASE`.
        name: The study's name in it.
        heartbeat: Seconds between two signs of life of a worker, at least 1. The study keeps those that it was entered
            with first, for all workers everywhere: who waits must know how long others may be silent. None for those.

    Raises:
        ConfigError: If the URL is neither.
        RunError: If the storage cannot be reached.
    """

    def __init__(self, url: str, name: str, heartbeat: int | None = None) -> None:
        if heartbeat is not None and heartbeat < 1:
            raise ConfigError(f"heartbeat={heartbeat} must be 1 second or more")
        self.url, self.name, self._asked = _with_driver(url), name, heartbeat
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        server = not self.url.startswith("sqlite")
        timeout = {"connect_timeout": _SERVER_TIMEOUT} if server else {"timeout": _FILE_TIMEOUT}
        with self._reachable(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            with self._alone():  # two processes that make the tables at once trip over each other
                self._storage = RDBStorage(
                    self.url,
                    engine_kwargs={"connect_args": timeout, **({"pool_pre_ping": True} if server else {})},
                    heartbeat_interval=HEARTBEAT_SECONDS,  # the study's own from `_keep_time` on
                    grace_period=_SILENCE * HEARTBEAT_SECONDS,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True),
                )
        self._study: optuna.Study | None = None

    @classmethod
    def of_folder(cls, folder: Path, url: str | None = None, heartbeat: int | None = None) -> Storage:
        """The storage of a study's folder.

        Args:
            folder: Its name is the study's. In a file of the folder's own a single study is the folder's whatever its
                name: folders are renamed, and copied.
            url: Where the results are, if not in that file.
            heartbeat: As above.

        Raises:
            SgenetError: As above.
        """
        if url is not None:
            return cls(url, folder.name, heartbeat)
        storage = cls(file_url(folder), folder.name, heartbeat)
        names = storage._names()
        if len(names) == 1:
            storage.name = names[0]
        return storage

    # ------------------------------------------------------------------------------------------ the study

    def exists(self) -> bool:
        """Whether the storage has the study."""
        return self.name in self._names()

    def definition(self) -> Definition:
        """The study as the storage has it.

        Raises:
            RunError: If it has none.
        """
        if not self.exists():
            names = ", ".join(self._names()) or "none"
            raise RunError(f"{shown_url(self.url)} has no study '{self.name}'; it has {names}")
        with self._reachable():
            values = self._opened().user_attrs.get(_DEFINITION)
        if values is None:
            raise RunError(f"'{self.name}' in {shown_url(self.url)} is no study of sgenet; give another --output")
        return Definition.from_dict(values, f"the study '{self.name}' in {shown_url(self.url)}")

    def enter(self, definition: Definition) -> Definition:
        """Make the study, or join it, and enter each cell that neither has a result nor is under way.

        A cell that failed before is tried again. More seeds than before are added; fewer change nothing.

        Args:
            definition: The study.

        Returns:
            The study as the storage has it from now on: as it was entered first, but for the seeds.

        Raises:
            RunError: If the storage has a study of this name that trains something else, or with another heartbeat.
        """
        with self._reachable(), self._alone():
            self._study = optuna.create_study(
                storage=self._storage, study_name=self.name, direction="maximize", load_if_exists=True
            )
            known = self._study.user_attrs.get(_DEFINITION)
            if known is not None:
                before = Definition.from_dict(known)
                _check_same(before, definition, self.name)
                definition = replace(before, seeds=max(before.seeds, definition.seeds))
            self._agree_on_heartbeat(self._study)
            if known != definition.to_dict():
                self._study.set_user_attr(_DEFINITION, definition.to_dict())
            self._enter_missing(definition)
        return definition

    def _agree_on_heartbeat(self, study: optuna.Study) -> None:
        known, asked = study.user_attrs.get(_HEARTBEAT), self._asked
        if known is None:
            study.set_user_attr(_HEARTBEAT, HEARTBEAT_SECONDS if asked is None else asked)
        elif asked not in (None, known):
            raise RunError(
                f"heartbeat={asked} is not that of the study '{self.name}', whose workers say every {known} seconds "
                "that they are alive; leave it out"
            )
        self._keep_time(study)

    def _keep_time(self, study: optuna.Study) -> None:
        seconds = study.user_attrs.get(_HEARTBEAT, HEARTBEAT_SECONDS)
        self._storage.heartbeat_interval, self._storage.grace_period = seconds, _SILENCE * seconds

    def _enter_missing(self, definition: Definition) -> None:
        alive = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)
        taken = {trial.user_attrs.get(_CELL) for trial in self._trials() if trial.state in alive}
        kinds = _parameter_kinds(definition)
        for cell in definition.cells:
            if cell.key not in taken:
                trial = optuna.create_trial(
                    state=TrialState.WAITING,
                    params={**cell.combination.levels, _SEED: cell.seed},
                    distributions=kinds,
                    user_attrs={_CELL: cell.key},
                )
                self._opened().add_trial(trial)

    def state(self) -> State:
        """How far the study is, whoever works on it."""
        with self._reachable():
            trials = self._trials()
        results: dict[str, Result] = {}
        running: dict[str, tuple[int, float] | None] = {}
        waiting, failed = [], {}
        for trial in trials:
            cell = trial.user_attrs.get(_CELL)
            if cell is None:
                continue
            if trial.state == TrialState.COMPLETE:
                results.setdefault(cell, Result.from_dict(trial.user_attrs[_RESULT]))
            elif trial.state == TrialState.RUNNING:
                running[cell] = max(trial.intermediate_values.items(), default=None)
            elif trial.state == TrialState.WAITING:
                waiting.append(cell)
            elif _ERROR in trial.user_attrs:
                failed[cell] = trial.user_attrs[_ERROR]
        alive = {*results, *running, *waiting}
        return State(results, running, tuple(waiting), {c: why for c, why in failed.items() if c not in alive})

    def note_costs(self, costs: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep what each combination's network costs, by its name."""
        with self._reachable():
            if self._opened().user_attrs.get(_COSTS) != costs:
                self._opened().set_user_attr(_COSTS, dict(costs))

    def costs(self) -> dict[str, dict[str, Any]]:
        """What `note_costs` was given; empty before."""
        with self._reachable():
            return dict(self._opened().user_attrs.get(_COSTS, {}))

    def note_times(self, times: Mapping[str, Any]) -> None:
        """Keep how long the networks take."""
        with self._reachable():
            self._opened().set_user_attr(_TIMES, dict(times))

    def times(self) -> dict[str, Any] | None:
        """What `note_times` was given; None before."""
        with self._reachable():
            known: dict[str, Any] | None = self._opened().user_attrs.get(_TIMES)
        return known

    # ----------------------------------------------------------------------------------------- one's work

    def work(
        self,
        definition: Definition,
        train: Callable[[Claim], Result],
        session: str = "",
        limit: int | None = None,
        among: Collection[str] | None = None,
    ) -> Literal["worked", "busy", "done"]:
        """Take the first cell that waits, and train it.

        Args:
            definition: The study.
            train: Does it. A RunError is kept as the reason why the cell failed. Anything else that it raises gives
                the cell back, for another worker or another time, and is raised again; the second time that a training
                breaks, the cell has failed. A stop, a full disk or a storage that is away is no fault of the cell's.
            session: Whose work this counts as.
            limit: How many cells a session may take; None for all.
            among: Keys of the cells that may be taken; None for all.

        Returns:
            "worked" after a cell, whatever came of it; "busy" where others are at work on all that is left; "done"
            where nothing is left, or the session has had its share.

        Raises:
            RunError: If the storage cannot be reached.
        """
        with self._reachable():
            claim = self._take(definition, session, limit, among)
            if not isinstance(claim, Claim):
                return claim
            with suppress(Superseded), claim.alive(self._storage.heartbeat_interval or HEARTBEAT_SECONDS):
                _train(claim, train)
        return "worked"

    def _take(
        self, definition: Definition, session: str, limit: int | None, among: Collection[str] | None
    ) -> Claim | Literal["busy", "done"]:
        with self._alone():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                optuna.storages.fail_stale_trials(self._opened())
            trials = self._trials()
            if limit is not None and len(_taken(trials, session)) >= limit:
                return "done"
            open_to_it = [t for t in trials if among is None or t.user_attrs.get(_CELL) in among]
            waiting = {t.user_attrs.get(_CELL): t for t in open_to_it if t.state == TrialState.WAITING}
            cell = next((cell for cell in definition.cells if cell.key in waiting), None)
            if cell is None:
                return "busy" if any(t.state == TrialState.RUNNING for t in open_to_it) else "done"
            study = self._storage.get_study_id_from_name(self.name)
            trial = self._storage.get_trial_id_from_study_id_trial_number(study, waiting[cell.key].number)
            self._storage.set_trial_user_attr(trial, _SESSION, session)
            self._storage.record_heartbeat(trial)  # first: what runs without one would never be found silent
            self._storage.set_trial_state_values(trial, TrialState.RUNNING)
            return Claim(cell, self._storage, trial, definition.compared.key)

    def _names(self) -> list[str]:
        with self._reachable():
            return optuna.get_all_study_names(self._storage)

    def _trials(self) -> list[FrozenTrial]:
        return self._opened().get_trials(deepcopy=False)

    def _opened(self) -> optuna.Study:
        if self._study is None:
            self._study = optuna.load_study(study_name=self.name, storage=self._storage)
            self._keep_time(self._study)
        return self._study

    def _alone(self) -> AbstractContextManager[None]:
        """Keep other processes from taking or entering cells meanwhile."""
        if self.url.startswith("sqlite"):
            database = Path(sqlalchemy.engine.make_url(self.url).database or "")
            return alone(database.with_name(f"{database.name}.lock"))
        return _server_lock(self.url, self.name)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Say in one line what is wrong with the storage."""
        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
            reason = " ".join(str(getattr(cause, "orig", None) or cause).split())[:300]
            raise RunError(f"the storage {shown_url(self.url)} cannot be used: {reason}") from error


def file_url(folder: Path) -> str:
    """The URL of a study's own file.

    Examples:
        >>> file_url(Path("/tmp/groups"))
        'sqlite:////tmp/groups/study.db'
    """
    return f"sqlite:///{folder.absolute() / 'study.db'}"


def shown_url(url: str) -> str:
    """The URL without its password.

    Examples:
        >>> shown_url("postgresql://me:secret@server/studies")
        'postgresql://me:***@server/studies'
    """
    return sqlalchemy.engine.make_url(url).set(drivername=url.partition(":")[0].partition("+")[0]).render_as_string()


def _taken(trials: list[FrozenTrial], session: str) -> set[str]:
    """The cells that a session has worked on."""
    begun = [trial for trial in trials if trial.state != TrialState.WAITING]
    return {trial.user_attrs[_CELL] for trial in begun if trial.user_attrs.get(_SESSION) == session}


def _train(claim: Claim, train: Callable[[Claim], Result]) -> None:
    try:
        result = train(claim)
    except Superseded:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) or _of_the_machine(error):
            with suppress(Superseded):
                claim.give_back()
            raise
        if isinstance(error, RunError):
            claim.fail(str(error))
        elif not claim.broke(_reason(error)):
            raise
        return
    claim.complete(result)


def _of_the_machine(error: Exception) -> bool:
    """Whether disk or storage failed, not the training."""
    kinds = (OSError, SQLAlchemyError, StorageInternalError)
    return isinstance(error, kinds) or (isinstance(error, RunError) and isinstance(error.__cause__, OSError))


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split())[:_LONGEST_REASON]
    return words if isinstance(error, SgenetError) else f"{type(error).__name__}: {words}"


def _parameter_kinds(definition: Definition) -> dict[str, Any]:
    """The cells' levels as parameters of trials, for who looks at the storage with Optuna's own tools."""
    levels = {f.name: CategoricalDistribution([level.name for level in f.levels]) for f in definition.factors}
    return {**levels, _SEED: IntDistribution(0, _MOST_SEEDS)}


def _check_same(before: Definition, now: Definition, name: str) -> None:
    old, new = before.fingerprint(), now.fingerprint()
    if old == new:
        return
    changed = [f"{key}: {old[key]!r} there, {new[key]!r} here" for key in FINGERPRINT if old[key] != new[key]]
    changed += _changed_factors(old["factors"], new["factors"])
    changed += _changed_settings(old["settings"], new["settings"])
    raise RunError(
        f"the study '{name}' exists with other contents ({'; '.join(changed)}); give another --output to begin anew, "
        "or the same settings to go on"
    )


def _changed_factors(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changed = []
    for factor in [*old, *(f for f in new if f not in old)]:
        if old.get(factor) != new.get(factor):
            there, here = (", ".join(which[factor]) if factor in which else "no such factor" for which in (old, new))
            levels = "other settings" if there == here else f"{there} there, {here} here"
            changed.append(f"factor '{factor}': {levels}")
    return changed


def _changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between trainings that both have, each difference once."""
    found: dict[str, list[str]] = {}
    both = [combination for combination in old if combination in new]
    for combination in both:
        there, here = old[combination], new[combination]
        for key in sorted(there.keys() | here.keys()):
            if there.get(key) != here.get(key):
                text = f"{key}: {there.get(key)!r} there, {here.get(key)!r} here"
                found.setdefault(text, []).append(combination)
    return [text if where == both else f"{text} (at {'; '.join(where)})" for text, where in found.items()]


def _with_driver(url: str) -> str:
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except SQLAlchemyError as error:
        raise ConfigError(
            f"--storage '{url}' is no URL; give sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from error
    kind = parsed.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise ConfigError(f"--storage: a study lies in sqlite:///FILE or postgresql://..., not in {kind}")
    if kind == "sqlite" and not parsed.database:
        raise ConfigError("--storage sqlite:// names no file; give sqlite:///FILE")
    drivername = "sqlite" if kind == "sqlite" else "postgresql+psycopg"
    return parsed.set(drivername=drivername).render_as_string(hide_password=False)


@contextmanager
def _server_lock(url: str, name: str) -> Iterator[None]:
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.pool.NullPool, connect_args={"connect_timeout": _SERVER_TIMEOUT}
    )
    with engine.connect() as connection:  # closing it unlocks
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": zlib.crc32(name.encode())})
        yield
