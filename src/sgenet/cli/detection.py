"""`sgenet detect`: detectors of objects."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sgenet.cli.parsing import FAILED, USAGE_ERROR, add_checkpoint_and_json, chosen, glance, parser_of
from sgenet.cli.training import TrainCommand
from sgenet.detection.config import DetectConfig, make_detect_config
from sgenet.detection.recipes import list_recipes
from sgenet.errors import ConfigError

if TYPE_CHECKING:
    from sgenet.detection.evaluation import Evaluation
    from sgenet.detection.training import DetectResult

__all__ = ["detect_command"]

_LISTED = 10  # objects of an image

_HELP = """usage: sgenet detect train --data DIR|shapes [--recipe NAME] [--SETTING VALUE ...]
       sgenet detect eval RUN
       sgenet detect eval --results FILE.json --data DIR|FILE.json
       sgenet detect predict RUN IMAGE... [--output DIR]
       sgenet detect compare RUN RUN...

Detectors on backbones with attention: Faster, Mask and Cascade R-CNN, RetinaNet.

  train     train a detector, or go on with a training that was stopped
  eval      COCO's twelve figures of a run, or of results that any program wrote
  predict   find objects in images: a picture of each, and results in COCO's form
  compare   figures of several runs with intervals, what they cost, and what else differs

