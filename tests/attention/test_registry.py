from __future__ import annotations

import pytest
from torch import Tensor

import sgenet
from sgenet.attention import registry
from sgenet.errors import ConfigError, UnknownNameError


def test_every_listed_name_can_be_created():
    assert {"se", "sge"} <= set(sgenet.list_attention())
    for name in sgenet.list_attention():
        assert isinstance(sgenet.create_attention(name, 64), sgenet.Attention)


def test_an_unknown_name_is_answered_with_a_near_one():
    with pytest.raises(UnknownNameError, match=r"no attention module 'sgee'\. Did you mean 'sge'"):
        sgenet.create_attention("sgee", 64)


def test_an_unknown_option_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no option 'group'\. Did you mean 'groups'\? Known: groups, eps"):
        sgenet.create_attention("sge", 64, group=8)


def test_a_module_of_ones_own_joins_and_works_everywhere(monkeypatch):
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))

    @sgenet.register_attention("quarter")
    class Quarter(sgenet.Attention):
        gate_range = (0.0, 1.0)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gate(x)

        def gate(self, x: Tensor) -> Tensor:
            return x.new_full((1,) * x.dim(), 0.25 * self.scale)

        def start_as_identity(self) -> None:
            self.scale = 4.0

    model = sgenet.create_model("resnet8_cifar", 10, attention="quarter")
    assert sum(isinstance(m, Quarter) for m in model.modules()) == 3
    with pytest.raises(ConfigError, match="'quarter' is taken by"):
        sgenet.register_attention("quarter")(Quarter)
