"""What a report dares to say: what a test allows, and no more."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_studies import ALIKE, ALONG_NOISE, LOSS, NOISES, NONE, ONE, TIE, TOP1, WIN, along_noise, analysed, study
from scipy import stats

from sgenet.study.wording import (
    answer,
    courses,
    detectable,
    failures,
    mean_and_spread,
    outlook,
    p_words,
    sentences,
    signed,
    span,
)

OVERCLAIMS = ("proves", "proven", "outperform", "improves", "beats", "clearly", "certainly", "no difference", "as good")
STUDIES = {"top1": TOP1, "win": WIN, "loss": LOSS, "tie": TIE, "alike": ALIKE, "one": ONE, "none": NONE}


def said(analysis):
    return " ".join([answer(analysis), *sentences(analysis), *courses(analysis), outlook(analysis)])


def test_a_difference_that_is_not_significant_is_called_that_and_never_a_tie():
    analysis = analysed(TIE)
    assert "No significant difference from none was found for either of the two" in answer(analysis)
    assert len(sentences(analysis)) == 2
    assert all("not significant" in sentence for sentence in sentences(analysis))
    assert not re.search(r"\b(tie|same|better|worse)\b", " ".join([answer(analysis), *sentences(analysis)]))


@pytest.mark.parametrize(("top1", "word", "side"), [(WIN, "better", "above"), (LOSS, "worse", "below")])
def test_a_significant_difference_is_told_with_its_direction_and_size(top1, word, side):
    analysis = analysed(top1)
    gaps = [a - b for a, b in zip(top1["sge"], top1["none"], strict=True)]
    points = sum(gaps) / len(gaps)
    assert f"significantly {word} than none" in answer(analysis)
    assert f"sge ({signed(points)} points" in answer(analysis)
    assert "not differ significantly" in answer(analysis)  # se
    se, sge = sentences(analysis)
    assert f"{abs(points):.2f} points {side} none" in sge
    assert sge.endswith(": significant.")
    assert "not significant" in se
    assert f"significantly {word} throughout" in courses(analysis)[1]


def test_the_other_direction_is_not_claimed_too():
    assert "worse" not in answer(analysed(WIN))
    assert "better" not in answer(analysed(LOSS))


def test_a_single_comparison_is_answered_by_itself():
    analysis = analysed({"none": TIE["none"], "se": TIE["se"]}, levels=("none", "se"))
    assert answer(analysis).startswith("se does not differ significantly from none: 0.00 points")


def test_of_many_significant_levels_the_largest_is_named():
    top1 = {"none": WIN["none"], **{f"l{i}": [v + i for v in WIN["sge"]] for i in range(6)}}
    analysis = analysed(top1, levels=tuple(top1))
    assert re.search(r"(6|six) levels \(l5 by most", answer(analysis))


def test_a_wiring_check_draws_no_conclusion():
    analysis = analysed(WIN, wiring=True)
    assert "no conclusion" in answer(analysis)
    assert (sentences(analysis), courses(analysis), outlook(analysis)) == ([], [], "")


def test_an_unfinished_study_says_so():
    analysis = analysed({**WIN, "sge": WIN["sge"][:2]})
    assert answer(analysis).startswith("So far, 10 of 12 trainings: ")
    assert "So far" not in answer(analysed(WIN))
    assert answer(analysed(NONE)) == "Nothing is trained yet."
    assert said(analysed(NONE)).strip() == "Nothing is trained yet."


def test_nothing_follows_from_one_seed():
    analysis = analysed(ONE)
    assert "nothing follows" in answer(analysis)
    assert all("single seed" in sentence and "nothing follows" in sentence for sentence in sentences(analysis))
    assert "significant" not in said(analysis)
    assert "11.00 points above none" in sentences(analysis)[1]


def test_what_cannot_be_tested_is_not_told_as_tested():
    analysis = analysed({**WIN, "se": WIN["se"][:1]})
    assert analysis.rows[1].difference.verdict == "untested"
    assert "significantly better than none" in answer(analysis)
    assert "not differ significantly" not in answer(analysis)


def test_differences_without_spread_are_not_judged():
    se, sge = sentences(analysed(ALIKE))
    assert "0.50 points above none" in se
    assert "level with none" in sge
    assert all("no spread to judge by" in sentence for sentence in (se, sge))
    assert "significant" not in answer(analysed(ALIKE))


@pytest.mark.parametrize("top1", STUDIES.values(), ids=STUDIES)
def test_no_word_claims_more_than_a_test_can_show(top1):
    text = said(analysed(top1)).lower()
    assert not [word for word in OVERCLAIMS if word in text]
    assert "nan" not in re.findall(r"\w+", text)


def test_trends_are_told_with_their_slope_and_unit():
    found = answer(along_noise())
    se, sge = re.findall(r"Top-1 of .*?\.(?= Top|$)", found)
    assert "of se minus that of none does not change significantly with noise" in se
    assert "of sge minus that of none rises significantly with noise" in sge
    assert re.search(r": \+0\.95 points for each unit of noise, 95% interval \+", sge)


def test_a_falling_trend_is_told_as_one():
    top1 = {f"{level} / {n}": ALONG_NOISE[f"{level} / {2 - int(n)}"] for level in ("none", "se", "sge") for n in NOISES}
    assert re.search(r"of sge minus that of none falls significantly with noise: −", answer(along_noise(top1)))


def test_a_trend_of_one_seed_cannot_be_told():
    found = answer(along_noise({name: values[:1] for name, values in ALONG_NOISE.items()}))
    assert found.count("cannot be told") == 2
    assert "significantly" not in found


def test_failures_are_told_with_their_reason():
    analysis = analysed({**TOP1, "sge": [89.1, 88.7]}, {"attention=sge, seed=2": "loss is nan"})
    assert failures(analysis) == ["attention=sge, seed=2 failed: loss is nan"]


def test_detectable_states_a_difference_that_a_t_test_finds_in_four_of_five_studies():
    definition = study(seeds=5)
    found = detectable(definition, 1.2, "stated")
    points = float(re.search(r"difference of ([\d.]+) points", found)[1])
    bound = stats.t.ppf(1 - 0.05 / (2 * 2), 4)
    powers = [stats.nct.sf(bound, 4, (points + off) / 1.2 * math.sqrt(5)) for off in (-0.06, 0.06)]
    assert powers[0] < 0.8 < powers[1]
    assert "5 seeds" in found
    assert "2 comparisons" in found
    assert "by 1.2 points (stated)" in found


def test_detectable_says_what_is_not_known():
    assert "not known" in detectable(study(seeds=5), None)
    assert "single seed" in detectable(study(seeds=1), 1.2)
    assert "single seed" in detectable(study(seeds=1), None)
    assert "comparisons" not in detectable(study(("none", "se")), 1.2)


def test_outlook_asks_for_as_many_seeds_as_a_t_test_needs():
    analysis = analysed(TOP1)
    needed = int(re.search(r"about (\d+) seeds", outlook(analysis))[1])
    largest = (1.2 - 0.3 + 0.8) / 3  # sge
    spread = math.sqrt(stats.tvar([1.2, -0.3, 0.8]))

    def power(seeds):
        bound = stats.t.ppf(1 - 0.05 / 4, seeds - 1)
        return stats.nct.sf(bound, seeds - 1, largest / spread * math.sqrt(seeds))

    assert power(needed - 1) < 0.8 <= power(needed)


def test_outlook_asks_for_more_seeds_than_there_were():
    # One difference varies much more than the others, so that their common spread would make it look easy to find.
    gaps = [0.4, 1.6, 3.4, 4.6, 6.4, 7.6]
    steady = {str(i): [80.0 + 0.1 * (i == seed) for seed in range(6)] for i in range(3)}
    top1 = {"none": [80.0] * 6, "se": [80.0 + gap for gap in gaps], **steady}
    analysis = analysed(top1, levels=tuple(top1))
    assert {row.difference.verdict for row in analysis.rows[1:]} == {"not significant"}
    needed = re.search(r"(\d+) seeds", outlook(analysis))
    assert needed is None or int(needed[1]) > 6


def test_outlook_is_silent_on_seeds_where_nothing_is_left_open():
    assert "seeds" not in outlook(analysed({"none": WIN["none"], "sge": WIN["sge"]}, levels=("none", "sge")))
    assert "need not hold on others" in outlook(analysed(WIN))


def test_outlook_knows_what_no_study_could_settle():
    top1 = {"none": [88.0, 89.0, 87.0], "se": [93.0, 84.0, 87.2]}
    assert "more than a thousand seeds" in outlook(analysed(top1, levels=("none", "se")))


@pytest.mark.parametrize(
    ("p", "words"),
    [(None, "not tested"), (0.0, "p < 0.001"), (0.00099, "p < 0.001"), (0.001, "p = 0.001"), (0.0495, "p = 0.050"),
     (0.051, "p = 0.051"), (0.5, "p = 0.500"), (1.0, "p = 1")],
)  # fmt: skip
def test_p_values_have_words(p, words):
    assert p_words(p).replace("\N{NO-BREAK SPACE}", " ") == words  # a line does not end within it


@given(st.floats(-100, 100))
def test_numbers_of_points_can_be_read_back(points):
    text = signed(points)
    assert "-" not in text
    assert float(text.replace("−", "-")) == pytest.approx(points, abs=0.00501)
    assert text == "0.00" or text[0] == ("+" if points > 0 else "−")


def test_spans_and_means_have_their_dashes():
    assert span(None) == "–"
    assert span((-1.234, 0.0)) == "−1.23 to 0.00"
    assert mean_and_spread(analysed(ONE).rows[0]) == "88.00"
    assert mean_and_spread(analysed(NONE).rows[0]) == "–"
    assert mean_and_spread(analysed(TIE).rows[0]) == "88.00 ± 1.00"


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=6))
def test_a_sentence_says_significant_exactly_where_the_test_does(pairs):
    base, own = (list(values) for values in zip(*pairs, strict=True))
    analysis = analysed({"none": base, "se": own}, levels=("none", "se"))
    verdict = analysis.rows[1].difference.verdict
    (sentence,) = sentences(analysis)
    assert ("not significant" in sentence) == (verdict == "not significant")
    assert sentence.endswith(": significant.") == (verdict in ("better", "worse"))