`sgenet detect train --help` tells more."""


def detect_command(words: list[str]) -> int:
    """Run `sgenet detect` with the words behind it; returns the exit status."""
    actions: dict[str, Callable[[list[str]], int]] = {
        "train": _TRAIN,
        "eval": _eval,
        "predict": _predict,
        "compare": _compare,
    }
    if not words or words[0] in ("-h", "--help"):
        print(_HELP)
        return 0 if words else USAGE_ERROR
    return actions[chosen("detect", words, list(actions))](words[1:])


def _suggested(words: list[str]) -> str:
    known = glance("detect train", words, "data", "detector")
    if known.data == "shapes":
        return "shapes"
    detector = known.detector or ""
    return "cascade_20e" if detector.startswith("cascade") else "retinanet_2x" if detector == "retinanet" else "2x"


def _train(config: DetectConfig) -> DetectResult:
    from sgenet.detection.training import train_detector

    return train_detector(config)


def _resume(run: str, epochs: int | None) -> DetectResult:
    from sgenet.detection.training import resume_detector

    return resume_detector(run, epochs=epochs)


def _report(result: DetectResult) -> None:
    last = result.history[-1]
    print(f"AP {last.ap:.2f}  AP50 {last.ap50:.2f}  AP75 {last.ap75:.2f}  (last epoch, {last.epoch})")
    if last.mask_ap == last.mask_ap:  # no nan
        print(f"masks: AP {last.mask_ap:.2f}  AP50 {last.mask_ap50:.2f}")
    print(f"run   {result.run}")


_TRAIN = TrainCommand(
    name="detect train",
    data="--data DIR|shapes",
    about="Train a detector; the result is a run folder for `sgenet detect eval`, `predict` and `compare`.",
    recipes=", ".join(list_recipes()),
    # Of a recipe's detector_options some are for other detectors, and weights take the place of its pretrained ones.
    decisive=("detector", "backbone_weights"),
    make=make_detect_config,
    suggest=_suggested,
    train=_train,
    resume=_resume,
    report=_report,
)


def _eval(words: list[str]) -> int:
    parser = parser_of("detect eval", description="COCO's twelve figures of a run, or of a file of results.")
    parser.add_argument("run", metavar="RUN", nargs="?", help="run folder of `sgenet detect train`")
    parser.add_argument("--data", metavar="PATH", help="other images with the same classes; or COCO's JSON of them")
    parser.add_argument("--results", metavar="FILE", help="judge these results in COCO's form, in the place of a run")
    parser.add_argument("--write-results", metavar="FILE", help="write what the run finds, in COCO's form")
    parser.add_argument("--per-class", action="store_true", help="also the AP of each class")
    parser.add_argument("--stages", type=int, metavar="N", help="of a cascade: use its first N stages")
    add_checkpoint_and_json(parser)
    own = parser.parse_args(words)
    if (own.run is None) == (own.results is None):
        raise ConfigError("give either a RUN, or --results FILE with --data")
    from sgenet.detection.run_evaluation import evaluate_results, evaluate_run

    if own.results is not None:
        if own.data is None:
            raise ConfigError("--results needs --data: the images that they are of, or COCO's JSON of them")
        found = evaluate_results(own.results, own.data, per_class=own.per_class)
    else:
        asked = {"data": own.data, "checkpoint": own.checkpoint, "per_class": own.per_class, "stages": own.stages}
        found = evaluate_run(own.run, **asked, results=own.write_results)
    parts = {"boxes": found.boxes} if found.masks is None else {"boxes": found.boxes, "masks": found.masks}
    if own.json:
        whole = {name: _as_json(part) for name, part in parts.items()} | {"skipped": list(found.skipped)}
        print(json.dumps(whole, indent=2))
        return 0
    print("\n\n".join(_evaluation_text(name, part) for name, part in parts.items()))
    for name in found.skipped:
        print(f"left out, unreadable: {name}")
    return 0


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    classes = [vars(found) for found in evaluation.per_class]
    return {
        "figures": dict(evaluation.figures),
        "images": evaluation.images,
        "objects": evaluation.objects,
        **({"classes": classes} if classes else {}),
    }


def _evaluation_text(name: str, evaluation: Evaluation) -> str:
    from sgenet.bench.table import aligned

    figures = [[figure, _percent(value)] for figure, value in evaluation.figures.items()]
    text = f"{name}: {evaluation.objects:,} objects in {evaluation.images:,} images, percent\n"
    text += "\n".join(f"{figure:<6}{value:>8}" for figure, value in figures)
    if not evaluation.per_class:
        return text
    rows = [[c.name, f"{c.objects:,}", _percent(c.ap), _percent(c.ap50)] for c in evaluation.per_class]
    return f"{text}\n\n{aligned(['class', 'objects', 'AP', 'AP50'], rows)}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _predict(words: list[str]) -> int:
    parser = parser_of("detect predict", description="Find objects in images.")
    parser.add_argument("run", metavar="RUN", help="run folder of `sgenet detect train`")
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="image file (none: 8 of its validation images)")
    parser.add_argument("--output", default="found", help="folder of pictures and results.json (found)")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="X", help="least score that is drawn (0.5)")
    add_checkpoint_and_json(parser)
    own = parser.parse_args(words)
    from sgenet.detection.prediction import predict_objects

    found = predict_objects(own.run, own.images or None, own.output, threshold=own.threshold, checkpoint=own.checkpoint)
    if own.json:
        print(
            json.dumps([vars(image) | {"picture": image.picture and str(image.picture)} for image in found], indent=2)
        )
    for image in found:
        if image.problem is not None:
            print(f"sgenet: left out, unreadable: {image.path}: {image.problem}", file=sys.stderr)
        elif not own.json:
            print(f"{image.path}: {_found_text(image.objects)} ({image.picture})")
    return 0 if any(image.problem is None for image in found) else FAILED


def _found_text(objects: Sequence[tuple[str, float]]) -> str:
    listed = ", ".join(f"{name} {score:.2f}" for name, score in objects[:_LISTED])
    more = f" and {len(objects) - _LISTED} more" if len(objects) > _LISTED else ""
    return f"{listed}{more}" if objects else "nothing above the threshold"


def _compare(words: list[str]) -> int:
    parser = parser_of("detect compare", description="Compare runs on the same images; the first is the baseline.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders of `sgenet detect train`")
    parser.add_argument("--data", metavar="PATH", help="other images with the same classes")
    parser.add_argument("--resamples", type=int, default=1000, help="of the images, for the intervals (1000)")
    parser.add_argument("--no-latency", action="store_true", help="leave out what takes time and a quiet machine")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which weights (last)")
    own = parser.parse_args(words)
    from sgenet.detection.run_comparison import compare_runs, comparison_text

    comparison = compare_runs(
        own.runs,
        data=own.data,
        checkpoint=own.checkpoint,
        resamples=own.resamples,
        latency=not own.no_latency,
        progress=lambda line: print(line, file=sys.stderr),
    )
    print(comparison_text(comparison))
    return 0
