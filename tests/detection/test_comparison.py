import copy
import math
import statistics

import numpy as np
import pytest
from drawn_sets import sets
from hypothesis import given
from hypothesis import strategies as st
from made_up_results import make_results, real_annotations, with_masks

from sgenet.detection.comparison import FEWEST_IMAGES, Comparison, FigureDifference, compare, markdown, notes, summary
from sgenet.detection.evaluation import FIGURES, evaluate
from sgenet.detection.ground_truth import read_ground_truth
from sgenet.detection.matching import match
from sgenet.detection.resampling import draw_weights, weighted_figures
from sgenet.detection.starting_points import StartingPoint, same_start
from sgenet.errors import ConfigError, DataError


def weighted(annotations, results, weights, kind="bbox"):
    matches = match(read_ground_truth(annotations), results, kind)
    return weighted_figures(matches, np.array(weights, dtype=np.int64))


def evaluated(annotations, results, kind="bbox"):
    return [math.nan if value is None else value for value in evaluate(annotations, results, kind).figures.values()]


def same(figures, expected):
    np.testing.assert_allclose(figures, expected, rtol=0, atol=1e-9)


def drawn_again(annotations, results, weights):
    """Annotations and results where image i comes as often as `weights` says, every time under another id."""
    again, found = {**annotations, "images": [], "annotations": []}, []
    for image, weight in zip(sorted(annotations["images"], key=lambda image: image["id"]), weights, strict=True):
        for _ in range(weight):
            number = len(again["images"]) + 1
            again["images"].append({**image, "id": number})
            again["annotations"] += [
                {**a, "image_id": number} for a in annotations["annotations"] if a["image_id"] == image["id"]
            ]
            found += [{**r, "image_id": number} for r in results if r["image_id"] == image["id"]]
    return again, found


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equal_weights_give_the_full_evaluation(kind):
    annotations = real_annotations()
    results = make_results(annotations)
    if kind == "segm":
        results = with_masks(results, annotations)
    same(weighted(annotations, results, [[1]] * 100, kind)[:, 0], evaluated(annotations, results, kind))


@given(sets())
def test_equal_weights_give_the_full_evaluation_of_any_set(drawn):
    annotations, results = drawn
    for kind in ("bbox", "segm"):
        figures = weighted(annotations, results, [[1]] * len(annotations["images"]), kind)
        same(figures[:, 0], evaluated(annotations, results, kind))


@pytest.mark.parametrize("found", [0, 1, 7, 14, 28, 29, 50, 55, 56, 57, 58, 99, 100])
def test_recalls_that_are_looked_up_exactly(found):
    # 29 of 100 reach the recall of 0.29, though 100 * (29 / 100) is below 29 in floating point.
    figures = weighted(dogs(100), finding(range(found)), [[1]] * 100)
    same(figures[:, 0], evaluated(dogs(100), finding(range(found))))
    reached = np.count_nonzero(np.linspace(0, 1, 101) <= found / 100)
    assert figures[0, 0] == pytest.approx(reached / 101 if found else 0)


@pytest.mark.parametrize("second", ["left", "right"])
def test_of_two_objects_that_overlap_alike_the_last_is_found(second):
    left, middle, right = [0, 0, 20, 20], [4, 0, 20, 20], [8, 0, 20, 20]
    annotations = dogs(1)
    annotations["annotations"] = [
        {"id": i, "image_id": 0, "category_id": 1, "bbox": box} for i, box in enumerate([left, right], 1)
    ]
    beside = {"left": [-6, 0, 20, 20], "right": [14, 0, 20, 20]}[second]  # overlaps one of them enough, but not both
    results = [
        {"image_id": 0, "category_id": 1, "bbox": box, "score": score} for box, score in ((middle, 0.9), (beside, 0.8))
    ]
    figures = weighted(annotations, results, [[1]])
    same(figures[:, 0], evaluated(annotations, results))
    assert figures[1, 0] == pytest.approx(1.0 if second == "left" else 51 / 101)


def test_resamples_of_real_images_equal_their_evaluation():
    annotations = real_annotations()
    results = make_results(annotations)
    seen = set()
    for result in results:  # equal scores in one image and class leave the order open
        while (key := (result["image_id"], result["category_id"], result["score"])) in seen:
            result["score"] += 1e-6
        seen.add(key)
    weights = draw_weights(100, 3, seed=5)
    figures = weighted(annotations, results, weights)
    for own, drawn in zip(figures.T, weights.T, strict=True):
        same(own, evaluated(*drawn_again(annotations, results, drawn)))


