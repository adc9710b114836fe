from __future__ import annotations

import math

import pytest
import torch

import sgenet
from sgenet.errors import ConfigError

SIGMOID_HALF = 0.6224593312018546


@pytest.mark.parametrize("e_lambda", [1e-4, 0.5])
@pytest.mark.parametrize("spatial", [(6,), (5, 4), (2, 3, 2)])
def test_formula_in_float64(spatial, e_lambda):
    x = torch.randn(2, 3, *spatial, dtype=torch.float64)
    y = sgenet.SimAM(3, e_lambda=e_lambda)(x)
    for b in range(2):
        for c in range(3):
            values = x[b, c].flatten().tolist()
            mean = sum(values) / len(values)
            variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
            energies = [(v - mean) ** 2 / (4 * (variance + e_lambda)) + 0.5 for v in values]
            expected = [v / (1 + math.exp(-e)) for v, e in zip(values, energies, strict=True)]
            torch.testing.assert_close(y[b, c].flatten(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("size", [1, 6])
def test_where_nothing_stands_out_the_gate_is_sigmoid_of_a_half(size):
    x = torch.full((2, 4, size, size), 3.0, dtype=torch.float64)
    torch.testing.assert_close(sgenet.SimAM(4)(x), SIGMOID_HALF * x)


def test_there_is_no_parameter_until_it_starts_as_the_identity():
    module = sgenet.SimAM(64)
    assert module.state_dict() == {}
    module.start_as_identity()
    assert {name: value.item() for name, value in module.state_dict().items()} == {"blend": 0.0}


def test_the_blend_lets_the_gate_through():
    module, x = sgenet.SimAM(4), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    gate = module.gate(x)
    module.start_as_identity()
    for share in (0.0, 0.25, 1.0):
        module.blend.data.fill_(share)
        torch.testing.assert_close(module(x), (1 - share) * x + share * x * gate)


def test_the_blend_of_a_checkpoint_is_read_into_a_new_module():
    module = sgenet.SimAM(4)
    module.start_as_identity()
    module.blend.data.fill_(0.5)
    other = sgenet.SimAM(4)
    other.load_state_dict(module.state_dict())
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(other(x), module(x))


@pytest.mark.parametrize("e_lambda", [0, -1e-4, float("nan")])
def test_lambda_must_be_positive(e_lambda):
    with pytest.raises(ConfigError, match="must be positive"):
        sgenet.SimAM(64, e_lambda=e_lambda)
