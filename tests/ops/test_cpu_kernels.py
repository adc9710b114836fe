"""The CPU kernels against the formula in float64, on every instruction set that this CPU has."""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgenet.errors import ConfigError
from sgenet.ops import cpu_kernels
from sgenet.ops.cpu.build import LIBRARY, BuildError, build, find_compiler
from sgenet.ops.reference import NO_NORM, Norm

NCHW, NHWC = torch.contiguous_format, torch.channels_last
LAYOUTS = pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
EPS, SCALE = 1e-5, 1.5
EMPTY = torch.empty

# bfloat16: float32 sums rounded once, by at most 2^-8 of the value. float32: dozens of roundings of 2^-24. All relative
# to the largest value of the tensor.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8 * 1.01}
SUMS = 2e-5  # what stays in float32 whatever x is, summed over the samples


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The library of the installation, or one built for these tests."""
    if cpu_kernels.availability() is None:
        return cpu_kernels._library()
    try:
        path = build(tmp_path_factory.mktemp("kernels"))
    except BuildError as error:
        pytest.skip(f"the CPU kernels are not built: {error}")
    return cpu_kernels._open(path)


@pytest.fixture(params=cpu_kernels.INSTRUCTION_SETS)
def isa(request, library, monkeypatch):
    if not library.sgenet_use(request.param.encode()):
        pytest.skip(f"this CPU has no {request.param}")
    monkeypatch.setattr(cpu_kernels, "_library", lambda: library)
    yield request.param
    use_the_best(library)


def use_the_best(library):
    assert any(library.sgenet_use(name.encode()) for name in cpu_kernels.INSTRUCTION_SETS)


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """Every tensor starts as NaN, so that an element that no kernel writes is seen."""
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def draw(shape, groups, dtype, layout, norm=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, residual, grad = (torch.randn(shape, generator=generator).to(dtype) + 0.25 for _ in range(3))
    weight, bias = (torch.randn(groups, generator=generator) for _ in range(2))
    x, residual, grad = (v.contiguous(memory_format=layout) for v in (x, residual, grad))
    statistics = (torch.rand(shape[1], generator=generator) + 0.5 for _ in range(4))
    gate = torch.rand(shape[:2], generator=generator)
    return SimpleNamespace(
        x=x, residual=residual, grad=grad, weight=weight, bias=bias, gate=gate,
        norm=Norm(*statistics, 1e-3) if norm else None,
    )  # fmt: skip


def by_kernels(case, groups, add, relu, out=None, eps=EPS):
    y, semantic, statistics = cpu_kernels.forward(
        case.x, case.weight, case.bias, groups, eps, SCALE, case.residual if add else None, relu, case.norm, out
    )
    if out is not None:
        return SimpleNamespace(y=y)
    dx, dweight, dbias, dresidual = cpu_kernels.backward(
        case.grad, case.x, y if relu else None, case.weight, case.bias, semantic, statistics, groups, eps, SCALE,
        add, relu, case.norm,
    )  # fmt: skip
    return SimpleNamespace(y=y, semantic=semantic, dx=dx, dweight=dweight, dbias=dbias, dresidual=dresidual)


def squeeze_excite_by_kernel(x, weight1, bias1, weight2, bias2, norm=None):
    gate = torch.empty(x.shape[:2])
    kernel = cpu_kernels.function("squeeze_excite")
    assert kernel(x, weight1, bias1, weight2, bias2, *(norm or NO_NORM), gate, torch.get_num_threads()) == 0
    return gate


def formula(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Section 3 of the paper, as it stands there; where a map does not vary, its ĉ is 0.

    `weight` and `bias` have a value for each sample, group and position.
    """
    parts = x.unflatten(1, (groups, -1)).flatten(3)
    semantic = parts.mean(3, keepdim=True)
    similarity = (semantic * parts).sum(2)
    centred = similarity - similarity.mean(2, keepdim=True)
    m = parts.shape[3]
    varies = (parts != parts[..., :1]).any(3).any(2) if m > 1 else torch.zeros(parts.shape[:2], dtype=torch.bool)
    varies = varies[..., None]
    variance = centred.square().sum(2, keepdim=True) / max(m - 1, 1)
    deviation = variance.where(varies, variance.new_ones(())).sqrt()
    normalised = (centred / (deviation + eps)).where(varies | centred.isnan(), centred.new_zeros(()))
    gate = SCALE * torch.sigmoid(weight * normalised + bias)
    return (parts * gate[:, :, None]).reshape(x.shape)


def mapped(case, x):
    if case.norm is None:
        return x * 1.0
    mean, variance, weight, bias = (v.double()[:, None, None] for v in case.norm[:4])
    return (x - mean) / (variance + case.norm.eps).sqrt() * weight + bias


def finished(case, sums, inputs, add, relu, y):
    """The gradient passes the ReLU where it passed in `y`: rounding may decide otherwise close to 0."""
    residual = case.residual.double()
    sums = sums + residual if add else sums
    upstream = torch.where(y <= 0, 0.0, case.grad.double()) if relu else case.grad.double()
    gradients = torch.autograd.grad(sums, inputs, upstream)
    return (sums.relu() if relu else sums).detach(), upstream, gradients