@given(sets(ties=False), st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_resamples_of_any_set_equal_their_evaluation(drawn, weights):
    annotations, results = drawn
    weights = weights[: len(annotations["images"])]
    figures = weighted(annotations, results, [[weight] for weight in weights])
    same(figures[:, 0], evaluated(*drawn_again(annotations, results, weights)))


def test_many_resamples_are_those_one_by_one(monkeypatch):
    annotations = real_annotations()
    results = make_results(annotations)
    weights = draw_weights(100, 7, seed=0)
    alone = np.concatenate([weighted(annotations, results, weights[:, i : i + 1]) for i in range(7)], axis=1)
    same(weighted(annotations, results, weights), alone)
    monkeypatch.setattr("sgenet.detection.resampling._MOST_NUMBERS", 6400)  # which makes it work in parts
    same(weighted(annotations, results, weights), alone)


def test_drawn_weights():
    weights = draw_weights(50, 400, seed=3)
    assert weights.shape == (50, 400)
    assert (weights.sum(axis=0) == 50).all()
    assert (weights == draw_weights(50, 400, seed=3)).all()
    assert (weights != draw_weights(50, 400, seed=4)).any()
    # Drawn with replacement: mean 1, variance 1 - 1/50 for each image.
    assert abs(weights.mean(axis=1) - 1).max() < 0.25
    assert weights.var() == pytest.approx(1 - 1 / 50, abs=0.03)


def dogs(images, side=20):
    """One dog in each image."""
    return {
        "images": [{"id": i, "height": 64, "width": 64} for i in range(images)],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [8, 8, side, side]} for i in range(images)
        ],
    }


def finding(image_ids, side=20):
    return [{"image_id": i, "category_id": 1, "bbox": [8, 8, side, side], "score": 0.9} for i in image_ids]


def difference(comparison, figure, run=None):
    run = next(iter(comparison.differences)) if run is None else run
    return next(d for d in comparison.differences[run] if d.figure == figure)


def test_intervals_are_those_of_a_difference_of_paired_shares():
    # Recall is the share of images whose dog is found: the error of a difference of shares is known.
    ours, theirs = set(range(0, 400, 2)), set(range(0, 400, 5))
    comparison = compare(dogs(400), {"theirs": finding(theirs), "ours": finding(ours)}, resamples=2000)
    found = difference(comparison, "AR100")
    gaps = [(i in ours) - (i in theirs) for i in range(400)]
    mean, error = statistics.fmean(gaps), statistics.pstdev(gaps) / math.sqrt(400)
    assert found.difference == pytest.approx(mean)
    assert found.interval == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error)
    assert (found.verdict, found.images) == ("better", 400)
    assert difference(comparison, "ARs").interval == found.interval  # all are small


def test_runs_are_compared_on_the_same_images():
    # Both find most, and the same ones: unpaired, the interval would be far wider than the difference.
    base = set(range(0, 200, 2))
    comparison = compare(dogs(200), {"a": finding(base), "b": finding(base | {1, 3, 5, 7, 9, 11, 13, 15})})
    low, high = difference(comparison, "AR100").interval
    assert low > 0
    assert high - low < 0.07 < 1.96 * 2 * math.sqrt(2 * 0.25 / 200)


def test_figures_and_direction():
    annotations = real_annotations()
    runs = {"one": make_results(annotations, 0, found=0.6), "two": make_results(annotations, 1), "three": []}
    before = copy.deepcopy((annotations, runs))
    comparison = compare(annotations, runs, baseline="two", resamples=40)
    assert (annotations, runs) == before
    assert (comparison.baseline, comparison.images, list(comparison.differences)) == ("two", 100, ["one", "three"])
    for name, results in runs.items():
        same(list(comparison.figures[name].values()), evaluated(annotations, results))
    for name in ("one", "three"):
        assert [d.figure for d in comparison.differences[name]] == list(FIGURES)
        for own in comparison.differences[name]:
            assert own.difference == comparison.figures[name][own.figure] - comparison.figures["two"][own.figure]
    assert {d.verdict for d in comparison.differences["three"]} == {"worse"}


def test_the_same_results_do_not_differ_significantly():
    comparison = compare(dogs(30), {"a": finding(range(9)), "b": finding(range(9))}, resamples=40)
    for own in comparison.differences["b"]:
        if own.value is not None:
            assert (own.difference, own.interval, own.verdict) == (0, (0, 0), "not significant")


