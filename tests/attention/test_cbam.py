from __future__ import annotations

import math

import pytest
import torch

import sgenet
from sgenet.errors import ConfigError

RESNET50_WIDTHS = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3


def sigmoid(value):
    return 1 / (1 + torch.exp(-value))


@pytest.fixture
def module():
    torch.manual_seed(0)
    module = sgenet.ConvBlockAttention(16, reduction=4, kernel_size=3, dtype=torch.float64)
    with torch.no_grad():
        for tensor in (*module.parameters(), module.norm.running_mean):
            tensor.normal_()
        module.norm.running_var.uniform_(0.5, 2)
    return module


def channel_gate(module, x):
    """Of one sample (C, H, W)."""

    def perceptron(z):
        return module.fc2.weight @ torch.clamp(module.fc1.weight @ z + module.fc1.bias, min=0) + module.fc2.bias

    mean = torch.stack([channel.sum() / channel.numel() for channel in x])
    maximum = torch.stack([channel.flatten().sort().values[-1] for channel in x])
    return sigmoid(perceptron(mean) + perceptron(maximum))


def convolved(module, x):
    """What the batch norm is given, of one sample whose channels were weighed: (H, W)."""
    _, height, width = x.shape
    maximum, mean = x.sort(0).values[-1], x.sum(0) / len(x)
    out = torch.zeros(height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            for a in range(-1, 2):
                for b in range(-1, 2):
                    if 0 <= i + a < height and 0 <= j + b < width:
                        kernel = module.conv.weight[0, :, a + 1, b + 1]
                        out[i, j] += kernel[0] * maximum[i + a, j + b] + kernel[1] * mean[i + a, j + b]
    return out


@pytest.mark.parametrize("training", [True, False])
def test_formula_in_float64(module, training):
    x = torch.randn(3, 16, 4, 5, dtype=torch.float64)
    weighed = torch.stack([sample * channel_gate(module, sample)[:, None, None] for sample in x])
    maps = torch.stack([convolved(module, sample) for sample in weighed])
    mean, variance = maps.mean(), maps.var(correction=0)
    if not training:
        mean, variance = module.norm.running_mean, module.norm.running_var
    normalised = (maps - mean) / torch.sqrt(variance + 1e-5) * module.norm.weight + module.norm.bias
    torch.testing.assert_close(module.train(training)(x), weighed * sigmoid(normalised)[:, None])


def test_running_statistics_move_by_a_hundredth(module):
    x = torch.randn(3, 16, 4, 5, dtype=torch.float64)
    weighed = torch.stack([sample * channel_gate(module, sample)[:, None, None] for sample in x])
    expected = 0.99 * module.norm.running_mean + 0.01 * torch.stack([convolved(module, s) for s in weighed]).mean()
    module(x)
    torch.testing.assert_close(module.norm.running_mean, expected)


@pytest.mark.parametrize("training", [True, False])
def test_the_positions_gate_is_one_half_at_the_start(training):
    module = sgenet.ConvBlockAttention(32, dtype=torch.float64).train(training)
    x = torch.randn(2, 32, 6, 6, dtype=torch.float64)
    expected = torch.stack([0.5 * sample * channel_gate(module, sample)[:, None, None] for sample in x])
    torch.testing.assert_close(module(x), expected)


def test_parameters_of_resnet50_are_those_of_the_published_network():
    # 25,557,032 without and 28,089,624 with attention: the perceptron has biases in both layers, the convolution none
    modules = [sgenet.ConvBlockAttention(width, device="meta") for width in RESNET50_WIDTHS]
    assert sum(p.numel() for module in modules for p in module.parameters()) == 28_089_624 - 25_557_032


def test_parameter_count_without_biases():
    count = sum(p.numel() for p in sgenet.ConvBlockAttention(256, 8, 5, bias=False).parameters())
    assert count == 2 * 256 * 32 + 2 * 5 * 5 + 2


def test_both_gates_take_half_of_the_factor_of_the_identity(module):
    module.start_as_identity()
    assert math.isclose(module.scale, 4.0)
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    assert torch.equal(module.gate(x), torch.ones_like(x))


@pytest.mark.parametrize("kernel_size", [0, -1, 2, 6])
def test_an_even_kernel_is_refused(kernel_size):
    with pytest.raises(ConfigError, match=f"kernel_size={kernel_size} has no middle; give an odd number"):
        sgenet.ConvBlockAttention(64, kernel_size=kernel_size)


@pytest.mark.parametrize(("channels", "reduction"), [(0, 16), (64, 0), (64, -2)])
def test_sizes_below_one_are_refused(channels, reduction):
    with pytest.raises(ConfigError, match="is not possible; give"):
        sgenet.ConvBlockAttention(channels, reduction)


@pytest.mark.parametrize(("channels", "fitted"), [(16, 4), (64, 16), (256, 16), (3, 1)])
def test_narrow_places_keep_four_hidden_units(channels, fitted):
    assert sgenet.ConvBlockAttention.fit_options(channels, {"kernel_size": 3}) == {
        "kernel_size": 3,
        "reduction": fitted,
    }
    assert sgenet.ConvBlockAttention.fit_options(channels, {"reduction": 0}) == {"reduction": 0}
