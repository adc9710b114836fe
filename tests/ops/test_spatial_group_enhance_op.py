from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sgenet
from sgenet.errors import ConfigError
from sgenet.ops import spatial_group_gate


def by_hand(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """The formula of papers 1.1, one number at a time."""
    batch, channels, height, width = x.shape
    depth, m = channels // groups, height * width
    y = torch.empty_like(x)
    for b in range(batch):
        for k in range(groups):
            part = x[b, k * depth : (k + 1) * depth].reshape(depth, m)
            g = [sum(float(v) for v in part[j]) / m for j in range(depth)]
            c = [sum(g[j] * float(part[j, i]) for j in range(depth)) for i in range(m)]
            mean = sum(c) / m
            assert math.isclose(mean, sum(v * v for v in g), rel_tol=1e-9, abs_tol=1e-12)
            std = math.sqrt(sum((v - mean) ** 2 for v in c) / (m - 1))
            for i in range(m):
                a = float(weight[k]) * (c[i] - mean) / (std + eps) + float(bias[k])
                y[b, k * depth : (k + 1) * depth].reshape(depth, m)[:, i] = part[:, i] / (1 + math.exp(-a))
    return y


@settings(max_examples=20)
@given(
    batch=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 3, 4]),
    depth=st.integers(1, 5),
    height=st.integers(1, 6),
    width=st.integers(2, 6),
    eps=st.sampled_from([1e-5, 1e-2, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_the_formula_computed_by_hand(batch, groups, depth, height, width, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, groups * depth, height, width, dtype=torch.float64, generator=generator)
    weight = torch.randn(groups, dtype=torch.float64, generator=generator)
    bias = torch.randn(groups, dtype=torch.float64, generator=generator)
    y = sgenet.spatial_group_enhance(x, weight, bias, groups, eps)
    torch.testing.assert_close(y, by_hand(x, weight, bias, groups, eps), rtol=1e-9, atol=1e-10)


def test_eps_is_added_to_the_deviation_not_to_the_variance():
    x = torch.tensor([[[1.0, 1.0 + 1e-4]]], dtype=torch.float64)
    c = x[0, 0] * x.mean()
    std = (c[1] - c[0]).abs() / math.sqrt(2)
    expected = torch.sigmoid((c - c.mean()) / (std + 1e-3))
    gate = spatial_group_gate(x, torch.ones(1), torch.zeros(1), groups=1, eps=1e-3)
    torch.testing.assert_close(gate[0, 0], expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_without_normalisation_the_similarity_itself_makes_the_gate(layout):
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    weight, bias = torch.randn(2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    y = sgenet.spatial_group_enhance(x.contiguous(memory_format=layout), weight, bias, 2, normalize=False)
    gates = spatial_group_gate(x, weight, bias, 2, normalize=False)
    for b in range(2):
        for k in range(2):
            part = x[b, 3 * k : 3 * k + 3]
            g = part.flatten(1).sum(1) / 12
            for i in range(3):
                for j in range(4):
                    c = sum(float(g[n] * part[n, i, j]) for n in range(3))
                    gate = 1 / (1 + math.exp(-(float(weight[k]) * c + float(bias[k]))))
                    assert math.isclose(gates[b, k, i, j], gate, rel_tol=1e-9)
                    torch.testing.assert_close(y[b, 3 * k : 3 * k + 3, i, j], gate * part[:, i, j])


@pytest.mark.parametrize("spatial", [(9,), (3, 3), (2, 3, 2)])
def test_spatial_axes_are_only_positions(spatial):
    x = torch.randn(2, 8, *spatial, dtype=torch.float64)
    weight, bias = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    flat = sgenet.spatial_group_enhance(x.flatten(2), weight, bias, 4)
    torch.testing.assert_close(sgenet.spatial_group_enhance(x, weight, bias, 4).flatten(2), flat)


def test_groups_do_not_see_each_other():
    x = torch.randn(1, 12, 4, 4)
    weight, bias = torch.randn(3), torch.randn(3)
    changed = x.clone()
    changed[:, 4:8] += 1.0
    before, after = (sgenet.spatial_group_enhance(v, weight, bias, 3) for v in (x, changed))
    assert torch.equal(before[:, :4], after[:, :4])
    assert torch.equal(before[:, 8:], after[:, 8:])
    assert not torch.equal(before[:, 4:8], after[:, 4:8])


def test_scale_multiplies_the_gate():
    x, weight, bias = torch.randn(2, 8, 5, 5), torch.randn(2), torch.randn(2)
    once = sgenet.spatial_group_enhance(x, weight, bias, 2)
    torch.testing.assert_close(sgenet.spatial_group_enhance(x, weight, bias, 2, scale=1.75), 1.75 * once)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_value_stays_in_its_own_group(value):
    x = torch.randn(2, 8, 4, 4)
    x[0, 1, 2, 3] = value
    y = sgenet.spatial_group_enhance(x, torch.ones(4), torch.ones(4), 4)
    assert not y[0, :2].isfinite().all()
    assert y[0, 2:].isfinite().all()
    assert y[1].isfinite().all()


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.zeros(2, 8), torch.zeros(4), "1 to 3 spatial axes"),
        (torch.zeros(2, 9, 3, 3), torch.zeros(4), "9 channels cannot be split into 4 groups"),
        (torch.zeros(2, 8, 3, 3), torch.zeros(3), "weight holds 3 values for 4 groups"),
        (torch.zeros(2, 8, 3, 3, dtype=torch.int64), torch.zeros(4), "floating-point"),
    ],
)
def test_bad_input_is_named(x, weight, message):
    with pytest.raises(ConfigError, match=message):
        sgenet.spatial_group_enhance(x, weight, torch.zeros(4), 4)
