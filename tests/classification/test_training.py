from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

import sgenet
from sgenet.classification import resume, train
from sgenet.classification.config import TrainConfig
from sgenet.classification.task import ClassificationTask
from sgenet.data import ArraySource, ClassificationData, open_data
from sgenet.errors import CheckpointError, ConfigError, DataError, RunError
from sgenet.models import checkpoint_folder, read_metadata
from sgenet.training import SilentProgress
from sgenet.training.settings import read_settings, to_yaml

# Everything that a step can depend on: averaging, mixing, accumulation, clipping, smoothing, dropout, both schedules.
RICH = {
    "ema": 0.9,
    "mixup": 0.2,
    "cutmix": 1.0,
    "accumulate": 2,
    "clip_norm": 1.0,
    "label_smoothing": 0.1,
    "checkpoint_every_steps": 2,
    "epochs": 3,
}
PLATEAU = {**RICH, "schedule": "plateau", "warmup_epochs": 0, "patience": 0, "ema": 0.0, "precision": "bf16"}


def files_of(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    folder = checkpoint_folder(run)
    return {name: load_file(folder / name) for name in ("model.safetensors", "state.safetensors")}


def assert_same_training(run: Path, other: Path, metrics: Any) -> None:
    """Bit for bit: weights, optimiser, scores, and all that is written of them."""
    for name, tensors in files_of(run).items():
        others = files_of(other)[name]
        assert tensors.keys() == others.keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, others[key]), f"{name}: {key}"
    assert metrics(run) == metrics(other)
    assert checkpoint_folder(run, "best").name == checkpoint_folder(other, "best").name


@pytest.fixture(scope="module", params=[RICH, PLATEAU], ids=["cosine", "plateau"])
def whole(request, data, config_at, tmp_path_factory):
    """A training without interruption, and its settings."""
    output = tmp_path_factory.mktemp("whole") / "run"
    return train(config_at(output, **request.param), data=data, progress=SilentProgress()), request.param


@pytest.mark.parametrize("stop", [4, 8, 10], ids=["within an epoch", "between checkpoints", "at the end of an epoch"])
def test_resuming_is_the_same_training_bit_for_bit(whole, data, config, stop_at, stop_error, metrics, stop):
    straight, settings = whole
    with pytest.raises(stop_error):
        train(config(**settings), data=data, progress=stop_at(stop))
    parts = resume(config().output, data=data, progress=stop_at())
    assert_same_training(straight.run, parts.run, metrics)
    assert [row.epoch for row in parts.history] == [1, 2, 3]


def test_two_epochs_and_kill_and_resume_are_four_epochs(config, stop_at, metrics, image_folder, tmp_path):
    """A process is killed as hard as can be, in the middle of its third epoch; another one goes on."""
    settings = {"data": str(image_folder), "batch_size": 4, "checkpoint_every_steps": 4}
    straight = train(config("straight", **settings), progress=stop_at())
    file = tmp_path / "killed.yaml"
    file.write_text(to_yaml(config("killed", **settings)))
    victim = f"""
import os, signal
from sgenet.classification import train
from sgenet.training import SilentProgress
from sgenet.classification.config import TrainConfig
from sgenet.training.settings import read_settings

class Killer(SilentProgress):
    steps = 0
    def advance(self, metrics):
        self.steps += 1
        if self.steps == 17:
            os.kill(os.getpid(), signal.SIGKILL)

train(read_settings(TrainConfig, {str(file)!r}), progress=Killer())
"""
    done = subprocess.run([sys.executable, "-c", victim], check=False)
    assert done.returncode == -signal.SIGKILL
    killed = Path(config("killed").output)
    assert checkpoint_folder(killed).name == "step-00000016", "six steps an epoch: within the third"
    resumed = resume(killed, progress=stop_at())
    assert_same_training(straight.run, resumed.run, metrics)


def test_one_training_at_a_time_is_in_a_run(data, config, stop_at):
    problems = []

    class Rival(stop_at):
        def epoch(self, row):
            if row.epoch == 1:
                with pytest.raises(RunError) as caught:
                    resume(config().output, epochs=3, data=data, progress=stop_at())
                problems.append(str(caught.value))

    train(config(epochs=2), data=data, progress=Rival())
    assert len(problems) == 1
    assert f"run' is being trained by process {os.getpid()} on {socket.gethostname()}; wait" in problems[0]
    assert read_settings(TrainConfig, Path(config().output) / "config.yaml").epochs == 2
    assert resume(config().output, epochs=3, data=data, progress=stop_at()).history[-1].epoch == 3


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(data, config, stop_at, stop_error, metrics):
    straight = train(config("straight", epochs=2), data=data, progress=stop_at())
    with pytest.raises(stop_error):
        train(config(epochs=2), data=data, progress=stop_at(2))
    resumed = resume(config().output, data=data, progress=stop_at())
    assert_same_training(straight.run, resumed.run, metrics)


