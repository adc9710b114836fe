"""The Triton kernels against the float64 reference: on a GPU where there is one, else in Triton's interpreter.

Triton reads TRITON_INTERPRET when it is imported, and for a whole process. So without a GPU these tests run in a
process of their own, started by `test_under_the_interpreter`, and other tests keep a Triton that compiles.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sgenet.ops import spatial_group_enhance
from sgenet.ops.reference import Norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DIRECT = DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if DIRECT:
    from sgenet.ops import triton_kernels


def directly(test):
    """The test, or nothing to collect in the process that leaves it to another."""
    return test if DIRECT else None


NCHW, NHWC = torch.contiguous_format, torch.channels_last
EPS, SCALE = 1e-5, 1.5

# Half precision: y and dx are float32 sums rounded once, by at most 2^-11 and 2^-8 of the value, but by 2^-7 in the
# interpreter, which cuts bfloat16 off. float32: dozens of roundings of 2^-24, and a GPU's quick divisions. All relative
# to the largest value of the tensor.
CUT = 2 if DEVICE == "cpu" else 1
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2**-11 * 1.01, torch.bfloat16: CUT * 2**-8 * 1.01}
# What stays in float32 whatever x is: g, and the gradients of γ and β.
SUMS = 1e-5


@pytest.mark.skipif(DIRECT, reason="the tests run directly")
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_under_the_interpreter(which):
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", which, str(Path(__file__))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """Every tensor starts as NaN, so that an element that no kernel writes is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(shape, groups, dtype, layout, parameters=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, residual, grad = (torch.randn(shape, generator=generator).to(dtype) + 0.25 for _ in range(3))
    weight, bias = (torch.randn(groups, generator=generator).to(parameters) for _ in range(2))
    x, residual, grad = (v.to(DEVICE).contiguous(memory_format=layout) for v in (x, residual, grad))
    return SimpleNamespace(x=x, residual=residual, grad=grad, weight=weight.to(DEVICE), bias=bias.to(DEVICE), norm=None)


def draw_norm(channels):
    """With summands far from 0: an element outside the map would stand out."""
    generator = torch.Generator().manual_seed(5)
    mean, variance, weight, bias = (torch.rand(channels, generator=generator) + 0.5 for _ in range(4))
    weight[::2] *= -1
    mean[1::2] *= -1
    return Norm(*(v.to(DEVICE) for v in (mean, variance, weight, bias)), 1e-3)


def tile_option(tile):
    return {} if tile is None else {"largest_tile": tile}


def by_kernels(case, groups, add, relu, tile=None, eps=EPS):
    options = {"norm": case.norm, **tile_option(tile)}
    residual = case.residual if add else None
    y, semantic, statistics = triton_kernels.forward(
        case.x, case.weight, case.bias, groups, eps, SCALE, residual, relu, **options
    )
    saved = y if relu else None
    dx, dweight, dbias, dresidual = triton_kernels.backward(
        case.grad, case.x, saved, case.weight, case.bias, semantic, statistics, groups, eps, SCALE, add, relu, **options
    )
    return SimpleNamespace(y=y, semantic=semantic, dx=dx, dweight=dweight, dbias=dbias, dresidual=dresidual)


def by_reference(case, groups, add, relu, y, eps=EPS):
    """In float64. The gradient passes the ReLU where it passed in `y`: rounding may decide otherwise close to 0.

    With a norm, what is called x here is the map behind it.
    """
    names = ("x", "weight", "bias", "residual") if add else ("x", "weight", "bias")
    values = {name: getattr(case, name).double() for name in names}
    if case.norm is not None:
        mean, variance, factor, shift = (v.double()[:, None, None] for v in case.norm[:4])
        values["x"] = (values["x"] - mean) / (variance + case.norm.eps).sqrt() * factor + shift
    inputs = [value.requires_grad_() for value in values.values()]
    sums = spatial_group_enhance(*inputs[:3], groups, eps, SCALE)
    if add:
        sums = sums + inputs[3]
    grad = case.grad.double()
    gradients = torch.autograd.grad(sums, inputs, torch.where(y <= 0, 0.0, grad) if relu else grad)
    return SimpleNamespace(
        y=(sums.relu() if relu else sums).detach(),
        semantic=values["x"].detach().mean((2, 3)),
        **{f"d{name}": gradient for name, gradient in zip(names, gradients, strict=True)},
    )


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, what
    error = (actual.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-3)
    assert error <= tolerance, f"{what}: {error:.2e} of its largest value"


def check(shape, groups, dtype=torch.float32, layout=NCHW, add=True, relu=True, tile=None, norm=False):
    case = draw(shape, groups, dtype, layout)
    case.norm = draw_norm(shape[1]) if norm else None
    ours = by_kernels(case, groups, add, relu, tile)
    expected = by_reference(case, groups, add, relu, ours.y)
    assert ours.y.dtype == ours.dx.dtype == dtype
    assert ours.y.stride() == ours.dx.stride() == case.x.stride()
    for name in ("y", "dx"):
        assert_close(getattr(ours, name), getattr(expected, name), TOLERANCE[dtype], name)
    for name in ("semantic", "dweight", "dbias"):
        assert_close(getattr(ours, name), getattr(expected, name), SUMS, name)
    if add:
        assert torch.equal(ours.dresidual.double(), expected.dresidual)
    else:
        assert ours.dresidual is None


# Groups of a power of two and of other sizes, one and several in a block, maps of every kind; tile=None keeps the map
# on the chip, a number walks over it in tiles of that many elements.
SHAPES = [
    ((2, 8, 4, 4), 2, None),
    ((2, 8, 4, 4), 2, 32),
    ((1, 12, 3, 5), 4, None),
    ((2, 12, 5, 3), 4, 16),
    ((1, 30, 7, 3), 5, 64),
    ((2, 6, 1, 1), 2, None),
    ((1, 6, 1, 7), 6, None),
    ((1, 6, 7, 1), 6, 4),
    ((1, 7, 3, 3), 1, None),
    ((1, 7, 3, 3), 1, 16),
    ((2, 1, 2, 3), 1, None),
    ((2, 15, 3, 3), 5, None),
]


@directly
@pytest.mark.parametrize(("shape", "groups", "tile"), SHAPES)
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
def test_agrees_with_the_reference(shape, groups, tile, layout):
    check(shape, groups, layout=layout, tile=tile)


@directly
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("tile", [None, 16])
def test_half_precision_is_rounded_once(dtype, layout, tile):
    check((1, 12, 3, 5), 4, dtype, layout, tile=tile)


@directly
@pytest.mark.parametrize(("add", "relu"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("tile", [None, 16])
def test_residual_and_relu_are_independent(add, relu, layout, tile):
    check((1, 12, 3, 4), 4, layout=layout, add=add, relu=relu, tile=tile)


@directly
@pytest.mark.parametrize(
    ("shape", "groups", "tile"),
    [
        ((2, 6, 3, 5), 2, None),
        ((1, 6, 5, 3), 2, 32),
        ((1, 8, 4, 4), 2, 32),
        ((2, 6, 1, 1), 2, None),
        ((1, 10, 3, 3), 5, None),
    ],
)
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(("add", "relu"), [(False, False), (True, True)])
def test_a_norm_in_front_is_folded_in(shape, groups, tile, layout, add, relu):
    check(shape, groups, layout=layout, add=add, relu=relu, tile=tile, norm=True)


@directly
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("tile", [None, 16])
def test_what_a_norm_makes_is_not_rounded(layout, tile):
    check((1, 6, 3, 5), 2, torch.float16, layout, tile=tile, norm=True)


@directly
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("tile", [None, 16])
def test_a_norm_whose_factor_is_zero_makes_a_constant_map(layout, tile):
    """As the last batch norm of a branch does at the start of many trainings."""
    case = draw((1, 6, 3, 5), 2, torch.float32, layout)
    case.norm = draw_norm(6)._replace(weight=torch.zeros(6, device=DEVICE))
    ours = by_kernels(case, 2, add=False, relu=False, tile=tile)
    gate = SCALE * case.bias.sigmoid().repeat_interleave(3)
    torch.testing.assert_close(
        ours.y, (case.norm.bias * gate)[None, :, None, None].expand_as(ours.y), rtol=1e-6, atol=0
    )
    expected = by_reference(case, 2, add=False, relu=False, y=ours.y)
    for name in ("dx", "dbias"):
        assert_close(getattr(ours, name), getattr(expected, name), 1e-5, name)


@directly
@pytest.mark.parametrize("target", ["x", "residual"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("tile", [None, 16])
def test_in_place_gives_the_bits_of_out_of_place(target, norm, layout, tile):
    case = draw((1, 6, 3, 5), 2, torch.bfloat16, layout)
    options = {"norm": draw_norm(6) if norm else None, **tile_option(tile)}

    def run(out):
        return triton_kernels.forward(
            case.x, case.weight, case.bias, 2, EPS, SCALE, case.residual, True, out=out, **options
        )

    expected = run(None)
    other = case.residual if target == "x" else case.x
    untouched = other.clone()
    out = getattr(case, target)
    within = run(out)
    assert within[0] is out
    assert torch.equal(other, untouched)
    for actual, wanted in zip(within, expected, strict=True):
        assert torch.equal(actual, wanted)


@directly
@pytest.mark.parametrize("target", ["x", "residual"])
def test_in_place_where_the_kernel_needs_a_copy(target):
    case = draw((2, 6, 3, 8), 2, torch.float32, NHWC)
    case.x, case.residual = case.x[..., ::2], case.residual[..., ::2]
    expected, *_ = triton_kernels.forward(case.x, case.weight, case.bias, 2, EPS, SCALE, case.residual, True)
    out = getattr(case, target)
    y, *_ = triton_kernels.forward(case.x, case.weight, case.bias, 2, EPS, SCALE, case.residual, True, out=out)
    assert y is out
    assert torch.equal(y, expected)


@directly
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("shape", "groups", "tile"),
    [
        ((2, 64, 56, 56), 16, None),
        ((2, 32, 28, 28), 4, None),
        ((2, 64, 14, 14), 4, 1024),
        ((3, 64, 7, 7), 2, None),
        ((2, 96, 13, 9), 8, 512),
        ((1, 40, 1, 129), 8, 256),
        ((1, 4096, 2, 2), 1, None),
        ((1, 4096, 2, 2), 4096, None),
        ((1, 8, 96, 96), 2, None),
        ((1, 1, 512, 600), 1, None),
    ],
)
@pytest.mark.parametrize(("add", "relu", "norm"), [(False, False, False), (True, True, True)])
def test_agrees_with_the_reference_at_the_sizes_of_networks(shape, groups, tile, layout, dtype, add, relu, norm):
    check(shape, groups, dtype, layout, add, relu, tile, norm)


@directly
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1])
def test_constant_maps_have_the_gate_of_the_bias_and_the_gradients_of_the_reference(layout, tile, value):
    case = draw((1, 6, 3, 5), 2, torch.float32, layout)
    case.x = torch.full_like(case.x, value)
    ours = by_kernels(case, 2, add=False, relu=False, tile=tile)
    # n is 0: the rounding of the sums must not be blown up by the division by ε.
    gate = SCALE * case.bias.sigmoid().repeat_interleave(3)[None, :, None, None]
    torch.testing.assert_close(ours.y, case.x * gate, rtol=1e-6, atol=0)
    assert not ours.dweight.any()
    expected = by_reference(case, 2, add=False, relu=False, y=ours.y)
    assert_close(ours.dx, expected.dx, 1e-5, "dx")
    assert_close(ours.dbias, expected.dbias, 1e-5, "dbias")


@directly
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
def test_a_single_position_has_no_gradient_through_the_similarity(layout):
    case = draw((2, 6, 1, 1), 2, torch.float32, layout)
    ours = by_kernels(case, 2, add=False, relu=False)
    assert not ours.dweight.any()
    gate = SCALE * case.bias.sigmoid().repeat_interleave(3)[None, :, None, None]
    torch.testing.assert_close(ours.dx, case.grad * gate)


@directly
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("tile", [None, 16])
def test_a_large_mean_costs_no_precision(layout, tile):
    """c - mean(c) is a small difference of large numbers here: formed after the sums, it would be rounding alone."""
    case = draw((1, 8, 4, 4), 2, torch.float32, layout)
    case.x = case.x + 1000
    ours = by_kernels(case, 2, add=False, relu=False, tile=tile)
    expected = by_reference(case, 2, add=False, relu=False, y=ours.y)
    assert_close(ours.y, expected.y, 1e-5, "y")
    assert_close(ours.dx, expected.dx, 1e-4, "dx")
    assert_close(ours.dweight, expected.dweight, 1e-4, "dweight")


@directly
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("relu", [False, True])
def test_values_that_are_not_finite_stay_in_their_group_as_in_the_reference(layout, tile, value, relu):
    case = draw((2, 6, 3, 3), 2, torch.float32, layout)
    case.x[0, 1, 2, 0] = value
    ours = by_kernels(case, 2, add=True, relu=relu, tile=tile)
    expected = by_reference(case, 2, add=True, relu=relu, y=ours.y)
    assert ours.y[0, :3].isnan().all()
    for name in ("y", "dx", "dweight", "dbias", "dresidual"):
        actual, wanted = getattr(ours, name), getattr(expected, name)
        assert torch.equal(actual.isnan(), wanted.isnan()), name
        torch.testing.assert_close(actual.double(), wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


@directly
@pytest.mark.parametrize("shape", [(0, 6, 3, 3), (2, 6, 0, 3)])
def test_an_empty_tensor_gives_zero_gradients(shape):
    case = draw(shape, 2, torch.float32, NCHW)
    ours = by_kernels(case, 2, add=True, relu=True)
    assert ours.y.shape == ours.dx.shape == ours.dresidual.shape == shape
    assert torch.equal(ours.dweight, torch.zeros_like(case.weight))
    assert torch.equal(ours.dbias, torch.zeros_like(case.bias))


@directly
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize(("channels", "groups"), [(15, 5), (10, 5)])
def test_nothing_is_written_behind_the_outputs(monkeypatch, layout, tile, channels, groups):
    """Blocks of groups and tiles of positions stick out over the end of a sample, behind which other tensors lie."""
    allocated = []
    empty = torch.empty

    def guarded(size, dtype=None, device=None, stride=None):
        allocated.append((empty(math.prod(size) + 4096, dtype=dtype, device=device), math.prod(size)))
        memory = allocated[-1][0]
        return memory[: math.prod(size)].view(size) if stride is None else memory.as_strided(size, stride)

    case = draw((1, channels, 3, 3), groups, torch.float32, layout)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", guarded)
        patched.setattr(torch, "empty_like", lambda x: guarded(x.shape, x.dtype, x.device, x.stride()))
        by_kernels(case, groups, add=True, relu=True, tile=tile)
    assert len(allocated) == 6
    for memory, used in allocated:
        assert not memory[:used].isnan().any()
        assert memory[used:].isnan().all()


@directly
def test_parameters_of_half_precision_and_eps():
    case = draw((2, 6, 3, 4), 3, torch.bfloat16, NHWC, parameters=torch.bfloat16)
    ours = by_kernels(case, 3, add=False, relu=False, eps=0.5)
    expected = by_reference(case, 3, add=False, relu=False, y=ours.y, eps=0.5)
    assert ours.dweight.dtype == ours.dbias.dtype == torch.bfloat16
    for name in ("y", "dx", "dweight", "dbias"):
        assert_close(getattr(ours, name), getattr(expected, name), TOLERANCE[torch.bfloat16], name)


@directly
@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
def test_gradients_and_residuals_of_other_layouts(layout):
    """A sum's gradient is expanded, and a residual may come from a part of the network in the other layout."""
    case = draw((2, 6, 3, 4), 2, torch.float32, layout)
    dense = by_kernels(case, 2, add=True, relu=True)
    case.residual = case.residual.contiguous(memory_format=NCHW if layout == NHWC else NHWC)
    case.x = torch.stack([case.x, case.x], -1)[..., 0]
    case.grad = torch.ones((), device=DEVICE).expand(case.x.shape)
    ours = by_kernels(case, 2, add=True, relu=True)
    assert torch.equal(ours.y, dense.y)
    expected = by_reference(case, 2, add=True, relu=True, y=ours.y)
    assert_close(ours.dx, expected.dx, TOLERANCE[torch.float32], "dx")
    assert torch.equal(ours.dresidual.double(), expected.dresidual)


@directly
def test_the_same_input_gives_the_same_bits():
    case = draw((2, 12, 5, 3), 4, torch.float32, NHWC)
    one, two = (by_kernels(case, 4, add=True, relu=True, tile=16) for _ in range(2))
    for name in ("y", "dx", "dweight", "dbias"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
