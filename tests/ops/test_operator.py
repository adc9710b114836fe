"""The operators as torch sees them: gradients, layouts, compilers, exporters; by every backend of this machine."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import sgenet
from sgenet import ops
from sgenet.errors import ConfigError
from sgenet.ops.reference import Norm

BACKENDS = [name for name in ("reference", "cpu") if ops.availability()[name] is None]
NCHW, NHWC = torch.contiguous_format, torch.channels_last
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@pytest.fixture(params=BACKENDS)
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def enhanced(x, weight, bias, groups, eps=1e-5, scale=1.0, residual=None, relu=False):
    """The paper's formula by einsum, in whatever precision it is given."""
    batch, channels, *spatial = x.shape
    parts = x.reshape(batch, groups, channels // groups, -1)
    c = torch.einsum("bgd,bgdm->bgm", parts.mean(-1), parts)
    spread = c.std(-1, keepdim=True) if c.shape[-1] > 1 else torch.zeros_like(c)
    normalised = (c - c.mean(-1, keepdim=True)) / (spread + eps)
    gate = torch.sigmoid(weight.reshape(1, -1, 1) * normalised + bias.reshape(1, -1, 1)) * scale
    y = (parts * gate.unsqueeze(2)).reshape(batch, channels, *spatial)
    y = y if residual is None else y + residual
    return y.relu() if relu else y


def drawn(shape, dtype=torch.float32, layout=NCHW, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return values.contiguous(memory_format=layout) if len(shape) == 4 else values


def close(actual: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    largest = max(expected.abs().max().item(), 1.0) if expected.numel() else 1.0
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=0, atol=tolerance * largest, msg=lambda m: f"{what}: {m}"
    )


def lost(x, groups):
    """By what the shortest mean vector enlarges float32's rounding in its own direction; 1 is the least."""
    lengths = x.double().mean((2, 3)).reshape(len(x), groups, -1).norm(dim=2)
    return max(1.0, (x.abs().amax() / lengths.amin()).item() / 50)


def check_all_gradients(x, weight, bias, groups, residual, relu, grad):
    """Forward and every gradient against autograd of the formula in float64."""
    inputs = [t.detach().clone().requires_grad_() if t is not None else None for t in (x, weight, bias, residual)]
    y = sgenet.spatial_group_enhance(inputs[0], inputs[1], inputs[2], groups, 1e-5, 1.25, inputs[3], relu)
    assert y.dtype == x.dtype
    y.backward(grad)
    exact = [None if t is None else t.detach().double().requires_grad_() for t in inputs]
    expected = enhanced(exact[0], exact[1], exact[2], groups, 1e-5, 1.25, exact[3])
    # Where rounding may lie on either side of 0, the ReLU of the result at hand decides.
    kept = y.detach().double() > 0 if relu else torch.ones_like(expected, dtype=torch.bool)
    close(y.detach(), expected.detach().relu() if relu else expected.detach(), TOLERANCE[x.dtype], "y")
    expected.backward(grad.double() * kept)
    for name, own, exactly in zip(("x", "weight", "bias", "residual"), inputs, exact, strict=True):
        if own is not None:
            assert own.grad.dtype == own.dtype
            assert own.grad.shape == own.shape
            close(own.grad, exactly.grad, 4 * TOLERANCE[x.dtype] * lost(x, groups), f"gradient of {name}")


@settings(max_examples=40)
@given(
    name=st.sampled_from(BACKENDS),
    batch=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 3, 5, 8, 16, 64]),
    depth=st.sampled_from([1, 2, 3, 4, 7, 8, 16, 32]),
    height=st.integers(1, 9),
    width=st.integers(2, 9),
    layout=st.sampled_from([NCHW, NHWC]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float64]),
    add=st.booleans(),
    relu=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_forward_and_all_gradients_are_those_of_the_formula(
    name, batch, groups, depth, height, width, layout, dtype, add, relu, seed
):
    shape = (batch, groups * depth, height, width)
    x, residual, grad = (drawn(shape, dtype, layout, seed + i) for i in range(3))
    x = x + 1  # see `test_the_widest_and_the_narrowest_map`
    weight, bias = drawn((1, groups, 1, 1), seed=seed + 3), drawn((1, groups, 1, 1), seed=seed + 4)
    if dtype == torch.float64:
        weight, bias = weight.double(), bias.double()
    with ops.use_backend("reference" if dtype == torch.float64 else name):
        check_all_gradients(x, weight, bias, groups, residual if add else None, relu, grad)


@pytest.mark.parametrize(("channels", "groups"), [(4096, 64), (4096, 1), (4096, 4096), (1, 1)])
@pytest.mark.parametrize("layout", [NCHW, NHWC])
def test_the_widest_and_the_narrowest_map(backend, channels, groups, layout):
    x, residual, grad = (drawn((2, channels, 3, 5), layout=layout, seed=i) for i in range(3))
    # A group of one channel whose mean is 0 but for rounding has no gradient that float32 could hold.
    x = x + 1
    check_all_gradients(x, drawn((groups,)), drawn((groups,), seed=5), groups, residual, True, grad)


def views(layout):
    """The same values in memory that a layer would not have chosen."""
    whole = drawn((4, 24, 9, 10), layout=layout)
    yield "batch sliced", whole[::2, :12, :7, :6]
    yield "channels sliced", whole[:2, 1:13, :7, :6]
    yield "every second position", whole[:2, :12, 1:8, ::2][..., :5]
    yield "transposed", whole[:2, :12, :7, :6].transpose(2, 3)
    yield "one sample for all", whole[:1, :12, :7, :6].expand(3, -1, -1, -1)
    yield "one position for all", whole[:2, :12, :1, :1].expand(-1, -1, 4, 5)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("which", range(6))
