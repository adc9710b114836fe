"""The figures as tables: all there, in every format, with all their digits where a program reads them."""

import csv
import dataclasses
import io
import re

import numpy as np
import pytest
from made_up_studies import ALIKE, NOISES, NONE, ONE, TOP1, WIN, along_noise, analysed, costs, state, study
from scipy import stats

from sgenet.errors import ConfigError
from sgenet.study.analysis import analyse
from sgenet.study.definition import Paper
from sgenet.study.table import cells_csv, columns, markdown, plan, rows_csv, summary
from sgenet.study.wording import answer

STUDIES = {"top1": TOP1, "win": WIN, "alike": ALIKE, "one": ONE, "none": NONE}


def table_of(analysis, with_costs=True):
    found = columns(analysis, costs(analysis.definition) if with_costs else {})
    return {column.title: column for column in found}


def values(column):
    return [cell.value for cell in column.cells]


def details(column):
    return [cell.detail for cell in column.cells]


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_each_figure_stands_in_its_column():
    table = table_of(analysed(WIN))
    assert values(table["attention"]) == ["none", "se", "sge"]
    # by hand: means 80.25, 80.375 and 90.225
    assert values(table["top-1, %"])[0] == f"80.25 ± {np.std(WIN['none'], ddof=1):.2f}"
    assert values(table["top-1, %"])[2].startswith("90.2")
    low, high = stats.t.interval(0.95, 3, 80.25, stats.sem(WIN["none"]))
    assert details(table["top-1, %"])[0] == f"{low:.2f} to {high:.2f}"
    gap, p = table["minus none"], stats.ttest_rel(WIN["se"], WIN["none"])
    low, high = p.confidence_interval()
    assert values(gap)[0] == "–"
    assert values(gap)[1] in ("+0.12", "+0.13")  # 0.125 may round either way
    assert details(gap)[1] == f"−{-low:.2f} to +{high:.2f}"
    assert values(table["verdict"]) == ["baseline", "not significant", "better"]
    assert details(table["verdict"]) == ["", f"{p.pvalue:.3f}", "< 0.001"]  # Holm leaves the largest p as it is
    assert values(table["p alone"]) == ["–", f"{p.pvalue:.3f}", "< 0.001"]
    assert values(table["parameters"]) == ["75,160", "75,216", "75,272"]
    assert [cell.detail for cell in table["parameters"].cells] == ["12.24", "12.24", "12.24"]  # million MACs
    assert values(table["memory"]) == ["2.54", "5.08", "7.62"]


def test_every_column_has_a_cell_for_every_row():
    analysis = along_noise()
    found = columns(analysis, costs(analysis.definition))
    assert {len(column.cells) for column in found} == {9}
    assert [column.title for column in found][:2] == ["noise", "attention"]
    assert values(found[0]) == [noise for noise in NOISES for _ in range(3)]


def test_the_permutation_test_stands_beside_where_it_can_reach_significance():
    base = [80.0, 81.0, 79.5, 80.5, 80.2, 79.9, 80.8]
    own = [v + 1 + 0.1 * i for i, v in enumerate(base)]
    analysis = analysed({"none": base, "se": own}, levels=("none", "se"))
    assert details(table_of(analysis)["p alone"])[1] == f"{2 / 2**7:.3f}"
    assert details(table_of(analysed(WIN))["p alone"])[2] == ""


def test_seeds_are_counted_while_some_are_missing():
    assert values(table_of(analysed({**TOP1, "sge": [89.1, None, None]}))["seeds"]) == ["3", "3", "1"]
    assert "seeds" not in table_of(analysed(TOP1))


def test_costs_are_left_out_where_none_are_known():
    assert not {"parameters", "memory"} & set(table_of(analysed(TOP1), with_costs=False))


def test_figures_of_the_paper_stand_beside_ours():
    paper = Paper("a table", metric="top-1 error, %", figures={"none": "24.80", "sge": "22.42"})
    column = table_of(analysed(TOP1, paper=paper))["paper"]
    assert values(column) == ["24.80", "–", "22.42"]
    assert column.note == "top-1 error, %"
    assert "paper" not in table_of(analysed(TOP1, paper=Paper("an argument")))


def test_intervals_of_shares_stay_between_0_and_100():
    table = table_of(analysed({"none": [99.0, 100.0], "se": [0.0, 1.0], "sge": [50.0, 51.0]}))
    assert details(table["top-1, %"])[0].endswith(" to 100.00")
    assert details(table["top-1, %"])[1].startswith("0.00 to ")


@pytest.mark.parametrize("top1", STUDIES.values(), ids=STUDIES)
def test_markdown_has_as_many_columns_in_each_line(top1):
    analysis = analysed(top1)
    lines = markdown(columns(analysis, costs(analysis.definition))).splitlines()
    assert len(lines) == 2 + len(analysis.rows)
    assert len({len(line.split(" | ")) for line in lines}) == 1
    assert set(lines[1]) == set("|- ")


