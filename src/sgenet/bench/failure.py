"""What torch raises while something is measured, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sgenet.bench.settings import BenchSettings
from sgenet.errors import ConfigError, SgenetError

__all__ = ["explained"]


@contextmanager
def explained(what: str, settings: BenchSettings) -> Iterator[None]:
    """Say in one line that a network cannot take its input, or that memory does not suffice.

    Args:
        what: What runs.
        settings: With what.

    Raises:
        ConfigError: In place of what torch raised.

    Examples:
        >>> with explained("linear", BenchSettings(size=8)):
        ...     raise RuntimeError("3 and 4 do not fit")
        Traceback (most recent call last):
        sgenet.errors.ConfigError: linear cannot run with batch=8, size=8, float32: 3 and 4 do not fit
    """
    try:
        yield
    except SgenetError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise ConfigError(
                f"there is not enough memory for {what} with batch={settings.batch}; take a smaller one"
            ) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        size = f"size={settings.size}, " if settings.module is None else ""
        raise ConfigError(f"{what} cannot run with batch={settings.batch}, {size}{settings.dtype}: {reason}") from error