def test_any_strides(backend, layout, which):
    name, x = list(views(layout))[which]
    weight, bias = drawn((3,)), drawn((3,), seed=1)
    residual = x.flip(0)
    for other in (residual, residual.contiguous(memory_format=NHWC)):
        y = sgenet.spatial_group_enhance(x, weight, bias, 3, residual=other, relu=True)
        assert y.stride() == torch.empty_like(x).stride(), name
        expected = enhanced(x.double(), weight.double(), bias.double(), 3, residual=other.double(), relu=True)
        close(y, expected, 1e-5, name)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("other", [NCHW, NHWC])
def test_gradients_have_the_layout_of_their_maps(backend, layout, other):
    x, residual, grad = (drawn((2, 12, 5, 6), layout=which, seed=i) for i, which in enumerate((layout, layout, other)))
    maps = x.requires_grad_(), residual.requires_grad_()
    parameters = torch.ones(3), torch.ones(3), 3
    for y in (
        sgenet.spatial_group_enhance(x, *parameters, residual=residual, relu=True),
        ops.batch_norm_spatial_group_enhance(x, None, None, 1e-5, *parameters, residual=residual, relu=True)[0],
        ops.scale_channels(x, x.detach().mean((2, 3)), residual, relu=True),
    ):
        assert [g.stride() for g in torch.autograd.grad(y, maps, grad)] == [t.stride() for t in maps]


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("shape", [(0, 12, 4, 4), (2, 12, 0, 4)])
def test_an_empty_map_has_an_empty_result_and_zero_gradients(backend, layout, shape):
    x = torch.empty(shape).contiguous(memory_format=layout).requires_grad_()
    weight, bias = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    y = sgenet.spatial_group_enhance(x, weight, bias, 3, residual=x, relu=True)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape
    assert not weight.grad.any()
    assert not bias.grad.any()


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("value", [0.0, 1e-3, 3.7, -250.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (8, 8), (31, 17)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_constant_map_has_the_gate_of_the_bias_and_finite_gradients(backend, layout, value, size, dtype):
    x = torch.full((2, 12, *size), value, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    weight, bias = (
        torch.tensor([2.0, -1.0, 0.5], requires_grad=True),
        torch.tensor([0.0, 1.0, -1.0], requires_grad=True),
    )
    y = sgenet.spatial_group_enhance(x, weight, bias, 3)
    gate = torch.sigmoid(bias.detach()).repeat_interleave(4).reshape(1, 12, 1, 1)
    close(y.detach(), (x.detach().double() * gate).expand_as(y), 1e-6 + TOLERANCE[dtype])
    y.backward(drawn((2, 12, *size), dtype, layout))
    for tensor in (x, weight, bias):
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("depth", [1, 3, 8, 40])
@pytest.mark.parametrize("factor", [0.37, 1.7, 1e3])
def test_channels_that_are_constant_each_have_the_gate_of_the_bias(backend, layout, depth, factor):
    values = torch.arange(1.0, 2 * depth + 1).mul(factor)[None, :, None, None].expand(2, -1, 7, 9)
    x = values.contiguous(memory_format=layout).requires_grad_()
    y = sgenet.spatial_group_enhance(x, torch.ones(2), torch.zeros(2), 2)
    # Sums over many channels are rounded in more than one way, and what they differ by is divided by eps.
    close((y / x).detach(), torch.full_like(x, 0.5), 1e-4)
    y.backward(torch.ones_like(y))
    assert x.grad.abs().max() < 1 + 1e-6 * depth * x.detach().max() ** 2 / 1e-5


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("mean", [1e3, 1e4])
def test_a_large_mean_costs_no_digits(backend, layout, mean):
    x = (drawn((2, 8, 9, 11)) + mean).contiguous(memory_format=layout)
    weight, bias = drawn((2,)), drawn((2,), seed=1)
    expected = enhanced(x.double(), weight.double(), bias.double(), 2)
    # The mean itself is rounded, by which a difference from it is off.
    close(sgenet.spatial_group_enhance(x, weight, bias, 2) / mean, expected / mean, 1e-7 * mean**0.5)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_stays_where_the_formula_leaves_it(backend, layout, value, dtype):
    x, residual = drawn((2, 16, 5, 6), dtype, layout), drawn((2, 16, 5, 6), dtype, layout, seed=1)
    x[0, 5, 2, 3] = value
    residual[1, 2, 0, 0] = value
    weight, bias = drawn((4,)), drawn((4,), seed=1)
    for relu in (False, True):
        y = sgenet.spatial_group_enhance(x, weight, bias, 4, residual=residual, relu=relu)
        expected = enhanced(x.double(), weight.double(), bias.double(), 4, residual=residual.double(), relu=relu)
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y.isinf(), expected.isinf())
        assert y[0, 8:].isfinite().all()


@pytest.mark.parametrize("layout", [NCHW, NHWC])
def test_nothing_of_a_result_is_left_from_what_was_in_memory(backend, layout, monkeypatch):
    empty_like, empty = torch.empty_like, torch.empty

    def poisoned(allocate):
        def call(*args, **kwargs):
            made = allocate(*args, **kwargs)
            return made.fill_(float("nan")) if made.is_floating_point() and made.device.type == "cpu" else made

        return call

    x, grad = drawn((3, 24, 7, 7), layout=layout), drawn((3, 24, 7, 7), layout=layout, seed=1)
    monkeypatch.setattr(torch, "empty_like", poisoned(empty_like))
    monkeypatch.setattr(torch, "empty", poisoned(empty))
    check_all_gradients(x, drawn((6,)), drawn((6,), seed=2), 6, x.flip(1), True, grad)


def test_two_threads_at_once_get_what_each_gets_alone(backend):
    inputs = [drawn((2, 64, 28, 28), layout=layout, seed=i) for i, layout in enumerate((NCHW, NHWC, NHWC, NCHW))]
    weight, bias = drawn((16,)), drawn((16,), seed=1)
    alone = [sgenet.spatial_group_enhance(x, weight, bias, 16) for x in inputs]
    together: list[list[Tensor]] = [[] for _ in inputs]

    def work(which):
        for _ in range(20):
            together[which].append(sgenet.spatial_group_enhance(inputs[which], weight, bias, 16))

    threads = [threading.Thread(target=work, args=(which,)) for which in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, results in zip(alone, together, strict=True):
        assert len(results) == 20
        assert all(torch.equal(y, expected) for y in results)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("add", [False, True])
def test_written_over_its_input_it_is_the_same(backend, layout, add):
    x, residual = drawn((2, 24, 7, 9), layout=layout), drawn((2, 24, 7, 9), layout=layout, seed=1)
    weight, bias = drawn((6,)), drawn((6,), seed=1)
    expected = sgenet.spatial_group_enhance(x, weight, bias, 6, residual=residual if add else None, relu=True)
    y = ops.spatial_group_enhance_(x, weight, bias, 6, residual=residual if add else None, relu=True)
    assert y is x
    close(x, expected, 1e-6)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("in_half", [False, True])
@pytest.mark.parametrize("with_weight", [False, True])
def test_with_a_norm_in_front(backend, layout, in_half, with_weight):
    x = drawn((2, 24, 7, 9), torch.bfloat16 if in_half else torch.float32, layout)
    mean, variance, factor, summand = (drawn((24,), seed=seed) for seed in range(4))
    norm = Norm(mean, variance.square(), factor if with_weight else None, summand if with_weight else None, 1e-3)
    weight, bias = drawn((6,)), drawn((6,), seed=1)
    mapped = F.batch_norm(x.double(), *(None if v is None else v.double() for v in norm[:4]), eps=norm.eps)
    expected = enhanced(mapped, weight.double(), bias.double(), 6, scale=1.5)
    y = ops.spatial_group_enhance_(x, weight, bias, 6, scale=1.5, norm=norm)
    close(y, expected, 2**-8 if in_half else 1e-5)


def test_what_wants_a_gradient_is_not_overwritten(backend):
    with pytest.raises(ConfigError, match=r"overwrites its input.*sgenet::spatial_group_enhance$"):
        ops.spatial_group_enhance_(drawn((1, 4, 2, 2)).requires_grad_(), torch.ones(2), torch.ones(2), 2)
    x, kept = drawn((1, 4, 2, 2)), torch.ones(1, 4, 2, 2, requires_grad=True)
    product = kept * x
    with torch.no_grad():
        ops.spatial_group_enhance_(x, torch.ones(2), torch.ones(2), 2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_batch_norm_in_front_and_all_its_gradients(backend, layout, add, kept, dtype):
    """With the statistics of its input, as in training, and with its own, as in eval mode."""
    if dtype == torch.float64 and backend != "reference":
        pytest.skip("kernels have no float64")
    shape = (4, 24, 5, 7)
    x, residual, grad = (drawn(shape, dtype, layout, seed) * (seed + 1) + seed for seed in range(3))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    parameters = [drawn((n,), wide, seed=9 + i) for i, n in enumerate((24, 24, 6, 6))]
    own = [t.clone().requires_grad_() for t in (x, *parameters, residual)]
    statistics = [drawn((24,), wide, seed=7), drawn((24,), wide, seed=8).square() + 0.1] if kept else [None, None]
    y, mean, variance = ops.batch_norm_spatial_group_enhance(
        *own[:3], 1e-3, *own[3:5], 6, 1e-5, 1.25, own[5] if add else None, True, *statistics
    )
    y.backward(grad)
    exact = [t.detach().double().requires_grad_() for t in own]
    running = [t.double() if kept else None for t in statistics]
    normed = torch.nn.functional.batch_norm(exact[0], *running, *exact[1:3], not kept, 0.0, 1e-3)
    expected = enhanced(normed, *exact[3:5], 6, scale=1.25, residual=exact[5] if add else None)
    close(y, expected.relu(), TOLERANCE[dtype], "y")
    of_x = (exact[0].mean((0, 2, 3)), exact[0].var((0, 2, 3), correction=0))
    for one, exactly, tolerance in zip((mean, variance), statistics if kept else of_x, (1e-6, 1e-5), strict=True):
        close(one, exactly.double(), tolerance if dtype != torch.float64 else 1e-12)
    expected.backward(grad.double() * (y.detach() > 0))
    for name, one, exactly in zip(
        ("x", "norm weight", "norm bias", "weight", "bias", "residual"), own, exact, strict=True
    ):
        if name != "residual" or add:
            close(one.grad, exactly.grad, 4 * TOLERANCE[dtype], f"gradient of {name}")


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 12, 5, 7), (1, 3, 1, 1), (3, 64, 7, 7)])
@pytest.mark.parametrize("add", [False, True])
def test_scaled_channels_and_all_gradients(backend, layout, dtype, shape, add):
    x, residual, grad = (drawn(shape, dtype, layout, seed) for seed in range(3))
    own = [t.clone().requires_grad_() for t in (x, drawn(shape[:2], seed=4), residual)]
    y = ops.scale_channels(own[0], own[1], own[2] if add else None, relu=True)
    y.backward(grad)
    exact = [t.detach().double().requires_grad_() for t in own]
    expected = exact[0] * exact[1][:, :, None, None] + (exact[2] if add else 0)
    close(y, expected.relu(), TOLERANCE[dtype], "y")
    expected.backward(grad.double() * (y.detach() > 0))
    for name, one, exactly in zip(("x", "gate", "residual"), own, exact, strict=True):
        if name != "residual" or add:
            assert one.grad.dtype == one.dtype
            close(one.grad, exactly.grad, 4 * TOLERANCE[dtype], f"gradient of {name}")
    with torch.no_grad():
        again = x.clone()
        assert ops.scale_channels_(again, own[1].detach(), residual if add else None, relu=True) is again
    assert torch.equal(again, y)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 12, 5, 7), (1, 3, 1, 1), (3, 64, 7, 7)])
