from __future__ import annotations

import pytest
import torch

import sgenet
from sgenet.errors import ConfigError


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduction", [2, 16, 64])
def test_formula_in_float64(bias, reduction):
    module = sgenet.SqueezeExcite(32, reduction, bias=bias, dtype=torch.float64)
    x = torch.randn(3, 32, 5, 4, dtype=torch.float64)
    hidden = max(1, 32 // reduction)
    w1, w2 = module.fc1.weight, module.fc2.weight
    b1 = module.fc1.bias if bias else torch.zeros(hidden, dtype=torch.float64)
    b2 = module.fc2.bias if bias else torch.zeros(32, dtype=torch.float64)
    assert w1.shape == (hidden, 32)
    for b in range(3):
        z = torch.stack([x[b, c].sum() / 20 for c in range(32)])
        s = 1 / (1 + torch.exp(-(w2 @ torch.clamp(w1 @ z + b1, min=0) + b2)))
        torch.testing.assert_close(module(x)[b], x[b] * s[:, None, None])


def test_parameter_count_of_one_module():
    # C^2 / r weights twice, and C/r + C biases
    assert sum(p.numel() for p in sgenet.SqueezeExcite(2048).parameters()) == 2 * 2048 * 128 + 128 + 2048
    assert sum(p.numel() for p in sgenet.SqueezeExcite(2048, bias=False).parameters()) == 2 * 2048 * 128


@pytest.mark.parametrize(("channels", "reduction"), [(0, 16), (-4, 16), (64, 0), (64, -2)])
def test_sizes_below_one_are_refused(channels, reduction):
    with pytest.raises(ConfigError, match="is not possible; give"):
        sgenet.SqueezeExcite(channels, reduction)


@pytest.mark.parametrize(("channels", "fitted"), [(16, 4), (32, 8), (64, 16), (256, 16), (3, 1)])
def test_narrow_places_keep_four_hidden_units(channels, fitted):
    assert sgenet.SqueezeExcite.fit_options(channels, {"reduction": 16})["reduction"] == fitted
    assert sgenet.SqueezeExcite.fit_options(channels, {})["reduction"] == fitted
