"""A module by itself: its steps compute what they say, on maps that go round."""

import pytest
import torch

from sgenet.bench import BenchSettings, bench, modules
from sgenet.bench.modules import _Maps, _Ring

SETTINGS = {"batch": 1, "pairs": 5, "seconds": 0.01, "device": "cpu"}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(modules, "STAGES", ((64, 6), (128, 3)))
    monkeypatch.setattr(modules, "_cache_bytes", lambda device: 20_000)


@pytest.mark.parametrize("module", ["sge", "se"])
def test_every_pass_at_every_stage_in_both_forms(small, module):
    result = bench(BenchSettings(module=module, **SETTINGS))
    passes = ["forward", "backward", "forward+backward", *(["backward operator"] if module == "sge" else [])]
    both = [form for name in passes for form in (name, f"{name} unfused")]
    stage = ["copy_ again", *both, "add_ relu_ again", "residual+ReLU", "residual+ReLU unfused"]
    assert [row.form for row in result.rows] == stage * 2
    assert [row.baseline for row in result.rows] == (["copy_"] * (1 + len(both)) + ["add_ relu_"] * 3) * 2
    assert {row.shape for row in result.rows} == {(1, 64, 6, 6), (1, 128, 3, 3)}


def maps(module="sge", dtype="float32", layout="channels_last"):
    torch.manual_seed(0)
    return _Maps((2, 64, 6, 6), BenchSettings(module=module, dtype=dtype, layout=layout, device="cpu"))


def test_maps_exceed_the_caches_and_have_the_dtype_and_layout(small):
    own = maps(dtype="bfloat16")
    assert sum(x.nbytes for x in own.inputs) >= 4 * 20_000
    assert all(x.dtype == torch.bfloat16 and x.is_contiguous(memory_format=torch.channels_last) for x in own.inputs)
    assert len({x.data_ptr() for x in own.inputs}) == own.count


def test_copying_goes_round_all_maps(small, monkeypatch):
    own = maps()
    copied = []
    monkeypatch.setattr(torch.Tensor, "copy_", lambda out, x: copied.append((out.data_ptr(), x.data_ptr())))
    step = own._copies()
    for _ in range(2 * own.count):
        step()
    assert [x for _, x in copied] == 2 * [x.data_ptr() for x in own.inputs]
    assert len({out for out, _ in copied}) == own.count


@pytest.mark.parametrize("module", ["sge", "se"])
def test_the_joined_form_is_the_module_the_sum_and_the_relu_in_place(small, module):
    own = maps(module)
    before = [x.clone() for x in own.overwritten]
    step = own._joined()
    for _ in range(own.count):
        step()
    for x, old, shortcut in zip(own.overwritten, before, own.others, strict=True):
        expected = torch.relu(own.module(old) + shortcut)
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)


def test_the_backward_operator_computes_what_autograd_asks_it_for(small, monkeypatch):
    own = maps()
    results = []
    monkeypatch.setattr(_Ring, "put", lambda self, result: results.append(result))
    for build in (own._backward, own._backward_operator):
        own.begun = 0  # on the same maps
        build()()
    for alone, expected in zip(results[1], results[0], strict=False):  # the operator returns the residual's, too
        torch.testing.assert_close(alone, expected.reshape(alone.shape), rtol=0, atol=0)


def test_no_two_steps_work_on_the_same_maps_at_a_time(small):
    own = maps()
    rounds = [own._rounds(range(own.count)) for _ in range(own.count)]
    for _ in range(3):
        (places,) = zip(*(next(turns) for turns in rounds), strict=True)
        assert len(set(places)) == len(places) > 1


def test_a_ring_keeps_so_many_results_and_no_more():
    ring = _Ring[int](3)
    for result in range(5):
        ring.put(result)
    assert sorted(ring.places) == [2, 3, 4]


def test_too_large_a_batch_is_one_clear_line(small, monkeypatch):
    def exhausted(*args):
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nto allocate 1e15 bytes"
        )

    monkeypatch.setattr(modules, "draw_weights", exhausted)
    with pytest.raises(Exception, match="not enough memory for the module 'sge' with batch=1; take a smaller one"):
        bench(BenchSettings(module="sge", **SETTINGS))
