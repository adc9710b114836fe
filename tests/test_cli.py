"""The command line: what it says, where, and with which status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

import sgenet
from sgenet.classification.config import TrainConfig, make_config
from sgenet.cli import main
from sgenet.training.settings import types_of

HEAVY = ["torch", "numpy", "pytorch_lightning", "torchvision", "timm", "rich", "matplotlib"]


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a mistake is answered with."""
    status = main(list(words))
    captured = capsys.readouterr()
    assert status == 2, captured.out
    assert captured.err.startswith("sgenet: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 8), ("val", 4)):
        for name, colour in (("blue", (20, 30, 200)), ("red", (200, 30, 20))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (20, 18), tuple(c + i for c in colour)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made with the command itself."""
    output = tmp_path_factory.mktemp("runs") / "run"
    settings = ["--model", "sge_resnet8_cifar", "--epochs", "2", "--batch-size", "4", "--accelerator", "cpu"]
    assert main(["train", "--data", str(photos), "--image-size", "16", "--output", str(output), *settings]) == 0
    return output


def test_names_that_are_no_text_are_shown_escaped(run, photos, tmp_path, monkeypatch):
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    odd.write_bytes((photos / "val" / "red" / "0.png").read_bytes())
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(["predict", str(run), str(odd)]) == 0
    screen.flush()
    assert rb"caf\udce9.png" in screen.buffer.getvalue()


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], ["recipes"], ["--version"], ["train", "--lable", "1"]]
)
def test_help_and_mistakes_need_no_heavy_import(words):
    code = f"import sys; from sgenet.cli import main; main({words!r}); print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_using_a_network_needs_no_lightning(tmp_path):
    code = """
import sys
from sgenet.cli import main
print(main(["eval", "run"]), main(["predict", "run", "image"]), "pytorch_lightning" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["2", "2", "False"]


def test_help_names_every_command_and_every_setting(capsys):
    assert main([]) == 2
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("train", "eval", "predict", "study", "bench", "models", "recipes"):
        assert f"\n  {command} " in text
        assert main([command, "--help"]) == 0
        assert f"usage: sgenet {command}" in capsys.readouterr().out
    assert main(["train", "--recipe", "imagenet_senet", "--help"]) == 0
    text = capsys.readouterr().out
    for name in types_of(TrainConfig):
        assert f"--{name.replace('_', '-')}" in text
    assert "(now 0.6)" in text, "the recipe's own values are shown"


def test_version_is_shown(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sgenet {sgenet.__version__}\n"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["'trian'", "'train'"]),
        (["train"], ["--data PATH"]),
        (["train", "--data", "shapes", "--epochs", "-1"], ["epochs=-1", "1 or more"]),
        (["train", "--data", "shapes", "--epochs", "ten"], ["--epochs", "whole number", "'ten'"]),
        (["train", "--data", "shapes", "--precision", "8"], ["--precision", "auto, 32, bf16, 16", "'8'"]),
        (["train", "--data", "shapes", "--resize", "big"], ["--resize", "whole number"]),
        (["train", "--data", "shapes", "--crop-scale", "0.5"], ["crop-scale"]),
        (["train", "--data", "shapes", "--lable-smoothing", "1"], ["--lable-smoothing", "--label-smoothing"]),
        (["train", "--data", "shapes", "--model-options", "small"], ["--model-options", "mapping"]),
        (["train", "--data", "shapes", "--recipe", "imagenet_seg"], ["'imagenet_seg'", "'imagenet_sge'"]),
        (["train", "--data", "shapes", "--model", "sge_resnet5O"], ["'sge_resnet5O'", "'sge_resnet50'"]),
        (["train", "--data", "no/such/folder"], ["no/such/folder", "does not exist"]),
        (["train", "--data", "shapes", "--attention-lr", "0"], ["attention_lr=0", "above 0"]),
        (["train", "--data", "shapes", "--freeze-host"], ["freeze_host", "pretrained or weights"]),
        (["train", "--data", "shapes", "--weights", "runs/a", "--pretrained"], ["weights='runs/a'", "pretrained"]),
        (["train", "--config", "no.yaml"], ["no.yaml"]),
        (["train", "--resume", "no/such/run"], ["no/such/run", "no run folder"]),
        (["train", "--resume", "run", "--lr", "1"], ["--lr", "--epochs"]),
        (["eval", "no/such/run"], ["no/such/run"]),
        (["eval"], ["RUN"]),
        (["eval", "run", "--crops", "3"], ["--crops", "3"]),
        (["predict", "no/such/run", "a.png"], ["no/such/run"]),
        (["recipes", "zzz"], ["zzz", "cifar"]),
        (["train", "--model"], ["argument --model", "`sgenet train --help`"]),
        (["detect", "train", "--detector"], ["argument --detector", "`sgenet detect train --help`"]),
        (["models", "zzz*"], ["zzz*"]),
    ],
)
def test_a_mistake_is_answered_with_one_line(capsys, tmp_path, monkeypatch, words, parts):
    monkeypatch.chdir(tmp_path)
    message = error_of(capsys, *words)
    for part in parts:
        assert part in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["recipes"], ["train", "--data", "shapes", "--config"], ["train", "--recipe"]])
