from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

import sgenet
from sgenet.errors import ConfigError

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

# Triton reads TRITON_INTERPRET when it is imported, so this runs in a process of its own.
TRAINING = """
import os, torch, sgenet
from torch.nn import functional as F

def curve(backend):
    os.environ["SGENET_BACKEND"] = backend
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), sgenet.SpatialGroupEnhance(8, groups=2),
        torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3),
    )
    images = torch.randn(4, 3, 4, 4)
    if layout == "channels_last":
        net, images = net.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    labels = torch.arange(4) % 3
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for _ in range(50):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert net[2].weight.grad.shape == (1, 2, 1, 1)
    return torch.tensor(losses)

for layout in ("contiguous", "channels_last"):
    reference, triton = curve("reference"), curve("triton")
    assert reference[-1] < 0.5 * reference[0]
    torch.testing.assert_close(triton, reference, rtol=1e-2, atol=1e-4)
print("the same curve")
"""


@needs_triton
def test_a_small_network_learns_alike_by_every_backend():
    run = subprocess.run(
        [sys.executable, "-c", TRAINING],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "the same curve\n", run.stderr


@pytest.mark.parametrize(
    ("backend", "shape", "message"),
    [
        ("tritn", (1, 8, 4, 4), "SGENET_BACKEND=tritn is no backend. Did you mean 'triton'.* Known: reference, triton"),
        ("triton", (1, 8, 4), "it takes maps with a height and a width"),
        ("triton", (1, 8, 4, 4), "it needs a CUDA device, not cpu"),
    ],
)
def test_a_backend_that_cannot_is_named_with_the_reason(monkeypatch, backend, shape, message):
    monkeypatch.setenv("SGENET_BACKEND", backend)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=message):
        sgenet.SpatialGroupEnhance(8, groups=2)(torch.randn(shape))


def test_the_reference_runs_where_nothing_is_asked_for(monkeypatch):
    x = torch.randn(2, 8, 4, 4)
    module = sgenet.SpatialGroupEnhance(8, groups=2)
    expected = module(x)
    for value in ("", "reference"):
        monkeypatch.setenv("SGENET_BACKEND", value)
        assert torch.equal(module(x), expected)
