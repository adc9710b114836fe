"""What the operators are in plain torch, for exporters that ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sgenet.ops.registration import plain_forms

__all__ = ["decompositions"]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The operators that programs and profiles contain, each with a function of plain torch that computes the same.

    Programs of `torch.export` contain no operator of sgenet when they come from sgenet's modules and functions; they do
    where `torch.ops.sgenet` was called directly.

    Returns:
        A table for `torch.export.ExportedProgram.run_decompositions`.

    Examples:
        >>> sorted(str(operator) for operator in decompositions())[1]
        'sgenet.channel_means.default'
    """
    return {getattr(torch.ops.sgenet, name).default: plain for name, plain in plain_forms().items()}
