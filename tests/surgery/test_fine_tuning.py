from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

import sgenet
from sgenet.errors import ConfigError
from sgenet.surgery import classifier_names, decay_groups, freeze_host, hold_statistics, parameter_groups


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


BIASES = {"conv.bias", "bn.bias", "norm.bias", "sge.bias", "fc.bias"}
NORMS = {"bn.weight", "bn.bias", "norm.weight", "norm.bias", "sge.weight", "sge.bias"}


def test_decay_groups_follow_their_rules():
    net = Net()
    names = {n for n, p in net.named_parameters() if p.requires_grad}
    se_biases = {n for n in names if n.startswith("se.") and n.endswith("bias")}
    assert se_biases, "the excitation has biases here"
    left_out = {
        "all": set(),
        "no-bias": BIASES | se_biases,
        "no-norm": NORMS,
        "no-norm-bias": NORMS | BIASES | se_biases,
    }
    for rule, expected in left_out.items():
        decay, keep = decay_groups(net, rule)
        assert set(keep) == expected, rule
        assert set(decay) == names - expected, rule
        assert len(decay) + len(keep) == len(names), "each once, the frozen one never"


def names_of(net: nn.Module, groups: list[dict]) -> list[tuple[float, float, set[str]]]:
    name = {id(p): n for n, p in net.named_parameters()}
    return [(g["lr"], g["weight_decay"], {name[id(p)] for p in g["params"]}) for g in groups]


def test_parameter_groups_are_host_and_attention_with_and_without_decay():
    net = Net()
    found = names_of(net, parameter_groups(net, 0.5, attention_lr=4, weight_decay=0.1, decay="no-norm-bias"))
    se = {n for n, _ in net.named_parameters() if n.startswith("se.")}
    se_weights = {n for n in se if n.endswith("weight")}
    assert found == [
        (0.5, 0.1, {"conv.weight", "fc.weight"}),
        (0.5, 0.0, {"conv.bias", "bn.weight", "bn.bias", "norm.weight", "norm.bias", "fc.bias"}),
        (2.0, 0.1, se_weights),
        (2.0, 0.0, (se - se_weights) | {"sge.weight", "sge.bias"}),
    ]


def test_groups_with_the_same_rate_are_one():
    net = Net()
    found = names_of(net, parameter_groups(net, 0.5, weight_decay=0.1, decay="all"))
    assert [(rate, decay) for rate, decay, _ in found] == [(0.5, 0.1)]
    assert found[0][2] == {n for n, p in net.named_parameters() if p.requires_grad}


def test_layers_inside_an_attention_module_are_attention():
    net = nn.Sequential(nn.Conv2d(3, 32, 1), sgenet.create_attention("cbam", 32))
    found = names_of(net, parameter_groups(net, 1.0, attention_lr=2, decay="all"))
    inside = {f"1.{n}" for n, _ in net[1].named_parameters()}
    assert found == [(1.0, 0.0, {"0.weight", "0.bias"}), (2.0, 0.0, inside)]


def test_a_step_moves_attention_by_its_own_rate():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), sgenet.create_attention("sge", 8, groups=2)).double()
    optimizer = torch.optim.SGD(parameter_groups(net, 0.1, attention_lr=7))
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    net(torch.randn(2, 3, 4, 4, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    for name, parameter in net.named_parameters():
        rate = 0.7 if name.startswith("1.") else 0.1
        torch.testing.assert_close(parameter.detach(), before[name] - rate * parameter.grad)


def host_with_attention(name: str = "sge") -> nn.Module:
    return sgenet.add_attention(torchvision.models.resnet18(num_classes=4), name)


def test_freezing_the_host_leaves_attention_and_what_is_kept():
    model = freeze_host(host_with_attention("cbam"))
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learning == {n for n, _ in model.named_parameters() if ".attention." in n}
    assert learning
    freeze_host(model, keep=["fc", "layer4.*.bn?.weight"])
    more = {n for n, p in model.named_parameters() if p.requires_grad} - learning
    assert more == {"fc.weight", "fc.bias", *(f"layer4.{i}.bn{j}.weight" for i in (0, 1) for j in (1, 2))}
    assert {n for n, p in freeze_host(model).named_parameters() if p.requires_grad} == learning, "anew at each call"


def test_a_frozen_host_does_not_move_in_training_mode():
    torch.manual_seed(0)
    model = freeze_host(host_with_attention("cbam"), keep="fc")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1, attention_lr=5, weight_decay=0.1))
    hold_statistics(model.train())
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
        optimizer.step()
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert {n for n in moved if ".attention." not in n} == {"fc.weight", "fc.bias"}
    assert any(n.endswith("running_mean") for n in moved), "attention's own batch norms go on counting"


def test_batch_norms_that_learn_go_on_counting():
    model = freeze_host(host_with_attention(), keep="layer4.1.bn2")
    hold_statistics(model.train())
    assert [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and m.training] == ["layer4.1.bn2"]
    assert model.training


def test_the_classifier_is_found():
    assert classifier_names(torchvision.models.mobilenet_v2()) == ("classifier.1",)
    assert classifier_names(torchvision.models.squeezenet1_1()) == ("classifier.1",)
    assert classifier_names(timm.create_model("convnext_atto")) == ("head.fc",)
    segmenter = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    assert classifier_names(segmenter) == ("classifier.4", "aux_classifier.4")
    assert classifier_names(timm.create_model("resnet18", num_classes=0, global_pool="")) == ("layer4.1.conv2",)
    assert classifier_names(sgenet.create_model("se_resnet8_cifar", 3)) == ("fc",)
    ends = nn.Sequential(nn.Conv2d(3, 8, 1), sgenet.create_attention("se", 8, reduction=2))
    assert classifier_names(ends) == ("0",), "attention's own layers classify nothing"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parameter_groups(Net(), 0.0), "lr=0.0 must be above 0"),
        (lambda: parameter_groups(Net(), 0.1, attention_lr=0), "attention_lr=0 must be above 0"),
        (lambda: parameter_groups(Net(), 0.1, attention_lr=-2.0), r"attention_lr=-2\.0 must be above 0"),
        (lambda: parameter_groups(Net(), 0.1, attention_lr=float("nan")), "attention_lr=nan must be above 0"),
        (lambda: parameter_groups(Net(), 0.1, weight_decay=-1), "weight_decay=-1 must be 0 or more"),
        (lambda: parameter_groups(Net(), 0.1, decay="no-norms"), r"decay='no-norms'.*Did you mean 'no-norm'"),
        (lambda: parameter_groups(Net().requires_grad_(False), 0.1), "nothing to train"),
        (lambda: freeze_host(torchvision.models.resnet18()), "no attention that could learn"),
        (lambda: freeze_host(host_with_attention(), keep="head"), "keep='head' names no parameter"),
        (lambda: classifier_names(nn.Sequential(nn.ReLU())), "could be its classifier"),
    ],
)
def test_what_cannot_be_done_is_said(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
