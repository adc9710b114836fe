"""Fair comparisons: the same trainings over several seeds, on one machine or many, and what they can show.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgenet.importing import names_on_use

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
__getattr__, __dir__ = names_on_use(__name__, _HOME)
