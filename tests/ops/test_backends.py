from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import sgenet
from sgenet import ops
from sgenet.errors import ConfigError

NCHW, NHWC = torch.contiguous_format, torch.channels_last
HAS_TRITON = importlib.util.find_spec("triton") is not None

# Triton reads TRITON_INTERPRET when it is imported, so these run in a process of their own.
INTERPRETED = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_backends import curve, curve_of_blocks, NCHW, NHWC
import torch
for layout in (NCHW, NHWC):
    torch.testing.assert_close(curve("triton", layout), curve("reference", layout), rtol=1e-2, atol=1e-4)
blocks = [curve_of_blocks(backend, NHWC, 5) for backend in ("triton", "reference")]
torch.testing.assert_close(*blocks, rtol=1e-2, atol=1e-4)
print("the same curves")
"""


def learned(net, layout, steps):
    """The loss of each training step of a network on eight images."""
    torch.manual_seed(1)
    images = torch.randn(4, 3, 4, 4).contiguous(memory_format=layout)
    labels = torch.arange(4) % 3
    net = net.to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


def curve(backend, layout, steps=50):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), sgenet.SpatialGroupEnhance(8, groups=2)),
        *(torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3)),
    )
    with ops.use_backend(backend):
        return learned(net, layout, steps)


def curve_of_blocks(backend, layout, steps=50):
    """The same with residual blocks, whose ends are one operator each, batch norm included."""
    torch.manual_seed(0)
    net = sgenet.create_model("sge_resnet8_cifar", num_classes=3)
    with ops.use_backend(backend):
        return learned(net, layout, steps)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
def test_a_small_network_learns_by_triton_as_by_the_reference():
    run = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "the same curves\n", run.stderr


@pytest.mark.skipif(ops.availability()["cpu"] is not None, reason="the CPU kernels are not built")
@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("learns", [curve, curve_of_blocks])
def test_a_small_network_learns_by_the_cpu_kernels_as_by_the_reference(learns, layout):
    reference = learns("reference", layout)
    assert reference[-1] < 0.5 * reference[0]
    torch.testing.assert_close(learns("cpu", layout), reference, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("backend", "shape", "dtype", "message"),
    [
        ("triton", (1, 8, 4), torch.float32, "use_backend: .*takes maps with a height and a width, not 1 spatial axes"),
        ("triton", (1, 8, 4, 4), torch.float32, "it computes on cuda, not on cpu .TRITON_INTERPRET=1 interprets it"),
        ("cpu", (1, 8, 4, 4), torch.float64, "it takes float32, bfloat16, not torch.float64; take 'reference'"),
    ],
)
def test_a_backend_that_cannot_is_named_with_the_reason(monkeypatch, backend, shape, dtype, message):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    module = sgenet.SpatialGroupEnhance(8, groups=2)
    with pytest.raises(ConfigError, match=message), ops.use_backend(backend):
        module(torch.randn(shape, dtype=dtype))


# The variable is read once, when sgenet is imported.
WITH_VARIABLE = """
import torch, sgenet
from sgenet import ops
used = []
forward = ops.reference.forward
ops.reference.forward = lambda *a, **k: used.append("reference") or forward(*a, **k)
def enhance(x):
    try:
        sgenet.spatial_group_enhance(x, torch.ones(2), torch.ones(2), 2)
    except ValueError as error:
        used.append(str(error))
with ops.use_backend("reference"):
    enhance(torch.ones(2, 8, 6, 6))
enhance(torch.ones(2, 8, 6, 6))
print(used)
"""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("reference", "['reference', 'reference']"),
        ("tritn", "SGENET_BACKEND=tritn: there is no such backend. Did you mean 'triton'"),
        ("triton", "SGENET_BACKEND=triton: the backend 'triton' cannot compute this: it computes on cuda, not on cpu"),
    ],
)
def test_the_variable_forces_a_backend_and_the_context_goes_before_it(value, said):
    run = subprocess.run(
        [sys.executable, "-c", WITH_VARIABLE],
        env={**os.environ, "SGENET_BACKEND": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'reference'" in run.stdout
    assert said in run.stdout.replace('\\"', '"')


def test_what_no_kernel_takes_goes_to_the_reference():
    for shape, dtype in (((2, 8, 5), torch.float32), ((2, 8, 2, 3, 4), torch.float32), ((2, 8, 4, 4), torch.float64)):
        x, weight, bias = torch.randn(shape, dtype=dtype), torch.randn(2), torch.randn(2)
        y = sgenet.spatial_group_enhance(x, weight, bias, 2)
        with ops.use_backend("reference"):
            assert torch.equal(sgenet.spatial_group_enhance(x, weight, bias, 2), y)


def test_a_backend_that_is_not_known_cannot_be_asked_for():
    with pytest.raises(ConfigError, match="there is no such backend"), ops.use_backend("gpu"):
        pass


def test_without_triton_or_a_gpu_the_reason_is_told():
    reasons = ops.availability()
    assert list(reasons) == ["triton", "cpu", "reference"]
    assert reasons["reference"] is None
    if not torch.cuda.is_available():
        assert reasons["triton"] == "there is no CUDA device"
