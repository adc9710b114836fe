"""Tests, intervals, corrections and plans against SciPy, formulas and simulated trainings."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import integrate, stats

from sgenet.study.statistics import (
    compare,
    holm,
    mean_interval,
    needed_seeds,
    of_differences,
    sign_flip_p,
    sign_flips_reach,
    slope,
    smallest_difference,
    standard_deviation,
)

BASELINE = [88.25, 87.5, 89.75, 88.0, 90.5, 86.25, 89.0, 88.75, 87.0, 91.0, 88.5, 89.25]
BETTER = [89.5, 88.25, 90.0, 89.75, 91.25, 88.5, 89.25, 90.5, 88.0, 91.75, 90.25, 89.0]
MIXED = [86.0, 89.0, 89.5, 88.75, 89.0, 87.75, 90.5, 86.5, 87.25, 90.0, 88.75, 87.5]
PAIRED = [(BETTER, BASELINE), (BASELINE, BETTER), (MIXED, BASELINE), (MIXED, BETTER)]

points = st.floats(-100, 100).map(lambda value: round(value, 3))
# Multiples of 1/1024, so that a p times a number of tests is exact and no rounding decides.
p_lists = st.lists(st.integers(0, 1024).map(lambda n: n / 1024), min_size=1, max_size=12)


# ---------------------------------------------------------------------------------------- a paired comparison


@pytest.mark.parametrize("pairs", [2, 3, 5, 12])
@pytest.mark.parametrize(("values", "baseline"), PAIRED)
def test_a_comparison_is_the_paired_t_test_of_scipy(values, baseline, pairs):
    values, baseline = values[:pairs], baseline[:pairs]
    found, expected = compare(values, baseline), stats.ttest_rel(values, baseline)
    assert found.pairs == pairs
    assert found.difference == pytest.approx(np.mean(values) - np.mean(baseline))
    assert found.spread == pytest.approx(np.std(np.subtract(values, baseline), ddof=1))
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)


def test_differences_are_compared_as_their_pairs_are():
    assert of_differences([a - b for a, b in zip(MIXED, BASELINE, strict=True)], 3) == compare(MIXED, BASELINE, 3)


def test_swapping_two_networks_turns_the_difference_round_and_keeps_p():
    there, back = compare(MIXED, BASELINE), compare(BASELINE, MIXED)
    assert back.difference == -there.difference
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert (back.p, back.exact_p) == (there.p, there.exact_p)


@given(effects=st.lists(points, min_size=12, max_size=12))
def test_what_a_seed_has_in_common_for_both_drops_out(effects):
    shifted = compare(*([v + e for v, e in zip(values, effects, strict=True)] for values in (MIXED, BASELINE)))
    plain = compare(MIXED, BASELINE)
    assert shifted.difference == pytest.approx(plain.difference)
    assert shifted.p == pytest.approx(plain.p)


@given(differences=st.lists(points, min_size=2, max_size=8))
def test_an_interval_leaves_0_out_just_where_p_is_below_5_percent(differences):
    found = of_differences(differences)
    assume(found.interval is not None and not math.isclose(found.p, 0.05, rel_tol=1e-6))
    low, high = found.interval
    assert (found.p < 0.05) == (low > 0 or high < 0)


def test_values_without_a_partner_are_refused():
    with pytest.raises(ValueError, match="zip"):
        compare([1.0, 2.0], [1.0])


def test_one_pair_has_neither_interval_nor_p():
    found = compare([90.0], [88.5])
    assert (found.difference, found.pairs) == (1.5, 1)
    assert (found.spread, found.interval, found.p, found.exact_p) == (None, None, None, None)


@pytest.mark.parametrize("step", [0.0, 0.5, 0.1, -0.3])
def test_pairs_that_all_differ_by_the_same_amount_show_no_spread_to_judge_by(step):
    # Sums of values between other powers of 2 are rounded otherwise: the differences are equal but for that.
    baseline = [7.9, 15.95, 31.3, 47.7, 63.95, 88.2]
    found = compare([value + step for value in baseline], baseline)
    assert found.difference == pytest.approx(step)
    assert (found.interval, found.p, found.exact_p) == (None, None, None)


def test_pairs_that_differ_by_nearly_the_same_amount_are_judged():
    differences = [0.5, 0.5001, 0.5, 0.5, 0.5]
    assert of_differences(differences).p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


@pytest.mark.parametrize("pairs", range(6, 11))
@pytest.mark.parametrize(("values", "baseline"), PAIRED)
def test_exact_p_is_the_permutation_test_of_scipy(values, baseline, pairs):
    values, baseline = values[:pairs], baseline[:pairs]
    expected = stats.permutation_test(
        (values, baseline),
        lambda a, b, axis: np.mean(np.subtract(a, b), axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
        alternative="two-sided",
    )
    assert compare(values, baseline).exact_p == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("comparisons", [1, 2, 4, 10, 25])
def test_exact_p_is_there_just_where_its_smallest_value_can_be_significant(comparisons):
    for pairs in range(2, 13):
        found = compare(BETTER[:pairs], BASELINE[:pairs], comparisons)
        can_reach = 2 / 2**pairs <= 0.05 / comparisons
        assert (found.exact_p is not None) == can_reach
        assert sign_flips_reach(pairs, comparisons) == can_reach
        assert found.p is not None


def test_a_comparison_of_many_pairs_goes_without_the_permutation_test():
    generator = np.random.default_rng(0)
    twenty, more = generator.normal(size=20), generator.normal(size=21)
    assert of_differences(twenty.tolist()).exact_p is not None
    found = of_differences(more.tolist())
    assert found.exact_p is None
    assert found.p == pytest.approx(stats.ttest_1samp(more, 0).pvalue)


@given(differences=st.lists(points, min_size=1, max_size=10))
def test_sign_flips_give_the_same_p_when_all_differences_change_sign(differences):
    assert sign_flip_p([-value for value in differences]) == sign_flip_p(differences)


@given(differences=st.lists(st.floats(0.001, 100), min_size=1, max_size=10))
def test_differences_of_one_sign_have_the_smallest_p_that_sign_flips_allow(differences):
    assert sign_flip_p(differences) == 2 / 2 ** len(differences)


def test_sign_flips_count_equal_sums_in_spite_of_rounding():
    # 0.1 + 0.2 is not 0.3 in floating point. Besides the signs seen, which all are +, only those of all - reach 0.6.
    assert sign_flip_p([0.1, 0.2, 0.3]) == 2 / 8
    # Sums of 0 on both sides: all signs are as far from 0 as the ones seen.
    assert sign_flip_p([0.1, 0.2, -0.3]) == 1.0


def test_sign_flips_of_more_than_20_pairs_are_refused():
    with pytest.raises(ValueError, match="21 pairs"):
        sign_flip_p([1.0] * 21)


# ------------------------------------------------------------------------------------------ spread, mean, slope


@pytest.mark.parametrize("values", [BASELINE[:2], BASELINE[:3], BASELINE, MIXED])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_of_a_mean_is_students(values, level):
    expected = stats.t.interval(level, len(values) - 1, np.mean(values), stats.sem(values))
    assert mean_interval(values, level) == pytest.approx(expected, rel=1e-12)


def test_intervals_of_a_mean_hold_it_at_95_percent_unless_told_otherwise():
    assert mean_interval(MIXED) == mean_interval(MIXED, 0.95)


def test_a_single_value_shows_no_spread():
    assert standard_deviation([88.0]) is None
    assert mean_interval([88.0]) is None


@pytest.mark.parametrize("along", [range(12), [2.0**n for n in range(12)], [-0.5, 3.0] * 6])
def test_a_slope_is_that_of_the_least_squares_line(along):
    assert slope(MIXED, along) == pytest.approx(np.polyfit(along, MIXED, 1)[0], rel=1e-9)


# ---------------------------------------------------------------------------------------------------------- Holm


def naive_holm(p_values):
    """The largest of (number of tests not yet rejected) times p, over this test and all before it, at most 1."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    for rank, i in enumerate(order):
        adjusted[i] = min(1.0, max((len(order) - k) * p_values[order[k]] for k in range(rank + 1)))
    return adjusted


