"""The command `sgenet`: parse, call one function, show the result.

Torch and Lightning take seconds to import; a command imports them only when it is certain to need them, so that help
and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_origin

import sgenet
from sgenet.bench.environment import ALLOCATORS, prepare
from sgenet.bench.settings import BenchSettings
from sgenet.classification.config import TrainConfig, make_config
from sgenet.classification.recipes import RECIPES, list_recipes, recipe_summary, suggest_recipe
from sgenet.errors import ConfigError, SgenetError, UnknownNameError, did_you_mean
from sgenet.training.settings import ordered_fields, to_yaml, types_of

if TYPE_CHECKING:
    from sgenet.classification.evaluation import EvalResult
    from sgenet.classification.prediction import Prediction
    from sgenet.classification.training import TrainResult

__all__ = ["main"]

_FAILED, _USAGE_ERROR, _INTERRUPTED = 1, 2, 130
_EXTRAS = {
    "train": ("pytorch_lightning", "rich", "tensorboard", "timm"),
    "study": ("jinja2", "markupsafe", "matplotlib", "optuna", "psycopg", "scipy", "sqlalchemy"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after `sgenet`; those of this process if not given.

    Returns:
        Exit status: 0; 1 where nothing could be done; 2 for something the user can correct; 130 for an interruption.

    Examples:
        >>> main(["models", "sge_resnet?0_cifar"])
        sge_resnet20_cifar
        0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except KeyboardInterrupt as stop:
        print(f"\nsgenet: {stop if stop.args else 'stopped'}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, e.g. `head`, has left; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        extra = next((extra for extra, names in _EXTRAS.items() if missing in names), None)
        if extra is None:
            raise
        return _fail(f"this needs {error.name}, which is not installed; `pip install sgenet[{extra}]` brings it")
    except SgenetError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else _USAGE_ERROR
    if words[0] == "--version":
        print(f"sgenet {sgenet.__version__}")
        return 0
    if words[0] not in _COMMANDS:
        hint = did_you_mean(words[0], _COMMANDS) or f" There are {', '.join(_COMMANDS)}."
        raise UnknownNameError(f"there is no command '{words[0]}'.{hint}")
    try:
        return _COMMANDS[words[0]][0](words[1:])
    except SystemExit as leave:  # argparse has printed its help
        return int(leave.code or 0)


def _overview() -> str:
    lines = [f"  {name:<10}{text}" for name, (_, text) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: sgenet COMMAND ...",
            "",
            "Attention for convolutional networks: train, evaluate and compare.",
            "",
            *lines,
            "",
            "`sgenet COMMAND --help` tells more; `sgenet --version` the version.",
        ]
    )


def _fail(message: str) -> int:
    print(f"sgenet: error: {' '.join(message.split())}", file=sys.stderr)
    return _USAGE_ERROR


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print usage and leave."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `{self.prog} --help` lists what there is")


def _parser(command: str, **options: Any) -> _Parser:  # noqa: ANN401  # argparse's own options
    return _Parser(prog=f"sgenet {command}", allow_abbrev=False, **options)


# ------------------------------------------------------------------------------------------------ train


def _train(words: list[str]) -> int:
    parser = _parser("train", add_help=False)
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
    parser = _parser("train --resume RUN", add_help=False)
    parser.add_argument("--epochs", type=int)
    own, rest = parser.parse_known_args(words)
    if rest:
        raise ConfigError(f"--resume goes on with the run's own settings; only --epochs can change, not {rest[0]}")
    from sgenet.classification.training import resume

    _report(resume(run, epochs=own.epochs))
    return 0


def _suggested(words: list[str]) -> str | None:
    """The recipe for a command that names none; None where a file gives the settings."""
    known = _glance(words)
    if known.config is not None:
        return None
    if not known.data:
        return "default"
    return suggest_recipe(known.data, pretrained=known.pretrained, weights=known.weights is not None)


def _train_config(recipe: str | None, words: list[str]) -> TrainConfig:
    """The recipe's settings with those of the command line over them."""
    known = _glance(words)
    if known.config is not None and not Path(known.config).is_file():
        raise ConfigError(f"--config: there is no file '{known.config}'")
    # These come first, because a recipe's model_options are for its own family of networks, and weights take the place
    # of its pretrained ones.
    first = {name: getattr(known, name) for name in ("model", "weights") if getattr(known, name) is not None}
    start = make_config(recipe, **first)
    return TrainConfig(**_parsed(start, words))


