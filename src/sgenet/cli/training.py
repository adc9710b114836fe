"""What the commands have in common that train: recipe, settings, resuming, help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sgenet.cli.parsing import glance, option_help, parse_settings, parser_of, settings_help
from sgenet.errors import ConfigError
from sgenet.training.settings import TrainingSettings, to_yaml

__all__ = ["TrainCommand"]


@dataclass(frozen=True)
class TrainCommand:
    """A command that trains.

    Attributes:
        name: Behind `sgenet`, e.g. "train".
        data: How `--data` is given, for the help.
        about: What it does, in a sentence.
        recipes: What the help says of recipes.
        decisive: Settings that what a recipe says depends on.
        make: Gives the settings of a recipe, with some of them changed.
        suggest: Gives the recipe for a command that names none.
        train: Trains by the settings.
        resume: Goes on with a run, until so many epochs are done.
        report: Says what came of it.
    """

    name: str
    data: str
    about: str
    recipes: str
    decisive: tuple[str, ...]
    make: Callable[..., TrainingSettings]
    suggest: Callable[[list[str]], str]
    train: Callable[[Any], Any]
    resume: Callable[[str, int | None], Any]
    report: Callable[[Any], None]

    def __call__(self, words: list[str]) -> int:
        """Run it with the words behind its name; returns the exit status."""
        parser = parser_of(self.name, add_help=False)
        parser.add_argument("-h", "--help", action="store_true")
        parser.add_argument("--print-config", action="store_true")
        parser.add_argument("--recipe")
        parser.add_argument("--resume")
        own, rest = parser.parse_known_args(words)
        if own.help:
            print(self._help(own.recipe))
            return 0
        if own.resume is not None:
            return self._go_on(own.resume, rest)
        recipe = own.recipe or self._suggested(rest)
        config: Any = self._settings(recipe, rest)
        if own.print_config:
            print(f"# recipe: {recipe}\n{to_yaml(config)}", end="")
            return 0
        if not config.data:
            raise ConfigError("no images are named; give --data PATH, or --data shapes for generated ones")
        from sgenet.training.fitting import is_first_process

        if own.recipe is None and recipe is not None and is_first_process():
            print(f"recipe: {recipe} (chosen by the data; `--recipe NAME` takes another)")
        self._say(self.train(config))
        return 0

    def _go_on(self, run: str, words: list[str]) -> int:
        parser = parser_of(f"{self.name} --resume RUN", add_help=False)
        parser.add_argument("--epochs", type=int)
        own, rest = parser.parse_known_args(words)
        if rest:
            raise ConfigError(f"--resume goes on with the run's own settings; only --epochs can change, not {rest[0]}")
        self._say(self.resume(run, own.epochs))
        return 0

    def _suggested(self, words: list[str]) -> str | None:
        """The recipe for a command that names none; None where a file gives the settings."""
        return self.suggest(words) if glance(self.name, words, "config").config is None else None

    def _settings(self, recipe: str | None, words: list[str]) -> TrainingSettings:
        """The recipe's settings with those of the command line over them."""
        known = glance(self.name, words, *(name.replace("_", "-") for name in self.decisive))
        first = {name: getattr(known, name) for name in self.decisive if getattr(known, name) is not None}
        start = self.make(recipe, **first)
        return type(start)(**parse_settings(self.name, start, words))

    def _say(self, result: Any) -> None:  # noqa: ANN401  # of the command's own kind
        from sgenet.training.fitting import is_first_process

        if is_first_process():
            self.report(result)

    def _help(self, recipe: str | None) -> str:
        """Written here rather than by the parser, which takes longer to import than this to run."""
        lines = [
            f"usage: sgenet {self.name} {self.data} [--recipe NAME] [--SETTING VALUE ...]",
            f"       sgenet {self.name} --resume RUN [--epochs N]",
            "",
            self.about,
            "",
            *option_help("--recipe NAME|FILE", f"settings to start from, {self.recipes}; chosen if not given"),
            *option_help("--config FILE", "settings from a YAML file, e.g. a run's config.yaml; options after it win"),
            *option_help("--print-config", "show the resulting settings and leave"),
            *option_help("--resume RUN", "go on with a run that was stopped, or with --epochs train it for longer"),
            *settings_help(self.make(recipe)),
        ]
        return "\n".join(lines)