def test_a_file_that_holds_no_settings_is_answered_with_one_line(words, capsys, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    for name in ("image.png", "list.yaml"):
        assert name in error_of(capsys, *words, str(tmp_path / name))


def test_each_of_several_files_of_settings_is_looked_at(capsys, tmp_path):
    (tmp_path / "fast.yaml").write_text("epochs: 1")
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png")
    files = ["--config", str(tmp_path / "image.png"), "--config", str(tmp_path / "fast.yaml")]
    assert "image.png" in error_of(capsys, "train", "--data", "shapes", *files)


def test_outputs_that_cannot_be_are_answered_with_one_line(capsys, tmp_path, run):
    small = ["train", "--data", "shapes", "--data-options.train_size", "8", "--data-options.val_size", "8"]
    (tmp_path / "file").write_text("mine")
    assert "--resume" in error_of(capsys, *small, "--output", str(run))
    assert "not empty" in error_of(capsys, *small, "--output", str(tmp_path))
    assert "is a file" in error_of(capsys, *small, "--output", str(tmp_path / "file" / "run"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_checkpoint_that_is_none_is_answered_with_one_line(capsys, tmp_path):
    (tmp_path / "model.safetensors").write_text("not weights")
    assert "model.safetensors" in error_of(capsys, "predict", str(tmp_path / "model.safetensors"), "a.png")
    assert "checkpoint" in error_of(capsys, "predict", str(tmp_path), "a.png")


def test_printed_settings_are_those_that_train_and_can_be_given_back(capsys, tmp_path):
    words = ["--recipe", "cifar", "--data", "x", "--lr", "1e-3", "--milestones", "3", "5", "--schedule", "step"]
    more = [
        "--no-nesterov",
        "--pretrained",
        "--resize",
        "null",
        "--model-options.stem_stride",
        "2",
        "--mean",
        "0",
        "0",
        "1",
    ]
    assert main(["train", *words, *more, "--print-config"]) == 0
    printed = capsys.readouterr().out
    config = TrainConfig(**yaml.safe_load(printed))
    assert config == make_config(
        "cifar",
        data="x",
        lr=1e-3,
        milestones=(3, 5),
        schedule="step",
        nesterov=False,
        pretrained=True,
        model_options={"stem_stride": 2},
        mean=(0.0, 0.0, 1.0),
    )
    file = tmp_path / "settings.yaml"
    file.write_text(printed)
    for option in ("--config", "--recipe"):
        assert main(["train", option, str(file), "--lr", "0.5", "--print-config"]) == 0
        again = TrainConfig(**yaml.safe_load(capsys.readouterr().out))
        assert again == TrainConfig(**{**yaml.safe_load(printed), "lr": 0.5})


def test_the_recipe_is_chosen_by_the_data_and_said(capsys, photos):
    assert main(["train", "--data", str(photos), "--print-config"]) == 0
    assert capsys.readouterr().out.startswith("# recipe: cifar\n")
    assert main(["train", "--data", "shapes", "--model", "resnet18", "--print-config"]) == 0
    assert "model_options: {}" in capsys.readouterr().out


def test_train_eval_predict_and_resume(capsys, run, photos):
    assert main(["eval", str(run), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    last = (run / "metrics.csv").read_text().splitlines()[-1].split(",")
    assert figures["top1"] == float(last[6])
    assert figures["images"] == 8
    assert main(["eval", str(run)]) == 0
    assert f"top-1   {figures['top1']:.3f}%\n" in capsys.readouterr().out

    assert main(["train", "--resume", str(run)]) == 2
    assert "finished 2 of 2" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--epochs", "3"]) == 0
    out = capsys.readouterr().out
    assert "epoch 3/3" in out
    assert "(last epoch, 3)" in out
    assert "not to be reported" in out

    image = str(photos / "val" / "red" / "0.png")
    assert main(["predict", str(run), image, "nowhere.png"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == image
    shares = [float(line.split("%")[0]) for line in lines[1:]]
    assert sorted(shares, reverse=True) == shares
    assert sum(shares) == pytest.approx(100, abs=0.02)
    assert "nowhere.png" in captured.err
    assert main(["predict", str(run), "nowhere.png"]) == 1
    capsys.readouterr()
    assert main(["predict", str(run), image, "--json", "--top", "1"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)
    assert prediction["path"] == image
    assert len(prediction["classes"]) == 1


def test_fine_tuning_from_a_run_trains_attention_and_the_classifier(capsys, run, photos, tmp_path):
    words = ["--weights", str(run), "--freeze-host", "--attention-lr", "10", "--epochs", "1", "--batch-size", "4"]
    more = [
        "--image-size",
        "16",
        "--accelerator",
        "cpu",
        "--label-smoothing",
        "0.3",
        "--output",
        str(tmp_path / "tuned"),
    ]
    assert main(["train", "--data", str(photos), "--model", "sge_resnet8_cifar", *words, *more]) == 0
    before, after = sgenet.load(run).state_dict(), sgenet.load(tmp_path / "tuned").state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert {name for name in moved if ".attention." not in name} == {"fc.weight", "fc.bias"}
    assert any(".attention." in name for name in moved)
    small = ["--data", "shapes", "--data-options.train_size", "8", "--data-options.val_size", "8", "--batch-size", "4"]
    options = ["--weights", str(run), "--output", str(tmp_path / "other")]
    assert "it is of resnet8_cifar" in error_of(capsys, "train", *small, "--model", "sge_resnet20_cifar", *options)
    assert not (tmp_path / "other").exists()


def test_an_interruption_is_answered_with_the_way_on(capsys, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("stopped; go on with `sgenet train --resume runs/x`")

    monkeypatch.setattr("sgenet.classification.training.train", stop)
    assert main(["train", "--data", "shapes"]) == 130
    assert "--resume runs/x" in capsys.readouterr().err


def test_a_missing_extra_is_named(capsys, monkeypatch):
    for module in [
        m for m in sys.modules if m.startswith(("sgenet.classification.training", "sgenet.training.fitting"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    assert "pip install 'sgenet[train]'" in error_of(capsys, "train", "--data", "shapes")


def test_models_and_recipes_are_listed(capsys):
    assert main(["models", "s[eg]*_resnet50"]) == 0
    assert capsys.readouterr().out.split() == ["se_resnet50", "sge_resnet50"]
    assert main(["recipes", "imagenet_sge"]) == 0
    assert "milestones: [30, 60, 90]" in capsys.readouterr().out
    assert main(["recipes"]) == 0
    assert "imagenet_senet154" in capsys.readouterr().out


@pytest.fixture
def asked(monkeypatch):
    """What `sgenet study run` asks for, which does not happen."""
    seen = {}

    def run_study(definition, output, **more):
        seen.update(definition=definition, output=output, **more)
        return SimpleNamespace(stopped="", analysis=SimpleNamespace(failed={}))

    monkeypatch.setattr("sgenet.study.run_study", run_study, raising=False)
    return seen


def test_a_study_takes_settings_of_training_for_all_of_its_trainings(asked):
    words = ["study", "run", "sge-init", "--epochs", "3", "--data-options.train_size", "50", "--seeds", "7"]
    words += ["--only", "start=weight 0, bias 1", "--only", "start=weight 1, bias 0"]
    assert main([*words, "--workers", "2", "--loader", "resident", "--time", "1.5"]) == 0
    config = asked["definition"].config(asked["definition"].cells[0])
    assert (config.epochs, config.data_options) == (3, {"train_size": 50})
    assert asked["definition"].seeds == 7
    assert asked["only"] == {"start": ["weight 0, bias 1", "weight 1, bias 0"]}
    assert asked["output"] == Path("runs/study-sge-init")
    assert (asked["workers"], asked["seconds"], asked["machine"]) == (2, 90.0, {"loader": "resident"})


def test_a_study_runs_on_other_data_by_another_recipe(asked):
    words = ["--recipe", "cifar", "--data", "photos", "--model", "resnet20_cifar", "--budget", "tiny"]
    assert main(["study", "run", "attention-comparison", *words]) == 0
    config = asked["definition"].config(asked["definition"].cells[0])
    assert (config.data, config.model, config.lr, config.data_options) == ("photos", "resnet20_cifar", 0.2, {})
    assert asked["definition"].wiring
    assert asked["output"] == Path("runs/study-attention-comparison-tiny")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study"], None),
        (["study", "walk"], "`sgenet study` knows no 'walk'"),
        (["study", "run", "sge-grups"], "Did you mean 'sge-groups'"),
        (["study", "run", "sge-init", "--epoch", "3"], "there is no option --epoch. Did you mean 'epochs'"),
        (["study", "run", "sge-groups", "--attention", "se"], "attention is what the factor 'groups'"),
        (["study", "run", "sge-init", "--epochs", "many"], "--epochs must be a whole number, not 'many'"),
        (["study", "run", "hosts"], "the study 'hosts' cannot be run yet"),
        (["study", "run", "sge-init", "--workers", "0"], "workers=0 must be above 0"),
        (["study", "run", "sge-init", "--threads", "0"], "threads=0 must be above 0"),
        (["study", "run", "sge-init", "--time", "nan"], "time=nan must be above 0"),
        (["study", "run", "sge-init", "--only", "sge"], "--only 'sge' must be FACTOR=LEVEL"),
        (["study", "run", "sge-groups", "--only", "groups=3"], "'groups' has no level '3'"),
        (["study", "run", "sge-init", "--storage", "mysql://x/y"], "sqlite:///FILE or postgresql://"),
        (["study", "show", "nothing"], "there is no study and no file 'nothing'"),
        (["study", "report", "."], "holds no study"),
    ],
)
def test_a_study_that_cannot_be_run_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    if message is not None:
        assert error.startswith("sgenet: error: ")
        assert message in error
        assert error.count("\n") == 1


def test_a_study_is_shown_before_it_runs(capsys):
    assert main(["study", "show", "se-reduction"]) == 0
    text = capsys.readouterr().out
    assert "arXiv 1709.01507v4, table 10" in text
    assert "22.28 / 6.03" in text
    assert "(baseline)" in text
    assert main(["study", "list"]) == 0
    assert "background-noise" in capsys.readouterr().out
