from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sgenet
from sgenet.attention import registry
from sgenet.errors import ConfigError, UnknownNameError


def test_every_listed_name_can_be_created():
    assert {"se", "sge"} <= set(sgenet.list_attention())
    for name in sgenet.list_attention():
        assert isinstance(sgenet.create_attention(name, 64), sgenet.Attention)


def test_every_module_is_a_prefix_of_named_networks():
    assert {f"{name}_resnet50" for name in sgenet.list_attention()} - {"none_resnet50"} <= set(sgenet.list_models())


def test_an_unknown_name_is_answered_with_a_near_one():
    with pytest.raises(UnknownNameError, match=r"no attention module 'sgee'\. Did you mean 'sge'"):
        sgenet.create_attention("sgee", 64)


def test_an_unknown_option_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no option 'group'\. Did you mean 'groups'\? Known: groups, eps"):
        sgenet.create_attention("sge", 64, group=8)


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("se", {"reduction": "16"}, r"reduction='16' of attention 'se' must be a whole number"),
        ("se", {"reduction": 2.5}, r"reduction=2.5 of attention 'se' must be a whole number"),
        ("se", {"reduction": True}, r"reduction=True of attention 'se' must be a whole number"),
        ("se", {"bias": 1}, r"bias=1 of attention 'se' must be True or False"),
        ("se", {"squeeze": None}, r"squeeze=None of attention 'se' must be one of avg, max, none"),
        ("se", {"dtype": "float32"}, r"dtype='float32' of attention 'se' must be a torch.dtype or None"),
        ("sge", {"groups": 32.0}, r"groups=32.0 of attention 'sge' must be a whole number"),
        ("sge", {"eps": "1e-5"}, r"eps='1e-5' of attention 'sge' must be a number"),
        ("eca", {"kernel_size": "3"}, r"kernel_size='3' of attention 'eca' must be a whole number or None"),
        ("ge", {"variant": "theta", "size": (7,)}, r"size=\(7,\) of .* \(a whole number, a whole number\) or None"),
        (
            "ge",
            {"variant": "theta", "size": (7, 7.5)},
            r"size=\(7, 7.5\) of attention 'ge' must be",
        ),
    ],
)
def test_an_option_of_another_type_is_refused(name, options, rule):
    with pytest.raises(ConfigError, match=rule):
        sgenet.create_attention(name, 64, **options)


@pytest.mark.parametrize("options", [{"reduction": "x"}, {"groups": 8.0}])
def test_an_option_of_another_type_is_refused_where_options_are_fitted_to_places(options):
    name = "se" if "reduction" in options else "sge"
    with pytest.raises(ConfigError, match="must be a whole number"):
        sgenet.create_model("resnet8_cifar", 10, attention=name, attention_options=options)


def test_channels_are_a_whole_number():
    with pytest.raises(ConfigError, match=r"channels=64.0 of attention 'se' must be a whole number"):
        sgenet.create_attention("se", 64.0)


def test_what_stands_for_a_declared_type_is_taken():
    assert sgenet.create_attention("ge", 8, variant="theta", size=[7, 5]).size == (7, 5)  # JSON has no tuples
    assert sgenet.create_attention("eca", 256, gamma=1, beta=3).conv.weight.numel() == 11
    assert sgenet.create_attention("sge", 64, groups=torch.tensor([8]).numpy()[0]).groups == 8
    assert sgenet.create_attention("se", 64, device="meta", dtype=torch.float64).fc1.weight.is_meta


def quarter() -> type[sgenet.Attention]:
    """A class that is made anew by each call, as by each run of a notebook's cell."""

    class Quarter(sgenet.Attention):
        gate_range = (0.0, 1.0)

        def gate(self, x: Tensor) -> Tensor:
            return x.new_full((1,) * x.dim(), 0.25 * self.scale)

        def start_as_identity(self) -> None:
            self.scale = 4.0

    return Quarter


@pytest.fixture
def own_names(monkeypatch):
    """What a test registers is forgotten."""
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))


@pytest.mark.usefixtures("own_names")
def test_a_module_of_ones_own_joins_and_works_everywhere():
    cls = sgenet.register_attention("quarter")(quarter())
    model = sgenet.create_model("resnet8_cifar", 10, attention="quarter")
    assert sum(isinstance(m, cls) for m in model.modules()) == 3
    plain = sgenet.create_model("resnet8_cifar", 10).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = plain(x)
    assert torch.equal(sgenet.add_attention(plain, "quarter")(x), expected)


@pytest.mark.usefixtures("own_names")
def test_a_class_that_is_made_again_takes_its_own_place_and_no_others():
    sgenet.register_attention("quarter")(quarter())
    again = sgenet.register_attention("quarter")(quarter())
    assert type(sgenet.create_attention("quarter", 8)) is again
    with pytest.raises(ConfigError, match="the attention name 'sge' is taken by SpatialGroupEnhance"):
        sgenet.register_attention("sge")(again)
    with pytest.raises(ConfigError, match="the attention name 'sk' is taken by sgenet itself"):
        sgenet.register_attention("sk")(again)


@pytest.mark.usefixtures("own_names")
def test_a_class_that_leaves_something_open_is_refused():
    class Open(sgenet.Attention):
        def gate(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ConfigError, match="Open has no start_as_identity; define it"):
        sgenet.register_attention("open")(Open)
    with pytest.raises(TypeError, match="abstract"):
        Open(8)
    assert "open" not in sgenet.list_attention()


@pytest.mark.usefixtures("own_names")
def test_a_class_with_its_own_forward_is_refused():
    class Added(quarter()):
        def forward(self, x: Tensor) -> Tensor:
            return x + x * self.gate(x)

    with pytest.raises(ConfigError, match=r"Added has a forward of its own, .* rename forward to attend"):
        sgenet.register_attention("added")(Added)
    assert "added" not in sgenet.list_attention()


@pytest.mark.usefixtures("own_names")
def test_a_class_whose_types_are_named_for_type_checkers_alone_can_be_created():
    class Narrow(quarter()):
        def __init__(self, channels: int, width: Elsewhere = 4) -> None:  # noqa: F821
            super().__init__(channels)
            self.width = width

    sgenet.register_attention("narrow")(Narrow)
    assert sgenet.create_attention("narrow", 8, width=2).width == 2