def test_workers_change_nothing(data, config, stop_at, metrics):
    one = train(config("one", epochs=2, loader="resident"), data=data, progress=stop_at())
    other = train(config("other", epochs=2, loader="workers", workers=2), data=data, progress=stop_at())
    assert_same_training(one.run, other.run, metrics)


def test_the_seed_decides(data, config, stop_at):
    losses = [
        train(config(str(i), epochs=1, seed=seed), data=data, progress=stop_at()).history[0].train_loss
        for i, seed in enumerate((0, 0, 1))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_resuming_can_train_for_longer(data, config, stop_at):
    train(config(epochs=1, schedule="constant", warmup_epochs=0), data=data, progress=stop_at())
    with pytest.raises(RunError, match=r"finished 1 of 1 epochs.*--epochs above 1"):
        resume(config().output, data=data, progress=stop_at())
    longer = resume(config().output, epochs=2, data=data, progress=stop_at())
    assert [row.epoch for row in longer.history] == [1, 2]
    assert read_settings(TrainConfig, longer.run / "config.yaml").epochs == 2
    assert len(json.loads((longer.run / "environment.json").read_text())["sessions"]) == 2


def test_a_longer_schedule_holds_from_the_first_step_on(data, config, stop_at):
    """A finished cosine has come down to 0, and one over twice the steps is half way."""
    train(config(epochs=1, batch_size=44, warmup_epochs=0), data=data, progress=stop_at())
    rates = []

    class Looking(stop_at):
        def start(self, description, total_steps, completed=0):
            hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
            self.stop = hook.remove

    longer = resume(config().output, epochs=2, data=data, progress=Looking())
    assert rates == [longer.history[-1].lr] == pytest.approx([config().lr / 2])


def test_a_run_folder_holds_what_it_promises(trained, image_folder):
    result, lines = trained
    run = result.run
    assert {p.name for p in run.iterdir()} == {
        "config.yaml",
        "metrics.csv",
        "environment.json",
        "tensorboard",
        "checkpoints",
        ".lock",
    }
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    config = read_settings(TrainConfig, run / "config.yaml")
    assert config.data == str(image_folder)
    assert config.precision == "32"
    header = read_metadata(run)
    assert header["classes"] == ["blue", "red"]
    assert header["preprocessing"]["image_size"] == 16
    assert (header["epoch"], header["step"]) == (3, 12)
    assert [row.step for row in result.history] == [4, 8, 12]
    network = sgenet.load(run)
    assert sum(p.numel() for p in network.parameters()) > 0
    assert any("epoch 3/3" in line for line in lines)


def test_the_reported_figure_is_the_last_and_the_best_is_apart(data, config, stop_at):
    result = train(config(epochs=3, lr=0.5), data=data, progress=stop_at())
    top1 = [row.val_top1 for row in result.history]
    assert result.top1 == top1[-1]
    assert result.best_top1 == max(top1)
    best = 1 + top1.index(max(top1))
    assert checkpoint_folder(result.run, "best").name == f"step-{5 * best:08d}"
    assert checkpoint_folder(result.run, "last").name == "step-00000015"


def test_unreadable_images_are_named_and_left_out(trained):
    result, lines = trained
    named = [line for line in lines if "damaged.png" in line]
    assert len(named) == 1, "once, not in every epoch"
    assert result.history[-1].val_top5 == 100.0


def test_it_learns(data, config, stop_at):
    result = train(config(epochs=6, lr=0.1), data=data, progress=stop_at())
    assert result.history[-1].train_loss < 0.8 * result.history[0].train_loss
    assert result.top1 > 60.0


def test_learning_rates_are_the_schedules(data, config, stop_at):
    settings = {"schedule": "step", "milestones": [1, 2], "warmup_epochs": 0, "lr": 0.04, "epochs": 3}
    result = train(config(**settings), data=data, progress=stop_at())
    assert [row.lr for row in result.history] == pytest.approx([0.04, 0.004, 0.0004])


def test_batch_statistics_freeze_from_their_epoch_on(data, config, stop_at):
    result = train(config(epochs=2, freeze_bn_from_epoch=2, lr=0.01), data=data, progress=stop_at())
    weights = load_file(checkpoint_folder(result.run) / "model.safetensors")
    assert weights["bn1.num_batches_tracked"].item() == 5, "the steps of the first epoch alone"


def test_a_loss_that_breaks_at_once_leaves_no_checkpoint(data, config, stop_at, monkeypatch):
    monkeypatch.setattr(ClassificationTask, "mean_loss", float("nan"))
    with pytest.raises(RunError, match=r"nan at step 1 .*there is no checkpoint yet"):
        train(config(), data=data, progress=stop_at())


def test_a_broken_loss_stops_and_keeps_the_last_good_checkpoint(data, config, stop_at, monkeypatch):
    step = ClassificationTask.training_step

    def broken_step(task, batch, batch_idx):
        if task.global_step == 7:
            task.network.fc.weight.data.fill_(float("nan"))
        return step(task, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", broken_step)
    with pytest.raises(RunError, match=r"nan at step 8 \(epoch 2\).*last good checkpoint"):
        train(config(lr=0.01), data=data, progress=stop_at())
    folder = checkpoint_folder(config().output)
    assert folder.name == "step-00000005"
    assert all(t.isfinite().all() for t in load_file(folder / "model.safetensors").values())


def test_a_damaged_checkpoint_is_not_resumed_from(data, config, stop_at):
    result = train(config(epochs=1), data=data, progress=stop_at())
    file = checkpoint_folder(result.run) / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"state\.safetensors is damaged"):
        resume(result.run, epochs=2, data=data, progress=stop_at())


def test_other_data_are_not_resumed_with(data, config, stop_at):
    result = train(config(epochs=1), data=data, progress=stop_at())
    renamed = ClassificationData(
        ArraySource(torch.zeros(8, 3, 16, 16, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64), ["ape", "bee"]),
        data.val,
        "other",
    )
    with pytest.raises(RunError, match="classes"):
        resume(result.run, epochs=2, data=renamed, progress=stop_at())
    fewer = ArraySource(torch.zeros(16, 3, 16, 16, dtype=torch.uint8), torch.arange(16) % 4, data.classes)
    with pytest.raises(DataError, match="changed"):
        resume(result.run, epochs=2, data=ClassificationData(fewer, data.val, "x"), progress=stop_at())


def test_images_of_other_labels_or_names_are_not_resumed_with(data, config, stop_at, image_folder, tmp_path):
    result = train(config(epochs=1), data=data, progress=stop_at())
    other = ArraySource(torch.zeros(30, 3, 16, 16, dtype=torch.uint8), torch.arange(30) % 3, data.classes)
    with pytest.raises(DataError, match=r"the validation images of 'x' have changed: they were 30 images, names"):
        resume(result.run, epochs=2, data=ClassificationData(data.train, other, "x"), progress=stop_at())
    photos = shutil.copytree(image_folder, tmp_path / "photos")
    moved = tmp_path / "moved"
    result = train(config("photos-run", epochs=1, data=str(photos)), progress=stop_at())
    photos.rename(moved)
    resume(result.run, epochs=2, data=open_data(moved), progress=stop_at())
    (moved / "train" / "red" / "05.png").rename(moved / "train" / "red" / "5.png")
    with pytest.raises(DataError, match=r"the training images of 'moved' have changed"):
        resume(result.run, epochs=3, data=open_data(moved), progress=stop_at())


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"model": "sge_resnet5O"}, ConfigError, "Did you mean"),
        ({"resize": 8}, ConfigError, "resize=8"),
        ({"accelerator": "tpu"}, ConfigError, "accelerator='tpu'"),
        ({"devices": "many"}, ConfigError, "devices='many'"),
        ({"loader": "resident", "rotation": 5.0}, ConfigError, "loader=workers"),
        ({"attention": "sge"}, ConfigError, "sge"),
        ({"data": "/nowhere"}, DataError, "/nowhere"),
    ],
)
def test_a_mistake_is_an_error_that_leaves_no_folder(data, config, stop_at, settings, error, words):
    settings = {"attention": None, **settings}
    given = None if "data" in settings else data
    if settings["attention"] == "sge":
        settings["model"] = "se_resnet8_cifar"
    with pytest.raises(error, match=words):
        train(config(**settings), data=given, progress=stop_at())
    assert not Path(config().output).exists()


