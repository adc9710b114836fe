"""The Triton kernels that scale channels, against float64: on a GPU where there is one, else in Triton's interpreter.

As in `test_triton_kernels.py`, they run in a process of their own without a GPU.
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

from sgenet.ops.reference import Norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DIRECT = DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if DIRECT:
    from sgenet.ops import triton_scaling
    from sgenet.ops.triton_scaling import scale_channels, scale_channels_backward


def directly(test):
    """The test, or nothing to collect in the process that leaves it to another."""
    return test if DIRECT else None


NCHW, NHWC = torch.contiguous_format, torch.channels_last
EACH_LAYOUT = pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])

# float32: a few roundings of 2^-24; half precision: a float32 result rounded once, but cut off in the interpreter where
# it is bfloat16. Relative to the largest value of the tensor.
CUT = 2 if DEVICE == "cpu" else 1
TOLERANCE = {torch.float32: 3e-7, torch.float16: 2**-11 * 1.01, torch.bfloat16: CUT * 2**-8 * 1.01}
# The gate's gradient is a sum in float32 whatever x is.
SUM = 2e-6


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


def draw(shape, dtype, layout, add=True, norm=False):
    generator = torch.Generator().manual_seed(0)
    x, residual, grad = (torch.randn(shape, generator=generator).to(dtype) + 0.25 for _ in range(3))
    x, residual, grad = (v.to(DEVICE).contiguous(memory_format=layout) for v in (x, residual, grad))
    gate = torch.rand(shape[:2], generator=generator).to(DEVICE)
    # The norm's summands are far from 0: an element outside the map would stand out.
    mean, variance, factor, summand = ((torch.rand(shape[1], generator=generator) + 0.5).to(DEVICE) for _ in range(4))
    factor[::2] *= -1
    mean[1::2] *= -1
    return SimpleNamespace(
        x=x,
        residual=residual if add else None,
        grad=grad,
        gate=gate,
        norm=Norm(mean, variance, factor, summand, 1e-3) if norm else None,
    )


def by_kernels(case, relu, tile=None):
    options = {"norm": case.norm} if tile is None else {"norm": case.norm, "largest_tile": tile}
    y = scale_channels(case.x, case.gate, case.residual, relu, **options)
    dx, dgate, dresidual = scale_channels_backward(
        case.grad, case.x, y if relu else None, case.gate, case.residual is not None, relu, **options
    )
    return SimpleNamespace(y=y, dx=dx, dgate=dgate, dresidual=dresidual)


def by_autograd(case, relu, y):
    """In float64. The gradient passes the ReLU where it passed in `y`: rounding may decide otherwise close to 0."""
    values = case.x.double()
    if case.norm is not None:
        mean, variance, factor, shift = (v.double()[:, None, None] for v in case.norm[:4])
        values = (values - mean) / (variance + case.norm.eps).sqrt() * factor + shift
    inputs = {"x": values.requires_grad_(), "gate": case.gate.double().requires_grad_()}
    sums = inputs["x"] * inputs["gate"][:, :, None, None]
    if case.residual is not None:
        inputs["residual"] = case.residual.double().requires_grad_()
        sums = sums + inputs["residual"]
    grad = case.grad.double()
    gradients = torch.autograd.grad(sums, list(inputs.values()), torch.where(y <= 0, 0.0, grad) if relu else grad)
    return SimpleNamespace(
        y=(sums.relu() if relu else sums).detach(),
        **{f"d{name}": gradient for name, gradient in zip(inputs, gradients, strict=True)},
    )


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, what
    error = (actual.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-3)
    assert error <= tolerance, f"{what}: {error:.2e} of its largest value"


def check(shape, dtype=torch.float32, layout=NCHW, add=True, relu=True, norm=False, tile=None):
    case = draw(shape, dtype, layout, add, norm)
    ours = by_kernels(case, relu, tile)
    expected = by_autograd(case, relu, ours.y)
    assert ours.y.dtype == ours.dx.dtype == dtype
    assert ours.dgate.dtype == torch.float32
    assert ours.y.stride() == ours.dx.stride() == case.x.stride()
    for name in ("y", "dx"):
        assert_close(getattr(ours, name), getattr(expected, name), TOLERANCE[dtype], name)
    assert_close(ours.dgate, expected.dgate, SUM, "dgate")
    if add:
        assert torch.equal(ours.dresidual.double(), expected.dresidual)
    else:
        assert ours.dresidual is None


# tile=None has tiles of the size that a GPU is given, a number tiles of that many elements: several along both axes.
SHAPES = [
    ((2, 8, 4, 4), None),
    ((2, 8, 4, 4), 16),
    ((2, 24, 3, 5), 64),
    ((2, 5, 7, 3), None),
    ((1, 5, 7, 3), 8),
    ((2, 6, 1, 1), None),
    ((1, 6, 1, 7), 4),
    ((1, 3, 7, 1), 1),
    ((3, 1, 2, 3), None),
    ((2, 70, 1, 2), None),
    ((1, 3, 17, 19), None),
]


@directly
@pytest.mark.parametrize(("shape", "tile"), SHAPES)
@EACH_LAYOUT
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_agrees_with_float64(shape, tile, layout, norm):
    check(shape, layout=layout, norm=norm, tile=tile)


@directly
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@EACH_LAYOUT
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_half_precision_is_rounded_once(dtype, layout, norm):
    check((2, 12, 3, 5), dtype, layout, norm=norm, tile=64)


@directly
@pytest.mark.parametrize(("add", "relu"), [(False, False), (True, False), (False, True)])
@EACH_LAYOUT
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_residual_and_relu_are_independent(add, relu, layout, norm):
    check((1, 12, 3, 4), layout=layout, add=add, relu=relu, norm=norm, tile=32)


@directly
@EACH_LAYOUT
def test_a_program_that_walks_over_several_tiles(monkeypatch, layout):
    """As it does where the tensor is large enough for many programs: here runs of 2 tiles, the last of 1."""
    monkeypatch.setattr(triton_scaling, "_ENOUGH_PROGRAMS", 16)
    check((2, 4, 15, 5), layout=layout, norm=True, tile=16)


@directly
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@EACH_LAYOUT
@pytest.mark.parametrize(
    "shape", [(1, 64, 56, 56), (2, 96, 13, 9), (2, 256, 7, 7), (1, 40, 1, 129), (1, 4096, 2, 2), (1, 1, 512, 600)]
)
@pytest.mark.parametrize(("add", "relu", "norm"), [(False, False, False), (True, True, True)])
def test_agrees_with_float64_at_the_sizes_of_networks(shape, layout, dtype, add, relu, norm):
    check(shape, dtype, layout, add, relu, norm)


@directly
@pytest.mark.parametrize("target", ["x", "residual"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@EACH_LAYOUT
@pytest.mark.parametrize("tile", [2048, 16])
def test_in_place_gives_the_bits_of_out_of_place(target, norm, layout, tile):
    case = draw((2, 5, 3, 5), torch.bfloat16, layout, norm=norm)
    options = {"norm": case.norm, "largest_tile": tile}
    expected = scale_channels(case.x, case.gate, case.residual, True, **options)
    other = case.residual if target == "x" else case.x
    untouched = other.clone()
    out = getattr(case, target)
    y = scale_channels(case.x, case.gate, case.residual, True, out=out, **options)
    assert y is out
    assert torch.equal(y, expected)
    assert torch.equal(other, untouched)


@directly
@pytest.mark.parametrize("target", ["x", "residual"])
def test_in_place_where_the_kernel_needs_a_copy(target):
    case = draw((2, 6, 3, 8), torch.float32, NHWC)
    case.x, case.residual = case.x[..., ::2], case.residual[..., ::2]
    expected = scale_channels(case.x, case.gate, case.residual, True)
    out = getattr(case, target)
    y = scale_channels(case.x, case.gate, case.residual, True, out=out)
    assert y is out
    assert torch.equal(y, expected)


@directly
@EACH_LAYOUT
def test_a_constant_factor_of_zero_leaves_the_shift(layout):
    case = draw((2, 6, 3, 3), torch.float32, layout, add=False, norm=True)
    case.norm = case.norm._replace(weight=torch.zeros_like(case.norm.weight))
    y = scale_channels(case.x, case.gate, norm=case.norm)
    torch.testing.assert_close(y, (case.norm.bias * case.gate)[:, :, None, None].expand_as(y), rtol=1e-6, atol=0)


@directly
@EACH_LAYOUT
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("where", ["x", "gate", "grad", "residual"])
def test_values_that_are_not_finite_go_where_the_reference_sends_them(layout, value, relu, where):
    case = draw((2, 6, 3, 3), torch.float32, layout)
    getattr(case, where)[0, 1] = value
    ours = by_kernels(case, relu, tile=32)
    expected = by_autograd(case, relu, ours.y)
    for name in ("y", "dx", "dgate", "dresidual"):
        actual, wanted = getattr(ours, name), getattr(expected, name)
        torch.testing.assert_close(actual.double(), wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


@directly
@EACH_LAYOUT
@pytest.mark.parametrize("shape", [(0, 6, 3, 3), (2, 6, 0, 3)])
def test_an_empty_tensor_gives_zero_gradients(shape, layout):
    case = draw(shape, torch.float32, layout)
    ours = by_kernels(case, relu=True)
    assert ours.y.shape == ours.dx.shape == ours.dresidual.shape == shape
    assert torch.equal(ours.dgate, torch.zeros(shape[:2], device=DEVICE))


@directly
@EACH_LAYOUT
@pytest.mark.parametrize("tile", [2048, 16])
def test_nothing_is_written_behind_the_outputs(monkeypatch, layout, tile):
    """Tiles stick out over the last channel and the last position, behind which other tensors lie."""
    allocated = []
    empty = torch.empty

    def guarded(size, dtype=None, device=None, stride=None):
        allocated.append((empty(math.prod(size) + 4096, dtype=dtype, device=device), math.prod(size)))
        memory = allocated[-1][0]
        return memory[: math.prod(size)].view(size) if stride is None else memory.as_strided(size, stride)

    case = draw((1, 11, 3, 3), torch.float32, layout, norm=True)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", guarded)
        patched.setattr(torch, "empty_like", lambda x: guarded(x.shape, x.dtype, x.device, x.stride()))
        by_kernels(case, relu=True, tile=tile)
    assert len(allocated) == 4
    for memory, used in allocated:
        assert not memory[:used].isnan().any()
        assert memory[used:].isnan().all()


@directly
@EACH_LAYOUT
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_gate_of_another_dtype(layout, dtype):
    case = draw((2, 6, 3, 4), torch.float32, layout)
    case.gate = case.gate.to(dtype)
    ours = by_kernels(case, relu=True)
    expected = by_autograd(case, True, ours.y)
    for name in ("y", "dx"):
        assert_close(getattr(ours, name), getattr(expected, name), TOLERANCE[torch.float32], name)
    assert ours.dgate.dtype == torch.float32


@directly
@EACH_LAYOUT
def test_inputs_of_other_layouts(layout):
    """A sum's gradient and a sample's gate are expanded; the residual comes in the other layout, x as a slice."""
    case = draw((2, 6, 3, 4), torch.float32, layout, norm=True)
    case.gate = case.gate[:1].expand(2, 6)
    dense = by_kernels(case, relu=True)
    case.residual = case.residual.contiguous(memory_format=NCHW if layout == NHWC else NHWC)
    case.x = torch.stack([case.x, case.x], -1)[..., 0]
    case.norm = Norm(*(torch.stack([v, v], -1)[..., 0] for v in case.norm[:4]), case.norm.eps)
    case.grad = torch.ones((), device=DEVICE).expand(case.x.shape)
    ours = by_kernels(case, relu=True)
    assert torch.equal(ours.y, dense.y)
    expected = by_autograd(case, True, ours.y)
    assert_close(ours.dx, expected.dx, TOLERANCE[torch.float32], "dx")
    assert_close(ours.dgate, expected.dgate, SUM, "dgate")
    assert torch.equal(ours.dresidual.double(), expected.dresidual)


@directly
def test_the_same_input_gives_the_same_bits():
    case = draw((2, 12, 5, 3), torch.float32, NHWC)
    one, two = (by_kernels(case, relu=True, tile=16) for _ in range(2))
    for name in ("y", "dx", "dgate"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
