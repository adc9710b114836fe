"""What the commands share: how words become options and settings, and how help is written."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from sgenet.errors import ConfigError, UnknownNameError, did_you_mean
from sgenet.named_files import read_yaml
from sgenet.training.settings import TrainingSettings, ordered_fields, types_of

__all__ = [
    "FAILED",
    "USAGE_ERROR",
    "Parser",
    "add_checkpoint_and_json",
    "chosen",
    "glance",
    "named_settings",
    "option_help",
    "parse_settings",
    "parser_of",
    "settings_help",
]

FAILED, USAGE_ERROR = 1, 2


class Parser(argparse.ArgumentParser):
    """Raises where argparse would print usage and leave."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one sentence."""
        raise ConfigError(f"{message}; `{self.prog} --help` lists what there is")


def parser_of(command: str, **options: Any) -> Parser:  # noqa: ANN401  # argparse's own options
    """A parser for the words behind `sgenet COMMAND`."""
    return Parser(prog=f"sgenet {command}", allow_abbrev=False, **options)


def chosen(command: str, words: Sequence[str], actions: Sequence[str]) -> str:
    """The first word, which names one of the command's actions."""
    if words[0] not in actions:
        hint = did_you_mean(words[0], actions) or f" There are {', '.join(actions)}."
        raise UnknownNameError(f"`sgenet {command}` knows no '{words[0]}'.{hint}")
    return words[0]


def add_checkpoint_and_json(parser: argparse.ArgumentParser) -> None:
    """Options of commands that look at a run."""
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which weights (last)")
    parser.add_argument("--json", action="store_true", help="print JSON")


# --------------------------------------------------------------------------------------------- settings


def glance(command: str, words: list[str], *names: str) -> argparse.Namespace:
    """The options that decide what the others start from: those named, as text or None, and `pretrained`."""
    parser = parser_of(command, add_help=False)
    for name in names:
        parser.add_argument(f"--{name}")
    parser.add_argument("--pretrained", action="store_true")
    return parser.parse_known_args(words)[0]


def named_settings(command: str, start: TrainingSettings, words: list[str]) -> dict[str, Any]:
    """The settings that the words name, and no others.

    Args:
        command: Whose words they are, e.g. "study run".
        start: Settings of their kind.
        words: Of the command line.

    Returns:
        Values by name.

    Raises:
        ConfigError: If there is no such setting, or a value cannot be used.
    """
    if not words:
        return {}
    kind = type(start)
    named = {word.partition("=")[0].partition(".")[0].removeprefix("--") for word in words if word.startswith("--")}
    names = {name.removeprefix("no-").replace("-", "_") for name in named}
    for name in sorted(names - {*types_of(kind)}):
        hint = did_you_mean(name, types_of(kind))
        raise ConfigError(f"there is no option --{name.replace('_', '-')}.{hint} `sgenet {command} --help` tells more")
    values = parse_settings(command, start, words)
    return {name: values[name] for name in types_of(kind) if name in names}


def parse_settings(command: str, start: TrainingSettings, words: list[str]) -> dict[str, Any]:
    """Values of all settings: those of the words, and of `start` for the rest.

    Args:
        command: Whose words they are, e.g. "train".
        start: Settings.
        words: Of the command line.

    Returns:
        Values by name.

    Raises:
        ConfigError: If there is no such setting, a value cannot be used, or a file of settings cannot be read.
    """
    _check_files(command, words)
    from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser

    parser = ArgumentParser(prog=f"sgenet {command}", exit_on_error=False, add_help=False)
    parser.add_argument("--config", action="config")
    for name, hint in types_of(type(start)).items():
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
        raise ConfigError(_plain(command, type(start), str(error))) from error
    values.pop("config")
    return {name: values[name] for name in types_of(type(start))}


def _check_files(command: str, words: list[str]) -> None:
    """See that what `--config` names holds settings: the parser would fail, or not say which file is wrong."""
    parser = parser_of(command, add_help=False)
    parser.add_argument("--config", type=Path, action="append", default=[])
    for file in parser.parse_known_args(words)[0].config:
        if not file.is_file():
            raise ConfigError(f"--config: there is no file '{file}'")
        read_yaml(file)


def _plain(command: str, kind: type[TrainingSettings], message: str) -> str:
    """The parser's message in the words of the settings."""
    key = re.search(r'Parser key "(\w+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    if key is not None and value is not None and key[1] in types_of(kind):
        return f"--{key[1].replace('_', '-')} must be {_type_words(types_of(kind)[key[1]])}, not '{value[1].strip()}'"
    unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message, re.IGNORECASE)
    if unknown is not None:
        hint = did_you_mean(unknown[1], [f"--{name.replace('_', '-')}" for name in types_of(kind)])
        return f"there is no option {unknown[1]}.{hint} `sgenet {command} --help` lists them"
    return message


def _type_words(hint: Any) -> str:  # noqa: ANN401  # any type
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


def settings_help(config: TrainingSettings) -> list[str]:
    """The options that settings are: what each means, and what it is now.

    Written here rather than by the parser, which takes longer to import than this to run.

    Args:
        config: Settings.

    Returns:
        Lines.
    """
    hints = types_of(type(config))
    lines: list[str] = []
    section = ""
    for item in ordered_fields(type(config)):
        if item.metadata["section"] != section:
            section = item.metadata["section"]
            lines += ["", f"{section}:"]
        name = item.name.replace("_", "-")
        value = getattr(config, item.name)
        if hints[item.name] is bool:
            lines += option_help(f"--{name}, --no-{name}", f"{item.metadata['help']} (now {'on' if value else 'off'})")
        elif get_origin(hints[item.name]) is dict:
            lines += option_help(f"--{name}.NAME VALUE", f"{item.metadata['help']} (now {value})")
        else:
            lines += option_help(
                f"--{name} {_placeholder(hints[item.name])}", f"{item.metadata['help']} (now {_shown(value)})"
            )
    return lines


def option_help(left: str, text: str) -> list[str]:
    """An option and what it means, in two columns."""
    wrapped = textwrap.wrap(text, width=max(40, min(120, shutil.get_terminal_size().columns) - 34))
    first = f"  {left:<31} {wrapped[0]}" if len(left) <= 31 else f"  {left}\n{'':34}{wrapped[0]}"
    return [first, *(f"{'':34}{line}" for line in wrapped[1:])]


def _placeholder(hint: Any) -> str:  # noqa: ANN401  # any type
    choices = [a for a in get_args(hint) if isinstance(a, str)]
    if choices:
        return "|".join(choices)
    return "N" if int in (hint, *get_args(hint)) else "X" if float in (hint, *get_args(hint)) else "TEXT"


def _shown(value: Any) -> str:  # noqa: ANN401  # any setting
    if isinstance(value, tuple):
        return " ".join(f"{v:.4g}" for v in value) or "none"
    return f"{value:g}" if isinstance(value, float) else "none" if value in (None, "") else str(value)
