"""The demonstration from end to end on very little data: resumable, one progress for all runs, one report."""

import dataclasses
import json
import shlex
import shutil

import pytest

import sgenet
from sgenet.classification.config import read_config
from sgenet.cli import main
from sgenet.demo import run_demo
from sgenet.demo.plan import Plan, alone_in, train_command
from sgenet.errors import ConfigError, RunError

TINY = {"seeds": 1, "epochs": 1, "train_size": 64, "val_size": 32, "image_size": 32, "timing_rounds": 2}
RUNS = ["resnet8_cifar-seed0", "se_resnet8_cifar-seed0", "sge_resnet8_cifar-seed0"]


class Noted:
    """A progress that remembers, and can be told to interrupt at a step."""

    def __init__(self, interrupt_at=None):
        self.starts, self.steps, self.lines, self.stops = [], [], [], 0
        self.interrupt_at = interrupt_at

    def start(self, description, total_steps, completed=0):
        self.starts.append((total_steps, completed))

    def advance(self, metrics):
        self.steps.append(dict(metrics))
        if len(self.steps) == self.interrupt_at:
            raise KeyboardInterrupt

    def line(self, text):
        self.lines.append(text)

    def stop(self):
        self.stops += 1


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "all"
    progress = Noted(interrupt_at=2)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        run_demo(output, progress=progress, **TINY)
    assert not (output / "report.html").exists()
    return output, progress


@pytest.fixture(scope="module")
def finished(interrupted):
    output, _ = interrupted
    progress = Noted()
    return run_demo(output, progress=progress, **TINY), progress


def test_goes_on_where_it_was_interrupted(interrupted, finished):
    _, before = interrupted
    result, after = finished
    assert before.starts == [(3, 0)]
    assert after.starts == [(3, 1)]
    assert before.stops == after.stops == 1
    assert len(after.steps) == 2
    assert result.trained == 2
    assert after.lines[0] == "1 of 3 runs are there already."


def test_progress_names_the_network_and_its_metrics(finished):
    _, progress = finished
    assert [next(iter(metrics)) for metrics in progress.steps] == ["SE seed", "SGE seed"]
    assert all({"epoch", "loss"} <= set(metrics) for metrics in progress.steps)
    assert [line.split(":")[0] for line in progress.lines[1:-1]] == ["SE, seed 0", "SGE, seed 0"]


def test_result_has_what_the_runs_have(finished):
    result, _ = finished
    assert [network.title for network in result.networks] == ["plain", "SE", "SGE"]
    assert sorted(run.name for run in (result.output / "runs").iterdir()) == RUNS
    for network in result.networks:
        (run,) = network.runs
        assert network.top1 == (run.history[-1].val_top1,)
        assert network.cost.parameters == sum(p.numel() for p in sgenet.load(run.run).parameters())
        assert network.cost.input_size == (1, 3, 32, 32)
        assert network.inference.pairs == network.training.pairs == 2


def test_report_is_one_file_with_these_results(finished):
    result, _ = finished
    html = result.report.read_text(encoding="utf-8")
    assert result.report == result.output / "report.html"
    for network in result.networks:
        assert f"{network.mean:.1f}" in html
        assert f"{network.cost.parameters:,}" in html
    assert "Where SGE looks" in html
    assert "round-open-smile" in html


def test_second_call_only_writes_the_report_anew(finished):
    result, _ = finished
    result.report.unlink()
    progress = Noted()
    again = run_demo(result.output, progress=progress, **TINY)
    assert again.trained == 0
    assert again.networks == result.networks  # the times too: they are measured once
    assert again.report.is_file()
    assert progress.steps == progress.starts == []
    assert progress.lines[0] == "All 3 runs are there already; only the report is written anew."


def test_the_table_is_the_last_thing_shown(finished):
    result, progress = finished
    table = progress.lines[-1]
    assert "cannot settle" in table
    assert f"Report: {result.report}" in table
    for network in result.networks:
        assert f"{network.cost.parameters:,}" in table


def test_a_lost_run_is_trained_again_to_the_same_figure(finished):
    result, _ = finished
    shutil.rmtree(result.networks[2].runs[0].run)
    again = run_demo(result.output, progress=Noted(), **TINY)
    assert again.trained == 1
    assert [network.top1 for network in again.networks] == [network.top1 for network in result.networks]


def test_a_damaged_table_of_a_run_is_one_clear_line(finished):
    result, _ = finished
    table = result.networks[0].runs[0].run / "metrics.csv"
    whole = table.read_bytes()
    table.write_bytes(whole[:-30].replace(b"epoch", b"\0och"))
    try:
        with pytest.raises(RunError, match=r"metrics\.csv' cannot be read; delete"):
            run_demo(result.output, progress=Noted(), **TINY)
    finally:
        table.write_bytes(whole)


def test_other_settings_in_the_same_folder_are_refused(finished):
    result, _ = finished
    with pytest.raises(RunError, match="epochs=1, train_size=64"):
        run_demo(result.output, **{**TINY, "epochs": 2, "train_size": 65})
    assert result.report.is_file()


def test_two_demonstrations_do_not_share_a_folder(finished):
    result, _ = finished
    with alone_in(result.output), pytest.raises(RunError, match="another demonstration is at work"):
        run_demo(result.output, progress=Noted(), **TINY)
    assert run_demo(result.output, progress=Noted(), **TINY).trained == 0


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and holds no demonstration"):
        run_demo(tmp_path, **TINY)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        run_demo(tmp_path / "file" / "demo", **TINY)


@pytest.mark.parametrize("record", ["{", "[]", "{}", '{"plan": 3}', json.dumps({"plan": {"seeds": 3}})])
def test_a_damaged_record_is_one_clear_line(tmp_path, record):
    (tmp_path / "demo.json").write_text(record)
    with pytest.raises(RunError, match="not the record of a demonstration") as caught:
        run_demo(tmp_path, **TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["seeds", "epochs", "train_size", "val_size", "image_size"])
def test_numbers_below_1_are_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name}=0 must be 1 or more"):
        run_demo(tmp_path / "new", **{**TINY, name: 0})
    assert not (tmp_path / "new").exists()


def test_commands_name_all_that_is_not_usual(tmp_path):
    plan = Plan(seeds=2, epochs=3, val_size=50)
    assert shlex.split(plan.command(tmp_path)) == [
        *["sgenet", "demo", "--output", f"{tmp_path}-again"],
        *["--seeds", "2", "--epochs", "3", "--val-size", "50"],
    ]
    config = plan.configs(tmp_path)["se_resnet8_cifar", 1]
    words = shlex.split(train_command(config))
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options == {
        "--recipe": "shapes",
        "--model": "se_resnet8_cifar",
        "--data-options": '{"val_size": 50}',
        "--epochs": "3",
        "--seed": "1",
    }


def test_the_command_of_a_run_means_the_same_settings(tmp_path, capsys):
    config = Plan(seeds=2, epochs=3, val_size=50).configs(tmp_path)["se_resnet8_cifar", 1]
    assert main([*shlex.split(train_command(config))[1:], "--print-config"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert read_config(printed) == dataclasses.replace(config, output=None)
