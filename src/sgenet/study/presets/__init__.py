"""Studies under a name, as YAML files of this folder or of the user. Imports neither torch nor numpy."""

from __future__ import annotations

from pathlib import Path

from sgenet.named_files import NamedFiles

__all__ = ["STUDIES", "list_studies"]

STUDIES = NamedFiles("study", Path(__file__).parent)


def list_studies() -> list[str]:
    """Names of the studies that come with the package.

    Returns:
        Sorted names.

    Examples:
        >>> "sge-groups" in list_studies()
        True
    """
    return STUDIES.names()