@pytest.mark.parametrize("norm", [False, True])
def test_means_of_channels_and_their_gradient(backend, layout, dtype, shape, norm):
    x = drawn(shape, dtype, layout).requires_grad_()
    values = [drawn(shape[1:2], seed=seed) for seed in range(1, 5)]
    values[1] = values[1].square() + 0.1
    means = ops.channel_means(x, Norm(*values, 1e-3) if norm else None)
    assert means.dtype == dtype
    exact = x.detach().double().requires_grad_()
    mean, variance, weight, bias = (v.double()[:, None, None] for v in values)
    normed = (exact - mean) / (variance + 1e-3).sqrt() * weight + bias
    expected = (normed if norm else exact).flatten(2).mean(2)
    close(means.detach(), expected.detach(), TOLERANCE[dtype], "means")
    grad = drawn(shape[:2], dtype, seed=6)
    means.backward(grad)
    expected.backward(grad.double())
    close(x.grad, exact.grad, TOLERANCE[dtype], "gradient of x")
    with torch.inference_mode():
        assert torch.equal(ops.channel_means(x.detach(), Norm(*values, 1e-3) if norm else None), means)


@pytest.mark.parametrize("shape", [(2, 6, 9), (2, 6, 3, 4, 5)])
def test_means_over_other_numbers_of_axes(shape):
    x = drawn(shape)
    close(ops.channel_means(x), x.double().flatten(2).mean(2), 1e-6)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [False, True])
