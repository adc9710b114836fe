"""Means, paired differences and trends, with p values corrected for all that a study tests."""

from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_studies import (
    ALIKE,
    ALONG_NOISE,
    NOISES,
    ONE,
    TIE,
    TOP1,
    WIN,
    along_noise,
    analysed,
    of_two_lengths,
    state,
    study,
)
from scipy import stats

from sgenet.study.analysis import analyse
from sgenet.study.definition import Paper


def row_of(analysis, name):
    return next(row for row in analysis.rows if row.combination.name == name)


def holm(p_values):
    """By its definition: the largest of the smaller p values, each times the number of those not below it."""
    return [min(1.0, max(q * sum(other >= q for other in p_values) for q in p_values if q <= p)) for p in p_values]


def test_rows_hold_mean_spread_and_interval_of_the_last_epoch():
    for name, values in TOP1.items():
        row = row_of(analysed(TOP1), name)
        assert row.values == tuple(values)
        assert row.mean == pytest.approx(fmean(values))
        assert row.spread == pytest.approx(stdev(values))
        assert row.interval == pytest.approx(stats.t.interval(0.95, 2, np.mean(values), stats.sem(values)))


def test_differences_are_those_of_the_pairs_of_seeds():
    # Seeds differ by 10 points, networks by 1 in every pair: the pairs leave no doubt, the pooled runs would.
    analysis = analysed({"none": [80.0, 90.0, 70.0], "se": [81.0, 91.1, 70.9], "sge": [80.0, 91.0, 70.5]})
    found = row_of(analysis, "se").difference
    tested = stats.ttest_rel([81.0, 91.1, 70.9], [80.0, 90.0, 70.0])
    assert found.paired.difference == pytest.approx(1.0)
    assert found.paired.p == pytest.approx(tested.pvalue)
    assert found.paired.interval == pytest.approx(tuple(tested.confidence_interval()))
    assert found.verdict == "better"


def test_the_baseline_is_compared_with_nothing():
    analysis = analysed(TOP1, baseline="se")
    row = row_of(analysis, "se")
    assert row.baseline
    assert (row.difference, row.course, row.ahead) == (None, None, None)
    assert row_of(analysis, "none").difference.paired.difference == pytest.approx(np.mean([-0.9, -0.4, 0.5]))


def test_only_seeds_that_both_have_are_paired():
    analysis = analysed({"none": [88.0, None, 87.0, 86.0], "se": [89.0, 99.0, None, 86.5], "sge": [None, 88.0]})
    found = row_of(analysis, "se").difference.paired
    assert found.pairs == 2
    assert found.difference == pytest.approx((1.0 + 0.5) / 2)
    assert row_of(analysis, "se").mean == pytest.approx((89.0 + 99.0 + 86.5) / 3)
    assert row_of(analysis, "sge").difference is None
    assert row_of(analysis, "sge").course is None


def test_p_values_are_corrected_for_all_differences_and_trends_together():
    analysis = along_noise()
    p_values = []
    for level in ("se", "sge"):
        for noise in NOISES:
            own, base = ALONG_NOISE[f"{level} / {noise}"], ALONG_NOISE[f"none / {noise}"]
            p_values.append(stats.ttest_rel(own, base).pvalue)
    slopes = {level: slopes_by_seed(level) for level in ("se", "sge")}
    p_values += [stats.ttest_1samp(slopes[level], 0).pvalue for level in ("se", "sge")]
    found = [row_of(analysis, f"{level} / {noise}").difference for level in ("se", "sge") for noise in NOISES]
    found += [trend.slope for trend in analysis.trends]
    assert [d.adjusted_p for d in found] == pytest.approx(holm(p_values))
    assert analysis.definition.comparisons == len(analysis.differences) == len(p_values)


def slopes_by_seed(level):
    along = [float(noise) for noise in NOISES]
    gaps = [np.subtract(ALONG_NOISE[f"{level} / {noise}"], ALONG_NOISE[f"none / {noise}"]) for noise in NOISES]
    return [np.polyfit(along, [gap[seed] for gap in gaps], 1)[0] for seed in range(4)]


@pytest.mark.parametrize(("number", "level"), [(0, "se"), (1, "sge")])
def test_a_trend_is_the_mean_of_each_seeds_least_squares_slope(number, level):
    trend = along_noise().trends[number]
    slopes = slopes_by_seed(level)
    tested = stats.ttest_1samp(slopes, 0)
    assert (trend.level, trend.along, trend.circumstances) == (level, "noise", {})
    assert trend.slope.paired.difference == pytest.approx(np.mean(slopes))
    assert trend.slope.paired.p == pytest.approx(tested.pvalue)
    assert trend.slope.paired.interval == pytest.approx(tuple(tested.confidence_interval()))


def test_a_trend_takes_only_seeds_that_all_levels_of_it_have():
    top1 = {**ALONG_NOISE, "sge / 1": [85.0, None, 84.6, 85.3]}
    se, sge = along_noise(top1).trends
    slopes = slopes_by_seed("sge")
    assert (se.slope.paired.pairs, sge.slope.paired.pairs) == (4, 3)
    assert sge.slope.paired.difference == pytest.approx(np.mean([slopes[0], slopes[2], slopes[3]]))


def test_a_trend_without_a_common_seed_is_left_out():
    top1 = {**ALONG_NOISE, "se / 2": []}
    assert [trend.level for trend in along_noise(top1).trends] == ["sge"]


