from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

import sgenet
from sgenet.errors import CheckpointError, RunError
from sgenet.models import checkpoint_folder
from sgenet.training.checkpointing import pack, publish, read_checkpoint, unpack, verify, write_checkpoint

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
tensors = st.sampled_from(
    [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.tensor(3),
        torch.zeros(0, 2),
        torch.ones(2, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.tensor([float("nan"), float("inf")]),
    ]
)
keys = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.tuples(st.integers(), st.text(max_size=2))
nested = st.recursive(
    plain | tensors,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    """Equal in type and value, nan being equal to nan."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return a == b


@given(nested)
@settings(max_examples=200)
def test_packing_loses_nothing(value):
    structure, found = pack(value)
    assert same(unpack(json.loads(json.dumps(structure)), found), value)


def test_what_json_and_tensors_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="set"):
        pack({"a": {1, 2}})


@pytest.fixture
def checkpoints(tmp_path):
    """Two checkpoints as a training leaves them: the first is the best, the second the last."""
    torch.manual_seed(0)
    model = sgenet.create_model("sge_resnet8_cifar", num_classes=3)
    for step in (1, 2):
        state = {
            "state_dict": {f"network.{k}": v for k, v in model.state_dict().items()} | {"other": torch.tensor(step)},
            "optimizer_states": [{"state": {0: {"momentum_buffer": torch.full((3,), float(step))}}}],
            "best": float("inf"),
        }
        write_checkpoint(tmp_path / "checkpoints" / f"step-{step}", model, "network.", {"classes": list("abc")}, state)
        publish(tmp_path / "checkpoints", f"step-{step}", best=step == 1)
    return tmp_path / "checkpoints", model


def test_a_checkpoint_reads_back_whole(checkpoints):
    folder, model = checkpoints
    verify(folder / "step-2")
    state = read_checkpoint(folder / "step-2", "network.")
    assert state["state_dict"].pop("other").item() == 2
    assert state["state_dict"].keys() == {f"network.{name}" for name in model.state_dict()}
    assert all(torch.equal(state["state_dict"][f"network.{k}"], v) for k, v in model.state_dict().items())
    assert state["optimizer_states"][0]["state"][0]["momentum_buffer"].tolist() == [2.0] * 3
    assert state["best"] == float("inf")
    assert sgenet.load(folder.parent).training is False


def test_only_last_and_best_are_kept(checkpoints):
    folder, model = checkpoints
    assert checkpoint_folder(folder.parent, "best") == folder / "step-1"
    assert checkpoint_folder(folder.parent, "last") == folder / "step-2"
    write_checkpoint(folder / "step-3", model, "network.", {}, {"state_dict": {}})
    (folder / ".tmp-step-9").mkdir()
    publish(folder, "step-3")
    assert sorted(p.name for p in folder.iterdir()) == ["index.json", "step-1", "step-3"]
    publish(folder, "step-3", best=True)
    assert sorted(p.name for p in folder.iterdir()) == ["index.json", "step-3"]


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_found_and_the_file_is_named(checkpoints, name, damage):
    folder, _ = checkpoints
    file = folder / "step-2" / name
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        content[-20] ^= 1
        file.write_bytes(content if damage == "flip" else content[:-20])
    with pytest.raises(CheckpointError) as caught:
        verify(folder / "step-2")
    assert name in str(caught.value)
    assert "the best one, 'step-1', may be whole: eval and predict take it with --checkpoint best" in str(caught.value)


def test_a_stranger_is_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").write_text("weights")
    (tmp_path / "state.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_checkpoint(tmp_path, "network.")
    with pytest.raises(CheckpointError, match="train anew"):
        verify(tmp_path)


@pytest.mark.parametrize("error", [SafetensorError("I/O error: No space left"), OSError(28, "No space left")])
def test_a_full_disk_is_an_error_that_leaves_nothing(checkpoints, monkeypatch, error):
    folder, model = checkpoints

    def save_file(tensors, path, **_):
        path.write_bytes(b"part")
        raise error

    monkeypatch.setattr("sgenet.training.checkpointing.save_file", save_file)
    with pytest.raises(RunError, match=r"step-3' cannot be written: .*No space left; make room.*--resume ") as caught:
        write_checkpoint(folder / "step-3", model, "network.", {}, {"state_dict": {}})
    assert isinstance(caught.value.__cause__, OSError), "so that a study gives the cell back"
    assert sorted(p.name for p in folder.iterdir()) == ["index.json", "step-1", "step-2"]


@pytest.mark.parametrize("moment", ["save", "rename", "index"])
def test_a_crash_at_any_moment_leaves_the_previous_checkpoint(checkpoints, monkeypatch, moment):
    folder, model = checkpoints

    class Crash(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    target = {
        "save": "sgenet.training.checkpointing.save_file",
        "rename": "pathlib.Path.replace",
        "index": "sgenet.training.checkpointing.write_whole",
    }[moment]

    def write_and_publish() -> None:
        if moment == "index":
            write_checkpoint(folder / "step-3", model, "network.", {}, {"state_dict": {}})
        with monkeypatch.context() as patch:
            patch.setattr(target, crash)
            if moment != "index":
                write_checkpoint(folder / "step-3", model, "network.", {}, {"state_dict": {}})
            publish(folder, "step-3")

    with pytest.raises(Crash):
        write_and_publish()
    assert checkpoint_folder(folder.parent) == folder / "step-2"
    verify(folder / "step-2")
    write_checkpoint(folder / "step-3", model, "network.", {}, {"state_dict": {}})
    publish(folder, "step-3")
    verify(folder / "step-3")
    assert sorted(p.name for p in folder.iterdir()) == ["index.json", "step-1", "step-3"]
