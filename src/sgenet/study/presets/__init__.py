"""Studies under a name, as YAML files of this folder or of the user. Imports neither torch nor numpy."""

from __future__ import annotations

from pathlib import Path

from sgenet.errors import UnknownNameError, did_you_mean

__all__ = ["list_studies", "study_file"]

_FOLDER = Path(__file__).parent


def list_studies() -> list[str]:
    """Names of the studies that come with the package.

    Returns:
        Sorted names.

    Examples:
        >>> "sge-groups" in list_studies()
        True
    """
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def study_file(name_or_path: str) -> Path:
    """The YAML file of a study.

    Args:
        name_or_path: A name of `list_studies()`, or a YAML file.

    Returns:
        The file.

    Raises:
        UnknownNameError: If there is neither such a study nor such a file.
    """
    if name_or_path in list_studies():
        return _FOLDER / f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if path.is_file():
        return path
    hint = did_you_mean(name_or_path, list_studies()) or f" There are {', '.join(list_studies())}."
    raise UnknownNameError(f"there is no study and no file '{name_or_path}'.{hint}")
