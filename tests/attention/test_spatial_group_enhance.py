from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sgenet
from sgenet.errors import ConfigError

SIGMOID_1 = 0.7310585786300049


def test_signature_initial_values_and_repr():
    module = sgenet.SpatialGroupEnhance(256)
    assert module.weight.shape == module.bias.shape == (1, 64, 1, 1)
    assert (module.weight == 0).all()
    assert (module.bias == 1).all()
    assert repr(module) == "SpatialGroupEnhance(256, groups=64, eps=1e-05)"
    assert sum(p.numel() for p in module.parameters()) == 2 * 64


def test_initial_gate_is_the_constant_sigmoid_1():
    x = torch.randn(2, 256, 7, 7)
    torch.testing.assert_close(sgenet.SpatialGroupEnhance(256)(x), SIGMOID_1 * x)


def test_weight_has_a_gradient_at_the_start_and_the_similarity_has_none():
    module = sgenet.SpatialGroupEnhance(64, groups=8)
    x = torch.randn(2, 64, 7, 7, requires_grad=True)
    y = module(x)
    (y * torch.randn_like(y)).sum().backward()
    assert (module.weight.grad != 0).all()
    upstream = torch.randn_like(x)
    x.grad = None
    (module(x) * upstream).sum().backward()
    torch.testing.assert_close(x.grad, SIGMOID_1 * upstream)


def test_state_dict_has_the_keys_of_the_authors_checkpoints():
    state = sgenet.SpatialGroupEnhance(256).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == {"weight": (1, 64, 1, 1), "bias": (1, 64, 1, 1)}


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 13.7, 1e3, -77.7])
@pytest.mark.parametrize("size", [1, 5, 7, 14])
def test_a_constant_map_has_the_gate_sigmoid_bias(value, size):
    module = sgenet.SpatialGroupEnhance(32, groups=4)
    with torch.no_grad():
        module.weight.fill_(5.0)
        module.bias.copy_(torch.tensor([-1.0, 0.0, 1.0, 2.0]).reshape(1, 4, 1, 1))
    masks = module.masks(torch.full((2, 32, size, size), value))
    expected = torch.sigmoid(module.bias).expand(2, 4, size, size)
    torch.testing.assert_close(masks, expected, rtol=1e-3, atol=1e-3)


def test_one_position_has_the_gate_sigmoid_bias_whatever_its_value():
    module = sgenet.SpatialGroupEnhance(64)
    with torch.no_grad():
        module.weight.normal_()
        module.bias.normal_()
    x = torch.randn(3, 64, 1, 1)
    torch.testing.assert_close(module(x), x * torch.sigmoid(module.bias))


@given(channels=st.integers(1, 300), groups=st.integers(-3, 300))
def test_groups_must_divide_the_channels_and_the_message_offers_one_that_does(channels, groups):
    if groups >= 1 and channels % groups == 0:
        sgenet.SpatialGroupEnhance(channels, groups)
        return
    with pytest.raises(ValueError, match=f"^{channels} channels cannot be split into {groups} groups; ") as caught:
        sgenet.SpatialGroupEnhance(channels, groups)
    offered = int(str(caught.value).rpartition("groups=")[2])
    assert channels % offered == 0


def test_initial_values_of_the_ablations():
    module = sgenet.SpatialGroupEnhance(64, groups=8, initial_weight=1.0, initial_bias=-0.5)
    assert (module.weight == 1).all()
    assert (module.bias == -0.5).all()
    torch.nn.init.zeros_(module.weight)
    module.reset_parameters()
    assert (module.weight == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{"initial_bias": 0.0}, {"initial_bias": -0.3, "initial_weight": 1.0}])
@pytest.mark.parametrize("normalize", [True, False])
def test_as_the_identity_other_initial_values_are_given_up(normalize, options, dtype):
    module = sgenet.SpatialGroupEnhance(64, groups=8, normalize=normalize, **options)
    module.start_as_identity()
    x = torch.randn(2, 64, 7, 7).to(dtype)
    assert torch.equal(module.to(dtype)(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_without_normalisation_large_activations_stay_finite(dtype):
    module = sgenet.SpatialGroupEnhance(64, groups=2, normalize=False, initial_weight=1.0)
    x = (torch.randn(2, 64, 9, 9) + 1).mul(1e3).to(dtype).requires_grad_()
    y = module(x)
    y.float().sum().backward()
    for tensor in (y, x.grad, module.weight.grad, module.bias.grad):
        assert tensor.isfinite().all()


def test_repr_tells_that_the_normalisation_is_off():
    module = sgenet.SpatialGroupEnhance(256, normalize=False)
    assert repr(module) == "SpatialGroupEnhance(256, groups=64, eps=1e-05, normalize=False)"


@pytest.mark.parametrize("option", ["initial_weight", "initial_bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_initial_values_must_be_finite(option, value):
    with pytest.raises(ConfigError, match=f"{option}={value} is not finite"):
        sgenet.SpatialGroupEnhance(64, **{option: value})


@pytest.mark.parametrize("eps", [0.0, -1e-5, float("nan")])
def test_eps_must_be_positive(eps):
    with pytest.raises(ConfigError, match="must be positive"):
        sgenet.SpatialGroupEnhance(64, eps=eps)


@settings(max_examples=50)
@given(channels=st.integers(1, 2048), groups=st.integers(1, 256))
def test_fitted_groups_are_the_largest_divisor_that_leaves_four_channels_a_group(channels, groups):
    fitted = sgenet.SpatialGroupEnhance.fit_options(channels, {"groups": groups})["groups"]
    possible = [g for g in range(1, groups + 1) if channels % g == 0 and channels // g >= 4]
    assert fitted == (possible[-1] if possible else 1)
