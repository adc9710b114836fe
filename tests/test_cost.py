"""What networks cost, against the SGE paper's table, counts by hand, and the network left as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sgenet
from sgenet.cost import count
from sgenet.errors import ConfigError


# Parameters and GFLOPs as the authors' own counter prints them for the networks of their table 1.
@pytest.mark.parametrize(
    ("name", "parameters", "gflops"),
    [
        ("resnet50", 25_557_032, 4.1219),
        ("se_resnet50", 28_088_024, 4.1300),
        ("sge_resnet50", 25_559_080, 4.1274),
        ("sk_resnet50", 26_154_496, 4.1869),
        ("bam_resnet50", 25_915_099, 4.2051),
        ("cbam_resnet50", 28_089_624, 4.1394),
        ("resnet101", 44_549_160, 7.8495),
        ("se_resnet101", 49_326_872, 7.8632),
        ("sge_resnet101", 44_553_384, 7.8584),
        ("sk_resnet101", 45_678_112, 7.9803),
        ("bam_resnet101", 44_907_227, 7.9327),
        ("cbam_resnet101", 49_330_172, 7.8786),
    ],
)
def test_paper_table_is_reproduced(name, parameters, gflops):
    with torch.device("meta"):
        model = sgenet.create_model(name)
    cost = count(model)
    assert cost.parameters == parameters
    assert cost.paper_gflops == pytest.approx(gflops, abs=5e-5)


def test_macs_of_resnet50_are_those_of_its_convolutions_and_its_classifier():
    with torch.device("meta"):
        model = sgenet.create_model("resnet50")
    expected = 2048 * 1000
    sizes = {}

    def note(layer, inputs, output):
        sizes[layer] = output.shape[-2] * output.shape[-1] * layer.weight.numel()

    twin = copy.deepcopy(model)
    for layer in twin.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note)
    twin(torch.empty(1, 3, 224, 224, device="meta"))
    expected += sum(sizes.values())
    cost = count(model)
    assert cost.macs == expected
    assert cost.gmacs == pytest.approx(4.089, abs=5e-4)


def test_convolution_by_hand():
    cost = count(nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 8, 8))
    outputs = 2 * 6 * 6 * 6
    assert cost.macs == outputs * (4 // 2) * 9
    assert cost.elementwise == 0
    assert cost.bytes_moved == 4 * (2 * 4 * 8 * 8 + 6 * 2 * 9 + outputs)
    assert cost.paper_operations == cost.macs


def test_elementwise_by_hand():
    net = nn.Sequential(nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))
    cost = count(net, (1, 5, 8, 8))
    whole, pooled = 5 * 64, 5 * 16
    assert cost.macs == 0
    assert cost.elementwise == 2 * whole + whole + whole + pooled
    assert cost.paper_operations == cost.elementwise


def test_views_are_free_and_broadcasts_are_read_once():
    class Scale(nn.Module):
        def forward(self, x):
            gate = x.flatten(2).transpose(1, 2)[:, :1]  # (1, 1, 6), all views
            return x * gate.transpose(1, 2).unsqueeze(-1).expand_as(x)

    cost = count(Scale(), (1, 6, 4, 4))
    assert cost.elementwise == 6 * 16
    assert cost.bytes_moved == 4 * (2 * 6 * 16 + 6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(2),
        nn.ChannelShuffle(2),
        nn.ZeroPad2d(1),
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d(1),
        nn.CircularPad2d(1),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="nearest-exact"),
        nn.Unfold(2),
    ],
    ids=lambda layer: f"{type(layer).__name__}-{getattr(layer, 'mode', '')}",
)
def test_moving_elements_is_no_operation(layer):
    cost = count(layer, (1, 4, 6, 6))
    assert (cost.macs, cost.elementwise) == (0, 0)
    assert cost.bytes_moved >= 4 * 2 * 4 * 36


def test_writing_constants_is_no_operation():
    class Written(nn.Module):
        def forward(self, x):
            y = torch.zeros_like(x)
            y[:, 0] = x[:, 1]
            y[:, torch.tensor([1], device=x.device)] = x[:, :1]
            return y.new_ones(3), torch.full_like(x, 2.0), y

    assert count(Written(), (2, 4, 6)).elementwise == 0


def test_an_interpolation_that_mixes_is_one():
    assert count(nn.Upsample(scale_factor=2, mode="bilinear"), (1, 2, 4, 4)).elementwise == 2 * 64


def test_products_with_vectors_count_as_those_with_matrices():
    class Vectors(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.ones(8, 5))
            self.bias = nn.Parameter(torch.ones(8))

        def forward(self, x):
            y = torch.mv(self.matrix, x[0]) + torch.addmv(self.bias, self.matrix, x[0])
            return torch.dot(y, y)

    cost = count(Vectors(), (1, 5))
    assert (cost.macs, cost.elementwise) == (2 * 8 * 5 + 8, 8)

    class Batches(nn.Module):
        def forward(self, x):
            return torch.addbmm(x[0, :, :1].expand(4, 7), x, x.new_empty(3, 5, 7))

    assert count(Batches(), (3, 4, 5)).macs == 3 * 4 * 5 * 7


def test_layers_called_with_keywords_count_as_others():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

        def forward(self, x):
            return self.layer[1](input=self.layer[0](input=x))

    named = Named()
    assert count(named, (1, 3, 8, 8)) == count(named.layer, (1, 3, 8, 8))


def test_bytes_follow_the_dtype():
    net = nn.Conv2d(3, 3, 1)
    assert count(net, (1, 3, 4, 4)).bytes_moved == 2 * count(net.half(), (1, 3, 4, 4)).bytes_moved


def test_sge_is_not_free_though_its_macs_are_zero():
    sge = sgenet.SpatialGroupEnhance(64, groups=8)
    cost = count(sge, (1, 64, 7, 7))
    x = 64 * 49
    assert cost.macs == 0
    # Mean, difference, product, sum over channels and gating touch every element; the rest works on one value a group.
    assert 5 * x <= cost.elementwise < 7 * x
    assert cost.paper_operations == x


def test_functional_calls_are_counted_but_not_by_the_papers_convention():
    class Functional(nn.Module):
        def forward(self, x):
            return F.relu(x)

    assert count(Functional(), (1, 2, 3, 3)).elementwise == 18
    assert count(Functional(), (1, 2, 3, 3)).paper_operations == 0


def test_counting_changes_nothing_of_the_network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    model[0].eval()
    calls = []
    model[1].constant = torch.ones(3)
    model.register_forward_hook(lambda *_: calls.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    pointers = [value.data_ptr() for value in model.state_dict().values()]
    count(model, (2, 3, 8, 8))
    assert [m.training for m in model.modules()] == modes
    assert [value.data_ptr() for value in model.state_dict().values()] == pointers
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not m._forward_hooks for m in model)
    assert model[1].constant.device.type == "cpu"


def test_a_shared_parameter_counts_once_and_a_constant_tensor_comes_along():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4, bias=False)
            self.b = nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight
            self.shift = torch.ones(4)

        def forward(self, x):
            return self.b(self.a(x)) + self.shift

    cost = count(Shifted(), (2, 4))
    assert (cost.parameters, cost.macs, cost.elementwise) == (16, 2 * 2 * 16, 8)


@pytest.mark.parametrize("size", [(), (1, 3, 0, 8), (1, 4, 8, 8), (1, 3, 2, 2), 224, "1388", (1, 3, 8.0, 8), None])
def test_an_input_that_does_not_fit_is_one_clear_line(size):
    with pytest.raises(ConfigError, match=r"Sequential cannot be counted|must be positive") as caught:
        count(nn.Sequential(nn.Conv2d(3, 4, 3)), size)
    assert "\n" not in str(caught.value)


def test_a_network_that_looks_at_values_is_refused():
    class Looks(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ConfigError, match="Looks cannot be counted"):
        count(Looks(), (1, 3))


@pytest.mark.parametrize("error", [AssertionError, AttributeError("no foo"), IndexError, KeyError("x")])
def test_whatever_a_network_raises_is_one_clear_line(error):
    class Refuses(nn.Module):
        def forward(self, x):
            raise error

    with pytest.raises(ConfigError, match="Refuses cannot be counted with an input of") as caught:
        count(Refuses(), (1, 3))
    assert "\n" not in str(caught.value)