def test_seeds_levels_and_subsets():
    annotations = real_annotations()
    runs = {"a": make_results(annotations, 0, found=0.6), "b": make_results(annotations, 1)}
    some = [image["id"] for image in annotations["images"]][:30]
    options = {"resamples": 100, "image_ids": some}
    first = compare(annotations, runs, **options)
    assert first.differences == compare(annotations, runs, **options).differences
    assert first.differences != compare(annotations, runs, seed=1, **options).differences
    assert first.images == 30
    same(list(first.figures["a"].values()), list(evaluate(annotations, runs["a"], image_ids=some).figures.values()))
    narrow = difference(compare(annotations, runs, level=0.5, **options), "AP").interval
    low, high = difference(first, "AP").interval
    assert low < narrow[0] < narrow[1] < high


def test_masks_are_compared_too():
    annotations = real_annotations()
    runs = {n: with_masks(make_results(annotations, i, found=0.5), annotations) for i, n in enumerate("ab")}
    comparison = compare(annotations, runs, "segm", resamples=40, mask_areas=True)
    expected = evaluate(annotations, runs["a"], "segm", mask_areas=True).figures
    assert comparison.figures["a"] == pytest.approx(expected, abs=1e-9)


def test_too_few_images_are_not_tested():
    few = compare(dogs(FEWEST_IMAGES - 1), {"a": [], "b": finding([0, 1, 2])}, resamples=40)
    assert {d.verdict for d in few.differences["b"]} == {"untested"}
    enough = compare(dogs(FEWEST_IMAGES), {"a": [], "b": finding([0, 1, 2, 3])}, resamples=40)
    assert difference(enough, "AR100").verdict == "better"
    # Many images, but few with objects of one size.
    mixed = dogs(40, side=50)
    for annotation in mixed["annotations"][:3]:
        annotation.update(bbox=[8, 8, 20, 20])
    comparison = compare(mixed, {"a": [], "b": finding(range(3)) + finding(range(5, 30), 50)}, resamples=40)
    assert difference(comparison, "ARs").images == 3
    assert difference(comparison, "ARs").verdict == "untested"
    assert difference(comparison, "ARm").verdict == "better"


def test_differences_without_spread_or_objects_are_not_tested():
    comparison = compare(dogs(20), {"a": [], "b": finding(range(20))}, resamples=40)
    own = difference(comparison, "AP")
    assert (own.difference, own.interval, own.verdict) == (pytest.approx(1.0), None, "untested")
    own = difference(comparison, "APl")
    assert (own.value, own.difference, own.verdict, own.images) == (None, None, "untested", 0)
    nothing = compare(dogs(20), {"a": [], "b": []}, image_ids=[], resamples=40)
    assert {d.verdict for d in nothing.differences["b"]} == {"untested"}


def test_arguments_that_cannot_be_used():
    runs = {"a": [], "b": []}
    with pytest.raises(ConfigError, match="1 set of results cannot be compared"):
        compare(dogs(3), {"a": []})
    with pytest.raises(ConfigError, match="baseline='c' is none of the runs; it must be one of a, b"):
        compare(dogs(3), runs, baseline="c")
    with pytest.raises(ConfigError, match=r"resamples=39 are too few .* choose 40 or more"):
        compare(dogs(3), runs, resamples=39)
    with pytest.raises(ConfigError, match="level=95 must be above 0 and below 1"):
        compare(dogs(3), runs, level=95)
    with pytest.raises(ConfigError, match="kind='mask'"):
        compare(dogs(3), runs, "mask")
    with pytest.raises(DataError, match="run 'b': the results: entry 0 has image_id 9"):
        compare(dogs(3), {"a": [], "b": finding([9])})


def made_up():
    figures = dict.fromkeys(FIGURES, 0.375) | {"APl": None}
    intervals = {"AP": (0.0012, 0.0234), "AP50": (-0.01, 0.02), "AP75": (-0.02, -0.01), "APl": None}
    better = {name: value and value + 0.01 for name, value in figures.items()}
    differences = tuple(
        FigureDifference(name, better[name], figures[name], intervals.get(name, (0.0, 0.0)), 50) for name in FIGURES
    )
    return Comparison("bbox", "plain", {"plain": figures, "a|b": better}, {"a|b": differences}, 100, 1000, 3, 0.95)


