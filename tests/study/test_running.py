"""Studies that really run: their workers are killed, stopped and started again, and the table is the same."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import optuna
import pytest

from sgenet.cli import main
from sgenet.errors import RunError, SgenetError
from sgenet.study import list_studies, load_study, open_study, run_study, write_report
from sgenet.study.definition import Definition
from sgenet.study.storage import Storage, file_url
from sgenet.study.working import Task, work

LEVELS = {"none": {"attention": "none"}, "sge": {"attention": "sge"}}


def small(seeds=2, epochs=2, **changes):
    """Trainings of a second, of which checkpoints are written often."""
    settings = {
        "data": "shapes", "data_options": {"train_size": 64, "val_size": 32}, "model": "resnet8_cifar",
        "epochs": epochs, "batch_size": 16, "image_size": 32, "warmup_epochs": 0.0, "checkpoint_every_steps": 1,
    }  # fmt: skip
    values = {"name": "small", "factors": {"attention": LEVELS}, "seeds": seeds, "recipe": "shapes"}
    return Definition.from_dict({**values, "settings": settings, **changes})


class Told:
    """A progress that keeps its lines."""

    def __init__(self):
        self.lines = []

    def start(self, *args):
        pass

    def advance(self, metrics):
        pass

    def epoch(self, row):
        pass

    def line(self, text):
        self.lines.append(text)

    def stop(self):
        pass


def table(output):
    """Every training's figures, but for how long it took."""
    with (Path(output) / "cells.csv").open(newline="") as lines:
        return [{k: v for k, v in line.items() if k != "seconds"} for line in csv.DictReader(lines)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A study by one worker, from beginning to end."""
    output = tmp_path_factory.mktemp("studies") / "small"
    told = Told()
    return run_study(small(), output, threads=1, heartbeat=1, progress=told), told


def test_a_study_trains_every_cell_and_reports(undisturbed):
    result, told = undisturbed
    assert result.analysis.complete
    assert not result.stopped
    assert len(table(result.output)) == 4
    assert result.report.read_text().count("<title>seed") >= 4
    assert {"report.html", "report.md", "comparisons.csv", "cells.csv"} <= {f.name for f in result.output.iterdir()}
    assert sum(line.startswith("[") for line in told.lines) == 4


def test_the_same_call_again_trains_nothing(undisturbed):
    result, _ = undisturbed
    before = table(result.output)
    told = Told()
    logs = set(result.output.glob("workers/*"))
    again = run_study(small(), result.output, threads=1, heartbeat=1, progress=told)
    assert set(result.output.glob("workers/*")) == logs  # nor was any worker started
    assert "4 of 4 trainings are there already." in told.lines
    assert table(again.output) == before
    assert len(optuna.load_study(study_name="small", storage=file_url(result.output)).get_trials()) == 4


def test_a_renamed_folder_is_still_the_study(undisturbed, tmp_path):
    result, _ = undisturbed
    renamed = tmp_path / "of-monday"
    renamed.mkdir()
    shutil.copy(result.output / "study.db", renamed)
    told = Told()
    again = run_study(small(), renamed, threads=1, progress=told)
    assert "4 of 4 trainings are there already." in told.lines
    assert table(again.output) == table(result.output)
    assert open_study(renamed)[0] == small()


@pytest.mark.slow
def test_each_training_is_repeated_by_its_command(undisturbed, tmp_path):
    result, _ = undisturbed
    row = result.analysis.rows[1]
    words = row.results[1].command.split(" ", 1)[1]
    command = f"{sys.executable} -m sgenet.cli {words} --output {tmp_path / 'again'}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, shell=True, check=True, capture_output=True, env=environment)
    with (tmp_path / "again" / "metrics.csv").open(newline="") as lines:
        last = list(csv.DictReader(lines))[-1]
    assert float(last["val_top1"]) == row.results[1].last("val_top1")
    assert float(last["train_loss"]) == row.results[1].history[-1].train_loss


def test_the_report_is_written_anew_from_the_folder_alone(undisturbed):
    result, _ = undisturbed
    (result.output / "report.html").unlink()
    assert write_report(result.output).report.is_file()
    definition, state, _ = open_study(result.output)
    assert definition == small()
    assert len(state.results) == 4


def test_other_contents_under_a_studys_name_are_refused_and_nothing_is_lost(undisturbed):
    result, _ = undisturbed
    before = table(result.output)
    with pytest.raises(RunError, match="epochs: 2 there, 3 here"):
        run_study(small(epochs=3), result.output, progress=Told())
    write_report(result.output)
    assert table(result.output) == before


@pytest.mark.slow
def test_a_study_stops_cleanly_after_so_many_cells_and_says_so_far(tmp_path):
    output = tmp_path / "small"
    result = run_study(small(), output, cells=1, threads=1, heartbeat=1, progress=Told())
    assert result.analysis.finished == 1
    assert "So far, 1 of 4 trainings" in result.report.read_text()
    assert run_study(small(), output, threads=1, heartbeat=1, progress=Told()).analysis.complete


def test_a_study_stops_cleanly_when_its_time_is_up(tmp_path):
    told = Told()
    result = run_study(small(epochs=500), tmp_path / "small", seconds=12, threads=1, heartbeat=1, progress=told)
    assert result.stopped == "the time is up"
    assert not result.analysis.complete
    _, state, _ = open_study(tmp_path / "small")
    assert len(state.waiting) + len(state.results) == 4  # what was at work waits again
    assert not state.running


def test_a_study_of_the_package_runs_tiny_and_says_that_it_shows_no_more(tmp_path, capsys):
    output = tmp_path / "check"
    assert (
        main(["study", "run", "sge-normalisation", "--budget", "tiny", "--workers", "2", "--output", str(output)]) == 0
    )
    assert "Wiring check, no conclusion" in (output / "report.html").read_text()
    assert "Wiring check, no conclusion" in capsys.readouterr().out
    assert len(table(output)) == 3 * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_studies() if load_study(name).needs is None])
def test_every_study_of_the_package_runs_tiny_in_less_than_three_minutes(name, tmp_path):
    began = time.monotonic()
    assert main(["study", "run", name, "--budget", "tiny", "--workers", "2", "--output", str(tmp_path / "check")]) == 0
    assert time.monotonic() - began < 180
    assert len(table(tmp_path / "check")) == 2 * len(load_study(name).combinations)


def workers_of(output):
    """Process numbers of a study's workers."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if "sgenet.study.working" in words and str(output) in " ".join(words):
            found.append(int(folder.name))
    return found


def run_while(output, workers, harm, definition):
    """Run a study in a thread of its own while `harm` does what it likes to its workers."""
    results = []
    told = Told()

    def run():
        results.append(run_study(definition, output, workers=workers, threads=1, heartbeat=1, progress=told))

    thread = threading.Thread(target=run)
    thread.start()
    harm(thread)
    thread.join(600)
    assert not thread.is_alive()
    return results[0]


needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc to find workers")


def kill_some(output, times, generator):
    """Kill -9 a worker at a random moment, so many times."""

    def harm(thread):
        done = 0
        while done < times and thread.is_alive():
            time.sleep(generator.uniform(0.5, 4.0))
            workers = workers_of(output)
            if workers:
                os.kill(generator.choice(workers), signal.SIGKILL)
                done += 1

    return harm


@needs_proc
def test_a_killed_worker_is_replaced_and_the_table_is_that_of_an_undisturbed_run(undisturbed, tmp_path):
    output = tmp_path / "small"

    def harm(thread):
        while thread.is_alive() and not list(output.glob("runs/*/metrics.csv")):
            time.sleep(0.05)
        os.kill(workers_of(output)[0], signal.SIGKILL)

    result = run_while(output, 1, harm, small())
    assert table(output) == table(undisturbed[0].output)
    assert result.analysis.complete


@needs_proc
@pytest.mark.slow
def test_ten_kills_of_three_workers_leave_the_table_as_it_is_bit_for_bit(tmp_path):
    definition = small(seeds=4, epochs=12)
    calm = run_study(definition, tmp_path / "calm" / "small", workers=3, threads=1, heartbeat=1, progress=Told())
    output = tmp_path / "stormy" / "small"
    result = run_while(output, 3, kill_some(output, 10, random.Random(0)), definition)
    assert table(output) == table(calm.output)
    assert (output / "comparisons.csv").read_bytes() == (calm.output / "comparisons.csv").read_bytes()
    assert result.analysis.complete
    trials = optuna.load_study(study_name="small", storage=file_url(output)).get_trials()
    finished = [trial.user_attrs["cell"] for trial in trials if trial.state.name == "COMPLETE"]
    assert sorted(finished) == sorted(cell.key for cell in definition.cells)
    assert len(trials) > len(finished), "no trial was ever taken from a worker: nothing was tested"


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_goes_on_where_it_was(ending, tmp_path):
    output = tmp_path / "small"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_running import *;"
        "run_study(small(1, 120), sys.argv[2], workers=2, threads=1, heartbeat=1)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(output)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and len(list(output.glob("runs/*/metrics.csv"))) < 2:
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(ending)
    _, error = process.communicate(timeout=60)
    assert "the same command goes on where it was" in error
    assert not workers_of(output)
    _, state, _ = open_study(output)
    assert not state.running
    assert len(state.waiting) == 2
    before = {metrics: metrics.read_text() for metrics in output.glob("runs/*/metrics.csv")}
    run_study(small(1, 120), output, workers=2, threads=1, heartbeat=1, progress=Told())
    for metrics, rows in before.items():
        assert metrics.read_text().startswith(rows)
        assert len(metrics.read_text()) > len(rows)


class StopsWhereItIsSwallowed(Told):
    """A signal comes while a weak reference is told of a death, where Python ignores what its handler raises."""

    def __init__(self, ending):
        super().__init__()
        self.ending = ending

    def start(self, *args):
        class Mortal:
            pass

        mortal = Mortal()
        reference = weakref.ref(mortal, lambda _: signal.raise_signal(self.ending))
        del mortal
        assert reference() is None


@needs_proc
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_signal_is_lost(ending, tmp_path):
    before = signal.getsignal(ending)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on where it was"):
        run_study(small(epochs=500), tmp_path / "small", seconds=30, progress=StopsWhereItIsSwallowed(ending))
    assert signal.getsignal(ending) is before
    assert not workers_of(tmp_path / "small")


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(("ending", "status"), [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_worker_outlives_the_command(ending, status, tmp_path):
    """They have only begun, and have still to import what they need."""
    output = tmp_path / "demo"
    words = ["study", "run", "demo", "--epochs", "1000", "--threads", "1", "--output", str(output)]
    process = subprocess.Popen([sys.executable, "-m", "sgenet.cli", *words], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not workers_of(output):
        time.sleep(0.05)
    process.send_signal(ending)
    _, error = process.communicate(timeout=120)
    deadline = time.monotonic() + 120
    while workers_of(output) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = workers_of(output)
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left
    assert process.returncode == status
    assert ending == signal.SIGKILL or "the same command goes on where it was" in error
    assert not open_study(output)[1].running


def test_a_training_that_breaks_is_reported_and_the_others_go_on(tmp_path):
    levels = {"none": {"attention": "none"}, "broken": {"attention": "sge", "lr": 1e30}}
    definition = small(seeds=1, factors={"attention": levels})
    output = tmp_path / "small"
    output.mkdir()
    Storage(file_url(output), "small").enter(definition)
    work(Task("small", str(output)), file_url(output))
    result = write_report(output)
    assert list(result.analysis.failed) == ["attention=broken, seed=0"]
    assert "loss is" in result.analysis.failed["attention=broken, seed=0"]
    assert result.analysis.finished == 1
    assert "attention=broken, seed=0 failed" in result.report.read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": {"data": "shapes", "model": "resnet9_cifar"}}, "there is no network 'resnet9_cifar'"),
        ({"factors": {"attention": {"none": {"attention": "none"}, "x": {"attention": "sgee"}}}}, "sgee"),
        ({"settings": {"data": "/no/such/folder"}}, "/no/such/folder"),
        ({"needs": "its networks come later"}, "cannot be run yet: its networks come later"),
    ],
)
def test_what_cannot_be_trained_is_known_before_any_work(changes, words, tmp_path):
    with pytest.raises(SgenetError, match=words):
        run_study(small(**changes), tmp_path / "small", progress=Told())
    assert not list(tmp_path.glob("small/runs/*"))


def test_the_command_keeps_for_itself_where_this_machine_has_the_data(tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr("sgenet.study.run_study", lambda definition, output, **more: told.update(more) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["study", "run", "demo", "--data", str(tmp_path / "photos"), "--workers", "0"])
    assert told["machine"] == {"data": str(tmp_path / "photos")}


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(RunError, match="is not empty and holds no study"):
        run_study(small(), tmp_path, progress=Told())
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_full_disk_ends_the_study_in_one_line_and_gives_its_cell_back(tmp_path, monkeypatch):
    output = tmp_path / "small"
    output.mkdir()
    storage = Storage(file_url(output), "small")
    storage.enter(small())

    def full(*args, **more):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr("sgenet.training.recorder.publish", full)
    with pytest.raises(RunError, match="No space left on device"):
        work(Task("small", str(output)), file_url(output))
    assert len(storage.state().waiting) == 4
    assert not storage.state().failed


# ------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.mark.slow
def test_two_processes_finish_one_study_together_over_one_server(server, undisturbed, tmp_path):
    """Each has a folder of its own, as machines have; both report the whole study."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_running import *;"
        "run_study(small(), sys.argv[2], storage=sys.argv[3], threads=1, heartbeat=1, cells=2)"
    )
    outputs = [tmp_path / machine / "small" for machine in ("a", "b")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(Path(__file__).parent), str(output), server],
            stdout=subprocess.PIPE,
            text=True,
        )
        for output in outputs
    ]
    for process in processes:
        process.communicate(timeout=300)
    assert [process.returncode for process in processes] == [0, 0]
    for output in outputs:
        write_report(output, server)
        assert table(output) == table(undisturbed[0].output)
        assert len(list(output.glob("runs/*/metrics.csv"))) == 2  # each had half of the cells


def test_a_study_on_a_server_is_shown_from_anywhere(server, tmp_path):
    definition = small(seeds=1, name="shown")
    result = run_study(definition, tmp_path / "shown", storage=server, threads=1, progress=Told())
    assert result.analysis.complete
    assert not (tmp_path / "shown" / "study.db").exists()
    found, state, _ = open_study(tmp_path / "elsewhere" / "shown", server)
    assert found == definition
    assert len(state.results) == 2
    with pytest.raises(RunError, match=r"has no study 'other'; it has .*shown"):
        open_study(tmp_path / "other", server)
