"""The project's own list of settings: its commands are understood, and its figures are those of the rows."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import figures
import speed
from sgenet.bench import BenchResult, BenchRow, BenchSettings
from sgenet.bench.result import add_rows
from sgenet.timing import Ratio

SETTINGS = [*speed.settings_for("cpu"), *speed.settings_for("cuda")]


def row(form, baseline, ratio, shape=(8, 3, 224, 224), seconds=0.2, peak=None):
    spread = Ratio(ratio, ratio - 0.01, ratio + 0.01, 30, seconds)
    return BenchRow(form, baseline, shape, spread, None if peak is None else 1000, peak)


def rows_of(tmp_path, *results):
    for result in results:
        add_rows(tmp_path / "speed.csv", result.to_rows())
    return speed.read_rows(tmp_path / "speed.csv")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_the_words_of_a_setting_mean_the_setting(setting, monkeypatch, capsys):
    import sgenet.bench.measuring
    from sgenet.cli import main

    asked = []

    def bench(settings, progress):
        asked.append(settings)
        return BenchResult(settings, (row("sge", "plain", 1.0),), {"allocator": "default"})

    monkeypatch.setattr(sgenet.bench.measuring, "bench", bench)
    assert main(setting.words) == 0
    assert asked == [setting.options]


def test_settings_have_names_and_promises_of_their_own():
    assert len({setting.name for setting in SETTINGS}) == len({str(setting.options) for setting in SETTINGS})
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
    assert all(setting.musts for setting in SETTINGS)


def test_a_figure_is_that_of_the_last_measurement_on_the_machine(tmp_path):
    setting = speed.Setting("x", BenchSettings(compile=True))
    machine, other = {"device": "A", "threads": 2}, {"device": "B", "threads": 2}

    def result(ratio, options=setting.options, about=machine):
        return BenchResult(options, (row("plain again", "plain", 0.99), row("sge", "plain", ratio)), about)

    rows = rows_of(tmp_path, result(1.5), result(1.25), result(3.0, BenchSettings()), result(4.0, about=other))
    found = speed.newest(setting, rows, {"device": "A", "threads": "2"})
    assert [r["form"] for r in found] == ["plain again", "sge"]
    assert speed.measured(found, speed.Must("sge", 1.3)) == speed.Figure(1.25, "1.240-1.260", "0.990")
    assert speed.newest(setting, rows, {"device": "C"}) == []


def test_a_module_is_judged_by_its_worst_shape_and_that_shapes_noise(tmp_path):
    large, small = (8, 256, 56, 56), (8, 2048, 7, 7)
    rows = (
        row("copy_ again", "copy_", 1.0, large),
        row("forward", "copy_", 1.1, large),
        row("copy_ again", "copy_", 1.02, small),
        row("forward", "copy_", 1.3, small),
    )
    found = rows_of(tmp_path, BenchResult(BenchSettings(module="sge"), rows, {}))
    assert speed.measured(found, speed.Must("forward", 2)) == speed.Figure(1.3, "1.290-1.310", "1.020")


def test_passes_are_those_of_all_blocks_together(tmp_path):
    # Copies take 1 ms and 0.1 ms; 3 blocks of the first shape and 6 of the second: 3.6 ms, that is 2 passes.
    rows = (
        row("forward+backward", "copy_", 3.0, (8, 256, 56, 56), seconds=0.003),
        row("forward+backward", "copy_", 5.0, (8, 1024, 14, 14), seconds=0.0005),
    )
    found = rows_of(tmp_path, BenchResult(BenchSettings(module="sge"), rows, {}))
    passes = speed.measured(found, speed.Must("forward+backward", 6.5, "passes")).value
    assert passes == pytest.approx(2 * (3 * 3.0 + 6 * 0.5) / 3.6)


def test_memory_is_the_peaks_ratio(tmp_path):
    rows = (row("sge", "plain", 1.5, peak=1.01),)
    found = rows_of(tmp_path, BenchResult(BenchSettings(mode="train"), rows, {}))
    assert speed.measured(found, speed.Must("sge", 1.02, "peak")).value == 1.01


def test_the_readmes_table_and_picture_come_from_the_rows(tmp_path, monkeypatch, capsys):
    from PIL import Image

    network, module = SETTINGS[0], next(s for s in SETTINGS if s.options.module)
    about = {"device": "AMD EPYC", "threads": 2, "torch": "2.15.0", "sgenet": "0.1.0", "date": "2026-11-21"}
    forms = (("plain again", 1.0), ("sge", 1.02), ("sge unfused", 1.25), ("se", 1.01), ("se unfused", 1.09))
    of_network = tuple(row(form, "plain", ratio) for form, ratio in forms)
    alone = [("copy_ again", "copy_", 1.0), ("add_ relu_ again", "add_ relu_", 1.0)]
    for must in module.musts:
        baseline = "add_ relu_" if must.form == "residual+ReLU" else "copy_"
        alone += [(must.form, baseline, 1.23), (f"{must.form} unfused", baseline, 6.5)]
    of_module = tuple(row(form, baseline, ratio, (8, 256, 56, 56)) for form, baseline, ratio in alone)
    rows_of(tmp_path, BenchResult(network.options, of_network, about), BenchResult(module.options, of_module, about))

    picture = tmp_path / "images" / "speed.webp"
    monkeypatch.setattr(sys, "argv", ["figures.py", str(tmp_path / "speed.csv"), "--picture", str(picture)])
    assert figures.main() == 0
    text = capsys.readouterr().out
    assert f"| {network.name} | 1.25 | **1.02** | 1.010-1.030 | 1.000 | 1.03 |" in text
    assert f"| {module.name}, forward to `copy_` | 6.50 | **1.23** |" in text
    assert "AMD EPYC, 2 threads, torch 2.15.0, 2026-11-21" in text
    with Image.open(picture) as image:
        assert image.width == 1500
        assert len(set(image.convert("RGB").resize((300, 100)).get_flattened_data())) > 20


def test_without_rows_the_picture_is_not_drawn(tmp_path, monkeypatch, capsys):
    picture = tmp_path / "speed.webp"
    monkeypatch.setattr(sys, "argv", ["figures.py", str(tmp_path / "none.csv"), "--picture", str(picture)])
    assert figures.main() == 2
    assert "run benchmarks/bench_speed.py first" in capsys.readouterr().err
    assert not picture.exists()
