"""YAML files that have a name: the package's own, in a folder of it, or a user's. Imports neither torch nor numpy."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgenet.errors import ConfigError, UnknownNameError, did_you_mean

__all__ = ["NamedFiles", "read_yaml"]

_MERGE = "tag:yaml.org,2002:merge"  # YAML's "<<", which may stand there more than once


@dataclass(frozen=True)
class NamedFiles:
    """The YAML files of a folder, by their names.

    Attributes:
        kind: What they are, e.g. "recipe".
        folder: Where they are.
    """

    kind: str
    folder: Path

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(file.stem for file in self.folder.glob("*.yaml"))

    def find(self, name_or_path: str) -> Path:
        """A file by its name, or a user's own.

        Args:
            name_or_path: One of `names()`, or a path.

        Returns:
            The file.

        Raises:
            UnknownNameError: If there is neither.
        """
        if name_or_path in self.names():
            return self.folder / f"{name_or_path}.yaml"
        path = Path(name_or_path)
        with suppress(OSError):  # a name may be longer than a file's can be
            if path.is_file():
                return path
        hint = did_you_mean(name_or_path, self.names()) or f" There are {', '.join(self.names())}."
        raise UnknownNameError(f"there is no {self.kind} and no file '{name_or_path}'.{hint}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Args:
        path: The file.

    Returns:
        The mapping; empty for an empty file.

    Raises:
        ConfigError: If the file cannot be read, holds something else, or says one thing twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses what YAML forbids and PyYAML lets pass: of two equal keys the last would win, unnoticed."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
            for key in (key for i, key in enumerate(keys) if key in keys[:i]):
                line = node.start_mark.line + 1
                raise ConfigError(f"{path}: '{key}' stands twice in what begins in line {line}; leave out one of them")
            return super().construct_mapping(node, deep)

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except ConfigError:
        raise
    except Exception as error:  # PyYAML lets through what int(), date() and others raise, and its own recursion's end
        raise ConfigError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path} must hold lines of `setting: value`, not {type(values).__name__}")
    return values or {}