def test_an_existing_run_is_never_trained_over(trained, image_folder, config_at, stop_at):
    result, _ = trained
    before = sorted(p.name for p in result.run.rglob("*"))
    with pytest.raises(RunError, match="--resume"):
        train(config_at(result.run, data=str(image_folder)), progress=stop_at())
    assert sorted(p.name for p in result.run.rglob("*")) == before


def test_images_of_which_none_can_be_read_are_an_error(tmp_path, config, stop_at):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(DataError, match=r"none of .* can be read"):
        train(config(data=str(tmp_path / "photos"), loader="workers"), progress=stop_at())


def damaged_copy(folder: Path, to: Path, count: int) -> Path:
    """The folder with so many of the training images of one class cut short."""
    shutil.copytree(folder, to)
    for file in sorted((to / "train" / "red").iterdir())[:count]:
        file.write_bytes(file.read_bytes()[:40])
    return to


def test_mixing_stands_an_odd_number_of_images(tmp_path, config, stop_at, image_folder):
    data = damaged_copy(image_folder, tmp_path / "photos", 1)
    progress = stop_at()
    result = train(config(data=str(data), mixup=0.5, cutmix=0.5, epochs=2), progress=progress)
    assert result.history[-1].step == 6
    assert sum("unreadable" in line for line in progress.lines) == 2, "one of each split, once"