def _glance(words: list[str]) -> argparse.Namespace:
    """The options that decide what the others start from."""
    parser = _parser("train", add_help=False)
    for option in ("--data", "--model", "--config", "--weights"):
        parser.add_argument(option)
    parser.add_argument("--pretrained", action="store_true")
    return parser.parse_known_args(words)[0]


def _parsed(start: TrainConfig, words: list[str]) -> dict[str, Any]:
    """Values of all settings: those of the words, and of `start` for the rest."""
    from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser

    parser = ArgumentParser(prog="sgenet train", exit_on_error=False, add_help=False)
    parser.add_argument("--config", action="config")
    for name, hint in types_of(TrainConfig).items():
        option, default = f"--{name.replace('_', '-')}", getattr(start, name)
        if hint is bool:
            parser.add_argument(option, action=ActionYesNo(no_prefix="no-"), default=default)
        elif get_origin(hint) is tuple:
            inner = get_args(hint)
            count = "*" if Ellipsis in inner else len(inner)
            parser.add_argument(option, type=inner[0], nargs=count, default=list(default))
        else:
            parser.add_argument(option, type=hint, default=default)
    try:
        values = vars(parser.parse_args(words))
    except ArgumentError as error:
        raise ConfigError(_plain(str(error))) from error
    values.pop("config")
    return {name: values[name] for name in types_of(TrainConfig)}


def _plain(message: str) -> str:
    """The parser's message in the words of the settings."""
    key = re.search(r'Parser key "(\w+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    if key is not None and value is not None and key[1] in types_of(TrainConfig):
        return f"--{key[1].replace('_', '-')} must be {_type_words(key[1])}, not '{value[1].strip()}'"
    unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message, re.IGNORECASE)
    if unknown is not None:
        hint = did_you_mean(unknown[1], [f"--{name.replace('_', '-')}" for name in types_of(TrainConfig)])
        return f"there is no option {unknown[1]}.{hint} `sgenet train --help` lists them"
    return message


def _type_words(name: str) -> str:
    hint = types_of(TrainConfig)[name]
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    inner = [a for a in get_args(hint) if a is not type(None)]
    if hint in words:
        return words[hint]
    if get_origin(hint) is tuple:
        return "a list of numbers"
    if get_origin(hint) is dict:
        return "a mapping like '{stem: small}'"
    if all(isinstance(a, str) for a in inner):
        return "one of " + ", ".join(inner)
    return " or ".join(words[a] for a in inner)


def _train_help(config: TrainConfig) -> str:
    """Written here rather than by the parser, which takes longer to import than this to run."""
    lines = [
        "usage: sgenet train --data PATH [--recipe NAME] [--SETTING VALUE ...]",
        "       sgenet train --resume RUN [--epochs N]",
        "",
        "Train a network on images; the result is a run folder for `sgenet eval` and `sgenet predict`.",
        "",
        *_option("--recipe NAME|FILE", "settings to start from, see `sgenet recipes`; chosen by the data if not given"),
        *_option("--config FILE", "settings from a YAML file, e.g. a run's config.yaml; options after it win"),
        *_option("--print-config", "show the resulting settings and leave"),
        *_option("--resume RUN", "go on with a run that was stopped, or with --epochs train it for longer"),
    ]
    section = ""
    for item in ordered_fields(TrainConfig):
        if item.metadata["section"] != section:
            section = item.metadata["section"]
            lines += ["", f"{section}:"]
        name = item.name.replace("_", "-")
        value = getattr(config, item.name)
        if types_of(TrainConfig)[item.name] is bool:
            lines += _option(f"--{name}, --no-{name}", f"{item.metadata['help']} (now {'on' if value else 'off'})")
        elif get_origin(types_of(TrainConfig)[item.name]) is dict:
            lines += _option(f"--{name}.NAME VALUE", f"{item.metadata['help']} (now {value})")
        else:
            lines += _option(f"--{name} {_placeholder(item.name)}", f"{item.metadata['help']} (now {_shown(value)})")
    return "\n".join(lines)