def by_formula(case, groups, add, relu, y, eps=EPS):
    x, positions = case.x.double().requires_grad_(), case.x.shape[2] * case.x.shape[3]
    everywhere = (v.double()[None, :, None].repeat(len(x), 1, positions) for v in (case.weight, case.bias))
    weight, bias = (v.requires_grad_() for v in everywhere)
    of = mapped(case, x)
    sums = formula(of, weight, bias, groups, eps)
    expected, upstream, (dx, *parts) = finished(case, sums, (of, weight, bias), add, relu, y)
    dweight, dbias = (part.sum((0, 2)) for part in parts)
    sizes = [part.abs().sum((0, 2)).amax() for part in parts]  # of what a sum adds up
    return SimpleNamespace(
        y=expected, semantic=of.mean((2, 3)), dx=dx, dweight=dweight, dbias=dbias, dresidual=upstream, sizes=sizes
    )


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, what
    error = (actual.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-3)
    assert error <= tolerance, f"{what}: {error:.2e} of its largest value"


def check(shape, groups, dtype=torch.float32, layout=NCHW, add=True, relu=True, norm=False, seed=0):
    case = draw(shape, groups, dtype, layout, norm, seed)
    ours = by_kernels(case, groups, add, relu)
    expected = by_formula(case, groups, add, relu, ours.y)
    assert ours.y.dtype == ours.dx.dtype == dtype
    assert ours.y.stride() == ours.dx.stride() == case.x.stride()
    assert_close(ours.y, expected.y, TOLERANCE[dtype], "y")
    assert_close(ours.dx, expected.dx, TOLERANCE[dtype] * lost(case, groups, expected.semantic), "dx")
    assert_close(ours.semantic, expected.semantic, SUMS, "semantic")
    for name, size in zip(("dweight", "dbias"), expected.sizes, strict=True):
        # Where they cancel, rounding is relative to what was added up.
        right = getattr(expected, name)
        cancelled = (1e-6 * size / right.abs().max().clamp_min(1e-3)).item()
        assert_close(getattr(ours, name), right, max(SUMS, cancelled), name)
    if add:
        assert torch.equal(ours.dresidual.double(), expected.dresidual)
    else:
        assert ours.dresidual is None


def lost(case, groups, semantic):
    """By what a short mean vector, or similarities that hardly differ, enlarge float32's rounding in dx; at least 1.

    The mean of values of 1 is known to 6e-8. Where it is 0.001, its direction and every similarity are known to 6e-5.
    And where similarities that are sums of values of 1 differ by 0.001, so is what is normalised. With a norm, rounding
    is relative to what it adds up.
    """
    size = case.x.double().abs()
    if case.norm is not None:
        mean, variance, weight, bias = (v.double()[:, None, None].abs() for v in case.norm[:4])
        size = (size + mean) / (variance + case.norm.eps).sqrt() * weight + bias
    vectors = semantic.detach().reshape(len(semantic), groups, -1)
    similarity = (mapped(case, case.x.double()).unflatten(1, (groups, -1)).flatten(3) * vectors[..., None]).sum(2)
    spread = similarity.std(2) if similarity.shape[2] > 1 else torch.zeros(())
    direction = 1 / vectors.norm(dim=2).amin()
    differences = (vectors.abs().sum(2) / spread)[spread > 0] if (spread > 0).any() else torch.zeros(1)
    return (size.amax() * torch.maximum(direction, differences.amax()) / 50).clamp_min(1).item()


# Each path of each width: groups of 1, 2, 4, 8, 16, 32 channels and deeper ones in whole blocks of 16, 8 and 4 groups;
# groups and channels that fill no vector; rows of whole vectors, with an overlap, and shorter than any; LARGE: more
# than 1 MiB of float32, for which NHWC has no room in the nearer caches.
LARGE = [((1, 256, 46, 45), 64), ((1, 128, 67, 62), 16), ((1, 64, 95, 90), 64)]
SHAPES = [
    ((2, 64, 5, 5), 64),
    ((1, 128, 9, 7), 64),
    ((2, 8, 6, 5), 8),
    ((1, 16, 4, 4), 8),
    ((1, 12, 5, 5), 12),
    ((2, 8, 3, 5), 4),
    ((2, 64, 5, 5), 16),
    ((1, 128, 3, 11), 16),
    ((2, 256, 7, 7), 16),
    ((1, 512, 4, 9), 16),
    ((1, 1024, 3, 3), 16),
    ((2, 32, 8, 8), 8),
    ((1, 96, 6, 5), 8),
    ((2, 48, 4, 4), 4),
    ((1, 80, 9, 7), 4),
    ((2, 6, 3, 5), 2),
    ((1, 15, 3, 3), 5),
    ((1, 36, 6, 6), 3),
    ((1, 7, 33, 2), 1),
    ((3, 8, 1, 3), 4),
    ((2, 6, 1, 1), 2),
    ((1, 64, 9, 29), 16),
    *LARGE,
]


