"""The storage: each cell is entered once, taken once, and has one result; whatever happens to its worker."""

import multiprocessing
import time
from collections import Counter

import optuna
import pytest
import sqlalchemy

from sgenet.errors import ConfigError, DataError, RunError
from sgenet.study.definition import Definition
from sgenet.study.storage import Result, Storage, Superseded, file_url, shown_url


def study(seeds=2, **changes):
    levels = {"none": {"attention": "none"}, "se": {"attention": "se"}, "sge": {"attention": "sge"}}
    values = {"name": "s", "factors": {"attention": levels}, "seeds": seeds, "recipe": "shapes"}
    return Definition.from_dict({**values, "settings": {"data": "shapes"}, **changes})


def row(epoch, top1=50.0):
    return {"epoch": epoch, "train_loss": 1.0, "val_top1": top1}


def result(top1=50.0):
    return Result((row(1), row(2, top1)), "sgenet train", "runs/x", {"machine": {}, "versions": {}})


@pytest.fixture
def url(tmp_path):
    return file_url(tmp_path)


@pytest.fixture
def storage(url):
    opened = Storage(url, "s", heartbeat=1)
    opened.enter(study())
    return opened


def work_all(storage, definition, train):
    while storage.work(definition, train) == "worked":
        pass


def test_every_cell_waits_once_however_often_it_is_entered(url):
    for _ in range(3):
        Storage(url, "s").enter(study())
    assert sorted(Storage(url, "s").state().waiting) == sorted(cell.key for cell in study().cells)


def test_what_was_trained_is_what_the_state_has(storage):
    work_all(storage, study(), lambda claim: result(10.0 * claim.cell.seed))
    state = storage.state()
    found = {key: result.last("val_top1") for key, result in state.results.items()}
    assert found == {c.key: 10.0 * c.seed for c in study().cells}
    assert state.results["attention=se, seed=1"] == result(10.0)
    assert storage.work(study(), lambda claim: pytest.fail("nothing is left")) == "done"


def test_a_running_cell_tells_of_its_epochs(storage):
    def train(claim):
        claim.report(1, 12.5)
        assert storage.state().running == {claim.cell.key: (1, 12.5)}
        return result()

    assert storage.work(study(), train) == "worked"


def test_a_cell_that_fails_says_why_and_is_tried_again_only_when_asked(storage):
    def train(claim):
        if claim.cell.key == "attention=se, seed=0":
            raise RunError("the training loss is nan at step 3")
        return result()

    work_all(storage, study(), train)
    assert storage.state().failed == {"attention=se, seed=0": "the training loss is nan at step 3"}
    assert len(storage.state().results) == 5
    storage.enter(study())
    work_all(storage, study(), lambda claim: result())
    assert len(storage.state().results) == 6
    assert storage.state().failed == {}


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError("disk full"), ValueError("a bug")])
def test_a_cell_whose_training_is_stopped_goes_back(storage, stop):
    def train(claim):
        raise stop

    with pytest.raises(type(stop)):
        storage.work(study(), train)
    state = storage.state()
    assert len(state.waiting) == 6
    assert not state.failed
    assert not state.running


def test_a_cell_that_breaks_twice_has_failed_and_the_others_go_on(storage):
    first = study().cells[0].key

    def train(claim):
        if claim.cell.key == first:
            raise DataError("image 7\nis damaged")
        return result()

    with pytest.raises(DataError):
        storage.work(study(), train)
    assert len(storage.state().waiting) == 6
    work_all(storage, study(), train)
    assert storage.state().failed == {first: "image 7 is damaged (twice)"}
    assert len(storage.state().results) == 5


def test_a_full_disk_is_not_the_cells_fault(storage):
    def train(claim):
        raise RunError("training ended by the system") from OSError(28, "No space left on device")

    for _ in range(3):
        with pytest.raises(RunError):
            storage.work(study(), train)
    assert len(storage.state().waiting) == 6