def test_tables_for_a_terminal():
    lines = summary(made_up()).splitlines()
    assert lines[0].split() == ["bbox", *FIGURES]
    assert lines[1].split()[:3] == ["plain", "37.50", "37.50"]
    assert lines[2].split()[6] == "–"
    assert lines[4].split("  ")[0] == "a|b minus plain"
    assert lines[4].split()[-4:] == ["points", "95%", "interval", "verdict"]
    assert lines[5].split() == ["AP", "+1.00", "+0.12", "to", "+2.34", "better"]
    assert lines[6].split() == ["AP50", "+1.00", "−1.00", "to", "+2.00", "not", "significant"]
    assert lines[7].split()[-4:] == ["−2.00", "to", "−1.00", "worse"]
    assert lines[10].split() == ["APl", "–", "–", "untested"]


def test_tables_in_markdown():
    text = markdown(made_up())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 + 14
    assert "| a\\|b minus plain | points | 95% interval | verdict |" in rows
    assert "| AP | +1.00 | +0.12 to +2.34 | better |" in rows
    assert all(f"- {note}" in text for note in notes(made_up()))


def test_notes_say_what_intervals_show_and_what_not():
    said = " ".join(notes(made_up()))
    for words in ("100 images", "1000 resamples", "seed 3", "95%", "several seeds", "need not be equal", "11 differ"):
        assert words in said
    assert "fewer than 10 images" in said
    assert "tie" not in said.split()


SETTINGS = {
    "model": "resnet50",
    "attention": None,
    "data": "imagenet",
    "epochs": 100,
    "batch_size": 256,
    "schedule": "step",
    "milestones": (30, 60, 90),
    "lr": 0.1,
    "seed": 0,
    "weights": None,
    "output": "runs/a",
    "devices": "auto",
}


def start(name, detector=None, **changes):
    return StartingPoint(name, {**SETTINGS, **changes}, detector)


def test_runs_that_started_alike_need_no_warning():
    detector = {"epochs": 24, "lr": 0.02, "backbone": "resnet50", "output": "x"}
    other = {"epochs": 24, "lr": 0.02, "backbone": "sge_resnet50", "output": "y"}
    settings = {"model": "sge_resnet50", "attention": "sge", "output": "runs/b", "devices": "2"}
    assert same_start([start("a", detector), start("b", other, milestones=[30, 60, 90], **settings)]) == []
    assert same_start([StartingPoint("a", "random weights"), StartingPoint("b", "random weights")]) == []


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("data", "places", "data: imagenet for a and c; places for b."),
        ("epochs", 90, "epochs: 100 for a and c; 90 for b."),
        ("batch_size", 128, "batch_size: 256 for a and c; 128 for b."),
        ("schedule", "cosine", "schedule: step for a and c; cosine for b."),
        ("milestones", (50,), "milestones: (30, 60, 90) for a and c; (50) for b."),
        ("lr", 0.05, "lr: 0.1 for a and c; 0.05 for b."),
        ("seed", 1, "seed: 0 for a and c; 1 for b."),
        ("weights", "theirs.pth", "weights: none for a and c; theirs.pth for b."),
        ("mixup", 0.2, "mixup: unknown for a and c; 0.2 for b."),
        ("data_options", {"noise": 1.0}, "data_options: unknown for a and c; {noise: 1} for b."),
    ],
)
def test_each_setting_that_differs_is_named_with_who_has_what(setting, value, words):
    (said,) = same_start([start("a"), start("b", **{setting: value}), start("c")])
    assert said == f"The backbones were trained with different {words}"


def test_backbones_from_elsewhere_and_unknown_ones():
    said = same_start([start("a"), StartingPoint("b", "torchvision's IMAGENET1K_V1"), StartingPoint("c", None)])
    assert said == [
        "How the backbone of c was trained is unknown, so a difference may come from that.",
        "The backbones come from different trainings: one with known settings for a; "
        "torchvision's IMAGENET1K_V1 for b.",
    ]
    assert same_start([StartingPoint("a", None), StartingPoint("b", None)]) == [
        "How the backbones of a and b were trained is unknown, so a difference may come from that."
    ]


def test_trainings_of_the_detectors_are_compared_too():
    said = same_start([start("a", {"lr": 0.02, "batch_size": 16}), start("b", {"lr": 0.01, "batch_size": 8})])
    assert said == [
        "The detectors were trained with different batch_size: 16 for a; 8 for b.",
        "The detectors were trained with different lr: 0.02 for a; 0.01 for b.",
    ]
    (said,) = same_start([start("a", {"lr": 0.02}), start("b")])
    assert said == "How the detector of b was trained is unknown, so a difference may come from that."


def test_the_most_important_comes_first():
    said = same_start([start("a", flip=0.5), start("b", seed=1, epochs=1, flip=0.0)])
    assert [sentence.split("different ")[1].split(":")[0] for sentence in said] == ["epochs", "seed", "flip"]
