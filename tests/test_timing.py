"""Ratios of times by a clock that the steps move themselves, memory of steps of known size; no real time is judged."""

import math

import pytest
import torch
from torch import nn

import sgenet.timing
from sgenet.errors import ConfigError
from sgenet.timing import Ratio, compare_latency, inference_step, latency_ratio, peak_memory, training_step


class Clock:
    """Stands still unless a step takes time."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.calls = []
        monkeypatch.setattr(sgenet.timing, "perf_counter", lambda: self.now)

    def step(self, name, seconds):
        """A step that takes the next of some times, or always the same."""
        times = iter(seconds) if isinstance(seconds, list) else None

        def run():
            self.calls.append(name)
            self.now += seconds if times is None else next(times)

        return run


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_a_ratio_is_the_median_of_the_pairs_ratios_not_the_ratio_of_medians(clock):
    # The first entry is the warm-up. Ratios: 4, 1, 2, 1, 3; the medians' ratio would be 4 / 2.
    reference = clock.step("reference", [1.0, 1.0, 2.0, 2.0, 4.0, 1.0])
    step = clock.step("step", [1.0, 4.0, 2.0, 4.0, 4.0, 3.0])
    ratios = compare_latency(reference, {"step": step}, pairs=5, warmup=1)
    assert ratios == {"step": Ratio(median=2.0, lower=1.0, upper=3.0, pairs=5, seconds=4.0)}


def test_what_slows_the_machine_down_leaves_the_ratio_and_shows_in_no_noise(clock):
    slow = [1.0, 1.0, 7.0, 1.0, 5.0, 1.0]
    ratios = compare_latency(
        clock.step("a", slow),
        {"a again": clock.step("a", slow), "b": clock.step("b", [1.5 * s for s in slow])},
        pairs=5,
        warmup=1,
    )
    assert (ratios["a again"].lower, ratios["a again"].median, ratios["a again"].upper) == (1.0, 1.0, 1.0)
    assert ratios["b"].median == 1.5
    assert ratios["b"].seconds == 1.5


def test_the_order_rotates_and_turns_round(clock):
    steps = {name: clock.step(name, 1.0) for name in "bc"}
    compare_latency(clock.step("a", 1.0), steps, pairs=6, warmup=1)
    assert "".join(clock.calls) == "abc" + "abc" + "cba" + "bca" + "acb" + "cab" + "bac"


def test_every_step_follows_every_other(clock):
    steps = {name: clock.step(name, 1.0) for name in "bcd"}
    compare_latency(clock.step("a", 1.0), steps, pairs=8, warmup=1)
    follows = set(zip(clock.calls[4:], clock.calls[5:], strict=False))
    assert {(x, y) for x, y in follows if x != y} >= {(x, y) for x, y in zip("abcdabcd", "bcdadabc", strict=True)}


def test_short_steps_are_repeated_until_a_measurement_lasts_long_enough(clock):
    ratios = compare_latency(
        clock.step("short", 1 / 512), {"long": clock.step("long", 0.5)}, pairs=5, warmup=2, least_seconds=0.02
    )
    assert clock.calls.count("short") == 2 + 5 * math.ceil(0.02 * 512)
    assert clock.calls.count("long") == 2 + 5
    assert ratios["long"].median == 256.0
    assert ratios["long"].seconds == 0.5


def test_a_first_call_that_compiles_does_not_hide_that_a_step_is_short(clock):
    times = [60.0] + [1 / 128] * 100
    compare_latency(clock.step("a", times), {}, pairs=2, warmup=2, least_seconds=1 / 32)
    assert clock.calls.count("a") == 2 + 2 * 4


def test_a_step_that_takes_no_time_ends(clock):
    ratios = compare_latency(
        clock.step("a", 1e-9), {"b": clock.step("b", 1e-9)}, pairs=2, warmup=1, least_seconds=9.95e-6
    )
    assert clock.calls.count("a") == 1 + 2 * 100
    assert ratios["b"].median == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(("budget", "expected"), [(1.0, 5), (19.0, 10), (20.5, 11), (1e9, 30)])
def test_rounds_stop_at_the_budget_but_not_below_five(clock, budget, expected):
    steps = {"b": clock.step("b", 1.0)}
    ratios = compare_latency(clock.step("a", 1.0), steps, pairs=30, warmup=3, budget_seconds=budget)
    assert ratios["b"].pairs == expected
    assert len(clock.calls) == 2 * (3 + expected)


def test_fewer_than_five_pairs_are_measured_where_they_are_asked_for(clock):
    ratios = compare_latency(clock.step("a", 1.0), {"b": clock.step("b", 1.0)}, pairs=2, budget_seconds=0.5)
    assert ratios["b"].pairs == 2


@pytest.mark.parametrize("budget", [0.0, 4.0, 12.0, math.inf])
def test_progress_grows_to_the_end(clock, budget):
    shares = []
    steps = {"b": clock.step("b", 1.0)}
    compare_latency(clock.step("a", 1.0), steps, pairs=8, budget_seconds=budget, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == 1.0


@pytest.mark.parametrize("options", [{"pairs": 1}, {"warmup": 0}])
def test_too_few_rounds_are_refused_before_anything_runs(clock, options):
    with pytest.raises(ConfigError, match="at least 2 pairs and 1 round"):
        compare_latency(clock.step("a", 1.0), {}, **options)
    assert clock.calls == []


def test_another_device_than_the_cpu_is_waited_for(clock, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: waited.append((device, clock.now)))
    compare_latency(clock.step("a", 1.0), {}, pairs=2, warmup=1, device="cuda:1")
    assert [device for device, _ in waited] == [torch.device("cuda:1")] * 6
    assert [now for _, now in waited] == [0.0, 1.0, 1.0, 2.0, 2.0, 3.0]


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_networks_are_timed_in_copies(mode):
    nets = {"plain": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "other": nn.Conv2d(3, 4, 3)}
    before = {name: value.clone() for name, value in nets["plain"].state_dict().items()}
    ratios = latency_ratio(nets, torch.randn(2, 3, 8, 8), baseline="plain", pairs=4, warmup=1, mode=mode)
    assert list(ratios) == ["plain", "other"]
    for ratio in ratios.values():
        assert ratio.pairs == 4
        assert 0 < ratio.lower <= ratio.median <= ratio.upper
        assert ratio.seconds > 0
    assert all(torch.equal(v, before[k]) for k, v in nets["plain"].state_dict().items())
    assert all(p.grad is None for p in nets["plain"].parameters())
    assert nets["plain"].training


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_networks_run_in_the_mode_that_is_timed(mode):
    seen = set()

    class Noted(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, x):
            seen.add((self.training, torch.is_grad_enabled()))
            return x * self.factor

    latency_ratio({"a": Noted()}, torch.ones(2), baseline="a", pairs=2, warmup=1, mode=mode)
    assert seen == {(True, True) if mode == "train" else (False, False)}


def test_a_mode_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match="mode='training' is not known; choose infer or train"):
        latency_ratio({"a": nn.Identity()}, torch.ones(2), baseline="a", mode="training")


def test_a_baseline_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="'nobody' is none of the networks: a"):
        latency_ratio({"a": nn.Identity()}, torch.ones(1), baseline="nobody")


def test_a_training_step_reaches_every_parameter_and_leaves_no_gradient():
    layer, reached = nn.Linear(3, 2), []
    for name, parameter in layer.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: reached.append((name, p.grad.any())))
    training_step(layer, torch.ones(4, 3))
    assert sorted(reached) == [("bias", True), ("weight", True)]
    assert layer.weight.grad is None


def test_a_training_step_casts_the_forward_pass_of_what_stands_for_the_network():
    layer, dtypes = nn.Linear(3, 2), []

    def run(x):
        dtypes.append(layer(x).dtype)
        return layer(x)

    training_step(layer, torch.ones(4, 3), run=run, autocast=torch.bfloat16)
    training_step(layer, torch.ones(4, 3), run=run)
    assert dtypes == [torch.bfloat16, torch.float32]


def test_an_inference_step_keeps_no_graph():
    assert not inference_step(nn.Linear(3, 2), torch.ones(4, 3)).requires_grad


def test_peak_memory_is_the_most_that_lived_at_once():
    def step():
        first = torch.empty(1_000_000, dtype=torch.uint8)
        second = torch.empty(2_000_000, dtype=torch.uint8)
        del first
        third = torch.empty(500_000, dtype=torch.uint8)
        del second, third

    assert peak_memory(step) == 3_000_000


def test_peak_memory_counts_nothing_that_was_there_before():
    weight, grad = torch.ones(250_000), torch.ones(250_000)
    assert peak_memory(lambda: grad.add_(weight)) == 0
    assert peak_memory(lambda: weight + grad) == 1_000_000


def test_peak_memory_of_a_training_step_holds_activations_and_gradients():
    layer = nn.Linear(500, 500, bias=False)
    x = torch.ones(1000, 500)
    training_step(layer, x)
    output, gradient = 4 * 1000 * 500, 4 * 500 * 500
    # At the end at least the output, its gradient and the weight's; in between the loss has temporary tensors.
    assert 2 * output + gradient <= peak_memory(lambda: training_step(layer, x)) <= 6 * output + gradient


def test_peak_memory_of_a_device_without_an_account_is_refused():
    with pytest.raises(ConfigError, match="not on 'meta'"):
        peak_memory(lambda: None, "meta")
