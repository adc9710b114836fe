from __future__ import annotations

import pytest
import torch
from torch import nn

import sgenet
from sgenet.classification import TrainConfig
from sgenet.training.optimisation import create_optimizer, create_plateau


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.norm = nn.GroupNorm(2, 8)
        self.sge = sgenet.create_attention("sge", 8, groups=2)
        self.se = sgenet.create_attention("se", 8, reduction=2)
        self.fc = nn.Linear(8, 2)
        self.fc_again = self.fc
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)


NORMS = {"bn.weight", "bn.bias", "norm.weight", "norm.bias", "sge.weight", "sge.bias"}


def test_groups_of_the_optimizer_have_their_decay():
    net = Net()
    config = TrainConfig(weight_decay=0.3, decay="no-norm", lr=0.5, momentum=0.8, nesterov=False)
    optimizer = create_optimizer(net, config)
    assert isinstance(optimizer, torch.optim.SGD)
    by_decay = {g["weight_decay"]: len(g["params"]) for g in optimizer.param_groups}
    assert by_decay[0.0] == len(NORMS)
    assert optimizer.defaults["momentum"] == 0.8
    assert optimizer.defaults["nesterov"] is False
    assert {g["lr"] for g in optimizer.param_groups} == {0.5}
    adam = create_optimizer(net, TrainConfig(optimizer="adamw", decay="all", momentum=0.85))
    assert isinstance(adam, torch.optim.AdamW)
    assert len(adam.param_groups) == 1
    assert adam.defaults["betas"] == (0.85, 0.999)


def test_attention_has_its_own_rate_behind_the_hosts():
    net = Net()
    optimizer = create_optimizer(net, TrainConfig(lr=0.5, attention_lr=0.2, decay="all"))
    attention = {id(p) for m in (net.sge, net.se) for p in m.parameters()}
    found = [(g["lr"], {id(p) in attention for p in g["params"]}) for g in optimizer.param_groups]
    assert found == [(0.5, {False}), (0.1, {True})]


def test_plateau_lowers_attentions_rate_as_often():
    config = TrainConfig(
        schedule="plateau", warmup_epochs=0, lr=0.1, attention_lr=0.01, patience=0, drops=2, gamma=0.1, decay="all"
    )
    optimizer = create_optimizer(Net(), config)
    plateau = create_plateau(optimizer, config)
    for _ in range(8):
        plateau.step(1.0)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.001, 0.00001])


def test_plateau_divides_so_often_and_no_more():
    config = TrainConfig(schedule="plateau", warmup_epochs=0, lr=0.1, patience=2, drops=3, gamma=0.1)
    optimizer = create_optimizer(Net(), config)
    plateau = create_plateau(optimizer, config)
    found = []
    for _ in range(20):
        plateau.step(1.0)
        found.append(optimizer.param_groups[0]["lr"])
    # The first epoch is the best one; three more without a lower loss are one more than patience.
    expected = [0.1] * 3 + [0.01] * 3 + [0.001] * 3 + [0.0001] * 11
    assert found == pytest.approx(expected)


def test_other_schedules_have_no_plateau():
    config = TrainConfig()
    assert create_plateau(create_optimizer(Net(), config), config) is None
