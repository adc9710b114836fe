"""Which backend computes Spatial Group-wise Enhance: chosen here and nowhere else.

`reference` is plain torch, and what compilers and exporters see. `triton` is one kernel forward and one backward; it
has been tested in Triton's interpreter and not on a GPU yet, so it runs only where SGENET_BACKEND=triton asks for it.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sgenet.errors import ConfigError, did_you_mean

__all__ = ["BACKENDS", "VARIABLE", "chosen_backend", "enhance_by_triton"]

VARIABLE = "SGENET_BACKEND"
BACKENDS = ("reference", "triton")


def chosen_backend(x: Tensor) -> str:
    """The name of the backend for an input.

    Args:
        x: The input.

    Returns:
        One of `BACKENDS`.

    Raises:
        ConfigError: If SGENET_BACKEND names none of them, or one that cannot compute this input; the message says why.

    Examples:
        >>> chosen_backend(torch.zeros(1, 4, 2, 2))
        'reference'
    """
    if torch.compiler.is_compiling():
        return "reference"
    asked = os.environ.get(VARIABLE) or "reference"
    if asked not in BACKENDS:
        raise ConfigError(
            f"{VARIABLE}={asked} is no backend.{did_you_mean(asked, BACKENDS)} Known: {', '.join(BACKENDS)}"
        )
    reason = _against_triton(x) if asked == "triton" else None
    if reason is not None:
        raise ConfigError(f"{VARIABLE}=triton cannot compute this: {reason}; unset {VARIABLE} for the reference")
    return asked


def _against_triton(x: Tensor) -> str | None:
    """Why Triton cannot compute an input; None where it can."""
    if x.dim() != 4:
        return f"it takes maps with a height and a width, not {tuple(x.shape)}"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"it takes float32, float16 and bfloat16, not {x.dtype}"
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it needs a CUDA device, not {x.device} (TRITON_INTERPRET=1 interprets it on a CPU, slowly)"
    try:
        import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return None


def enhance_by_triton(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, scale: float) -> Tensor:
    """`spatial_group_enhance` by the Triton kernels.

    Args:
        x: (B, C, H, W).
        weight: γ.
        bias: β.
        groups: G.
        eps: ε.
        scale: A constant factor on the gate.

    Returns:
        A tensor of the shape, dtype and memory format of `x`.
    """
    enhanced: Tensor = _ByTriton.apply(x, weight, bias, groups, eps, scale)
    return enhanced


class _ByTriton(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch gives it no type
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        scale: float,
    ) -> Tensor:
        from sgenet.ops.triton_kernels import forward

        y, semantic, statistics = forward(x, weight, bias, groups, eps, scale)
        ctx.save_for_backward(x, weight, bias, semantic, statistics)
        ctx.settings = (groups, eps, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        from sgenet.ops.triton_kernels import backward

        x, weight, bias, semantic, statistics = ctx.saved_tensors
        groups, eps, scale = ctx.settings
        dx, dweight, dbias, _ = backward(
            grad, x, None, weight, bias, semantic, statistics, groups, eps, scale, False, False
        )
        return dx, dweight.reshape(weight.shape), dbias.reshape(bias.shape), None, None, None
