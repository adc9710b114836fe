"""`sgenet train`, `sgenet eval` and `sgenet predict`: classification."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from sgenet.classification.config import TrainConfig, make_config
from sgenet.classification.recipes import suggest_recipe
from sgenet.cli.parsing import FAILED, add_checkpoint_and_json, glance, parser_of
from sgenet.cli.training import TrainCommand

if TYPE_CHECKING:
    from sgenet.classification.evaluation import EvalResult
    from sgenet.classification.prediction import Prediction
    from sgenet.classification.training import TrainResult

__all__ = ["eval_command", "predict_command", "train_command"]


def _suggested(words: list[str]) -> str:
    known = glance("train", words, "data", "weights")
    if not known.data:
        return "default"
    return suggest_recipe(known.data, pretrained=known.pretrained, weights=known.weights is not None)


def _train(config: TrainConfig) -> TrainResult:
    from sgenet.classification.training import train

    return train(config)


def _resume(run: str, epochs: int | None) -> TrainResult:
    from sgenet.classification.training import resume

    return resume(run, epochs=epochs)


def _report(result: TrainResult) -> None:
    last = result.history[-1]
    print(f"top-1 {result.top1:.3f}%  top-5 {last.val_top5:.3f}%  (last epoch, {last.epoch})")
    best = max(result.history, key=lambda row: row.val_top1)
    print(f"best  {best.val_top1:.3f}%  (epoch {best.epoch}, chosen on the validation images: not to be reported)")
    print(f"run   {result.run}")


train_command = TrainCommand(
    name="train",
    data="--data PATH",
    about="Train a network on images; the result is a run folder for `sgenet eval` and `sgenet predict`.",
    recipes="see `sgenet recipes`",
    # A recipe's model_options are for its own family of networks, and weights take the place of its pretrained ones.
    decisive=("model", "weights"),
    make=make_config,
    suggest=_suggested,
    train=_train,
    resume=_resume,
    report=_report,
)


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
