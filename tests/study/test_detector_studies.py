"""Studies whose trainings are detectors: where they start, what else they are told by, and how they are repeated."""

import csv
import io
import math
import shlex

import numpy as np
import pytest
from scipy import stats

from sgenet.classification.config import TrainConfig
from sgenet.cli.parsing import named_settings
from sgenet.detection.config import make_detect_config
from sgenet.errors import ConfigError
from sgenet.study import analyse, load_study
from sgenet.study.definition import Definition
from sgenet.study.report import render
from sgenet.study.storage import Result, State
from sgenet.study.table import further_columns, markdown, rows_csv
from sgenet.study.training import Images, train_cell
from sgenet.study.wording import further

LEVELS = {"none": {"backbone": "resnet18"}, "sge": {"backbone": "sge_resnet18"}}


def study(**changes):
    values = {
        "name": "boxes", "trains": "detectors", "recipe": "shapes", "seeds": 4, "settings": {"data": "shapes"},
        "factors": {"attention": LEVELS}, "pretraining": {"recipe": "shapes", "settings": {"epochs": 3}},
    }  # fmt: skip
    return Definition.from_dict({key: value for key, value in {**values, **changes}.items() if value is not ...})


def analysed(figures, **changes):
    """The analysis of made-up trainings: by level and column, a value for each seed."""
    definition = study(**changes)
    results = {}
    for cell in definition.cells:
        own = figures[cell.combination.levels["attention"]]
        row = {name: values[cell.seed] for name, values in own.items()}
        row = {"ap": 50.0, "train_loss": 1.0, "seconds": 1.0, "ap_large": math.nan, **row}
        environment = {"machine": {"gpus": [], "processor": "", "cores": 2, "threads": 2, "platform": ""}}
        results[cell.key] = Result(
            ({"epoch": 1, **row}, {"epoch": 2, **row}), "sgenet detect train", "runs/x", environment | {"versions": {}}
        )
    return analyse(definition, State(results, {}, (), {}))


FIGURES = {
    "none": {"ap": [40.0, 41.0, 42.0, 40.5], "ap_small": [20.0, 21.0, 22.0, 20.5], "ap75": [30.0, 31.0, 29.0, 30.5]},
    "sge": {"ap": [40.2, 41.1, 41.9, 40.9], "ap_small": [26.0, 27.2, 27.9, 26.4], "ap75": [30.1, 30.8, 29.3, 30.4]},
}


def test_detectors_on_one_backbone_start_from_one_classifier():
    definition = load_study("detectors")
    folders = {}
    for cell in definition.cells:
        config, start = definition.config(cell, "x"), definition.start(cell, "x", workers=1, data="/elsewhere")
        assert (start.model, start.seed, start.data) == (config.backbone, cell.seed, "shapes")
        assert config.backbone_weights == start.output
        folders.setdefault((config.backbone, config.seed), set()).add(start.output)
    assert folders["sge_resnet18", 2] == {"x/backbones/attention=sge-seed=2"}
    assert {len(own) for own in folders.values()} == {1}
    assert len(set().union(*folders.values())) == len(folders) == 3 * definition.seeds


