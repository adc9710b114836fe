"""Networks beside each other: which forms run, with which backend, weights, dtype and layout."""

import pytest
import torch
from torch._dynamo.utils import counters

import sgenet
from sgenet.bench import BenchSettings, bench, networks
from sgenet.bench.networks import draw_weights
from sgenet.errors import ConfigError, UnknownNameError
from sgenet.ops import backends

TINY = {"model": "resnet8_cifar", "batch": 2, "size": 8, "pairs": 5, "seconds": 0.01, "device": "cpu"}


def forms(**options):
    return [row.form for row in bench(BenchSettings(**TINY | options)).rows]


def test_each_module_runs_in_both_forms_beside_the_plain_network_and_its_copy():
    result = bench(BenchSettings(**TINY))
    assert [row.form for row in result.rows] == ["plain again", "sge", "sge unfused", "se", "se unfused"]
    for row in result.rows:
        assert row.baseline == "plain"
        assert row.shape == (2, 3, 8, 8)
        assert row.ratio.pairs == 5
        assert 0 < row.ratio.lower <= row.ratio.median <= row.ratio.upper
        assert row.peak_bytes is None


def test_a_module_that_is_no_operator_has_one_form():
    assert forms(attention=("eca", "sge", "eca")) == ["plain again", "eca", "sge", "sge unfused"]


def test_a_network_that_is_named_with_attention_is_compared_with_its_host():
    assert forms(model="se_resnet8_cifar") == ["plain again", "se", "se unfused"]
    with pytest.raises(ConfigError, match="has 'se' already; ask for 'resnet8_cifar'"):
        forms(model="se_resnet8_cifar", attention=("sge",))


def test_training_tells_the_memory_too():
    result = bench(BenchSettings(**TINY | {"mode": "train", "attention": ("eca",)}))
    plain, eca = result.rows
    assert plain.peak_ratio == pytest.approx(1.0, abs=0.01)
    assert eca.peak_bytes > plain.peak_bytes > 0
    assert eca.peak_ratio == pytest.approx(eca.peak_bytes / plain.peak_bytes, rel=0.01)


def test_only_the_unfused_form_is_forced_to_the_reference(monkeypatch):
    def backend():
        return backends.backend_for("cpu", torch.float32, 4)

    used, usual = [], backend()
    monkeypatch.setattr(networks, "inference_step", lambda network, x: used.append(backend()))
    monkeypatch.setattr(networks, "compare_latency", lambda reference, steps, **options: {})
    forms(attention=("sge",))
    assert used == [usual, usual, usual, "reference"]


@pytest.mark.parametrize(
    ("mode", "dtype", "weights", "inside"),
    [
        ("infer", "bfloat16", torch.bfloat16, torch.bfloat16),
        ("train", "bfloat16", torch.float32, torch.bfloat16),
        ("train", "float32", torch.float32, torch.float32),
    ],
)
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_networks_run_in_the_dtype_and_layout_that_are_asked_for(mode, dtype, weights, inside, layout, monkeypatch):
    seen = set()

    def note(conv, inputs):
        channels_last = inputs[0].is_contiguous(memory_format=torch.channels_last)
        seen.add((conv.weight.dtype, inputs[0].dtype, channels_last, conv.training))

    def build(*args, **options):
        model = sgenet.create_model(*args, **options)
        next(m for m in model.modules() if getattr(m, "in_channels", None) == 16).register_forward_pre_hook(note)
        return model

    monkeypatch.setattr(networks, "create_model", build)
    forms(mode=mode, dtype=dtype, layout=layout, attention=("eca",))
    assert seen == {(weights, inside, layout == "channels_last", mode == "train")}


def test_weights_are_drawn_alike_and_make_gates_that_differ():
    twins = []
    for _ in range(2):
        torch.manual_seed(0)
        twins.append(sgenet.SpatialGroupEnhance(64, groups=8))
        draw_weights(torch.nn.Sequential(twins[-1]))
    first, second = twins
    assert torch.equal(first.weight, second.weight)
    assert first.weight.unique().numel() == 8
    assert first.bias.unique().numel() == 8
    assert first.gate(torch.randn(1, 64, 5, 5)).std() > 0.01


def test_the_same_wherever_progress_is_shown():
    said = []
    bench(BenchSettings(**TINY | {"attention": ("eca",)}), lambda what, share: said.append((what, share)))
    assert ("preparing eca", pytest.approx(2 / 3)) in said
    assert said[-1] == ("measuring", 1.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "resnet5O"}, UnknownNameError, "Did you mean 'resnet50'"),
        ({"attention": ("sgee",)}, UnknownNameError, "sgee"),
        ({"device": "nowhere"}, ConfigError, "device='nowhere' cannot be used here"),
        ({"device": "meta"}, ConfigError, "device='meta' cannot be used here"),
    ],
)
def test_what_is_not_there_is_one_clear_line(options, error, message):
    with pytest.raises(error, match=message) as caught:
        bench(BenchSettings(**TINY | options))
    assert "\n" not in str(caught.value)


def test_an_input_that_a_network_cannot_take_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(networks, "create_model", lambda name, attention=None: torch.nn.Conv2d(3, 4, 99))
    with pytest.raises(
        ConfigError, match=r"resnet8_cifar \(plain\) cannot run with batch=2, size=8, float32"
    ) as caught:
        forms()
    assert "\n" not in str(caught.value)


# torch gives up on code that it has compiled eight times; networks of one class have the same code.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("freeze", "names"), [(True, ("eca",)), (False, ("sge", "eca", "simam", "srm", "gc", "ge", "bam"))]
)
def test_compiled_networks_are_compared_and_none_falls_back(freeze, names):
    torch.compiler.reset()
    counters.clear()
    found = forms(attention=names, compile=True, freeze=freeze)
    assert len(found) == 1 + len(names) + ("sge" in names)
    assert counters["frames"]["ok"] == counters["frames"]["total"] >= 1 + len(found)
    assert not counters["graph_break"]