def rejected(p_values, alpha):
    """Holm's procedure in his own words: from the smallest p on, reject until one is above alpha / those left."""
    found, left = set(), len(p_values)
    for i in sorted(range(len(p_values)), key=lambda i: p_values[i]):
        if Fraction(p_values[i]) > Fraction(alpha) / left:
            break
        found.add(i)
        left -= 1
    return found


def test_the_textbook_example_of_holm():
    # With 0.05 two of the four are rejected: 0.005 <= 0.05 / 4 and 0.01 <= 0.05 / 3, but 0.03 > 0.05 / 2.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([3 * 0.01, 2 * 0.03, 2 * 0.03, 4 * 0.005])


def test_no_tests_need_no_correction():
    assert holm([]) == []


@given(p_values=p_lists)
def test_holm_is_what_its_definition_says(p_values):
    assert holm(p_values) == naive_holm(p_values)


@given(p_values=p_lists, alpha=st.integers(1, 1023).map(lambda n: n / 1024))
def test_an_adjusted_p_is_at_most_alpha_just_where_holms_procedure_rejects(p_values, alpha):
    assert {i for i, p in enumerate(holm(p_values)) if p <= alpha} == rejected(p_values, alpha)


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_of_p_values_and_lowers_none(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    in_order = [adjusted[i] for i in sorted(range(len(p_values)), key=lambda i: p_values[i])]
    assert in_order == sorted(in_order)
    assert min(adjusted) == min(1.0, len(p_values) * min(p_values))


@given(p_values=p_lists, data=st.data())
def test_holm_does_not_depend_on_the_order_of_the_tests(p_values, data):
    order = data.draw(st.permutations(range(len(p_values))))
    adjusted = holm(p_values)
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]


