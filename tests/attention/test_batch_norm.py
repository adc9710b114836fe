from __future__ import annotations

import pytest
import torch
from torch import nn

import sgenet
from sgenet.attention.batch_norm import apply_layers


@pytest.mark.parametrize(("norm", "shape"), [(nn.BatchNorm1d(3), (1, 3)), (nn.BatchNorm2d(3), (1, 3, 1, 1))])
def test_one_value_a_channel_is_normalised_as_in_eval_mode(norm, shape):
    nn.init.normal_(norm.running_mean)
    before = norm.running_mean.clone()
    x = torch.randn(shape)
    expected = (x - before.reshape(1, 3, *shape[2:])) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(apply_layers([norm, nn.ReLU()], x), expected.clamp(min=0))
    assert torch.equal(norm.running_mean, before)


def test_two_values_a_channel_are_normalised_by_torch():
    norm, twin = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(1, 3, 1, 2)
    assert torch.equal(apply_layers([norm], x), twin(x))
    assert torch.equal(norm.running_mean, twin.running_mean)


@pytest.mark.parametrize("name", ["cbam", "bam"])
def test_what_takes_the_place_of_a_batch_norm_is_called(name):
    module = sgenet.create_attention(name, 16)
    norms = [key for key, child in module.named_modules() if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d)]
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(sgenet.create_attention(name, 16))
    for key in norms:
        assert isinstance(converted.get_submodule(key), nn.SyncBatchNorm)
        module.set_submodule(key, nn.Identity())  # as after fusion into the convolution
    assert module(torch.randn(1, 16, 1, 1)).isfinite().all()
