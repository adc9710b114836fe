"""The command `sgenet`: parse, call one function, show the result.

Torch and Lightning take seconds to import; a command imports them only when it is certain to need them, so that help
and mistakes answer at once.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence

import sgenet
from sgenet.cli import classification, detection, machine, studies
from sgenet.cli.parsing import FAILED, USAGE_ERROR
from sgenet.errors import SgenetError, UnknownNameError, did_you_mean
from sgenet.extras import extra_of

__all__ = ["main"]

_INTERRUPTED = 130


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
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text in the output's encoding
    try:
        return _run(words)
    except KeyboardInterrupt as stop:
        print(f"\nsgenet: {stop if stop.args else 'stopped'}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, e.g. `head`, has left; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if extra is None:
            raise
        return _fail(f"this needs {error.name}, which is not installed; `pip install 'sgenet[{extra}]'` brings it")
    except SgenetError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else USAGE_ERROR
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
    return USAGE_ERROR


_COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (classification.train_command, "train a network on images, or go on with a training that was stopped"),
    "eval": (classification.eval_command, "top-1 and top-5 of a run"),
    "predict": (classification.predict_command, "name what images show"),
    "detect": (detection.detect_command, "detectors of objects: train, eval, predict, compare"),
    "study": (studies.study_command, "compare networks fairly, over seeds: list, run, show, report"),
    "bench": (machine.bench_command, "time a network with and without attention, or a module by itself"),
    "models": (machine.models_command, "list networks"),
    "doctor": (machine.doctor_command, "say what this machine has: devices, backends, and why one is missing"),
    "recipes": (machine.recipes_command, "list recipes, or show one"),
}
