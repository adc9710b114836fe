from __future__ import annotations

import math

import pytest
import torch

import sgenet
from sgenet.errors import ConfigError


@pytest.mark.parametrize("kernel_size", [None, 1, 3, 9])
@pytest.mark.parametrize("channels", [5, 32])
def test_formula_in_float64(channels, kernel_size):
    module = sgenet.EfficientChannelAttention(channels, kernel_size, dtype=torch.float64)
    x = torch.randn(2, channels, 5, 4, dtype=torch.float64)
    kernel = module.conv.weight.flatten().tolist()
    half = len(kernel) // 2
    for b in range(2):
        means = [x[b, c].sum().item() / 20 for c in range(channels)]
        for c in range(channels):
            near = {k: c + k - half for k in range(len(kernel))}
            a = sum(kernel[k] * means[j] for k, j in near.items() if 0 <= j < channels)  # zeros beyond the ends
            torch.testing.assert_close(module(x)[b, c], x[b, c] / (1 + math.exp(-a)))


@pytest.mark.parametrize(
    ("channels", "size"),
    # by hand, gamma 2 and b 1: 1 -> 0.5, 8 -> 2, 16 -> 2.5, 32 -> 3, 64 -> 3.5, 128 -> 4, 256 -> 4.5, 512 -> 5, ...
    [(1, 1), (8, 3), (16, 3), (32, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)],
)
def test_the_kernel_follows_the_channels_and_is_the_only_parameter(channels, size):
    module = sgenet.EfficientChannelAttention(channels)
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == {"conv.weight": (1, 1, size)}


def test_gamma_and_beta_are_those_of_the_rule():
    # |log2(256) + 3| / 1 = 11
    assert sgenet.EfficientChannelAttention(256, gamma=1, beta=3).conv.weight.numel() == 11
    # |log2(4) - 8| / 2 = 3
    assert sgenet.EfficientChannelAttention(4, beta=-8).conv.weight.numel() == 3


@pytest.mark.parametrize("size", [0, -1, 2, 8])
def test_a_kernel_without_a_middle_is_refused(size):
    with pytest.raises(ConfigError, match=f"kernel_size={size} must be odd and positive"):
        sgenet.EfficientChannelAttention(64, size)


@pytest.mark.parametrize("gamma", [0, -2.0, float("nan")])
def test_gamma_must_be_positive(gamma):
    with pytest.raises(ConfigError, match="must be positive"):
        sgenet.EfficientChannelAttention(64, gamma=gamma)


@pytest.mark.parametrize("beta", [float("nan"), float("inf")])
def test_beta_must_be_finite(beta):
    with pytest.raises(ConfigError, match=f"beta={beta} must be finite"):
        sgenet.EfficientChannelAttention(64, beta=beta)
