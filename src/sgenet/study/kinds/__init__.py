"""What a study's trainings can be: classifiers or detectors. Imports neither torch nor numpy."""

from __future__ import annotations

from typing import Any

from sgenet.study.kinds.classification import Classification
from sgenet.study.kinds.detection import Detection
from sgenet.study.kinds.kind import START, Kind, Metric

__all__ = ["KINDS", "START", "Kind", "Metric"]

KINDS: dict[str, Kind[Any, Any]] = {kind.name: kind for kind in (Classification(), Detection())}
"""By the name that a study's file gives as `trains`."""