def test_whole_courses_are_compared_and_corrected_apart():
    analysis = analysed(WIN)
    rows = analysis.rows
    base = [fmean(epoch["val_top1"] for epoch in rows[0].results[seed].history) for seed in range(4)]
    tests = []
    for row in rows[1:]:
        own = [fmean(epoch["val_top1"] for epoch in row.results[seed].history) for seed in range(4)]
        tests.append(stats.ttest_rel(own, base).pvalue)
        assert row.course.paired.difference == pytest.approx(np.mean(own) - np.mean(base))
    assert [row.course.adjusted_p for row in rows[1:]] == pytest.approx(holm(tests))


def test_courses_of_different_lengths_are_not_compared():
    _, se, sge = of_two_lengths().rows
    assert se.course is not None
    assert sge.difference is not None
    assert (sge.course, sge.ahead) == (None, None)


def test_ahead_is_the_share_of_epochs_whose_mean_over_the_seeds_is_above():
    analysis = analysed(TIE)
    base = np.mean(analysis.rows[0].curve("val_top1"), axis=0)
    for row in analysis.rows[1:]:
        own = np.mean(row.curve("val_top1"), axis=0)
        assert row.ahead == pytest.approx(np.mean(own > base))


@pytest.mark.parametrize(
    ("top1", "verdicts"),
    [
        (WIN, ["not significant", "better"]),
        (ALIKE, ["untested", "untested"]),
        (ONE, ["untested", "untested"]),
    ],
    ids=["win", "alike", "one"],
)
def test_verdicts_follow_the_corrected_p(top1, verdicts):
    assert [row.difference.verdict for row in analysed(top1).rows[1:]] == verdicts


def test_what_is_significant_alone_may_not_be_so_among_many():
    se = [88.4, 89.6, 87.3]
    alone = analysed({"none": [88.0, 89.0, 87.0], "se": se}, levels=("none", "se"))
    top1 = {"none": [88.0, 89.0, 87.0], "se": se, **{str(i): [87.9 + i / 9, 89.2, 87.0] for i in range(6)}}
    among = analysed(top1, levels=tuple(top1))
    raw = stats.ttest_rel(se, [88.0, 89.0, 87.0]).pvalue
    assert 0.05 / 7 < raw < 0.05
    assert row_of(alone, "se").difference.verdict == "better"
    assert row_of(among, "se").difference.verdict == "not significant"


def test_blocks_follow_the_circumstances_in_their_order():
    analysis = along_noise()
    assert [block.name for block in analysis.blocks] == ["noise 0", "noise 1", "noise 2"]
    assert [[row.combination.name for row in block.rows] for block in analysis.blocks] == [
        [f"{level} / {noise}" for level in ("none", "se", "sge")] for noise in NOISES
    ]
    assert [block.baseline.combination.name for block in analysis.blocks] == ["none / 0", "none / 1", "none / 2"]
    assert analysed(TOP1).blocks[0].name == ""


def test_complete_once_every_cell_has_a_result():
    definition = study()
    whole = analyse(definition, state(definition, TOP1))
    part = analyse(definition, state(definition, {**TOP1, "sge": [89.1, 88.7]}))
    assert (whole.finished, whole.cells, whole.complete) == (9, 9, True)
    assert (part.finished, part.cells, part.complete) == (8, 9, False)


def test_failed_cells_are_kept_with_their_reasons_and_seeds():
    analysis = analysed({**TOP1, "sge": [89.1, None, 88.4]}, {"attention=sge, seed=1": "loss is nan"})
    assert analysis.failed == {"attention=sge, seed=1": "loss is nan"}
    assert row_of(analysis, "sge").failed == {1: "loss is nan"}
    assert row_of(analysis, "sge").difference.paired.pairs == 2
    assert not analysis.complete


def test_results_of_cells_outside_the_grid_are_left_out():
    larger = study(seeds=3)
    analysis = analyse(study(seeds=2), state(larger, TOP1))
    assert (analysis.finished, analysis.cells) == (6, 6)
    assert row_of(analysis, "se").values == (88.8, 89.4)


def test_papers_figures_stand_beside_their_combination():
    analysis = analysed(TOP1, paper=Paper("a table", figures={"sge": "77.58"}))
    assert [row.paper for row in analysis.rows] == [None, None, "77.58"]


def test_seen_spread_is_pooled_over_the_rows():
    analysis = analysed({"none": [88.0, 89.0, 87.0], "se": [88.5, 89.9, 87.1], "sge": [88.9, 88.1]})
    first, second = [0.5, 0.9, 0.1], [0.9, -0.9]
    pooled = (2 * np.var(first, ddof=1) + np.var(second, ddof=1)) / 3
    assert analysis.seen_spread == pytest.approx(pooled**0.5)
    assert analysed(ONE).seen_spread is None


@given(st.lists(st.tuples(*[st.one_of(st.none(), st.floats(0, 100))] * 3), min_size=1, max_size=6))
def test_any_study_can_be_analysed_however_far_it_is(cells):
    top1 = dict(zip(("none", "se", "sge"), map(list, zip(*cells, strict=True)), strict=True))
    analysis = analysed(top1)
    assert analysis.finished == sum(value is not None for values in top1.values() for value in values)
    for row in analysis.rows[1:]:
        common = sum(
            a is not None and b is not None for a, b in zip(top1["none"], top1[row.combination.name], strict=True)
        )
        assert (row.difference is None) == (common == 0)
        if row.difference is not None and row.difference.adjusted_p is not None:
            assert row.difference.paired.p <= row.difference.adjusted_p <= 1
