"""Detectors: build, train, evaluate, predict and compare. Names are imported when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgenet.importing import names_on_use

if TYPE_CHECKING:
    from sgenet.detection.comparison import compare as compare
    from sgenet.detection.config import DetectConfig as DetectConfig
    from sgenet.detection.config import make_detect_config as make_detect_config
    from sgenet.detection.cost import backbone_cost as backbone_cost
    from sgenet.detection.detectors import create_detector as create_detector
    from sgenet.detection.detectors import list_detectors as list_detectors
    from sgenet.detection.drawing import draw_objects as draw_objects
    from sgenet.detection.evaluation import evaluate as evaluate
    from sgenet.detection.prediction import predict_objects as predict_objects
    from sgenet.detection.recipes import list_recipes as list_recipes
    from sgenet.detection.run_comparison import compare_runs as compare_runs
    from sgenet.detection.run_evaluation import evaluate_results as evaluate_results
    from sgenet.detection.run_evaluation import evaluate_run as evaluate_run
    from sgenet.detection.training import DetectResult as DetectResult
    from sgenet.detection.training import resume_detector as resume_detector
    from sgenet.detection.training import train_detector as train_detector

_HOME = {
    "DetectConfig": "config",
    "DetectResult": "training",
    "backbone_cost": "cost",
    "compare": "comparison",
    "compare_runs": "run_comparison",
    "create_detector": "detectors",
    "draw_objects": "drawing",
    "evaluate": "evaluation",
    "evaluate_results": "run_evaluation",
    "evaluate_run": "run_evaluation",
    "list_detectors": "detectors",
    "list_recipes": "recipes",
    "make_detect_config": "config",
    "predict_objects": "prediction",
    "resume_detector": "training",
    "train_detector": "training",
}

__all__ = [*_HOME]  # the table above is the list
__getattr__, __dir__ = names_on_use(__name__, _HOME)