def _option(left: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(text, width=max(40, min(120, shutil.get_terminal_size().columns) - 34))
    first = f"  {left:<31} {wrapped[0]}" if len(left) <= 31 else f"  {left}\n{'':34}{wrapped[0]}"
    return [first, *(f"{'':34}{line}" for line in wrapped[1:])]


def _placeholder(name: str) -> str:
    hint = types_of(TrainConfig)[name]
    choices = [a for a in get_args(hint) if isinstance(a, str)]
    if choices:
        return "|".join(choices)
    return "N" if int in (hint, *get_args(hint)) else "X" if float in (hint, *get_args(hint)) else "TEXT"


def _shown(value: Any) -> str:  # noqa: ANN401  # any setting
    if isinstance(value, tuple):
        return " ".join(f"{v:.4g}" for v in value) or "none"
    return f"{value:g}" if isinstance(value, float) else "none" if value in (None, "") else str(value)


def _report(result: TrainResult) -> None:
    from sgenet.training.fitting import is_first_process

    if not is_first_process():
        return
    last = result.history[-1]
    print(f"top-1 {result.top1:.3f}%  top-5 {last.val_top5:.3f}%  (last epoch, {last.epoch})")
    best = max(result.history, key=lambda row: row.val_top1)
    print(f"best  {best.val_top1:.3f}%  (epoch {best.epoch}, chosen on the validation images: not to be reported)")
    print(f"run   {result.run}")


# ------------------------------------------------------------------------------- eval, predict, the rest


def _eval(words: list[str]) -> int:
    parser = _parser("eval", description="Top-1 and top-5 of a run on its validation images.")
    parser.add_argument("run", metavar="RUN", help="run folder of `sgenet train`")
    parser.add_argument("--data", metavar="PATH", help="other images with the same classes")
    parser.add_argument(
        "--crops", type=int, choices=(1, 10), default=1, help="centre, or corners and centre flipped too"
    )
    parser.add_argument("--scales", type=int, nargs="+", metavar="N", help="short sides, pixels; all are averaged")
    _add_checkpoint_and_json(parser)
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


def _predict(words: list[str]) -> int:
    parser = _parser("predict", description="Name what images show.")
    parser.add_argument("run", metavar="RUN", help="run folder of `sgenet train`")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image file")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to name (5)")
    _add_checkpoint_and_json(parser)
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
    return 0 if any(prediction.problem is None for prediction in found) else _FAILED


def _prediction_text(prediction: Prediction) -> str:
    lines = [f"  {100 * probability:6.2f}%  {name}" for name, probability in prediction.classes]
    return "\n".join([prediction.path, *lines])


def _add_checkpoint_and_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which weights (last)")
    parser.add_argument("--json", action="store_true", help="print JSON")


# --------------------------------------------------------------------------------------------- studies


