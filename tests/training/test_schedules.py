from __future__ import annotations

import math

import pytest
import torch

from sgenet.classification import TrainConfig
from sgenet.training.schedules import learning_rate_factor


def rates(config: TrainConfig, steps_per_epoch: int) -> list[float]:
    return [learning_rate_factor(config, s, steps_per_epoch) for s in range(config.epochs * steps_per_epoch)]


def test_steps_fall_at_the_papers_epochs():
    config = TrainConfig(epochs=100, schedule="step", milestones=(30, 60, 90), warmup_epochs=0, lr=0.1)
    found = rates(config, 3)
    for epoch in range(100):
        expected = 0.1 ** ((epoch >= 30) + (epoch >= 60) + (epoch >= 90))
        assert found[3 * epoch : 3 * epoch + 3] == pytest.approx([expected] * 3)


def test_cosine_is_torchs_without_warm_up():
    config = TrainConfig(epochs=5, schedule="cosine", warmup_epochs=0, lr=0.2, min_lr=0.01)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.2)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.01)
    for factor in rates(config, 4):
        assert factor * 0.2 == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()


def test_warm_up_is_linear_and_comes_before_the_schedule():
    config = TrainConfig(epochs=3, schedule="cosine", warmup_epochs=1.5, lr=0.1)
    found = rates(config, 4)
    assert found[:6] == pytest.approx([s / 7 for s in range(1, 7)])
    assert found[6:] == pytest.approx([0.5 * (1 + math.cos(math.pi * s / 6)) for s in range(6)])
    constant = TrainConfig(epochs=3, schedule="constant", warmup_epochs=1)
    assert rates(constant, 2) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])


def test_a_warm_up_takes_at_most_half_of_the_training():
    config = TrainConfig(epochs=1, schedule="constant", warmup_epochs=5)
    assert rates(config, 8) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


def test_after_the_last_step_the_cosine_stays_at_its_end():
    config = TrainConfig(epochs=2, warmup_epochs=0, lr=0.1, min_lr=0.001)
    assert learning_rate_factor(config, 1000, 3) == pytest.approx(0.01)