@pytest.mark.parametrize("loader", ["workers", "resident"])
def test_a_batch_of_which_nothing_can_be_read_is_passed_over(tmp_path, config, stop_at, image_folder, loader):
    data = damaged_copy(image_folder, tmp_path / "photos", 5)
    progress = stop_at()
    result = train(config(data=str(data), batch_size=1, epochs=1, loader=loader), progress=progress)
    assert result.history[-1].step == 24
    assert sum("unreadable" in line for line in progress.lines) == 6


def test_an_image_that_damage_leaves_alone_in_its_batch_is_passed_over(tmp_path, config, stop_at, image_folder):
    data = damaged_copy(image_folder, tmp_path / "photos", 1)
    for file in (*(data / "train").glob("*/03.png"), *(data / "train").glob("*/[01][4-9].png")):
        file.unlink()
    progress = stop_at()
    result = train(config(data=str(data), batch_size=2, epochs=1, image_size=4), progress=progress)
    assert result.history[-1].step == len([*(data / "train").glob("*/*.png")]) // 2
    (line,) = (line for line in progress.lines if "training image" in line)
    assert line.endswith("the others of its batch are")


def test_a_set_smaller_than_a_batch_is_one_step(data, config, stop_at):
    progress = stop_at()
    result = train(config(batch_size=64, epochs=2), data=data, progress=progress)
    assert [row.step for row in result.history] == [1, 2]
    assert progress.steps == 2


def test_a_set_smaller_than_a_batch_is_not_split_into_passes(data, config, stop_at):
    """Each pass would count for a quarter of the step, and there are fewer than four."""
    with pytest.raises(ConfigError, match=r"batch_size=64 in accumulate=4 passes.*there are 44; lower batch_size"):
        train(config(batch_size=64, accumulate=4), data=data, progress=stop_at())
    assert not Path(config().output).exists()


def test_an_interruption_says_how_to_go_on(data, config, stop_at):
    class Interrupt(stop_at):
        def advance(self, metrics):
            super().advance(metrics)
            if self.steps == 3:
                raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"--resume .*run"):
        train(config(), data=data, progress=Interrupt())
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.slow
def test_two_processes_train_as_one(config, stop_at, metrics, image_folder, tmp_path):
    """A network without batch statistics gives the same weights, up to rounding, whatever shares its batches."""
    settings = {"data": str(image_folder), "batch_size": 4, "epochs": 2, "model": "timm:test_vit", "image_size": 160}
    settings |= {"resize": None, "crop": "none", "checkpoint_every_steps": 4}
    one = train(config("one", **settings), progress=stop_at())
    file = tmp_path / "two.yaml"
    file.write_text(to_yaml(config("two", devices="2", **settings)))
    done = subprocess.run(
        [sys.executable, "-m", "sgenet.cli", "train", "--config", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == 1
    assert done.stdout.count("last epoch, 2") == 1
    two = Path(config("two").output)
    for row, other in zip(metrics(one.run), metrics(two), strict=True):
        assert float(row["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-4)
        assert float(row["val_loss"]) == pytest.approx(float(other["val_loss"]), rel=1e-4)