def _study(words: list[str]) -> int:
    actions = {"list": _study_list, "run": _study_run, "show": _study_show, "report": _study_report}
    if not words or words[0] in ("-h", "--help"):
        print(_STUDY_HELP)
        return 0 if words else _USAGE_ERROR
    if words[0] not in actions:
        hint = did_you_mean(words[0], actions) or f" There are {', '.join(actions)}."
        raise UnknownNameError(f"`sgenet study` knows no '{words[0]}'.{hint}")
    return actions[words[0]](words[1:])


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
    parser = _parser("study list", description="Studies that come with the package.")
    parser.parse_args(words)
    from sgenet.study import list_studies, load_study

    for name in list_studies():
        study = load_study(name)
        size = "later: " + study.needs if study.needs else f"{len(study.combinations)} x {study.seeds} trainings"
        print(f"{name:<22}{study.title} ({size})")
    return 0


def _study_run(words: list[str]) -> int:
    parser = _parser(
        "study run",
        description="Train what a study lacks, and report. Options that are none of these are settings of `sgenet "
        "train`, for every training: --data, --model, --epochs ...",
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
        "--only", action="append", default=[], metavar="FACTOR=LEVEL", help="train these now; repeat it for more levels"
    )
    parser.add_argument("--heartbeat", type=int, metavar="SECONDS", help="how often workers say that they live (20)")
    if "-h" in words or "--help" in words:
        parser.print_help()
        return 0
    own, rest = parser.parse_known_args(words)
    from sgenet.study import run_study
    from sgenet.study.definition import MACHINE_SETTINGS, load_study

    definition = load_study(own.study)
    settings = _study_settings(own.recipe or definition.recipe, rest)
    machine = {name: settings.pop(name) for name in MACHINE_SETTINGS if name in settings}
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
        only=_only(own.only),
        threads=own.threads,
        machine=machine,
        **({} if own.heartbeat is None else {"heartbeat": own.heartbeat}),
    )
    if result.stopped:
        print(f"stopped: {result.stopped}; the same command goes on where it was")
    return _FAILED if result.analysis.failed else 0


def _only(words: list[str]) -> dict[str, list[str]]:
    levels: dict[str, list[str]] = {}
    for word in words:
        factor, equals, level = word.partition("=")
        if not equals:
            raise ConfigError(f"--only '{word}' must be FACTOR=LEVEL, e.g. --only attention=sge")
        levels.setdefault(factor, []).append(level)
    return levels


def _study_settings(recipe: str | None, words: list[str]) -> dict[str, Any]:
    """The settings that the words name, and no others."""
    if not words:
        return {}
    named = {word.partition("=")[0].partition(".")[0].removeprefix("--") for word in words if word.startswith("--")}
    names = {name.removeprefix("no-").replace("-", "_") for name in named}
    for name in sorted(names - {*types_of(TrainConfig)}):
        hint = did_you_mean(name, types_of(TrainConfig))
        raise ConfigError(f"there is no option --{name.replace('_', '-')}.{hint} `sgenet study run --help` tells more")
    values = _parsed(make_config(recipe, **_known_model(words)), words)
    return {name: values[name] for name in types_of(TrainConfig) if name in names}


def _known_model(words: list[str]) -> dict[str, Any]:
    model = _glance(words).model
    return {} if model is None else {"model": model}


def _study_show(words: list[str]) -> int:
    parser = _parser("study show", description="What a study asks; of a folder, how far it is.")
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
    parser = _parser("study report", description="Write the report of what a study has found so far.")
    parser.add_argument("output", metavar="DIR", help="folder of `sgenet study run`")
    parser.add_argument("--storage", metavar="URL", help="where its results are, if not in the folder")
    own = parser.parse_args(words)
    from sgenet.study import write_report

    print(f"Report: {write_report(own.output, own.storage).report}")
    return 0


# ------------------------------------------------------------------------------------------ the machine


