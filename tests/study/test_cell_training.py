"""A cell's run folder: what is finished is read, what is another training's is left alone."""

import dataclasses

import pytest
from made_up_studies import history, study

from sgenet.classification.history import EpochRow
from sgenet.errors import RunError
from sgenet.study.kinds.classification import Classification
from sgenet.study.training import Images, train_cell
from sgenet.training.run_folder import RunFolder

DRAWN = {"train_size": 8, "val_size": 8}
DEFINITION = study(settings={"data": "shapes", "model": "resnet8_cifar", "epochs": 4, "data_options": DRAWN})
CELL = DEFINITION.cells[1]
ROWS = [EpochRow(**row) for row in history(88.0)]


class Claim:
    cell = CELL

    def report(self, epoch, figure):
        pass


def left(output, rows=ROWS, **changes):
    """A run in the cell's folder, of settings that are the cell's but for some."""
    config = dataclasses.replace(DEFINITION.config(CELL, output), precision="32", **changes)
    folder = RunFolder.create(config, "x")
    folder.write_metrics(EpochRow, rows)
    return folder


def trained(output, **machine):
    return train_cell(DEFINITION, Claim(), output, Images(), machine)


@pytest.fixture
def begun(monkeypatch):
    """Trainings that begin are noted, and over at once."""
    found = []
    monkeypatch.setattr(
        Classification, "train", lambda self, config, data, progress: found.append(config.output) or ROWS
    )
    return found


def test_a_finished_run_is_read_wherever_and_on_whatever_it_was_trained(tmp_path, begun):
    left(tmp_path, workers=3, accelerator="gpu", data="/elsewhere/shapes")
    assert trained(tmp_path, workers=0).last("val_top1") == 88.0
    assert not begun


def test_a_run_on_linked_images_is_known_again(tmp_path, begun):
    (tmp_path / "photos-2").mkdir()
    (tmp_path / "photos").symlink_to(tmp_path / "photos-2")
    left(tmp_path, data=str(tmp_path / "photos-2"))
    assert trained(tmp_path, data=str(tmp_path / "photos")).last("val_top1") == 88.0
    assert not begun


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"epochs": 3}, "epochs: 3 there, 4 here"), ({"lr": 0.5, "data_options": {}}, "lr: 0.5 there, 0.1 here")],
)
def test_a_run_of_other_settings_is_neither_read_nor_touched(changes, words, tmp_path, begun):
    folder = left(tmp_path, ROWS[: changes.get("epochs", 2)], **changes)
    with pytest.raises(RunError, match=f"runs/.*' holds a training of other settings .*{words}.*move that folder away"):
        trained(tmp_path)
    assert folder.metrics.is_file()
    assert not begun


def test_a_run_is_finished_when_its_last_epoch_is_there(tmp_path, begun):
    left(tmp_path, [*ROWS[:3], ROWS[2]])
    assert trained(tmp_path).last("epoch") == 4
    assert len(begun) == 1


def test_a_run_whose_checkpoint_is_damaged_is_moved_aside_and_begun_anew(tmp_path, begun):
    for number in (1, 2):
        folder = left(tmp_path, ROWS[:2])
        (folder.checkpoints / "index.json").write_text("{}")
        assert trained(tmp_path).last("epoch") == 4
        assert (tmp_path / "runs" / f"{folder.path.name}.damaged-{number}" / "metrics.csv").is_file()
    assert len(begun) == 2