@given(p=st.floats(0, 1))
def test_a_single_p_needs_no_correction(p):
    assert holm([p]) == [p]


# --------------------------------------------------------------------------------------------- planning a study


def power(effect, seeds, comparisons):
    """Of the t-test at 0.05 / comparisons: the normal mean's chance of passing, over all spreads that may be seen."""
    freedom = seeds - 1
    bound = stats.t.isf(0.05 / comparisons / 2, freedom)

    def share(seen):
        centre = effect * math.sqrt(seeds)
        passed = stats.norm.sf(bound * seen - centre) + stats.norm.cdf(-bound * seen - centre)
        return passed * stats.chi.pdf(seen * math.sqrt(freedom), freedom) * math.sqrt(freedom)

    return integrate.quad(share, 0, 12, points=[0.05, 0.5, 1, 2], limit=200)[0]


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("comparisons", [1, 4, 20])
def test_the_smallest_difference_is_found_in_80_percent_of_all_studies(seeds, comparisons):
    difference = smallest_difference(1.0, seeds, comparisons)
    assert power(difference, seeds, comparisons) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("wanted", [0.5, 0.95])
def test_the_smallest_difference_for_another_power(wanted):
    assert power(smallest_difference(1.0, 5, 2, power=wanted), 5, 2) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(("seeds", "comparisons"), [(3, 1), (5, 1), (10, 4)])
def test_simulated_studies_find_the_smallest_difference_as_often_as_promised(seeds, comparisons):
    studies, spread = 4000, 0.7
    difference = smallest_difference(spread, seeds, comparisons)
    trainings = np.random.default_rng(seeds).normal(difference, spread, (studies, seeds))
    found = np.mean(stats.ttest_1samp(trainings, 0, axis=1).pvalue <= 0.05 / comparisons)
    # Three standard errors of a share of 4000.
    assert found == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / studies))


def test_the_smallest_difference_grows_with_spread_and_comparisons_and_falls_with_seeds():
    assert smallest_difference(3.0, 5) == pytest.approx(3 * smallest_difference(1.0, 5))
    by_comparisons = [smallest_difference(1.0, 5, n) for n in (1, 2, 5, 20, 50)]
    assert by_comparisons == sorted(set(by_comparisons))
    by_seeds = [smallest_difference(1.0, n, 4) for n in (50, 20, 10, 5, 3, 2)]
    assert by_seeds == sorted(set(by_seeds))


def test_a_single_seed_can_find_nothing():
    assert smallest_difference(1.0, 1) is None


@pytest.mark.parametrize("difference", [0.15, 0.5, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("comparisons", [1, 5])
def test_needed_seeds_are_the_fewest_whose_smallest_difference_is_not_larger(difference, comparisons):
    spread = 0.9
    needed = needed_seeds(difference, spread, comparisons)
    assert smallest_difference(spread, needed, comparisons) <= difference
    fewer = smallest_difference(spread, needed - 1, comparisons)
    assert fewer is None or difference < fewer
    assert needed_seeds(-difference, spread, comparisons) == needed


@pytest.mark.parametrize("comparisons", [1, 10])
def test_more_than_a_thousand_seeds_are_no_plan(comparisons):
    # Just above and below what a thousand find.
    border = smallest_difference(1.0, 1000, comparisons)
    assert needed_seeds(border * 1.0001, 1.0, comparisons) == 1000
    assert needed_seeds(border * 0.9999, 1.0, comparisons) is None
    assert needed_seeds(1e-6, 1.0, comparisons) is None


# --------------------------------------------------------------------------------------------- simulated trainings


def trainings(generator, studies, networks, seeds):
    """Top-1 of networks that are equally good: what a seed has in common for all, and what it has not."""
    common = generator.normal(88, 2, (studies, 1, seeds))
    return common + generator.normal(0, 0.7, (studies, networks, seeds))


def test_intervals_hold_the_truth_in_95_percent_of_simulated_studies():
    studies, truth = 4000, 1.2
    top1 = trainings(np.random.default_rng(0), studies, 2, 5)
    intervals = [compare((own + truth).tolist(), base.tolist()).interval for base, own in top1]
    # The share of 4000 has a standard error of 0.34 percent, so that 93 and 97 percent are nearly six of them away.
    assert 0.93 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.97


def test_simulated_studies_of_equal_networks_seldom_find_a_difference():
    studies = 1200
    found = 0
    for base, *others in trainings(np.random.default_rng(1), studies, 4, 3):
        p_values = [compare(own.tolist(), base.tolist()).p for own in others]
        found += min(holm(p_values)) <= 0.05
    # At most 5 percent of all studies, and three standard errors of a share of 1200.
    assert found / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    # A correction that finds nothing at all would pass, too.
    assert found > 0
