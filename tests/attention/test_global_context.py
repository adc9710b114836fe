from __future__ import annotations

import pytest
import torch

import sgenet
from sgenet.errors import ConfigError


def weights_and_term(module, x):
    """Of one sample (C, *spatial): the weights of its positions and what each channel is given."""
    positions = x.flatten(1)
    scores = torch.stack([(module.score.weight[0, :, 0] * position).sum() for position in positions.T])
    weights = torch.exp(scores) / torch.exp(scores).sum()
    context = sum(weight * position for weight, position in zip(weights, positions.T, strict=True))
    hidden = module.fc1.weight @ context + module.fc1.bias
    centred = hidden - hidden.sum() / len(hidden)
    deviation = torch.sqrt(centred.square().sum() / len(hidden) + 1e-5)
    hidden = torch.clamp(centred / deviation * module.norm.weight + module.norm.bias, min=0)
    return weights.reshape(x.shape[1:]), module.fc2.weight @ hidden + module.fc2.bias


def random_module(**options):
    torch.manual_seed(0)
    module = sgenet.GlobalContext(16, 4, **options, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


@pytest.mark.parametrize("spatial", [(5, 4), (1, 1), (6,), (2, 3, 4)])
def test_addition_in_float64(spatial):
    module = random_module()
    x = torch.randn(3, 16, *spatial, dtype=torch.float64)
    for sample, y, gate in zip(x, module(x), module.gate(x), strict=True):
        weights, term = weights_and_term(module, sample)
        torch.testing.assert_close(y, sample + term.reshape(-1, *(1,) * len(spatial)))
        torch.testing.assert_close(gate[0], weights)
    assert module.gate_range is None


def test_multiplication_in_float64():
    module = random_module(fusion="mul")
    x = torch.randn(3, 16, 5, 4, dtype=torch.float64)
    for sample, y in zip(x, module(x), strict=True):
        _, term = weights_and_term(module, sample)
        torch.testing.assert_close(y, sample / (1 + torch.exp(-term[:, None, None])))
    assert module.gate_range == (0.0, 1.0)
    assert sgenet.GlobalContext.gate_range is None


def test_it_starts_as_the_identity_and_as_one_half():
    x = torch.randn(2, 64, 5, 5)
    assert torch.equal(sgenet.GlobalContext(64)(x), x)
    assert torch.equal(sgenet.GlobalContext(64, fusion="mul")(x), 0.5 * x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_map_of_many_positions_is_summed_without_loss_in_half_precision(dtype):
    module = random_module().to(dtype)
    value = torch.linspace(-1, 1, 16).to(dtype).reshape(1, 16, 1, 1)
    # One of 414,092 equal weights is 40.5 times the least number of float16.
    many, one = value.expand(1, 16, 643, 644), value
    torch.testing.assert_close(module(many)[:, :, :1, :1], module(one), rtol=1e-3, atol=0)


def test_parameter_count_of_one_module():
    # scores, two layers with biases, a layer norm
    assert sum(p.numel() for p in sgenet.GlobalContext(256).parameters()) == 256 + 2 * 256 * 16 + 16 + 256 + 2 * 16


def test_an_unknown_fusion_is_answered_with_a_near_one():
    with pytest.raises(ConfigError, match=r"no fusion 'mull'\. Did you mean 'mul'"):
        sgenet.GlobalContext(64, fusion="mull")


@pytest.mark.parametrize(("channels", "reduction"), [(0, 16), (64, 0), (64, -2)])
def test_sizes_below_one_are_refused(channels, reduction):
    with pytest.raises(ConfigError, match="is not possible; give"):
        sgenet.GlobalContext(channels, reduction)


def test_narrow_places_keep_four_hidden_units():
    assert sgenet.GlobalContext.fit_options(32, {"fusion": "mul"}) == {"fusion": "mul", "reduction": 8}
    assert sgenet.GlobalContext.fit_options(256, {"reduction": 4}) == {"reduction": 4}