def test_the_cell_of_a_silent_worker_is_anothers_and_its_result_is_refused(url):
    storage, other = (Storage(url, "s", heartbeat=60) for _ in range(2))
    storage.enter(study())
    first = study().cells[0].key

    def silent(claim):
        silence(url)  # as if this worker had said nothing for years
        work_all(other, study(), lambda again: result(99.0))
        with pytest.raises(Superseded):
            claim.report(1, 50.0)
        return result(1.0)

    assert storage.work(study(), silent) == "worked"
    found = storage.state()
    assert len(found.results) == 6
    assert found.results[first].last("val_top1") == 99.0
    assert not found.running


def test_how_long_a_worker_may_be_silent_is_the_studys_whoever_looks(url):
    Storage(url, "s", heartbeat=30).enter(study())
    others = Storage(url, "s")

    def train(claim):
        engine = sqlalchemy.create_engine(url)
        with engine.begin() as connection:  # 70 seconds of silence: less than three times 30
            shift = "UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-70 seconds')"
            connection.execute(sqlalchemy.text(shift))
        engine.dispose()
        assert others.work(study(), lambda again: result(), among={claim.cell.key}) == "busy"
        return result()

    assert Storage(url, "s").work(study(), train) == "worked"
    with pytest.raises(RunError, match="heartbeat=5 is not that of the study 's', whose workers say every 30 seconds"):
        Storage(url, "s", heartbeat=5).enter(study())


def silence(url):
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00.000000'"))
    engine.dispose()


def test_a_worker_that_is_stopped_after_its_cell_was_taken_from_it_still_stops(url):
    storage, other = (Storage(url, "s", heartbeat=60) for _ in range(2))
    storage.enter(study())

    def silent(claim):
        silence(url)
        work_all(other, study(), lambda again: result())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.work(study(), silent)
    assert len(storage.state().results) == 6


def test_a_worker_at_work_says_so_again_and_again(url):
    storage, other = (Storage(url, "s", heartbeat=1) for _ in range(2))
    storage.enter(study())

    def long(claim):
        silence(url)
        time.sleep(2.5)
        others = other.work(study(), lambda again: pytest.fail(f"{again.cell.key} was taken"), among={claim.cell.key})
        assert others == "busy"
        return result()

    assert storage.work(study(), long) == "worked"


def test_cells_are_taken_in_the_order_of_the_grid_and_one_that_was_given_back_comes_first(storage):
    taken = []

    def train(claim):
        taken.append(claim.cell.key)
        if len(taken) == 2:
            raise KeyboardInterrupt
        return result()

    with pytest.raises(KeyboardInterrupt):
        work_all(storage, study(), train)
    work_all(storage, study(), train)
    keys = [cell.key for cell in study().cells]
    assert taken == [keys[0], keys[1], *keys[1:]]


def test_only_the_cells_that_are_asked_for_are_taken(storage):
    wanted = {cell.key for cell in study().cells_of({"attention": ["none", "sge"]})}
    taken = []

    def train(claim):
        taken.append(claim.cell.key)
        return result()

    while storage.work(study(), train, among=wanted) == "worked":
        pass
    assert sorted(taken) == sorted(wanted)
    assert len(taken) == 4
    assert len(storage.state().waiting) == 2
    assert storage.definition() == study()


def hurried(url, taken):
    storage = Storage(url, "s", heartbeat=1)

    def train(claim):
        taken.append(claim.cell.key)
        time.sleep(0.02)
        return result()

    while storage.work(study(seeds=8), train) != "done":
        time.sleep(0.01)


