from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import sgenet
from sgenet.errors import ConfigError
from sgenet.surgery import attention_report, find_sites

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two residual blocks; the first branch is a convolution of one's choice."""

    def __init__(self, branch: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.branch = nn.Conv2d(16, 16, 3, padding=1) if branch is None else branch
        self.other = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.branch(x))
        return torch.relu(x + self.other(x))


class AsksForValues(Net):
    def forward(self, x: Tensor) -> Tensor:
        if torch.isnan(x).any():
            raise ValueError("not a number")
        return super().forward(x)


class TakesNothing(Net):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(f"images of {x.shape[-1]} pixels, whose sum is {x.sum().item():g}, are too small")


@pytest.mark.parametrize("example", [None, IMAGES], ids=["no-example", "example"])
def test_a_network_that_asks_for_values_is_run_with_its_weights(example):
    model = AsksForValues().eval()
    plain = model(IMAGES)
    sgenet.add_attention(model, "sge", example=example)
    assert [placed.place for placed in attention_report(model).placed] == ["branch", "other"]
    assert torch.equal(model(IMAGES), plain)


def test_the_reason_is_that_of_the_first_input_in_a_pass_with_values():
    with pytest.raises(
        ConfigError, match=r"on \(2, 3, 224, 224\): images of 224 pixels, whose sum is 0, are too small; g"
    ):
        find_sites(TakesNothing())


def test_networks_on_the_meta_device_are_searched_and_refused_like_others():
    with torch.device("meta"):
        net = Net()
        detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None
        )
    with pytest.raises(ConfigError, match=r"Net does not run on \(1, 4, 32, 32\): .*; give an input that it takes"):
        sgenet.add_attention(net, "sge", example=torch.zeros(1, 4, 32, 32))
    assert find_sites(detector).found[0].place.startswith("backbone.body.")


@pytest.mark.parametrize(
    "made",
    [weight_norm, spectral_norm, parametrizations.weight_norm, lambda conv: prune.l1_unstructured(conv, "weight", 0.3)],
    ids=["weight-norm", "spectral-norm", "parametrization", "pruning"],
)
@pytest.mark.parametrize("kind", [Net, AsksForValues])
def test_weights_that_are_made_from_others_stay(kind, made):
    model = kind(made(nn.Conv2d(16, 16, 3, padding=1))).eval()
    plain = model(IMAGES)
    sgenet.add_attention(model, "sge")
    assert len(attention_report(model).placed) == 2
    assert torch.equal(model(IMAGES), plain)


def test_lazy_networks_must_have_seen_a_batch():
    model = nn.Sequential(nn.LazyConv2d(8, 3, padding=1), nn.ReLU(), nn.LazyConv2d(8, 3, padding=1), nn.ReLU())
    with pytest.raises(ConfigError, match=r"Sequential has lazy modules, .* run one batch through it first"):
        sgenet.add_attention(model, "sge")
    model(IMAGES)
    assert len(attention_report(sgenet.add_attention(model, "sge")).placed) == 2


def test_what_cannot_be_copied_is_named():
    model = Net()
    model.source = (value for value in range(3))
    with pytest.raises(ConfigError, match=r"Net cannot be copied for a trial run: .*generator"):
        find_sites(model)


def test_hooks_of_the_network_are_not_called():
    model, seen = Net(), []
    model.branch.register_forward_hook(lambda module, args, output: seen.append(output))
    model.branch.register_forward_pre_hook(lambda module, args: seen.append(args))
    sgenet.add_attention(model, "sge")
    assert seen == []
    model(IMAGES)
    assert len(seen) == 2


@pytest.mark.parametrize("example", [(IMAGES,), IMAGES.numpy()], ids=["tuple", "array"])
def test_an_example_is_a_tensor(example):
    with pytest.raises(ConfigError, match=f"example is a {type(example).__name__}; give one tensor"):
        find_sites(Net(), example=example)
