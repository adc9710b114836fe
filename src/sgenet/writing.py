"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["appearing_whole", "write_whole"]


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """Another path to write a file to, which then takes its place.

    Args:
        path: The file; an existing one is replaced, if no error is raised within.

    Yields:
        A path beside it, of a short name: the file's own may be as long as names can be.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with appearing_whole(Path(folder) / "a.txt") as temporary:
        ...         size = temporary.write_text("text")
        ...     [file.name for file in Path(folder).iterdir()]
        ['a.txt']
    """
    temporary = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "a.txt", "text")
        ...     (Path(folder) / "a.txt").read_text()
        'text'
    """
    with appearing_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
