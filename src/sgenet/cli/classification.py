"""`sgenet train`, `sgenet eval` and `sgenet predict`: classification."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sgenet.classification.config import TrainConfig, make_config
from sgenet.classification.recipes import suggest_recipe
from sgenet.cli.parsing import (
    FAILED,
    add_checkpoint_and_json,
    glance,
    option_help,
    parse_settings,
    parser_of,
    settings_help,
)
from sgenet.errors import ConfigError
from sgenet.training.settings import to_yaml

if TYPE_CHECKING:
    from sgenet.classification.evaluation import EvalResult
    from sgenet.classification.prediction import Prediction
    from sgenet.classification.training import TrainResult

__all__ = ["eval_command", "predict_command", "train_command"]


def train_command(words: list[str]) -> int:
    """Run `sgenet train` with the words behind it; returns the exit status."""
    parser = parser_of("train", add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("--recipe")
    parser.add_argument("--resume")
    own, rest = parser.parse_known_args(words)
    if own.help:
        print(_train_help(make_config(own.recipe)))
        return 0
    if own.resume is not None:
        return _resume(own.resume, rest)
    recipe = own.recipe or _suggested(rest)
    config = _train_config(recipe, rest)
    if own.print_config:
        print(f"# recipe: {recipe}\n{to_yaml(config)}", end="")
        return 0
    if not config.data:
        raise ConfigError("no images are named; give --data PATH, or --data shapes for generated ones")
    from sgenet.classification.training import train
    from sgenet.training.fitting import is_first_process

    if own.recipe is None and recipe is not None and is_first_process():
        print(f"recipe: {recipe} (chosen by the data; `--recipe NAME` takes another)")
    _report(train(config))
    return 0


def _resume(run: str, words: list[str]) -> int:
    parser = parser_of("train --resume RUN", add_help=False)
    parser.add_argument("--epochs", type=int)
    own, rest = parser.parse_known_args(words)
    if rest:
        raise ConfigError(f"--resume goes on with the run's own settings; only --epochs can change, not {rest[0]}")
    from sgenet.classification.training import resume

    _report(resume(run, epochs=own.epochs))
    return 0


def _suggested(words: list[str]) -> str | None:
    """The recipe for a command that names none; None where a file gives the settings."""
    known = glance(words, "data", "model", "config", "weights")
    if known.config is not None:
        return None
    if not known.data:
        return "default"
    return suggest_recipe(known.data, pretrained=known.pretrained, weights=known.weights is not None)


def _train_config(recipe: str | None, words: list[str]) -> TrainConfig:
    """The recipe's settings with those of the command line over them."""
    known = glance(words, "data", "model", "config", "weights")
    if known.config is not None and not Path(known.config).is_file():
        raise ConfigError(f"--config: there is no file '{known.config}'")
    # These come first, because a recipe's model_options are for its own family of networks, and weights take the place
    # of its pretrained ones.
    first = {name: getattr(known, name) for name in ("model", "weights") if getattr(known, name) is not None}
    start = make_config(recipe, **first)
    return TrainConfig(**parse_settings("train", start, words))


def _train_help(config: TrainConfig) -> str:
    """Written here rather than by the parser, which takes longer to import than this to run."""
    lines = [
        "usage: sgenet train --data PATH [--recipe NAME] [--SETTING VALUE ...]",
        "       sgenet train --resume RUN [--epochs N]",
        "",
        "Train a network on images; the result is a run folder for `sgenet eval` and `sgenet predict`.",
        "",
        *option_help("--recipe NAME|FILE", "settings to start from, see `sgenet recipes`; chosen if not given"),
        *option_help("--config FILE", "settings from a YAML file, e.g. a run's config.yaml; options after it win"),
        *option_help("--print-config", "show the resulting settings and leave"),
        *option_help("--resume RUN", "go on with a run that was stopped, or with --epochs train it for longer"),
        *settings_help(config),
    ]
    return "\n".join(lines)


def _report(result: TrainResult) -> None:
    from sgenet.training.fitting import is_first_process

    if not is_first_process():
        return
    last = result.history[-1]
    print(f"top-1 {result.top1:.3f}%  top-5 {last.val_top5:.3f}%  (last epoch, {last.epoch})")
    best = max(result.history, key=lambda row: row.val_top1)
    print(f"best  {best.val_top1:.3f}%  (epoch {best.epoch}, chosen on the validation images: not to be reported)")
    print(f"run   {result.run}")


def eval_command(words: list[str]) -> int:
    """Run `sgenet eval` with the words behind it; returns the exit status."""
    parser = parser_of("eval", description="Top-1 and top-5 of a run on its validation images.")
    parser.add_argument("run", metavar="RUN", help="run folder of `sgenet train`")
    parser.add_argument("--data", metavar="PATH", help="other images with the same classes")
    parser.add_argument(
        "--crops", type=int, choices=(1, 10), default=1, help="centre, or corners and centre flipped too"
    )
    parser.add_argument("--scales", type=int, nargs="+", metavar="N", help="short sides, pixels; all are averaged")
    add_checkpoint_and_json(parser)
    own = parser.parse_args(words)
    from sgenet.classification.evaluation import evaluate

    result = evaluate(own.run, data=own.data, crops=own.crops, scales=own.scales, checkpoint=own.checkpoint)
    _print_evaluation(result, as_json=own.json)
    return 0


def _print_evaluation(result: EvalResult, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(vars(result), indent=2))
        return
    print(f"top-1   {result.top1:.3f}%")
    print(f"top-5   {result.top5:.3f}%")
    print(f"loss    {result.loss:.4f}")
    print(f"images  {result.images:,}")
    for name in result.skipped:
        print(f"left out, unreadable: {name}")


def predict_command(words: list[str]) -> int:
    """Run `sgenet predict` with the words behind it; returns the exit status."""
    parser = parser_of("predict", description="Name what images show.")
    parser.add_argument("run", metavar="RUN", help="run folder of `sgenet train`")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image file")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to name (5)")
    add_checkpoint_and_json(parser)
    own = parser.parse_args(words)
    from sgenet.classification.prediction import predict

    found = predict(own.run, own.images, top=own.top, checkpoint=own.checkpoint)
    if own.json:
        print(json.dumps([vars(prediction) for prediction in found], indent=2))
    else:
        print("\n\n".join(_prediction_text(prediction) for prediction in found if prediction.problem is None))
    for prediction in found:
        if prediction.problem is not None:
            print(f"sgenet: left out, unreadable: {prediction.path}: {prediction.problem}", file=sys.stderr)
    return 0 if any(prediction.problem is None for prediction in found) else FAILED


def _prediction_text(prediction: Prediction) -> str:
    lines = [f"  {100 * probability:6.2f}%  {name}" for name, probability in prediction.classes]
    return "\n".join([prediction.path, *lines])
