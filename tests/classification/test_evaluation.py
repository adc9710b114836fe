from __future__ import annotations

import shutil

import pytest
import torch
from torch.nn import functional as F

import sgenet
from sgenet.classification import evaluate, train
from sgenet.data import ArraySource, ClassificationData, EvalTransform, Preprocessing, normalise, open_data
from sgenet.errors import CheckpointError, DataError, RunError
from sgenet.models import checkpoint_folder


def test_the_figures_are_exactly_those_of_the_training(trained):
    result, _ = trained
    found = evaluate(result.run)
    last = result.history[-1]
    assert (found.top1, found.top5, found.loss) == (last.val_top1, last.val_top5, last.val_loss)
    assert found.images == 12
    assert len(found.skipped) == 1
    assert "damaged.png" in found.skipped[0]


@pytest.mark.parametrize("settings", [{"precision": "bf16", "ema": 0.5}, {"accumulate": 2, "channels_last": False}])
def test_so_they_are_with_other_settings(data, config, stop_at, settings):
    result = train(config(epochs=2, **settings), data=data, progress=stop_at())
    found = evaluate(result.run, data=data)
    last = result.history[-1]
    assert (found.top1, found.top5, found.loss) == (last.val_top1, last.val_top5, last.val_loss)
    best = max(result.history, key=lambda row: row.val_top1)
    found = evaluate(result.run, data=data, checkpoint="best")
    assert (found.top1, found.loss) == (best.val_top1, best.val_loss)


def test_many_views_are_the_mean_of_their_probabilities(trained):
    result, _ = trained
    found = evaluate(result.run, crops=10, scales=[16, 20])
    network = sgenet.load(result.run)
    source = open_data(str(trained_data(result.run))).val
    size = Preprocessing(image_size=16, resize=None)
    hits, losses = 0, []
    with torch.inference_mode():
        for i in range(12):
            image = source.load(i)
            views = torch.cat([EvalTransform(size, crops=10, scale=s).view(image) for s in (16, 20)])
            mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
            probabilities = F.softmax(network(normalise(views, mean, std)), dim=1).mean(dim=0)
            hits += int(probabilities.argmax() == source.labels[i])
            losses.append(-probabilities[source.labels[i]].log().item())
    assert found.images == 12
    assert found.top1 == pytest.approx(100 * hits / 12)
    assert found.loss == pytest.approx(sum(losses) / 12, rel=1e-4)


def trained_data(run):
    from sgenet.classification.config import TrainConfig
    from sgenet.training.settings import read_settings

    return read_settings(TrainConfig, run / "config.yaml").data


def test_one_crop_at_the_runs_own_scale_is_the_plain_view(trained):
    result, _ = trained
    plain, same = evaluate(result.run), evaluate(result.run, scales=[16])
    assert same.top1 == plain.top1
    assert same.loss == pytest.approx(plain.loss, rel=1e-5)


def test_other_images_may_be_a_folder(trained, image_folder, tmp_path):
    result, _ = trained
    shutil.copytree(image_folder, tmp_path / "photos")
    (tmp_path / "photos" / "val" / "red" / "damaged.png").unlink()
    found = evaluate(result.run, data=str(tmp_path / "photos"))
    assert (found.top1, found.skipped) == (result.top1, ())


def test_a_run_with_a_split_judges_all_other_images(image_folder, config, stop_at):
    """Of its own images it set some aside; of others it takes the folder val, or all of the class folders."""
    settings = {"data": str(image_folder / "train"), "val_split": 0.25, "epochs": 1}
    run = train(config(**settings), progress=stop_at()).run
    assert evaluate(run).images == 6
    assert evaluate(run, data=str(image_folder)).images == 12
    assert evaluate(run, data=image_folder / "train").images == 24


def test_other_images_may_be_a_plain_folder_of_fewer_classes(trained, image_folder, tmp_path):
    result, _ = trained
    shutil.copytree(image_folder / "val" / "red", tmp_path / "photos" / "red")
    (tmp_path / "photos" / "red" / "note.png").write_text("no image")
    found = evaluate(result.run, data=str(tmp_path / "photos"))
    assert found.images == 6
    assert [name.split("/")[-1].partition(":")[0] for name in found.skipped] == ["note.png", "damaged.png"]
    (tmp_path / "photos" / "red").rename(tmp_path / "photos" / "green")
    with pytest.raises(DataError, match=r"class 'green' .* is none of the network's 2 \(blue, red\)"):
        evaluate(result.run, data=str(tmp_path / "photos"))
    (tmp_path / "photos").rename(tmp_path / "train")
    with pytest.raises(DataError, match=r"no folder val; give .*train to judge"):
        evaluate(result.run, data=str(tmp_path))


def test_other_images_must_have_the_same_classes(trained, tmp_path):
    result, _ = trained
    other = ArraySource(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.arange(4) % 2, ["blue", "green"])
    with pytest.raises(DataError, match="green"):
        evaluate(result.run, data=ClassificationData(other, other, "other"))
    same = ArraySource(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 0, 1, 0]), ["blue", "red"])
    found = evaluate(result.run, data=ClassificationData(same, same, "black"))
    assert found.top1 in (25.0, 75.0), "four equal images get one answer"


def test_a_damaged_or_missing_run_is_an_error(data, config, stop_at, tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        evaluate(tmp_path)
    result = train(config(epochs=1), data=data, progress=stop_at())
    file = checkpoint_folder(result.run) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        evaluate(result.run, data=data)


def test_another_network_can_be_measured_in_the_runs_place(trained):
    result, _ = trained
    plain = sgenet.remove_attention(sgenet.load(result.run))
    changed = sgenet.add_attention(sgenet.remove_attention(sgenet.load(result.run)), "se")
    assert evaluate(result.run, model=changed) == evaluate(result.run, model=plain)
    silent = sgenet.load(result.run)
    for parameter in silent.fc.parameters():
        torch.nn.init.zeros_(parameter)
    classes = silent.fc.out_features
    assert evaluate(result.run, model=silent).loss == pytest.approx(torch.tensor(float(classes)).log().item(), rel=1e-2)
