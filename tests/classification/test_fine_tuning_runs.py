"""Fine-tuning as a training does it: from one's own weights, with a frozen host, with a rate of attention's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sgenet
from sgenet.classification import resume, train
from sgenet.data import ArraySource, ClassificationData
from sgenet.errors import CheckpointError, ConfigError
from sgenet.models import checkpoint_folder, read_metadata
from sgenet.training import SilentProgress


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_folder(run) / "model.safetensors")


@pytest.fixture(scope="module")
def plain_run(data, config_at, tmp_path_factory) -> Path:
    """A network without attention, trained on the same classes."""
    output = tmp_path_factory.mktemp("plain") / "run"
    return train(config_at(output, model="resnet8_cifar", epochs=1), data=data, progress=SilentProgress()).run


FROZEN = {"model": "resnet8_cifar", "attention": "cbam", "freeze_host": True, "attention_lr": 3.0, "epochs": 3}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_frozen_host_keeps_weights_and_statistics_over_epochs(data, config, stop_at, plain_run, ema):
    before = weights_of(plain_run)
    run = train(config(weights=str(plain_run), ema=ema, **FROZEN), data=data, progress=stop_at()).run
    after = weights_of(run)
    moved = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert moved == {"fc.weight", "fc.bias"}
    attention = {name: tensor for name, tensor in after.items() if name not in before}
    assert all(".attention." in name for name in attention)
    assert any(name.endswith("num_batches_tracked") and tensor.item() > 0 for name, tensor in attention.items())


def test_without_freezing_the_host_moves(data, config, stop_at, plain_run):
    settings = {**FROZEN, "freeze_host": False, "epochs": 1}
    after = weights_of(train(config(weights=str(plain_run), **settings), data=data, progress=stop_at()).run)
    still = [name for name, tensor in weights_of(plain_run).items() if torch.equal(after[name], tensor)]
    assert still == []


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_resuming_is_the_same_fine_tuning_bit_for_bit(data, config, stop_at, stop_error, metrics, plain_run, schedule):
    more = {"schedule": schedule, "warmup_epochs": 0, "patience": 0, "checkpoint_every_steps": 2}
    settings = {**FROZEN, **more, "weights": str(plain_run)}
    straight = train(config("straight", **settings), data=data, progress=stop_at())
    with pytest.raises(stop_error):
        train(config("parts", **settings), data=data, progress=stop_at(8))
    parts = resume(config("parts", **settings).output, data=data, progress=stop_at())
    for name in ("model.safetensors", "state.safetensors"):
        ours, theirs = (load_file(checkpoint_folder(result.run) / name) for result in (straight, parts))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items()), name
    assert metrics(straight.run) == metrics(parts.run)


def test_the_rate_in_the_table_is_the_hosts(data, config, stop_at, plain_run):
    settings = {**FROZEN, "schedule": "plateau", "warmup_epochs": 0, "patience": 5, "epochs": 1, "lr": 0.02}
    result = train(config(weights=str(plain_run), **settings), data=data, progress=stop_at())
    assert result.history[0].lr == 0.02


def test_a_training_starts_from_the_weights_it_is_given(data, config, stop_at, plain_run):
    """At a rate so small that nothing moves: what is saved is what was loaded, and computes the same."""
    run = train(
        config(model="sge_resnet8_cifar", weights=str(plain_run), lr=1e-30, weight_decay=0.0, epochs=1),
        data=data,
        progress=stop_at(),
    ).run
    before, after = weights_of(plain_run), weights_of(run)
    assert all(
        torch.equal(after[name], before[name]) for name in before if "running" not in name and "num_" not in name
    )
    described = read_metadata(run)["network"]
    assert described["attention"]["attention"] == "sge"
    model, host = sgenet.load(run), sgenet.load(plain_run)
    model.load_state_dict(host.state_dict(), strict=False)  # the statistics have moved
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(model(images), host(images))


def test_other_classes_get_a_new_classifier(config, stop_at, plain_run):
    images = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)
    renamed = ArraySource(images, torch.arange(16) % 4, ["ant", "bee", "cat", "eel"])
    other = ClassificationData(renamed, renamed, "renamed")
    settings = {"model": "resnet8_cifar", "weights": str(plain_run), "lr": 1e-30, "weight_decay": 0.0, "epochs": 1}
    after = weights_of(train(config(**settings), data=other, progress=stop_at()).run)
    before = weights_of(plain_run)
    assert not torch.equal(after["fc.weight"], before["fc.weight"])
    assert torch.equal(after["layer3.0.conv2.weight"], before["layer3.0.conv2.weight"])


def test_what_does_not_fit_is_said_before_a_run_is_made(data, config, stop_at, plain_run, tmp_path):
    wrong = [
        ({"model": "resnet8_cifar", "freeze_host": True, "weights": str(plain_run)}, ConfigError, "no attention"),
        ({"model": "sk_resnet8_cifar", "weights": str(plain_run)}, CheckpointError, "it is of resnet8_cifar, and"),
        ({"model": "resnet20_cifar", "weights": str(plain_run)}, CheckpointError, "it is of resnet8_cifar, and"),
        ({"model": "resnet8_cifar", "weights": str(tmp_path / "nowhere")}, CheckpointError, "there is no checkpoint"),
        ({"model": "resnet8_cifar", "weights": str(tmp_path)}, CheckpointError, "holds no 'last' checkpoint"),
    ]
    for settings, error, message in wrong:
        with pytest.raises(error, match=message):
            train(config(**settings), data=data, progress=stop_at())
        assert not Path(config().output).exists()