def test_the_gate_of_squeeze_and_excitation(backend, layout, dtype, norm):
    x, grad = drawn((3, 12, 5, 7), dtype, layout), drawn((3, 12), seed=9)
    layers = [drawn(shape, dtype, seed=i) / 3 for i, shape in enumerate(((4, 12), (4,), (12, 4), (12,)), 1)]
    statistics = drawn((12,), seed=5), drawn((12,), seed=6).square() + 0.1, drawn((12,), seed=7), drawn((12,), seed=8)
    in_front = Norm(*statistics, 1e-3) if norm else None

    def gate_and_gradients(*tensors):
        tensors = [t.detach().clone().requires_grad_() for t in tensors]
        exact = tensors[0].dtype == torch.float64
        with ops.use_backend("reference") if exact else nullcontext():
            front = Norm(*(v.double() for v in statistics), 1e-3) if norm and exact else in_front
            gate = ops.squeeze_excite_gate(*tensors, front)
        return gate.detach(), torch.autograd.grad(gate, tensors, grad.to(gate.dtype))

    gate, gradients = gate_and_gradients(x, *layers)
    expected, exact_gradients = gate_and_gradients(x.double(), *(v.double() for v in layers))
    close(gate, expected, TOLERANCE[dtype], "gate")
    for own, exact in zip(gradients, exact_gradients, strict=True):
        close(own, exact, 8 * TOLERANCE[dtype], "gradient")
    means = x.double().mean((2, 3))
    if norm:
        mean, variance, weight, bias = (v.double() for v in statistics)
        means = (means - mean) / (variance + 1e-3).sqrt() * weight + bias
    weight1, bias1, weight2, bias2 = (v.double() for v in layers)
    close(expected, torch.sigmoid((means @ weight1.T + bias1).relu() @ weight2.T + bias2), 1e-12, "formula")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            close(ops.squeeze_excite_gate(x, *layers, in_front), expected, TOLERANCE[dtype], "without gradients")
            with NotingOperators() as noting:
                ops.squeeze_excite_gate(x, *layers, in_front)
            assert {"sgenet.channel_means.default", "aten.relu.default", "aten.sigmoid.default"} <= set(noting.seen)


def test_layers_that_do_not_fit_a_squeeze_are_named():
    x, weight1, weight2 = torch.ones(2, 8, 3, 3), torch.ones(2, 8), torch.ones(8, 2)
    with pytest.raises(ConfigError, match=r"weight1 has the shape \(2, 6\); for 8 channels and 2 hidden .* \(2, 8\)"):
        ops.squeeze_excite_gate(x, weight1[:, :6], None, weight2, None)
    with pytest.raises(ConfigError, match=r"weight2 has the shape \(8, 1\); .* give \(8, 2\)"):
        ops.squeeze_excite_gate(x, weight1, None, weight2[:, :1], None)
    with pytest.raises(ConfigError, match=r"bias2 has the shape \(2,\); .* give \(8,\)"):
        ops.squeeze_excite_gate(x, weight1, None, weight2, torch.ones(2))
    with pytest.raises(ConfigError, match="bias1 is on meta and the map on cpu"):
        ops.squeeze_excite_gate(x, weight1, torch.ones(2, device="meta"), weight2, None)