def _bench(words: list[str]) -> int:
    parser = _parser("bench", description="Time a network plain, with attention and with unfused attention, in turn.")
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", default="resnet50", help="any of `sgenet models` (resnet50)"
    )
    parser.add_argument("--attention", metavar="A,B", help="modules to put into it (sge,se)")
    parser.add_argument("--module", metavar="A", help="time this module by itself instead: sge or se")
    parser.add_argument("--mode", default="infer", help="infer, or train: forward and backward (infer)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (float32)")
    parser.add_argument("--batch", type=int, default=8, help="images (8)")
    parser.add_argument("--size", type=int, default=224, help="their side, pixels (224)")
    parser.add_argument("--layout", default="channels_last", help="channels_last or contiguous (channels_last)")
    parser.add_argument("--compile", action="store_true", help="compare what torch.compile makes of the networks")
    parser.add_argument("--optimize", action="store_true", help="send every network through sgenet.optimize before")
    parser.add_argument("--freeze", action="store_true", help="compile weights as constants")
    parser.add_argument("--device", default="auto", help="cpu, cuda ... (cuda where there is one)")
    parser.add_argument("--pairs", type=int, default=30, help="rounds (30)")
    parser.add_argument("--time", type=float, default=150, metavar="SECONDS", help="no round begins after (150)")
    parser.add_argument("--allocator", choices=ALLOCATORS, default="tuned", help="glibc's settings (tuned)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="append the rows to this file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    own = vars(parser.parse_args(words))
    file, as_json, seconds, allocator = (own.pop(name) for name in ("csv", "json", "time", "allocator"))
    attention = None if own["attention"] is None else tuple(filter(None, own["attention"].split(",")))
    settings = BenchSettings(**own | {"attention": attention, "seconds": seconds})
    prepare(words, tuned=allocator == "tuned")
    from sgenet.bench.measuring import bench
    from sgenet.bench.result import add_rows
    from sgenet.bench.table import print_bench, shown_progress

    with shown_progress() as show:
        result = bench(settings, show)
    if file is not None:
        add_rows(file, result.to_rows())
    if as_json:
        print(json.dumps(result.to_rows(), indent=2))
    else:
        print_bench(result)
    return 0


def _doctor(words: list[str]) -> int:
    parser = _parser("doctor", description="What this machine has for sgenet: devices, backends, compiler, extras.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    own = parser.parse_args(words)
    from sgenet.doctor import diagnose

    found = diagnose()
    if own.json:
        print(json.dumps(dict(found), indent=2))
        return 0
    width = max(len(name) for name, _ in found)
    print("\n".join(f"{name:<{width}}  {text}" for name, text in found))
    return 0


def _models(words: list[str]) -> int:
    parser = _parser("models", description="Names of networks.")
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="e.g. 'sge_*' or 'timm:*resnet50*'")
    own = parser.parse_args(words)
    from sgenet.models import list_models

    names = list_models(own.pattern)
    if not names:
        raise UnknownNameError(
            f"no network matches '{own.pattern}'; `sgenet models` lists ours, 'timm:*' those of timm"
        )
    print("\n".join(names))
    return 0


def _recipes(words: list[str]) -> int:
    parser = _parser("recipes", description="Names of recipes, or the file of one.")
    parser.add_argument("recipe", metavar="NAME", nargs="?", help="show this one")
    own = parser.parse_args(words)
    if own.recipe is not None:
        print(RECIPES.find(own.recipe).read_text(encoding="utf-8"), end="")
        return 0
    for name in list_recipes():
        print(f"{name:<25}{recipe_summary(name)}")
    return 0


_COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (_train, "train a network on images, or go on with a training that was stopped"),
    "eval": (_eval, "top-1 and top-5 of a run"),
    "predict": (_predict, "name what images show"),
    "study": (_study, "compare networks fairly, over seeds: list, run, show, report"),
    "bench": (_bench, "time a network with and without attention, or a module by itself"),
    "models": (_models, "list networks"),
    "doctor": (_doctor, "say what this machine has: devices, backends, and why one is missing"),
    "recipes": (_recipes, "list recipes, or show one"),
}


if __name__ == "__main__":
    sys.exit(main())
