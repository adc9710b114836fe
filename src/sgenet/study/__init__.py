"""Fair comparisons: the same trainings over several seeds, on one machine or many, and what they can show.

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgenet.study.analysis import Analysis as Analysis
    from sgenet.study.analysis import analyse as analyse
    from sgenet.study.definition import Definition as Definition
    from sgenet.study.definition import load_study as load_study
    from sgenet.study.presets import list_studies as list_studies
    from sgenet.study.running import StudyResult as StudyResult
    from sgenet.study.running import open_study as open_study
    from sgenet.study.running import run_study as run_study
    from sgenet.study.running import write_report as write_report

_HOME = {
    "Analysis": "analysis",
    "Definition": "definition",
    "StudyResult": "running",
    "analyse": "analysis",
    "list_studies": "presets",
    "load_study": "definition",
    "open_study": "running",
    "run_study": "running",
    "write_report": "running",
}

__all__ = [*_HOME]  # the table above is the list


def __getattr__(name: str) -> object:
    if name not in _HOME:
        msg = f"module 'sgenet.study' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"sgenet.study.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