@DTYPES
@LAYOUTS
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_agrees_with_the_formula(isa, shape, groups, layout, dtype):
    check(shape, groups, dtype, layout)


@DTYPES
@LAYOUTS
@pytest.mark.parametrize(("add", "relu"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_residual_relu_and_norm_are_independent(isa, add, relu, norm, layout, dtype, threads):
    torch.set_num_threads(threads)
    for shape, groups in (((2, 128, 7, 7), 16), ((2, 48, 5, 4), 48), ((4, 12, 3, 4), 4), ((1, 10, 5, 2), 2)):
        check(shape, groups, dtype, layout, add, relu, norm)


@pytest.mark.slow
@DTYPES
@LAYOUTS
@pytest.mark.parametrize(("shape", "groups"), [((3, 256, 56, 56), 64), ((2, 2048, 7, 7), 64), ((1, 64, 112, 112), 16)])
@pytest.mark.parametrize("fused", [False, True])
def test_agrees_with_the_formula_at_the_sizes_of_networks(isa, shape, groups, layout, dtype, fused):
    torch.set_num_threads(2)
    check(shape, groups, dtype, layout, add=fused, relu=fused, norm=fused)


@LAYOUTS
def test_what_no_cache_holds_is_written_past_them(isa, layout):
    """y from 1 MiB on, and dx from 16 MiB."""
    torch.set_num_threads(2)
    check((5, 512, 41, 40), 64, torch.float32, layout, add=False, relu=False)
    check((2, 64, 92, 90), 64, torch.bfloat16, layout, add=False, relu=False)


@settings(max_examples=60)
@given(
    batch=st.integers(1, 4),
    groups=st.integers(1, 20),
    depth=st.integers(1, 40),
    height=st.integers(1, 9),
    width=st.integers(3, 9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    layout=st.sampled_from([NCHW, NHWC]),
    threads=st.integers(1, 3),
    name=st.sampled_from(cpu_kernels.INSTRUCTION_SETS),
    norm=st.booleans(),
)
def test_any_shape_agrees(library, batch, groups, depth, height, width, dtype, layout, threads, name, norm):
    library.sgenet_use(name.encode())  # what the CPU lacks leaves the one before
    torch.set_num_threads(threads)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(cpu_kernels, "_library", lambda: library)
            check((batch, groups * depth, height, width), groups, dtype, layout, norm=norm)
    finally:
        use_the_best(library)


@DTYPES
@LAYOUTS
@pytest.mark.parametrize("target", ["x", "residual"])
@pytest.mark.parametrize("threads", [1, 3])
def test_y_may_take_the_place_of_an_input(isa, layout, dtype, target, threads):
    torch.set_num_threads(threads)
    for shape, groups in (((2, 128, 7, 7), 16), ((2, 64, 5, 3), 16), ((4, 6, 3, 3), 2)):
        case = draw(shape, groups, dtype, layout, norm=True)
        apart = by_kernels(case, groups, add=True, relu=True)
        scaled = cpu_kernels.scale_channels(case.x, case.gate, case.residual, True, case.norm)
        again = draw(shape, groups, dtype, layout, norm=True)
        y = cpu_kernels.scale_channels(
            again.x, again.gate, again.residual, True, again.norm, out=getattr(again, target)
        )
        assert y is getattr(again, target)
        assert torch.equal(y, scaled)
        y = by_kernels(case, groups, add=True, relu=True, out=getattr(case, target)).y
        assert y is getattr(case, target)
        assert torch.equal(y, apart.y)


@DTYPES
@LAYOUTS
@pytest.mark.parametrize(("add", "relu", "norm"), [(False, False, False), (True, True, True), (False, True, False)])
@pytest.mark.parametrize("threads", [1, 3])
def test_scaling_by_a_gate_agrees_with_its_formula(isa, layout, dtype, add, relu, norm, threads):
    torch.set_num_threads(threads)
    for shape in ((2, 64, 7, 7), (4, 12, 5, 3), (1, 5, 3, 3), (2, 8, 1, 1)):
        case = draw(shape, 1, dtype, layout, norm)
        y = cpu_kernels.scale_channels(case.x, case.gate, case.residual if add else None, relu, case.norm)
        dx, dgate, dresidual = cpu_kernels.scale_channels_backward(
            case.grad, case.x, y if relu else None, case.gate, add, relu, case.norm
        )
        x, gate = case.x.double().requires_grad_(), case.gate.double().requires_grad_()
        of = mapped(case, x)
        expected, upstream, gradients = finished(case, of * gate[..., None, None], (of, gate), add, relu, y)
        assert_close(y, expected, TOLERANCE[dtype], "y")
        assert_close(dx, gradients[0], TOLERANCE[dtype], "dx")
        assert_close(dgate, gradients[1], SUMS, "dgate")
        assert (dresidual is None) if not add else torch.equal(dresidual.double(), upstream)


@DTYPES
@LAYOUTS
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_means_of_channels_agree_with_their_formula(isa, layout, dtype, norm, threads):
    torch.set_num_threads(threads)
    for shape in ((2, 64, 9, 11), (4, 12, 5, 3), (1, 5, 3, 3), (7, 32, 1, 1), (1, 256, 46, 45), (4, 16, 1, 2)):
        case = draw(shape, 1, dtype, layout, norm)
        means = cpu_kernels.channel_means(case.x, case.norm)
        assert means.dtype == dtype
        expected = mapped(case, case.x.double()).mean((2, 3))
        assert_close(means, expected, SUMS if dtype == torch.float32 else TOLERANCE[dtype], "means")


def layers(channels, hidden, dtype, biases=True):
    numbers = torch.Generator().manual_seed(channels)
    drawn = (
        torch.randn(shape, generator=numbers) for shape in ((hidden, channels), hidden, (channels, hidden), channels)
    )
    weight1, bias1, weight2, bias2 = ((v / math.sqrt(v.shape[-1]) if v.dim() == 2 else v).to(dtype) for v in drawn)
    return (weight1, bias1, weight2, bias2) if biases else (weight1, None, weight2, None)


@DTYPES
@LAYOUTS
@pytest.mark.parametrize(("norm", "biases"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_gate_of_squeeze_and_excitation_agrees_with_its_formula(isa, layout, dtype, norm, biases, threads):
    torch.set_num_threads(threads)
    for shape, hidden in (((2, 64, 9, 11), 4), ((4, 12, 5, 3), 3), ((1, 5, 3, 3), 1), ((3, 256, 7, 7), 70)):
        case = draw(shape, 1, dtype, layout, norm)
        weights = layers(shape[1], hidden, dtype, biases)
        gate = squeeze_excite_by_kernel(case.x, *weights, norm=case.norm)
        assert gate.dtype == torch.float32
        weight1, bias1, weight2, bias2 = (None if v is None else v.double() for v in weights)
        means = mapped(case, case.x.double()).mean((2, 3))
        linear = torch.nn.functional.linear
        expected = torch.sigmoid(linear(linear(means, weight1, bias1).relu(), weight2, bias2))
        assert_close(gate, expected, SUMS, "gate")


@DTYPES
@LAYOUTS
@pytest.mark.parametrize("threads", [1, 3])
def test_moments_keep_a_small_variance_beside_a_large_mean(isa, layout, dtype, threads):
    torch.set_num_threads(threads)
    for shape in ((3, 64, 9, 11), (2, 10, 5, 3), (1, 3, 1, 1), (4, 16, 1, 2)):
        x = (draw(shape, 1, torch.float32, layout).x + 1000).to(dtype)
        mean, variance = cpu_kernels.moments(x)
        torch.testing.assert_close(mean.double(), x.double().mean((0, 2, 3)), rtol=1e-6, atol=0)
        expected = x.double().var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(variance.double(), expected, rtol=1e-4, atol=1e-9)


@DTYPES
@LAYOUTS
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("with_weight", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_the_gradients_of_a_batch_norm(isa, layout, dtype, threads, with_weight, kept):
    torch.set_num_threads(threads)
    for shape in ((3, 64, 9, 11), (2, 10, 5, 3), (2, 3, 1, 1), (4, 16, 1, 2), (5, 32, 7, 7)):
        case = draw(shape, 1, dtype, layout)
        x = case.x.double().requires_grad_()
        weight, bias = (torch.full(shape[1:2], value, dtype=torch.float64).requires_grad_() for value in (1.5, 0.5))
        mean, variance = (torch.rand(2, shape[1]) + 0.1).unbind() if kept else cpu_kernels.moments(case.x)
        running = (mean.double(), variance.double()) if kept else (None, None)
        factor = weight if with_weight else None
        normed = torch.nn.functional.batch_norm(x, *running, factor, bias, not kept, eps=1e-2)
        normed.backward(case.grad.double())
        given = torch.full(shape[1:2], 1.5) if with_weight else None
        dx, dweight, dbias = cpu_kernels.norm_backward(case.grad.clone(), case.x, mean, variance, given, 1e-2, kept)
        assert dx.stride() == case.x.stride()
        assert_close(dx, x.grad, 4 * TOLERANCE[dtype], "dx")
        assert_close(dbias, bias.grad, SUMS, "dbias")
        if with_weight:
            assert_close(dweight, weight.grad, 4 * SUMS, "dweight")


@pytest.mark.parametrize("channels", [1, 63, 64, 200])
def test_a_norm_in_front_has_parameters_of_any_dtype(isa, channels):
    """Each in each dtype, or left out; seen where the gate is 1."""
    x, *drawn = torch.randn(5, channels, generator=torch.Generator().manual_seed(0))
    drawn[1] = drawn[1].square()
    x, gate = x.reshape(1, channels, 1, 1), torch.ones(1, channels)
    for dtypes in itertools.product((torch.float32, torch.bfloat16, torch.float64), repeat=4):
        mean, variance, weight, bias = (v.to(dtype) for v, dtype in zip(drawn, dtypes, strict=True))
        for gamma, beta in itertools.product((weight, None), (bias, None)):
            y = cpu_kernels.scale_channels(x, gate, norm=Norm(mean, variance, gamma, beta, 1e-3))
            factor = (1.0 if gamma is None else gamma.double()) / (variance.double() + 1e-3).sqrt()
            expected = (x.double().flatten() - mean.double()) * factor + (0.0 if beta is None else beta.double())
            size = (x.double().flatten().abs() + mean.double().abs()) * factor.abs()  # what is rounded on the way
            assert ((y.double().flatten() - expected).abs() <= 5e-7 * size + 2e-7).all()


def test_parameters_may_have_any_stride(isa):
    case = draw((2, 64, 3, 5), 16, torch.float32, NHWC)
    columns = torch.rand(64, 4) + 0.5
    results = []
    for strided in (False, True):
        case.norm = Norm(*(columns.unbind(1) if strided else columns.t().contiguous().unbind()), 1e-3)
        case.weight, case.bias = (
            v.repeat_interleave(2)[::2] if strided else v.clone() for v in (case.weight, case.bias)
        )
        results.append(by_kernels(case, 16, add=True, relu=True))
    for name in ("y", "dx", "dweight", "dbias"):
        assert torch.equal(getattr(results[0], name), getattr(results[1], name)), name


@DTYPES
@LAYOUTS
@pytest.mark.parametrize("groups", [16, 5])
def test_what_is_only_for_the_backward_pass_can_be_left_out(isa, layout, dtype, groups):
    case = draw((3, 80, 5, 5), groups, dtype, layout, norm=True)
    arguments = (case.x, case.weight.to(dtype), case.bias.to(dtype), groups, EPS, SCALE, case.residual, True, case.norm)
    y, semantic, statistics = cpu_kernels.forward(*arguments, saves=False)
    assert semantic is None
    assert statistics is None
    assert torch.equal(y, cpu_kernels.forward(*arguments)[0])


@LAYOUTS
@pytest.mark.parametrize("shape", [(3, 128, 13, 5), (3, 256, 48, 48)], ids=["one sample a thread", "one for all"])
def test_the_number_of_threads_changes_nothing_but_rounding(isa, layout, shape):
    case = draw(shape, 16, torch.float32, layout)
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append(by_kernels(case, 16, add=True, relu=False))
    for other, name in itertools.product(results[1:], ("y", "dx", "dweight", "dbias", "semantic")):
        assert_close(getattr(other, name), getattr(results[0], name).double(), 2e-6, name)


@LAYOUTS
@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1])
@pytest.mark.parametrize("threads", [1, 3])
def test_constant_maps_have_the_gate_of_the_bias_and_the_gradients_of_the_formula(isa, layout, value, threads):
    torch.set_num_threads(threads)
    for shape, groups in (((1, 64, 5, 5), 16), ((1, 6, 3, 5), 2), ((2, 6, 1, 1), 2), *LARGE):
        case = draw(shape, groups, torch.float32, layout)
        case.x = torch.full_like(case.x, value)
        ours = by_kernels(case, groups, add=False, relu=False)
        gate = SCALE * case.bias.sigmoid().repeat_interleave(shape[1] // groups)[None, :, None, None]
        torch.testing.assert_close(ours.y, case.x * gate, rtol=1e-6, atol=0)
        assert not ours.dweight.any()
        assert ours.dx.isfinite().all()
        _, statistics = cpu_kernels.forward(case.x, case.weight, case.bias, groups, EPS, SCALE)[1:]
        assert not statistics[..., 1].any()


@LAYOUTS
def test_a_sum_over_a_million_positions_is_as_good_as_a_short_one(isa, layout):
    torch.set_num_threads(1)
    x = torch.full((1, 16, 1024, 1024), 1000.1).contiguous(memory_format=layout)
    y, semantic, statistics = cpu_kernels.forward(x, torch.ones(16), torch.zeros(16), 16, EPS, 1.0)
    torch.testing.assert_close(semantic, torch.full_like(semantic, 1000.1), rtol=2e-6, atol=0)
    torch.testing.assert_close(cpu_kernels.channel_means(x), semantic, rtol=0, atol=0)
    assert not statistics[..., 1].any()
    torch.testing.assert_close(y, x / 2, rtol=1e-6, atol=0)
    grad = torch.ones_like(x)
    dbias = cpu_kernels.backward(
        grad, x, None, torch.ones(16), torch.zeros(16), semantic, statistics, 16, EPS, 1.0, False, False
    )[2]
    torch.testing.assert_close(dbias, x[0, :, 0, 0] * x[0, 0].numel() / 4, rtol=2e-6, atol=0)


@LAYOUTS
def test_a_large_mean_costs_no_precision(isa, layout):
    """c - mean(c) is a small difference of large numbers here: formed after the sums, it would be rounding alone."""
    for shape, groups in (((1, 64, 4, 4), 16), LARGE[0]):
        case = draw(shape, groups, torch.float32, layout)
        case.x = case.x + 1000
        ours = by_kernels(case, groups, add=False, relu=False)
        expected = by_formula(case, groups, add=False, relu=False, y=ours.y)
        assert_close(ours.y, expected.y, 1e-5, "y")
        assert_close(ours.dx, expected.dx, 1e-4, "dx")


@LAYOUTS
@pytest.mark.parametrize(("shape", "groups"), [LARGE[0], ((2, 64, 56, 56), 16), ((1, 16, 7, 7), 4)])
def test_an_outlier_where_the_sums_begin(isa, layout, shape, groups):
    """Some sums are relative to the first rows, or to the first position."""
    case = draw(shape, groups, torch.float32, layout)
    case.x[0, :, 0, 0] = 30
    ours = by_kernels(case, groups, add=False, relu=False)
    expected = by_formula(case, groups, add=False, relu=False, y=ours.y)
    assert_close(ours.y, expected.y, 1e-5, "y")
    assert_close(ours.dx, expected.dx, 5e-5, "dx")


@LAYOUTS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("relu", [False, True])
def test_values_that_are_not_finite_stay_in_their_group(isa, layout, value, relu):
    for shape, groups in (((2, 64, 3, 3), 16), ((2, 6, 3, 3), 2), LARGE[0]):
        case = draw(shape, groups, torch.float32, layout)
        case.x[0, 1, 2, 0] = value
        ours = by_kernels(case, groups, add=True, relu=relu)
        expected = by_formula(case, groups, add=True, relu=relu, y=ours.y)
        depth = shape[1] // groups
        assert ours.y[0, :depth].isnan().all()
        assert ours.y[0, depth:].isfinite().all()
        for name in ("y", "dweight", "dbias", "dresidual", "dx"):
            assert torch.equal(getattr(ours, name).isnan(), getattr(expected, name).isnan()), name


@DTYPES
def test_rounding_to_bfloat16_is_torchs(isa, dtype):
    """Ties, subnormal numbers, the largest ones, and NaN."""
    values = torch.tensor(
        [1.00390625, 1.01171875, -1.00390625, 3.3895e38, -3.4e38, float("nan"), float("inf"), 0.0, 1e-37]
    )
    bits = torch.randint(1, 0x7F00_0000, (3991,), dtype=torch.int32)
    bits[:100] %= 0x0080_0000  # subnormal
    values = torch.cat([values, bits.view(torch.float32)])[:4000].reshape(1, 4000, 1, 1)
    y = cpu_kernels.scale_channels(torch.ones_like(values).to(dtype), values.reshape(1, -1))
    assert torch.equal(y.nan_to_num(7.0), values.to(dtype).nan_to_num(7.0))


@pytest.mark.parametrize("shape", [(0, 6, 3, 3), (2, 6, 0, 3)])
@LAYOUTS
def test_an_empty_tensor_gives_zero_gradients(isa, shape, layout):
    case = draw(shape, 2, torch.float32, layout)
    ours = by_kernels(case, 2, add=True, relu=True)
    assert ours.y.shape == ours.dx.shape == ours.dresidual.shape == shape
    assert torch.equal(ours.dweight, torch.zeros_like(case.weight))
    assert torch.equal(ours.dbias, torch.zeros_like(case.bias))
    means = cpu_kernels.channel_means(case.x)
    assert means.shape == shape[:2]
    assert means.isnan().all()


class Guarded:
    """Tensors that end where a page begins that cannot be touched, or begin behind one."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.kept = []

    def like(self, tensor, at_end):
        size = tensor.numel() * tensor.element_size()
        pages = -(-size // mmap.PAGESIZE) + 2
        memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
        view = memoryview(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        start = (pages - 1) * mmap.PAGESIZE - size if at_end else mmap.PAGESIZE
        guarded = torch.frombuffer(view, dtype=torch.uint8)[start : start + size].view(tensor.dtype)
        guarded = guarded.as_strided(tensor.shape, tensor.stride())
        guarded.copy_(tensor)
        for page in (0, pages - 1):
            assert self.libc.mprotect(ctypes.c_void_p(address + page * mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
        self.kept.append((memory, view, address, pages))
        return guarded

    def release(self):
        for memory, _, address, pages in self.kept:
            self.libc.mprotect(ctypes.c_void_p(address), pages * mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)
            del memory


@pytest.fixture
def guarded():
    guard = Guarded()
    yield guard
    guard.release()


@DTYPES
@LAYOUTS
@pytest.mark.parametrize("at_end", [False, True])
def test_nothing_beyond_the_tensors_is_touched(isa, guarded, monkeypatch, layout, dtype, at_end):
    """A read or write outside ends the process."""
    for shape, groups in (((1, 64, 5, 5), 16), ((2, 256, 7, 7), 16), ((1, 10, 3, 3), 2), ((1, 6, 1, 1), 2)):
        case = draw(shape, groups, dtype, layout, norm=True)
        expected = by_kernels(case, groups, add=True, relu=True)
        for name in ("x", "residual", "grad", "weight", "bias", "gate"):
            setattr(case, name, guarded.like(getattr(case, name), at_end))
        case.norm = Norm(*(guarded.like(v, at_end) for v in case.norm[:4]), case.norm.eps)
        with monkeypatch.context() as patched:
            patched.setattr(torch, "empty", lambda *a, **k: guarded.like(EMPTY(*a, **k), at_end))
            patched.setattr(torch, "empty_like", lambda x: guarded.like(x, at_end))
            ours = by_kernels(case, groups, add=True, relu=True)
            y = cpu_kernels.scale_channels(case.x, case.gate, case.residual, True, case.norm)
            cpu_kernels.scale_channels_backward(case.grad, case.x, y, case.gate, True, True, case.norm)
            cpu_kernels.channel_means(case.x, case.norm)
            weights = (guarded.like(v, at_end) for v in layers(shape[1], 3, dtype))
            squeeze_excite_by_kernel(case.x, *weights, norm=case.norm)
            mean, variance = cpu_kernels.moments(case.x)
            for kept in (False, True):
                grad = guarded.like(case.grad, at_end)
                cpu_kernels.norm_backward(grad, case.x, mean, variance, None, 1e-5, kept)
        assert torch.equal(ours.y, expected.y)
        assert torch.equal(ours.dx, expected.dx)


def test_two_threads_of_python_at_once(isa):
    torch.set_num_threads(2)
    cases = [draw((3, 64, 9, 9), 16, torch.float32, layout, seed=seed) for seed, layout in enumerate((NHWC, NCHW))]
    alone = [by_kernels(case, 16, add=True, relu=True) for case in cases]
    wrong = []

    def repeat(case, expected):
        for _ in range(50):
            ours = by_kernels(case, 16, add=True, relu=True)
            wrong.extend(n for n in ("y", "dx") if not torch.equal(getattr(ours, n), getattr(expected, n)))

    threads = [threading.Thread(target=repeat, args=pair) for pair in zip(cases, alone, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_gradients_and_residuals_of_other_layouts_and_dtypes(isa):
    case = draw((2, 64, 3, 4), 16, torch.float32, NHWC)
    dense = by_kernels(case, 16, add=True, relu=True)
    case.residual = case.residual.contiguous()
    case.x = torch.stack([case.x, case.x], -1)[..., 0]
    case.grad = torch.ones(()).expand(case.x.shape)
    case.weight, case.bias = case.weight.double(), case.bias.double()
    ours = by_kernels(case, 16, add=True, relu=True)
    torch.testing.assert_close(ours.y, dense.y, rtol=1e-5, atol=1e-5)
    assert ours.dweight.dtype == torch.float64
    expected = by_formula(case, 16, add=True, relu=True, y=ours.y)
    assert_close(ours.dx, expected.dx, TOLERANCE[torch.float32], "dx")


def test_tensors_are_read_alike_with_and_without_dlpack(library):
    table = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if table is None:
        pytest.skip("this torch has no table of DLPack's functions: all tests here read tensors without it")
    kinds = itertools.product((torch.float32, torch.bfloat16), (NCHW, NHWC))
    cases = [draw((2, 64, 7, 5), 16, dtype, layout, norm=True) for dtype, layout in kinds]
    expected = [by_kernels(case, 16, add=True, relu=True) for case in cases]
    library.sgenet_read_by(None, cpu_kernels._described)
    try:
        for case, values in zip(cases, expected, strict=True):
            found = by_kernels(case, 16, add=True, relu=True)
            assert all(torch.equal(getattr(found, name), value) for name, value in vars(values).items())
    finally:
        library.sgenet_read_by(table, cpu_kernels._described)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 64, 5),
        torch.zeros(2, 64, 0, 5),
        torch.zeros(2, 64, 4, 5, dtype=torch.float64),
        torch.zeros(2, 64, 4, 10)[..., ::2],
        torch.zeros(2, 64, 4, 5, device="meta"),
        torch.zeros(2, 64, 4, 5).to_sparse(),
        torch.zeros(2, 60, 4, 5),
        torch.zeros((1,) * 9),
        [[[[0.0]]]],
        None,
    ],
    ids=["axes", "empty", "float64", "gaps", "meta", "sparse", "groups", "nine axes", "list", "none"],
)
def test_a_kernel_refuses_what_it_cannot_read(library, x):
    kernel = library.sgenet_function(b"enhance_forward", None)
    y, values = torch.zeros(2, 64, 4, 5), torch.zeros(16)
    arguments = (x, 16, values, values, 1e-5, 1.0, None, False, *NO_NORM, y, None, None, 1)
    assert kernel(*arguments) == 2
    assert kernel(*arguments[:-1]) == 2
    assert kernel(y, "16", *arguments[2:]) == 2
    assert kernel(y, *arguments[1:]) == 0


def test_there_is_no_kernel_of_another_name(library):
    assert library.sgenet_function(b"enhance", None) is None
    if cpu_kernels.availability() is None:
        with pytest.raises(AttributeError, match="enhance"):
            cpu_kernels.function("enhance")


ONE_POOL = """
import torch
from pathlib import Path
torch.set_num_threads(2)
torch.randn(512, 512) @ torch.randn(512, 512)
from sgenet.ops import cpu_kernels
if cpu_kernels.availability():
    raise SystemExit(0)
before = len(list(Path("/proc/self/task").iterdir()))
torch.add(torch.ones(1 << 22), 1)
x = torch.randn(2, 64, 56, 56)
cpu_kernels.forward(x, torch.ones(16), torch.ones(16), 16, 1e-5, 1.0)
assert len(list(Path("/proc/self/task").iterdir())) <= before + 1, "more threads than torch's"
names = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "omp" in line.split()[-1]}
assert cpu_kernels._library().sgenet_has_threads()
print(*[name for name in names if Path(name).name.startswith(("libgomp", "libomp", "libiomp5"))])
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads what Linux tells about a process")
def test_one_openmp_runtime_is_loaded(library):
    run = subprocess.run([sys.executable, "-c", ONE_POOL], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.split()) <= 1, run.stdout


def test_an_unknown_instruction_set_is_named():
    run = subprocess.run(
        [sys.executable, "-c", "from sgenet.ops import cpu_kernels; print(cpu_kernels.availability())"],
        env={**os.environ, "SGENET_CPU_ISA": "avx3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "not built" in run.stdout:
        pytest.skip(run.stdout)
    assert "SGENET_CPU_ISA=avx3" in run.stderr
    assert "Did you mean 'avx2'" in run.stderr


def test_without_a_library_the_reason_is_given(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu_kernels, "_PATH", tmp_path / LIBRARY)
    found = (cpu_kernels._loaded, cpu_kernels.function)
    for cached in found:
        cached.cache_clear()
    try:
        assert "is not built" in cpu_kernels.availability()
        with pytest.raises(ConfigError, match="the CPU kernels cannot run"):
            cpu_kernels.moments(torch.ones(1, 2, 3, 3))
    finally:
        for cached in found:
            cached.cache_clear()


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(BuildError, match=re.escape("no C++ compiler (no-such-compiler of $CXX)")):
        find_compiler()


def test_a_failing_compiler_is_quoted(monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'kernels.h:1: error: no such thing' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BuildError, match="error: no such thing"):
        build(tmp_path / "out")
    assert not (tmp_path / "out" / LIBRARY).exists()


# Writes the defined words into each object, puts the objects together as the library, and notes every call.
FAKE_COMPILER = """#!/bin/sh
echo "$@" >> "$0.calls"
case "$*" in *--version*) echo fake 1.0; exit ;; esac
all="$*"
while [ "$1" != -o ]; do
  case "$1" in *.o) objects="$objects $1" ;; esac
  shift
done
case "$all" in *-shared*) cat $objects > "$2" ;; *) echo "$all" > "$2" ;; esac
"""


def test_a_library_of_the_same_sources_is_not_compiled_again(monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text(FAKE_COMPILER)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    calls = []
    for extra in ([], [], ["-O0"], []):
        library = build(tmp_path / "out", extra)
        calls.append((tmp_path / "c++.calls").read_text().count("-shared "))
        assert library.read_bytes()
    assert calls == [1, 1, 2, 3]
    library.write_bytes(b"something else")
    build(tmp_path / "out")
    assert (tmp_path / "c++.calls").read_text().count("-shared ") == 4


# Without what `undefined` checks at every access besides (null, alignment, object-size): a compiler takes twice as long
# for that, and the address sanitizer sees where an access goes.
SANITIZERS = "address,shift,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow,bool,return,unreachable"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers are preloaded")
def test_sanitizers_find_nothing(tmp_path):
    try:
        compiler = find_compiler()
        path = build(tmp_path, ["-O0", f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all"])
    except BuildError as error:
        pytest.skip(str(error))
    runtimes = [
        subprocess.run(
            [*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    program = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); import test_cpu_kernels as t; from pathlib import Path\n"
        "library = t.cpu_kernels._open(Path(sys.argv[2])); t.cpu_kernels._library = lambda: library\n"
        "for isa in t.cpu_kernels.INSTRUCTION_SETS:\n"
        "    if library.sgenet_use(isa.encode()):\n"
        "        t.every_path_once()\n"
        "print('clean')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parent), str(path)],
        env={**os.environ, "LD_PRELOAD": ":".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "clean\n", run.stderr[-3000:]


def every_path_once():
    for (shape, groups), layout, dtype, full in itertools.product(
        SHAPES, (NCHW, NHWC), (torch.float32, torch.bfloat16), (False, True)
    ):
        torch.set_num_threads(3 if math.prod(shape) % 3 else 1)
        check(shape, groups, dtype, layout, add=full, relu=full, norm=full)
        case = draw(shape, groups, dtype, layout, norm=full)
        y = cpu_kernels.scale_channels(case.x, case.gate, case.residual if full else None, full, case.norm)
        cpu_kernels.scale_channels_backward(case.grad, case.x, y if full else None, case.gate, full, full, case.norm)
        cpu_kernels.channel_means(case.x, case.norm)
        squeeze_excite_by_kernel(case.x, *layers(shape[1], 5, dtype), norm=case.norm)
        mean, variance = cpu_kernels.moments(case.x)
        for kept in (False, True):
            cpu_kernels.norm_backward(case.grad.clone(), case.x, mean, variance, None, 1e-5, kept)
