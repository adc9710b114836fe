"""What the operators are in plain torch, for exporters that ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sgenet.ops import reference
from sgenet.ops.registration import promoted

__all__ = ["decompositions"]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The operators that programs and profiles contain, each with a function of plain torch that computes the same.

    Programs of `torch.export` contain no operator of sgenet when they come from sgenet's modules and functions; they do
    where `torch.ops.sgenet` was called directly.

    Returns:
        A table for `torch.export.ExportedProgram.run_decompositions`.

    Examples:
        >>> sorted(str(operator) for operator in decompositions())[1]
        'sgenet.scale_channels.default'
    """
    ops = torch.ops.sgenet
    return {
        ops.spatial_group_enhance.default: _enhance,
        ops.spatial_group_enhance_.default: _enhance_into,
        ops.batch_norm_spatial_group_enhance.default: _normed,
        ops.scale_channels.default: _scale,
        ops.scale_channels_.default: _scale_into,
    }


def _enhance(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    x, residual = promoted(x, residual)
    return reference.forward(x, weight, bias, groups, eps, scale, residual, relu)[0]


def _enhance_into(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
    factor: Tensor | None = None,
    summand: Tensor | None = None,
) -> None:
    affine = None if factor is None or summand is None else (factor, summand)
    reference.forward(x, weight, bias, groups, eps, scale, residual, relu, affine, x)


def _normed(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float = 1.0,
    residual: Tensor | None = None,
    relu: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    x, residual = promoted(x, residual)
    mean, variance = reference.moments(x)
    affine = reference.norm_affine(mean, variance, norm_weight, norm_bias, norm_eps)
    y = reference.forward(x, weight, bias, groups, eps, scale, residual, relu, affine)[0]
    return y, mean, variance


def _scale(x: Tensor, gate: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
    x, residual = promoted(x, residual)
    return reference.scale_channels(x, gate, residual, relu)


def _scale_into(
    x: Tensor,
    gate: Tensor,
    residual: Tensor | None = None,
    relu: bool = False,
    factor: Tensor | None = None,
    summand: Tensor | None = None,
) -> None:
    affine = None if factor is None or summand is None else (factor, summand)
    reference.scale_channels(x, gate, residual, relu, affine, x)
