"""Train, evaluate and predict: classification of images. Names are imported when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgenet.importing import names_on_use

if TYPE_CHECKING:
    from sgenet.classification.config import TrainConfig as TrainConfig
    from sgenet.classification.config import make_config as make_config
    from sgenet.classification.evaluation import EvalResult as EvalResult
    from sgenet.classification.evaluation import evaluate as evaluate
    from sgenet.classification.history import EpochRow as EpochRow
    from sgenet.classification.prediction import Prediction as Prediction
    from sgenet.classification.prediction import predict as predict
    from sgenet.classification.recipes import list_recipes as list_recipes
    from sgenet.classification.recipes import load_recipe as load_recipe
    from sgenet.classification.training import TrainResult as TrainResult
    from sgenet.classification.training import resume as resume
    from sgenet.classification.training import train as train

_HOME = {
    "EpochRow": "history",
    "EvalResult": "evaluation",
    "Prediction": "prediction",
    "TrainConfig": "config",
    "TrainResult": "training",
    "evaluate": "evaluation",
    "list_recipes": "recipes",
    "load_recipe": "recipes",
    "make_config": "config",
    "predict": "prediction",
    "resume": "training",
    "train": "training",
}

__all__ = [*_HOME]  # the table above is the list
__getattr__, __dir__ = names_on_use(__name__, _HOME)
