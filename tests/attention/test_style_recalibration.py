from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sgenet


def random_module(channels: int) -> sgenet.StyleRecalibration:
    module = sgenet.StyleRecalibration(channels, dtype=torch.float64)
    with torch.no_grad():
        for tensor in (*module.parameters(), module.bn.running_mean):
            tensor.normal_()
        module.bn.running_var.uniform_(0.5, 1.5)
    return module


def integrated(module: sgenet.StyleRecalibration, x: Tensor) -> list[list[float]]:
    """The weighted sum of mean and deviation of each sample and channel, one number at a time."""
    result = []
    for sample in x:
        row = []
        for c, channel in enumerate(sample):
            values = channel.flatten().tolist()
            mean = sum(values) / len(values)
            variance = sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
            w_mean, w_deviation = module.cfc[c].tolist()
            row.append(w_mean * mean + w_deviation * math.sqrt(variance + 1e-5))
        result.append(row)
    return result


@pytest.mark.parametrize("spatial", [(5, 4), (7,), (1, 1)])
@pytest.mark.parametrize("training", [True, False])
def test_formula_in_float64(training, spatial):
    module = random_module(3).train(training)
    x = torch.randn(4, 3, *spatial, dtype=torch.float64)
    z = integrated(module, x)
    running = (module.bn.running_mean.tolist(), module.bn.running_var.tolist())
    y = module(x)
    for c in range(3):
        column = [row[c] for row in z]
        mean, variance = running[0][c], running[1][c]
        if training:
            mean = sum(column) / 4
            variance = sum((v - mean) ** 2 for v in column) / 4
        for b in range(4):
            normalised = (column[b] - mean) / math.sqrt(variance + 1e-5)
            a = module.bn.weight[c].item() * normalised + module.bn.bias[c].item()
            torch.testing.assert_close(y[b, c], x[b, c] / (1 + math.exp(-a)))


def test_the_deviation_is_the_unbiased_one():
    module = random_module(2).eval()
    x = torch.randn(2, 2, 1, 2, dtype=torch.float64)  # of two values the two deviations differ by the root of 2
    z = torch.tensor(integrated(module, x), dtype=torch.float64)
    normalised = (z - module.bn.running_mean) / (module.bn.running_var + module.bn.eps).sqrt()
    expected = torch.sigmoid(module.bn.weight * normalised + module.bn.bias)
    torch.testing.assert_close(module.gate(x)[:, :, 0, 0], expected)


def test_parameters_and_keys_are_those_of_the_authors_checkpoints():
    module = sgenet.StyleRecalibration(256)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        "cfc": (256, 2),
        "bn.weight": (256,),
        "bn.bias": (256,),
    }
    assert (module.cfc == 0).all()


def test_the_initial_gate_is_a_half():
    x = torch.randn(4, 8, 5, 5)
    assert torch.equal(sgenet.StyleRecalibration(8)(x), 0.5 * x)


def test_as_the_identity_it_passes_gradients_to_the_styles_once_the_factor_has_left_zero():
    module = sgenet.StyleRecalibration(8)
    module.start_as_identity()
    with torch.no_grad():
        module.bn.weight.fill_(0.1)
    module(torch.randn(4, 8, 5, 5)).square().sum().backward()
    assert (module.cfc.grad != 0).all()


def test_batch_norm_goes_on_working_when_it_is_exchanged_for_a_synchronised_one():
    module = random_module(8).eval()
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    expected = module(x)
    changed = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
    assert isinstance(changed.bn, torch.nn.SyncBatchNorm)
    torch.testing.assert_close(changed.eval()(x), expected)
