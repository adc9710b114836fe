from __future__ import annotations

import pytest
import torch

import sgenet
from sgenet.errors import ConfigError


def test_it_returns_its_input_itself_and_has_nothing_to_save():
    module, x = sgenet.NoAttention(8), torch.randn(2, 8, 3, 4)
    assert module(x) is x
    assert torch.equal(module.gate(x), torch.ones(1, 1, 1, 1))
    module.start_as_identity()
    assert module(x) is x
    assert module.state_dict() == {}


def test_channels_must_be_positive():
    with pytest.raises(ConfigError, match="channels=0 is not possible"):
        sgenet.NoAttention(0)
