from __future__ import annotations

import math

import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize("excitation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
@pytest.mark.parametrize("spatial", [(5, 4), (6,)])
def test_formulas_of_the_ablations_in_float64(spatial, squeeze, excitation):
    module = sgenet.SqueezeExcite(8, 2, squeeze=squeeze, excitation=excitation, dtype=torch.float64)
    x = torch.randn(2, 8, *spatial, dtype=torch.float64)
    positions = x.flatten(2)
    shown = {
        "avg": positions.sum(2, keepdim=True) / positions.shape[2],
        "max": positions.sort(2).values[..., -1:],
        "none": positions,
    }[squeeze]
    hidden = torch.einsum("hc,bcn->bhn", module.fc1.weight, shown) + module.fc1.bias[:, None]
    a = torch.einsum("ch,bhn->bcn", module.fc2.weight, hidden.clamp(min=0)) + module.fc2.bias[:, None]
    gate = {
        "sigmoid": 1 / (1 + torch.exp(-a)),
        "tanh": (torch.exp(2 * a) - 1) / (torch.exp(2 * a) + 1),
        "relu": a.clamp(min=0),
    }[excitation]
    torch.testing.assert_close(module(x).flatten(2), positions * gate)
    assert module.gate(x).shape == (2, 8, *(spatial if squeeze == "none" else (1,) * len(spatial)))


def test_the_layers_have_the_same_keys_and_shapes_in_every_ablation():
    plain = {k: v.shape for k, v in sgenet.SqueezeExcite(64).state_dict().items()}
    for options in ({"squeeze": "max"}, {"squeeze": "none"}, {"excitation": "tanh"}, {"excitation": "relu"}):
        assert {k: v.shape for k, v in sgenet.SqueezeExcite(64, **options).state_dict().items()} == plain


@pytest.mark.parametrize(
    ("excitation", "gate_range"), [("sigmoid", (0, 1)), ("tanh", (-1, 1)), ("relu", (0, math.inf))]
)
def test_the_range_of_the_gate_is_the_excitations(excitation, gate_range):
    assert sgenet.SqueezeExcite(64, excitation=excitation).gate_range == gate_range


@pytest.mark.parametrize("excitation", ["tanh", "relu"])
def test_as_the_identity_an_excitation_that_no_factor_undoes_keeps_its_layers_and_comes_in_by_blend(excitation):
    module = sgenet.SqueezeExcite(8, 2, excitation=excitation, dtype=torch.float64)
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    gate = module.gate(x)
    module.start_as_identity()
    assert torch.equal(module(x), x)
    module.blend.data.fill_(0.25)
    torch.testing.assert_close(module(x), x * (0.75 + 0.25 * gate))


def test_parameter_count_of_one_module():
    # C^2 / r weights twice, and C/r + C biases
    assert sum(p.numel() for p in sgenet.SqueezeExcite(2048).parameters()) == 2 * 2048 * 128 + 128 + 2048
    assert sum(p.numel() for p in sgenet.SqueezeExcite(2048, bias=False).parameters()) == 2 * 2048 * 128


@pytest.mark.parametrize(("channels", "reduction"), [(0, 16), (-4, 16), (64, 0), (64, -2)])
def test_sizes_below_one_are_refused(channels, reduction):
    with pytest.raises(ConfigError, match="is not possible; give"):
        sgenet.SqueezeExcite(channels, reduction)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"squeeze": "mean"}, "squeeze='mean' is not known. Choose one of avg, max, none"),
        ({"excitation": "sigmod"}, "excitation='sigmod' is not known. Did you mean 'sigmoid'"),
    ],
)
def test_an_unknown_squeeze_or_excitation_is_refused_with_the_known_ones(options, message):
    with pytest.raises(ConfigError) as caught:
        sgenet.SqueezeExcite(64, **options)
    assert str(caught.value).startswith(message)


def test_repr_tells_the_ablation():
    assert "squeeze='none', excitation='tanh'" in repr(sgenet.SqueezeExcite(64, squeeze="none", excitation="tanh"))
    assert "squeeze" not in repr(sgenet.SqueezeExcite(64))


@pytest.mark.parametrize(("channels", "fitted"), [(16, 4), (32, 8), (64, 16), (256, 16), (3, 1)])
def test_narrow_places_keep_four_hidden_units(channels, fitted):
    assert sgenet.SqueezeExcite.fit_options(channels, {"reduction": 16})["reduction"] == fitted
    assert sgenet.SqueezeExcite.fit_options(channels, {})["reduction"] == fitted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_the_gate_is_the_same(dtype):
    module, x = sgenet.SqueezeExcite(64, 4, dtype=dtype), torch.randn(3, 64, 5, 4, dtype=dtype)
    expected = module.gate(x).detach()
    with torch.inference_mode():
        gate = module.gate(x)
    assert gate.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 0.02  # between the layers only the former is rounded to bfloat16
    torch.testing.assert_close(gate, expected, rtol=tolerance, atol=tolerance)


def test_what_hangs_on_a_layer_is_called_without_gradients_too():
    module, x, seen = sgenet.SqueezeExcite(64, 4), torch.randn(3, 64, 5, 4), []
    everywhere = nn.modules.module.register_module_forward_hook(lambda layer, *_: seen.append(layer))
    with torch.inference_mode():
        module.gate(x)
        everywhere.remove()
        assert seen == [module.fc1, module.fc2]
        hook = module.fc2.register_forward_hook(lambda layer, inputs, output: torch.zeros_like(output))
        assert (module.gate(x) == 0.5).all()
        hook.remove()
        assert not (module.gate(x) == 0.5).any()
        module.fc1.weight.zero_()
        module.fc1.bias.zero_()
        expected = torch.sigmoid(module.fc2.bias)[None, :, None, None].expand(3, -1, 1, 1)
        torch.testing.assert_close(module.gate(x), expected)
        nn.utils.parametrizations.weight_norm(module.fc2)
        module.fc2.bias.zero_()
        assert (module.gate(x) == 0.5).all()


def test_a_layer_of_another_kind_is_called():
    class Doubling(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    module, x = sgenet.SqueezeExcite(16, 4), torch.randn(2, 16, 3, 3)
    module.fc1 = Doubling(16, 4)
    with torch.no_grad():
        without = module.gate(x)
    torch.testing.assert_close(without, module.gate(x).detach())