def test_the_start_is_a_part_of_what_two_runs_must_share():
    other = study(pretraining={"recipe": "shapes", "settings": {"epochs": 4}})
    assert study().fingerprint() != other.fingerprint()
    assert study().fingerprint() == Definition.from_dict(study().to_dict()).fingerprint()
    assert study(metric="ap_small").fingerprint() != study().fingerprint()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trains": "segmenters"}, "trains='segmenters' must be one of classifiers, detectors"),
        ({"trains": "classifiers", "factors": {"lr": [0.1, 0.2]}}, "pretraining is for detectors"),
        ({"metric": "top1"}, "metric='top1' must be one of ap, ap50,"),
        ({"metric": "start_top1"}, "metric='start_top1' must be one of"),
        ({"settings": {"data": "shapes", "backbone_weights": "runs/x"}}, "backbone_weights and pretraining are two"),
        ({"pretraining": {"recipes": "shapes"}}, "pretraining holds recipe and settings"),
        ({"pretraining": {"settings": {"epoch": 3}}}, "there is no setting 'epoch'"),
        ({"pretraining": {"settings": {"seed": 3}}}, "pretraining: seed is what the study decides"),
        ({"pretraining": {"recipe": 5}}, "pretraining holds recipe and settings, a name or a file"),
        ({"factors": {"model": ["resnet18", "sge_resnet18"]}}, "no setting of `sgenet detect train`"),
        ({"sections": ["masks"]}, "sections of detectors may be none, not masks"),
    ],
)
def test_what_cannot_be_a_study_of_detectors_is_refused_in_one_sentence(changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        study(**changes)
    assert "\n" not in str(caught.value)


def test_the_compared_figure_is_ap_or_the_one_that_is_named():
    ap, small = analysed(FIGURES), analysed(FIGURES, metric="ap_small")
    assert ap.rows[1].values == tuple(FIGURES["sge"]["ap"])
    assert ap.rows[1].difference.verdict == "not significant"
    assert small.rows[1].values == tuple(FIGURES["sge"]["ap_small"])
    assert small.rows[1].difference.verdict == "better"


def test_other_figures_are_tested_and_corrected_together():
    row = analysed(FIGURES).rows[1]
    found = {figure.metric.key: figure for figure in row.further}
    assert found.keys() == {"ap_small", "ap75"}  # of those that are a number in every training
    p = {}
    for name, figure in found.items():
        test = stats.ttest_rel(FIGURES["sge"][name], FIGURES["none"][name])
        assert figure.mean == pytest.approx(np.mean(FIGURES["sge"][name]))
        assert figure.difference.paired.p == pytest.approx(test.pvalue, rel=1e-9)
        p[name] = test.pvalue
    assert found["ap_small"].difference.adjusted_p == pytest.approx(
        2 * p["ap_small"], rel=1e-9
    )  # Holm's smallest of two
    assert found["ap75"].difference.adjusted_p == pytest.approx(p["ap75"], rel=1e-9)
    said = further(analysed(FIGURES))
    assert "APs of sge +6.00 points" in said
    assert "AP75 of sge" not in said


def test_other_figures_stand_in_tables_and_report():
    analysis = analysed(FIGURES)
    heads = [column.title for column in further_columns(analysis)]
    assert heads == ["attention", "AP75, %", "APs, %"]
    assert "26.88 ± 0.85 (+6.00 (" in markdown(further_columns(analysis))
    none, sge = csv.DictReader(io.StringIO(rows_csv(analysis, {})))
    assert float(sge["ap_small_difference"]) == pytest.approx(6.0)
    assert none["ap_small_difference"] == ""
    page = render(analysis, {})
    assert "Other figures of the same trainings" in page
    assert "second table together, which may err in 5% of studies of its own" in " ".join(page.split())
    assert "AP is COCO&#39;s average precision" in page
    assert "a classifier, trained by the recipe shapes with epochs 3" in page


class Claim:
    """A cell, and what was told of it."""

    def __init__(self, cell):
        self.cell, self.told = cell, []

    def report(self, epoch, figure):
        self.told.append((epoch, figure))


def test_a_cell_trains_its_classifier_first_and_says_how_to_repeat_both(tmp_path):
    definition = study(seeds=1).tiny()
    claim = Claim(definition.cells[1])
    result = train_cell(definition, claim, tmp_path, Images(), {"workers": 0})
    assert [epoch for epoch, _ in claim.told] == [1]
    assert [figure for _, figure in claim.told] == [row["ap"] for row in result.history]
    lines = (tmp_path / "backbones" / "attention=sge-seed=0" / "metrics.csv").read_text().splitlines()
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    assert result.last("start_top1") == float(last["val_top1"])
    first, second = (shlex.split(command) for command in result.command.split(" && "))
    assert first[:2] == ["sgenet", "train"]
    assert second[:3] == ["sgenet", "detect", "train"]
    assert second[second.index("--backbone-weights") + 1] == first[first.index("--output") + 1]
    recipe = second[second.index("--recipe") + 1]
    named = named_settings("detect train", make_detect_config(recipe), second[5:])
    assert make_detect_config(recipe, **named) == definition.config(definition.cells[1], workers=0)
    assert isinstance(definition.start(definition.cells[1]), TrainConfig)
    again = train_cell(definition, Claim(definition.cells[1]), tmp_path, Images(), {})
    np.testing.assert_equal(again.history, result.history)  # it is there already