OPERATORS = {
    "channel_means": lambda x, r: (x,) if r is None else (x, torch.zeros(12), torch.ones(12), None, None, 1e-3),
    "spatial_group_enhance": lambda x, r: (x, torch.ones(3), torch.ones(3), 3, 1e-5, 1.5, r, True),
    "spatial_group_enhance_": lambda x, r: (x, torch.ones(3), torch.ones(3), 3, 1e-5, 1.5, r, True),
    "batch_norm_spatial_group_enhance": lambda x, r: (
        *(x, torch.ones(12), None, 1e-5, torch.ones(3), torch.ones(3), 3, 1e-5, 1.5, r, True),
        *((None, None) if r is None else (torch.zeros(12), torch.ones(12))),
    ),
    "scale_channels": lambda x, r: (x, x.mean((2, 3)).detach(), r, True),
    "scale_channels_": lambda x, r: (x, x.mean((2, 3)).detach(), r, True),
}


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("name", OPERATORS)
def test_torch_finds_schema_shapes_autograd_and_tracing_right(backend, layout, name):
    x, residual = drawn((2, 12, 5, 6), layout=layout), drawn((2, 12, 5, 6), layout=layout, seed=1)
    operator = getattr(torch.ops.sgenet, name).default
    for r in (None, residual):
        torch.library.opcheck(operator, OPERATORS[name](x.clone(), r))
        if not name.endswith("_"):
            torch.library.opcheck(operator, OPERATORS[name](x.clone().requires_grad_(), r))


def test_gradients_of_gradients():
    x = drawn((2, 6, 3, 4), torch.float64).requires_grad_()
    residual = drawn((2, 6, 3, 4), torch.float64, seed=1).requires_grad_()
    weight, bias = (drawn((2,), torch.float64, seed=i).requires_grad_() for i in (2, 3))
    norm = tuple(drawn((6,), torch.float64, seed=i).requires_grad_() for i in (4, 5))
    gate = drawn((2, 6), torch.float64, seed=6).requires_grad_()
    enhance, scale, normed = (
        torch.ops.sgenet.spatial_group_enhance,
        torch.ops.sgenet.scale_channels,
        torch.ops.sgenet.batch_norm_spatial_group_enhance,
    )
    assert torch.autograd.gradgradcheck(lambda *t: enhance(*t[:3], 2, 1e-5, 1.5, t[3]), (x, weight, bias, residual))
    assert torch.autograd.gradgradcheck(lambda *t: enhance(*t, 2, 1e-5, 1.5, None, True), (x, weight, bias))
    assert torch.autograd.gradgradcheck(lambda *t: scale(*t), (x, gate, residual))
    assert torch.autograd.gradgradcheck(lambda x: torch.ops.sgenet.channel_means(x).square(), (x,))
    statistics = drawn((6,), torch.float64, seed=7), drawn((6,), torch.float64, seed=8).square() + 0.1
    for kept in ((None, None), statistics):
        assert torch.autograd.gradgradcheck(
            lambda *t, kept=kept: normed(*t[:3], 1e-3, *t[3:5], 2, 1e-5, 1.0, t[5], False, *kept)[0],
            (x, *norm, weight, bias, residual),
        )


def test_transforms_of_functions():
    module = sgenet.SpatialGroupEnhance(8, groups=2)
    nn.init.normal_(module.weight)
    x, tangent = drawn((3, 8, 4, 5)), drawn((3, 8, 4, 5), seed=1)
    together = module(x)
    close(torch.func.vmap(lambda one: module(one[None])[0])(x), together, 1e-6)
    _, forward_mode = torch.func.jvp(module, (x,), (tangent,))
    step = 1e-4
    exact = module.double()
    slope = (exact(x.double() + step * tangent) - exact(x.double() - step * tangent)) / (2 * step)
    close(forward_mode, slope.detach(), 1e-3)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
def test_autocast_promotes_a_sum_and_nothing_else(backend, layout):
    x, residual = drawn((2, 8, 4, 5), torch.bfloat16, layout), drawn((2, 8, 4, 5), layout=layout, seed=1)
    weight, bias = drawn((2,)), drawn((2,), seed=1)
    with pytest.raises(ConfigError, match=r"the residual is torch.float32 and the map torch.bfloat16; convert one"):
        sgenet.spatial_group_enhance(x, weight, bias, 2, residual=residual)
    with torch.autocast("cpu", torch.bfloat16):
        y = sgenet.spatial_group_enhance(x, weight, bias, 2, residual=residual)
        scaled = ops.scale_channels(x, x.mean((2, 3)), residual)
        assert sgenet.spatial_group_enhance(x, weight, bias, 2).dtype == torch.bfloat16
        assert sgenet.spatial_group_enhance(x.float(), weight, bias, 2).dtype == torch.float32
    assert y.dtype == scaled.dtype == torch.float32
    close(y, enhanced(x.double(), weight.double(), bias.double(), 2, residual=residual.double()), 1e-5)


