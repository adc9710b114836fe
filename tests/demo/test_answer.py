"""What the report dares to say about differences between a few seeds."""

import math
import random

import pytest
from made_up_networks import make_networks

from sgenet.demo.answer import compare, headline, mean_interval, needed_seeds, outlook, verdict

CLEAR_WIN = ([80.0, 80.1, 80.2], [80.1, 80.0, 80.2], [90.0, 90.1, 90.3])
TIE = ([88.0, 89.0, 87.0], [87.5, 89.4, 87.1], [88.9, 88.1, 87.0])
LOSS = ([90.0, 90.1, 90.3], [89.0, 89.4, 90.1], [80.0, 80.1, 80.2])
SAME = ([88.0, 88.0], [88.0, 88.0], [88.0, 88.0])
ONE = ([88.0], [89.0], [99.0])
OVERCLAIMS = (
    "significant",
    "proves",
    "proven",
    "better than",
    "worse than",
    "outperform",
    "improves",
    "beats",
    "clearly",
)


def test_t_quantile_covers_95_percent_of_three_normal_values():
    draw = random.Random(0)
    inside = 0
    for _ in range(20_000):
        low, high = mean_interval([draw.gauss(7, 2) for _ in range(3)])
        inside += low <= 7 <= high
    assert inside / 20_000 == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize(("number", "quantile"), [(2, 12.706), (3, 4.303), (31, 2.042), (61, 2.000), (1001, 1.962)])
def test_interval_uses_students_quantile(number, quantile):
    values = [(-1) ** i for i in range(number)]
    low, high = mean_interval(values)
    mean = sum(values) / number
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (number - 1))
    assert (high - low) / 2 == pytest.approx(quantile * std / math.sqrt(number), rel=2e-3)


def test_runs_are_paired_by_seed():
    # Seeds differ by 10 points, networks by 1 in every pair: the pairs leave no doubt, the pooled runs would.
    difference = compare([81.0, 91.1, 70.9], [80.0, 90.0, 70.0])
    assert difference.points == pytest.approx(1.0)
    assert difference.interval[0] > 0.7
    assert difference.clears_zero


def test_a_single_seed_has_no_interval():
    assert mean_interval([5.0]) is None
    assert compare([5.0], [4.0]).interval is None


@pytest.mark.parametrize("top1", [CLEAR_WIN, TIE, LOSS, SAME, ONE], ids=["win", "tie", "loss", "same", "one"])
def test_nothing_is_claimed_that_a_few_seeds_cannot_show(top1):
    nets = make_networks(*top1)
    sentences = [headline(nets), *(verdict(net, nets[0]) for net in nets[1:]), outlook(nets[-1], nets[0])]
    text = " ".join(sentences)
    assert "cannot settle" in headline(nets)
    assert "To settle it, a study would need" in text
    assert not [word for word in OVERCLAIMS if word in text.lower()]


def test_headline_has_every_networks_figures():
    assert headline(make_networks(*TIE)) == (
        "SGE 88.0 ± 1.0%, SE 88.0 ± 1.2%, plain 88.0 ± 1.0% top-1: three seeds cannot settle differences of this size."
    )


@pytest.mark.parametrize(
    ("top1", "said"),
    [
        (CLEAR_WIN, ["10.0 points above plain", "hint for SGE", "three seeds cannot settle it"]),
        (LOSS, ["10.0 points below plain", "hint against SGE", "three seeds cannot settle it"]),
        (TIE, ["level with plain", "two equal networks"]),
        (ONE, ["11.0 points above plain", "single seed"]),
        (SAME, ["level with plain", "two equal networks"]),
    ],
)
def test_verdict_states_direction_and_size(top1, said):
    nets = make_networks(*top1)
    sentence = verdict(nets[-1], nets[0])
    assert [words for words in said if words not in sentence] == []


def test_needed_seeds_grow_with_the_square_of_spread_over_difference():
    few, many = compare([1.0, 2.0, 3.6], [0.0, 0.0, 0.0]), compare([0.0, 1.0, 2.6], [0.0, 0.0, 0.0])
    ratio = (few.points / many.points) ** 2
    assert needed_seeds(many) == pytest.approx(7.85 * (many.spread / many.points) ** 2, abs=1)
    assert needed_seeds(few) == max(10, math.ceil(needed_seeds(many) / ratio))
    assert needed_seeds(compare([1.0], [0.0])) is None
    assert needed_seeds(compare([1.0, 2.0], [1.0, 2.0])) is None


def test_a_tiny_difference_would_take_a_very_large_study():
    nets = make_networks([88.0, 89.0, 90.0], [88.0, 89.0, 90.0], [89.0, 88.0, 90.03])
    assert "more than a thousand seeds" in outlook(nets[-1], nets[0])