def test_markdown_keeps_its_columns_whatever_a_level_is_called():
    levels = ("none", "a|b", "two\nlines")
    analysis = analysed(dict(zip(levels, TOP1.values(), strict=True)), levels=levels)
    lines = markdown(columns(analysis, {})).splitlines()
    assert len(lines) == 5
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_markdown_has_every_figure_of_the_table():
    analysis = analysed(WIN)
    lines = markdown(columns(analysis, costs(analysis.definition))).splitlines()[2:]
    for column in columns(analysis, costs(analysis.definition)):
        for line, cell in zip(lines, column.cells, strict=True):
            assert cell.value in line
            assert cell.detail in line


def test_comparisons_can_be_read_back_with_all_their_digits():
    analysis = analysed(WIN, paper=Paper("a table", figures={"sge": "22.42"}))
    none, se, sge = read(rows_csv(analysis, costs(analysis.definition)))
    tested = stats.ttest_rel(WIN["sge"], WIN["none"])
    assert (none["attention"], se["attention"], sge["attention"]) == ("none", "se", "sge")
    assert float(sge["val_top1_mean"]) == pytest.approx(np.mean(WIN["sge"]), rel=1e-12)
    assert float(sge["val_top1_std"]) == pytest.approx(np.std(WIN["sge"], ddof=1), rel=1e-12)
    assert float(sge["difference"]) == pytest.approx(np.mean(np.subtract(WIN["sge"], WIN["none"])), rel=1e-12)
    assert float(sge["difference_p"]) == pytest.approx(tested.pvalue, rel=1e-9)
    assert float(sge["difference_p_holm"]) == pytest.approx(2 * tested.pvalue, rel=1e-9)
    ends = [float(sge["difference_low"]), float(sge["difference_high"])]
    assert ends == pytest.approx(list(tested.confidence_interval()), rel=1e-9)
    assert (sge["seeds"], sge["verdict"], sge["paper"]) == ("4", "better", "22.42")
    assert (sge["parameters"], sge["bytes_moved"]) == ("75272", "7620000")
    assert {none["difference"], none["course"], none["verdict"], none["paper"]} == {""}


def test_every_training_can_be_read_back():
    definition = study(("none", 'a,"b"'), noise=("0", "1"), seeds=2)
    top1 = {c.name: [80.123456789, 81.0] for c in definition.combinations}
    known = state(definition, top1)
    lines = read(cells_csv(analyse(definition, known)))
    assert len(lines) == 8
    found = {f"attention={x['attention']}, noise={x['noise']}, seed={x['seed']}": x for x in lines}
    assert found.keys() == known.results.keys()
    for key, result in known.results.items():
        last = result.history[-1]
        figures = {name: last[name] for name in ("val_top1", "val_top5", "val_loss", "train_loss", "train_top1")}
        assert {name: float(found[key][name]) for name in figures} == figures
        assert found[key]["command"] == result.command
        assert (found[key]["epoch"], found[key]["seconds"]) == ("4", "10.0")


def test_a_factor_has_no_name_that_is_another_columns():
    analysis = analysed(WIN)
    names = {*read(rows_csv(analysis, costs(analysis.definition)))[0], *read(cells_csv(analysis))[0]}
    assert len(names) > 30
    for name in names - {"attention", "seed"}:
        with pytest.raises(ConfigError, match=f"may not be called '{name}', which is a column"):
            study(factors=(dataclasses.replace(analysis.definition.factor, name=name),), compare=name)
    assert study(factors=(dataclasses.replace(analysis.definition.factor, name="lr"),), compare="lr").compare == "lr"


def test_csv_of_nothing_has_no_lines_of_results():
    assert read(cells_csv(analysed(NONE))) == []
    assert [line["seeds"] for line in read(rows_csv(analysed(NONE), {}))] == ["0", "0", "0"]


def test_the_summary_is_a_table_whose_columns_line_up():
    analysis = analysed(WIN)
    lines = summary(analysis).splitlines()
    table = lines[: lines.index("")]
    assert table[0].split()[:2] == ["attention", "top-1,"]
    assert len(table) == 4
    assert table[3].split()[0] == "sge"
    assert table[3].endswith("better")
    assert all(len(line) == len(table[0]) for line in table)
    assert answer(analysis) in lines


def test_the_summary_tells_of_failures():
    analysis = analysed({**TOP1, "sge": [89.1, 88.7]}, {"attention=sge, seed=2": "loss is nan"})
    assert summary(analysis).splitlines()[-1] == "attention=sge, seed=2 failed: loss is nan"


def test_the_plan_has_the_grid_the_paper_and_what_can_be_found():
    paper = Paper("a table", "on ImageNet", "top-1, %", {"none": "75.20"}, "Everything.")
    text = plan(study(noise=("0", "0.5"), seeds=5, spread=1.2, paper=paper))
    for words in ("Does attention help?", "Which of the two helps?", "attention: sge", "{'noise': 0.5}", "seeds: 5",
                  "recipe: shapes", "a table", "on ImageNet", "75.20", "With 5 seeds and 4 comparisons"):  # fmt: skip
        assert words in text
    marked = [line.split()[0] for line in text.splitlines() if line.endswith("(baseline)")]
    assert marked == ["none"]


def test_the_plan_says_what_a_study_lacks_instead():
    text = plan(study(needs="networks of another kind"))
    assert text.endswith("networks of another kind")