class Noting:
    """Notes the name of what is called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def note(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class NotingOperators(Noting, TorchDispatchMode):
    __torch_dispatch__ = Noting.note


class NotingFunctions(Noting, TorchFunctionMode):
    __torch_function__ = Noting.note


class Wrapped(Tensor):
    """A tensor whose values lie in another one; no kernel can read them where it says that they are."""

    @staticmethod
    def __new__(cls, inner):
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(*(a.inner if isinstance(a, cls) else a for a in args), **(kwargs or {}))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_whoever_watches_operators_sees_them_without_gradients_too(backend, mode):
    two = torch.ones(2)
    calls = {
        "sgenet.channel_means.default": lambda x: ops.channel_means(x),
        "sgenet.spatial_group_enhance.default": lambda x: sgenet.spatial_group_enhance(x, two, two, 2, residual=x),
        "sgenet.spatial_group_enhance_.default": lambda x: ops.spatial_group_enhance_(x, two, two, 2),
        "sgenet.scale_channels.default": lambda x: ops.scale_channels(x, x[:, :, 0, 0]),
        "sgenet.scale_channels_.default": lambda x: ops.scale_channels_(x, torch.ones(2, 8)),
    }
    for name, call in calls.items():
        with mode():
            for noting in (NotingOperators(), NotingFunctions()):
                with noting:
                    call(drawn((2, 8, 4, 5)))
                assert name in noting.seen
            with torch.profiler.profile() as profile:
                call(drawn((2, 8, 4, 5)))
            assert name.removesuffix(".default").replace(".", "::") in {event.key for event in profile.key_averages()}


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
def test_what_carries_more_than_values_is_not_lost_without_gradients(backend):
    x, direction = drawn((2, 8, 4, 5)), drawn((2, 8, 4, 5), seed=1)
    weight, bias = drawn((2,)), drawn((2,), seed=1)

    def enhanced(one):
        return ops.spatial_group_enhance_(one.clone(), weight, bias, 2)

    with torch.no_grad():
        expected = enhanced(x)
        close(torch.func.vmap(lambda one: enhanced(one[None])[0])(x), expected, 1e-6)
        traced = torch.jit.trace(enhanced, x)
        other = x.flip(0)
        close(traced(other), enhanced(other), 1e-6)
        with forward_ad.dual_level():
            _, tangent = forward_ad.unpack_dual(enhanced(forward_ad.make_dual(x, direction)))
    close(tangent, torch.func.jvp(enhanced, (x,), (direction,))[1], 1e-6)


def test_a_gate_or_a_layer_that_lies_across_is_refused_without_gradients_too(backend):
    x, layer = drawn((2, 8, 4, 5)), torch.ones(4, 8)
    with torch.no_grad():
        for call in (ops.scale_channels, ops.scale_channels_):
            with pytest.raises(ConfigError, match=r"\(8, 2\).*\(2, 8\)"):
                call(x, torch.ones(8, 2))
        with pytest.raises(ConfigError, match=r"weight2 has the shape \(4, 8\)"):
            ops.squeeze_excite_gate(x, layer, None, layer, None)


@pytest.mark.parametrize("which", ["x", "weight", "residual"])
def test_tensors_with_rules_of_their_own_are_asked_for_them(backend, which):
    tensors = {"x": drawn((2, 8, 4, 5)), "weight": drawn((2,)), "bias": drawn((2,), seed=1)}
    tensors["residual"] = drawn((2, 8, 4, 5), seed=2)
    with torch.no_grad():
        expected = sgenet.spatial_group_enhance(**tensors, groups=2)
        y = sgenet.spatial_group_enhance(**{**tensors, which: Wrapped(tensors[which])}, groups=2)
    assert type(y) is Tensor
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [NCHW, NHWC])
def test_with_and_without_gradients_the_bits_are_the_same(backend, layout, dtype):
    x, residual = drawn((2, 8, 4, 5), dtype, layout), drawn((2, 8, 4, 5), layout=layout, seed=1)
    weight, bias, gate = drawn((2,)), drawn((2,), seed=1), drawn((2, 8), seed=2)

    def computed():
        with torch.autocast("cpu", torch.bfloat16):
            enhanced_sum = sgenet.spatial_group_enhance(x, weight, bias, 2, residual=residual, relu=True)
            scaled_sum = ops.scale_channels(x, gate, residual, True)
        return [sgenet.spatial_group_enhance(x, weight, bias, 2), ops.scale_channels(x, gate), enhanced_sum, scaled_sum]

    weight.requires_grad_()
    gate.requires_grad_()
    with_gradients = computed()
    assert all(y.requires_grad for y in with_gradients)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for own, expected in zip(computed(), with_gradients, strict=True):
                assert own.dtype == expected.dtype
                assert own.stride() == expected.stride()
                assert torch.equal(own, expected.detach())


def test_what_does_not_fit_is_named():
    x, two = torch.zeros(2, 8, 4, 4), torch.zeros(2)
    with pytest.raises(ConfigError, match=r"the residual has the shape \(1, 8, 4, 4\) and the map \(2, 8, 4, 4\)"):
        sgenet.spatial_group_enhance(x, two, two, 2, residual=x[:1])
    with pytest.raises(ConfigError, match=r"the gate has the shape \(2, 4\); a map .* takes one of \(2, 8\)"):
        ops.scale_channels(x, torch.zeros(2, 4))


def test_what_lies_elsewhere_or_has_another_size_is_named():
    x, two = torch.zeros(2, 8, 4, 4), torch.zeros(2)
    nowhere = torch.zeros(2, device="meta")
    with pytest.raises(ConfigError, match=r"weight is on meta and the map on cpu; bring both together with .to\(\)"):
        sgenet.spatial_group_enhance(x, nowhere, two, 2)
    with pytest.raises(ConfigError, match=r"the gate is on meta and the map on cpu"):
        ops.scale_channels(x, torch.zeros(2, 8, device="meta"))
    with pytest.raises(ConfigError, match=r"the residual is on meta and the map on cpu"):
        sgenet.spatial_group_enhance(x, two, two, 2, residual=x.to("meta"))
    with pytest.raises(ConfigError, match=r"takes floating-point input, not torch.int64"):
        ops.scale_channels(torch.ones(2, 8, 4, 4, dtype=torch.int64), torch.zeros(2, 8))
    with pytest.raises(ConfigError, match=r"channel_means takes floating-point input, not torch.int64"):
        ops.channel_means(torch.ones(2, 8, 4, 4, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"channel_means takes \(batch, channels, \*spatial\), not .* \(2, 8\)"):
        ops.channel_means(torch.ones(2, 8))
    learning = torch.ones(8, requires_grad=True)
    with pytest.raises(ConfigError, match=r"the norm in front of channel_means wants a gradient.* apply the norm"):
        ops.channel_means(x, Norm(torch.zeros(8), torch.ones(8), learning, None, 1e-5))
    one = torch.ones(1)
    for overwrite in (
        lambda norm: ops.channel_means(x, norm),
        lambda norm: ops.scale_channels_(x, torch.ones(2, 8), norm=norm),
        lambda norm: ops.spatial_group_enhance_(x, two, two, 2, norm=norm),
    ):
        with pytest.raises(ConfigError, match=r"the norm has a tensor of 1 values, and the map 8 channels"):
            overwrite(Norm(one, one, None, None, 0.0))
    with pytest.raises(ConfigError, match=r"the norm has a tensor of 1 values, and the map 8 channels"):
        ops.batch_norm_spatial_group_enhance(x, one, None, 1e-5, two, two, 2)


@pytest.mark.parametrize("eps", [0.0, -1e-5, float("nan")])
def test_eps_must_be_positive(eps):
    x, two = torch.ones(2, 8, 4, 4), torch.ones(2)
    for call in (
        lambda: sgenet.spatial_group_enhance(x, two, two, 2, eps),
        lambda: ops.spatial_group_enhance_(x, two, two, 2, eps),
        lambda: ops.batch_norm_spatial_group_enhance(x, None, None, 1e-5, two, two, 2, eps),
    ):
        with pytest.raises(ConfigError, match=f"eps={eps} must be positive"):
            call()


@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_written_over_has_no_place_for_a_wider_sum(autocast):
    x, two = torch.ones(2, 8, 4, 4, dtype=torch.bfloat16), torch.ones(2)
    for call in (
        lambda: ops.spatial_group_enhance_(x, two, two, 2, residual=x.float()),
        lambda: ops.scale_channels_(x, torch.ones(2, 8), x.float()),
    ):
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            pytest.raises(ConfigError, match=r"the residual is torch\.float32 and the map torch\.bfloat16"),
        ):
            call()
    assert torch.equal(x, torch.ones_like(x))


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the CPU kernels are not built")
def test_an_operator_that_is_called_directly_reads_nothing_that_is_not_there():
    x, two = torch.ones(2, 8, 2, 2), torch.ones(2)
    enhance, scale = torch.ops.sgenet.spatial_group_enhance, torch.ops.sgenet.scale_channels
    for call in (
        lambda: enhance(x, two, two, 0, 1e-5),
        lambda: enhance(x, two, two, 3, 1e-5),
        lambda: enhance(x, two, two, 4, 1e-5),
        lambda: enhance(x, two, two, 2, 1e-5, 1.0, x[:1]),
        lambda: scale(x, torch.ones(1, 2), None, False),
    ):
        with pytest.raises(ConfigError):
            call()


def test_what_is_written_over_in_inference_mode_is_missed_by_a_gradient(backend):
    two, weight = torch.ones(2), torch.ones(2, 8, 4, 4, requires_grad=True)
    for overwrite in (
        lambda z: ops.spatial_group_enhance_(z, two, two, 2),
        lambda z: ops.scale_channels_(z, torch.ones(2, 8)),
    ):
        for mode in (torch.inference_mode, torch.no_grad):
            kept = drawn((2, 8, 4, 4))
            product, before = weight * kept, kept._version
            with mode():
                overwrite(kept)
            assert kept._version > before  # by one, or by what the backend wrote in several steps
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                product.sum().backward()


def test_operators_that_are_called_directly_have_derivatives_along_a_direction(backend):
    x, direction = drawn((2, 8, 4, 4)), drawn((2, 8, 4, 4), seed=1)
    weight, bias, step = drawn((2,)), drawn((2,), seed=1), 1e-6
    calls = {
        "enhance": lambda x, *p: torch.ops.sgenet.spatial_group_enhance(x, *p, 2, 1e-5),
        "means": lambda x, w, b: torch.ops.sgenet.channel_means(x),
        "scale": lambda x, w, b: torch.ops.sgenet.scale_channels(x, x.mean((2, 3)), None, False),
        "norm": lambda x, *p: torch.ops.sgenet.batch_norm_spatial_group_enhance(x, None, None, 1e-5, *p, 2, 1e-5)[0],
    }
    for name, call in calls.items():
        with ops.use_backend("reference"):
            ends = [call(x.double() + s * step * direction.double(), weight.double(), bias.double()) for s in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step)
        _, along = torch.func.jvp(lambda x, call=call: call(x, weight, bias), (x,), (direction,))
        close(along, slope, 1e-3, name)


def test_a_residual_alone_may_want_second_derivatives(backend):
    x, residual = drawn((2, 8, 4, 4)), drawn((2, 8, 4, 4), seed=1).requires_grad_()
    for y in (
        sgenet.spatial_group_enhance(x, torch.ones(2), torch.ones(2), 2, residual=residual, relu=True),
        ops.scale_channels(x, torch.ones(2, 8), residual, relu=True),
    ):
        (grad,) = torch.autograd.grad(y.sum(), residual, create_graph=True)
        assert torch.equal(grad, (y > 0).float())


def test_a_residual_that_shares_a_part_of_the_memory(backend):
    buffer, two = drawn((3, 8, 4, 4)), torch.ones(2)
    expected = sgenet.spatial_group_enhance(buffer[1:].clone(), two, two, 2, residual=buffer[:2].clone())
    try:
        ops.spatial_group_enhance_(buffer[1:], two, two, 2, residual=buffer[:2])
    except RuntimeError:  # torch's own answer, by which nothing is wrong
        return
    close(buffer[1:], expected, 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_norms_kept_statistics_may_be_of_another_dtype(backend, dtype):
    x, two = drawn((2, 8, 4, 4)).requires_grad_(), torch.ones(2)
    mean, variance = drawn((8,), dtype), drawn((8,), dtype, seed=1).square() + 0.5
    found = []
    for kept in ((mean, variance), (mean.float(), variance.float())):
        y = ops.batch_norm_spatial_group_enhance(x, None, None, 1e-5, two, two, 2, mean=kept[0], variance=kept[1])[0]
        found.append((y, *torch.autograd.grad(y.square().sum(), x)))
    for ours, expected in zip(*found, strict=True):
        close(ours.detach(), expected.detach(), 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_in_half_precision_learns(backend, dtype):
    if (backend, dtype) == ("cpu", torch.float16):
        pytest.skip("kernels have no float16")
    x, two = drawn((2, 8, 4, 4), dtype).requires_grad_(), torch.ones(2)
    weight, bias = (torch.ones(8, dtype=dtype, requires_grad=True) for _ in range(2))
    y = ops.batch_norm_spatial_group_enhance(x, weight, bias, 1e-5, two, two, 2)[0]
    y.float().square().sum().backward()
    for tensor in (x, weight, bias):
        assert tensor.grad.dtype == dtype
        assert tensor.grad.isfinite().all()


def test_statistics_of_nothing_are_no_numbers(backend):
    _, mean, variance = ops.batch_norm_spatial_group_enhance(
        torch.empty(0, 8, 4, 4), None, None, 1e-5, torch.ones(2), torch.ones(2), 2
    )
    assert mean.isnan().all()
    assert variance.isnan().all()


def test_checkpointed_activations_give_the_same_gradients(backend):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), sgenet.SpatialGroupEnhance(8, groups=2))
    nn.init.normal_(module[1].weight)
    x = drawn((2, 3, 8, 8))
    module(x).square().sum().backward()
    expected = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False).square().sum().backward()
    for parameter, grad in zip(module.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, grad)


class Direct(nn.Module):
    """Calls the operators by name, as no module of sgenet does under an exporter."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = torch.ops.sgenet.spatial_group_enhance(x, weight, bias, 2, 1e-5)
        return torch.ops.sgenet.scale_channels(y, y.mean((2, 3)), x, True)