@pytest.mark.parametrize("where", ["a file", "a server"])
def test_processes_that_hurry_never_take_the_same_cell(where, request):
    url = request.getfixturevalue("url" if where == "a file" else "server")
    Storage(url, "s", heartbeat=1).enter(study(seeds=8))
    with multiprocessing.get_context("spawn").Manager() as manager:
        taken = manager.list()
        workers = [multiprocessing.get_context("spawn").Process(target=hurried, args=(url, taken)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert Counter(taken) == Counter(cell.key for cell in study(seeds=8).cells)
    trials = optuna.load_study(study_name="s", storage=url).get_trials()
    assert len(trials) == 24


def test_a_session_takes_as_many_cells_as_it_may(storage):
    done = [storage.work(study(), lambda claim: result(), "mine", 2) for _ in range(3)]
    assert done == ["worked", "worked", "done"]
    assert storage.work(study(), lambda claim: result(), "another", 2) == "worked"


def test_more_seeds_are_added_and_fewer_change_nothing(storage):
    work_all(storage, study(), lambda claim: result())
    assert storage.enter(study(seeds=3)).seeds == 3
    assert len(storage.state().waiting) == 3
    assert storage.enter(study(seeds=1)).seeds == 3


def test_the_order_of_levels_does_not_matter_to_a_study_that_exists(storage):
    levels = {"none": {"attention": "none"}, "sge": {"attention": "sge"}, "se": {"attention": "se"}}
    turned = study(seeds=3, factors={"attention": levels}, baseline="none")
    assert storage.enter(turned).factors == study().factors
    assert sorted(storage.state().waiting) == sorted(cell.key for cell in turned.cells)


def test_a_study_keeps_the_settings_that_its_recipe_gave_it_when_it_began(url, tmp_path):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("{data: shapes, data_options: {noise: 1.0}, epochs: 5}")
    noises = {"0": {"data_options": {"clutter": 0}}, "2": {"data_options": {"clutter": 2}}}
    asked = {"recipe": str(recipe), "factors": {"clutter": noises}, "settings": {}}
    begun = Storage(url, "own").enter(study(**asked))
    recipe.write_text("{data: shapes, data_options: {noise: 2.0}, epochs: 5}")
    with pytest.raises(RunError, match=r"data_options: {'noise': 1.0, .*} there, {'noise': 2.0, .*} here"):
        Storage(url, "own").enter(study(**asked))
    recipe.unlink()
    known = Storage(url, "own").definition()
    assert known == begun
    assert known.config(known.cells[1]).data_options == {"noise": 1.0, "clutter": 2}
    words = known.kind.words(known.config(known.cells[0]), known.recipe)
    assert str(recipe) not in words
    assert '{"noise": 1.0, "clutter": 0}' in words


def test_a_study_stays_where_it_was_entered_first_whatever_place_another_machine_has(url):
    here = study(settings={"data": "a/photos"})
    there = study(seeds=3, settings={"data": "b/c/photos"}, title="Another?")
    Storage(url, "s").enter(here)
    assert Storage(url, "s").enter(there).to_dict() == {**here.to_dict(), "seeds": 3}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": {"data": "shapes", "epochs": 3}}, "epochs: 10 there, 3 here"),
        ({"baseline": "se"}, "baseline: 'none' there, 'se' here"),
        (
            {"factors": {"attention": {"none": {"attention": "none"}, "se": {"attention": "se"}}}},
            "factor 'attention': none, se, sge there, none, se here",
        ),
        (
            {"factors": {"lr": [0.1, 0.2]}, "settings": {"data": "shapes", "attention": "se"}},
            "factor 'attention': none, se, sge there, no such factor here; factor 'lr': no such factor there",
        ),
    ],
)
def test_a_study_that_asks_something_else_is_told_what_differs_and_nothing_is_lost(storage, changes, words):
    work_all(storage, study(), lambda claim: result())
    with pytest.raises(RunError, match=words):
        storage.enter(study(**changes))
    assert len(storage.state().results) == 6
    assert storage.definition() == study()


def test_a_storage_that_cannot_be_reached_is_one_line_without_the_password():
    with pytest.raises(RunError, match="the storage postgresql://me:\\*\\*\\*@localhost:1/x cannot be used") as failure:
        Storage("postgresql://me:secret@localhost:1/x", "s")
    assert "secret" not in str(failure.value)
    assert "secret" not in shown_url("postgresql://me:secret@localhost:1/x")


@pytest.mark.parametrize("url", ["nonsense", "mysql://me@server/x", "sqlite://"])
def test_a_storage_of_another_kind_is_refused(url):
    with pytest.raises(ConfigError, match="--storage"):
        Storage(url, "s")


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(RunError, match=r"study.db cannot be used: file is not a database"):
        Storage(file_url(tmp_path), "s")


def test_another_studys_storage_names_those_that_it_has(storage, url):
    with pytest.raises(RunError, match="has no study 't'; it has s"):
        Storage(url, "t").definition()
