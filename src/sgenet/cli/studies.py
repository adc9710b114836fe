"""`sgenet study`: fair comparisons over seeds."""

from __future__ import annotations

from pathlib import Path

from sgenet.cli.parsing import FAILED, USAGE_ERROR, chosen, glance, named_settings, parser_of
from sgenet.errors import ConfigError

__all__ = ["study_command"]


def study_command(words: list[str]) -> int:
    """Run `sgenet study` with the words behind it; returns the exit status."""
    actions = {"list": _study_list, "run": _study_run, "show": _study_show, "report": _study_report}
    if not words or words[0] in ("-h", "--help"):
        print(_STUDY_HELP)
        return 0 if words else USAGE_ERROR
    return actions[chosen("study", words, list(actions))](words[1:])


_STUDY_HELP = """usage: sgenet study list
       sgenet study run NAME|FILE.yaml [--output DIR] [--storage URL] [--workers N] [--SETTING VALUE ...]
       sgenet study show NAME|FILE.yaml|DIR
       sgenet study report DIR [--storage URL]

Fair comparisons: every network is trained from the same seeds, and differences are reported with their uncertainty.

  list      studies that come with the package
  run       train what a study lacks, and report; the same command goes on where it was, or joins in on another machine
  show      a study's grid and the paper's figures; of a folder, how far it is
  report    write the report of what is there

`sgenet study run --help` tells more."""


def _study_list(words: list[str]) -> int:
    parser = parser_of("study list", description="Studies that come with the package.")
    parser.parse_args(words)
    from sgenet.study import list_studies, load_study

    for name in list_studies():
        study = load_study(name)
        size = "later: " + study.needs if study.needs else f"{len(study.combinations)} x {study.seeds} trainings"
        print(f"{name:<22}{study.title} ({size})")
    return 0


def _study_run(words: list[str]) -> int:
    parser = parser_of(
        "study run",
        description="Train what a study lacks, and report. Options that are none of these are settings of `sgenet "
        "train`, or of `sgenet detect train` in a study of detectors, for every training: --data, --epochs ...",
    )
    parser.add_argument("study", metavar="NAME|FILE", help="one of `sgenet study list`, or a YAML file")
    parser.add_argument("--output", type=Path, help="folder of runs and report (runs/study-NAME)")
    parser.add_argument("--storage", metavar="URL", help="results elsewhere: sqlite:///FILE or postgresql://...")
    parser.add_argument("--recipe", help="of every training, in the place of the study's own")
    parser.add_argument("--seeds", type=int, help="how many, in the place of the study's own number")
    parser.add_argument("--workers", type=int, default=1, help="trainings at once on this machine (1)")
    parser.add_argument("--threads", type=int, help="threads of each (the cores, shared between them)")
    parser.add_argument("--budget", choices=("full", "tiny"), default="full", help="tiny: only see that all works")
    parser.add_argument("--time", type=float, metavar="MINUTES", help="stop cleanly after so many")
    parser.add_argument("--cells", type=int, metavar="N", help="train so many at most")
    parser.add_argument(
        "--levels",
        action="append",
        default=[],
        metavar="FACTOR=LEVEL",
        help="ask of these alone; repeat it for more",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="FACTOR=LEVEL", help="train these now; repeat it for more levels"
    )
    parser.add_argument(
        "--heartbeat", type=int, metavar="SECONDS", help="how often its workers say that they live (20)"
    )
    if "-h" in words or "--help" in words:
        parser.print_help()
        return 0
    own, rest = parser.parse_known_args(words)
    from sgenet.study import run_study
    from sgenet.study.definition import MACHINE_SETTINGS, load_study

    definition = load_study(own.study)
    seen = vars(glance("study run", rest, *definition.kind.decisive))
    decisive = {name: seen[name] for name in definition.kind.decisive if seen[name] is not None}
    start = definition.kind.make(own.recipe or definition.recipe, **decisive)
    settings = named_settings("study run", start, rest)
    machine = {name: settings.pop(name) for name in MACHINE_SETTINGS if name in settings}
    if "data" in settings:  # what they are is the study's, where they lie is this machine's
        machine["data"] = settings["data"]
    definition = definition.with_levels(_levels("--levels", own.levels))
    definition = definition.with_settings(own.recipe, own.seeds, **settings)
    if own.budget == "tiny":
        definition = definition.tiny()
    tiny = "-tiny" if own.budget == "tiny" else ""
    result = run_study(
        definition,
        own.output or Path("runs") / f"study-{definition.name}{tiny}",
        storage=own.storage,
        workers=own.workers,
        seconds=None if own.time is None else 60 * own.time,
        cells=own.cells,
        only=_levels("--only", own.only),
        threads=own.threads,
        heartbeat=own.heartbeat,
        machine=machine,
    )
    if result.stopped:
        print(f"stopped: {result.stopped}; the same command goes on where it was")
    return FAILED if result.analysis.failed else 0


def _levels(option: str, words: list[str]) -> dict[str, list[str]]:
    levels: dict[str, list[str]] = {}
    for word in words:
        factor, equals, level = word.partition("=")
        if not equals:
            raise ConfigError(f"{option} '{word}' must be FACTOR=LEVEL, e.g. {option} attention=sge")
        levels.setdefault(factor, []).append(level)
    return levels


def _study_show(words: list[str]) -> int:
    parser = parser_of("study show", description="What a study asks; of a folder, how far it is.")
    parser.add_argument("study", metavar="NAME|FILE|DIR", help="one of `sgenet study list`, a YAML file, or a folder")
    parser.add_argument("--storage", metavar="URL", help="where its results are, if not in the folder")
    own = parser.parse_args(words)
    if Path(own.study).is_dir() or own.storage is not None:
        from sgenet.study.analysis import analyse
        from sgenet.study.running import open_study
        from sgenet.study.table import summary

        definition, state, _ = open_study(own.study, own.storage)
        print(f"{definition.title}\n{definition.question}\n")
        print(f"{len(state.results)} of {len(definition.cells)} trainings finished, {len(state.running)} running\n")
        print(summary(analyse(definition, state)))
        return 0
    from sgenet.study.definition import load_study
    from sgenet.study.table import plan

    print(plan(load_study(own.study)))
    return 0


def _study_report(words: list[str]) -> int:
    parser = parser_of("study report", description="Write the report of what a study has found so far.")
    parser.add_argument("output", metavar="DIR", help="folder of `sgenet study run`")
    parser.add_argument("--storage", metavar="URL", help="where its results are, if not in the folder")
    own = parser.parse_args(words)
    from sgenet.study import write_report

    print(f"Report: {write_report(own.output, own.storage).report}")
    return 0