def names_of_sgenet(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if "sgenet" in str(node.target)]


def test_exported_programs_need_no_sgenet(backend):
    dynamic = torch.export.Dim.DYNAMIC
    module = sgenet.SpatialGroupEnhance(8, groups=2).eval()
    program = torch.export.export(
        module, (drawn((2, 8, 4, 5)),), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},)
    )
    assert names_of_sgenet(program) == []
    direct = Direct()
    example = (drawn((2, 8, 4, 5)), drawn((2,)), drawn((2,), seed=1))
    program = torch.export.export(direct, example)
    assert len(names_of_sgenet(program)) == 2
    plain = program.run_decompositions(ops.decompositions())
    assert names_of_sgenet(plain) == []
    close(plain.module()(*example), direct(*example), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sge", "se"])
def test_onnx_programs_take_any_size(backend, name, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), sgenet.create_attention(name, 8, **{"sge": {"groups": 2}}.get(name, {}))
    )
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    dynamic = torch.export.Dim.DYNAMIC
    file = tmp_path / "module.onnx"
    shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
    torch.onnx.export(module.eval(), (drawn((2, 3, 4, 5)),), file, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for shape in ((2, 3, 4, 5), (1, 3, 1, 1), (3, 3, 9, 6)):
        x = drawn(shape, seed=7)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        close(torch.from_numpy(y), module(x).detach(), 1e-5, str(shape))


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_compiled_it_is_one_graph_without_copies_of_the_layout(backend, training):
    from torch._inductor.utils import run_and_get_code

    torch.compiler.reset()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, bias=False), sgenet.SpatialGroupEnhance(32, groups=8), nn.Conv2d(32, 4, 3, bias=False)
    ).to(memory_format=NHWC)
    nn.init.normal_(net[1].weight)
    x = drawn((2, 3, 12, 12), layout=NHWC)
    compiled = torch.compile(net, fullgraph=True)
    with torch.set_grad_enabled(training):
        y, (code, *_) = run_and_get_code(compiled, x)
        expected = net(x)
    close(y.detach(), expected.detach(), 1e-5)
    assert ("torch.ops.sgenet.spatial_group_enhance" in code) == (backend != "reference")
    assert "32*100, 1, " not in code.replace(" ", "")
    if training:
        y.sum().backward()
        grads = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        expected.sum().backward()
        for grad, parameter in zip(grads, net.parameters(), strict=True):
            close(grad, parameter.grad, 1e-4)
