"""When the batch norm in front of an attention module becomes a part of it, at the end of a residual block."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from sgenet.ops.backends import backend_for
from sgenet.ops.batch_norm import affine_of

__all__ = ["running_affine", "training_folds", "update_statistics", "wants_gradient"]


def wants_gradient(*parts: Tensor | nn.Module | None) -> bool:
    """Whether a gradient is wanted of any of some tensors and modules' parameters."""
    if not torch.is_grad_enabled():
        return False
    tensors = [t for part in parts for t in (part.parameters() if isinstance(part, nn.Module) else (part,))]
    return any(t is not None and t.requires_grad for t in tensors)


def running_affine(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """What a norm in eval mode does to each channel.

    Args:
        norm: The norm.
        x: Its input.

    Returns:
        A factor and a summand for each channel; None where the norm does something else, or where no kernel takes them:
        in plain torch, the norm itself is as fast, and compilers join it to the convolution.
    """
    if not _is_batch_norm(norm, x) or norm.training or norm.running_mean is None or norm.running_var is None:
        return None
    return affine_of(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def training_folds(norm: nn.Module, x: Tensor) -> bool:
    """Whether `batch_norm_spatial_group_enhance` does what a norm and SGE do to `x`, and a kernel computes it.

    Args:
        norm: The norm.
        x: Its input.

    Returns:
        Whether it does; not for a norm in eval mode, nor where there is one value a channel, which torch refuses.
    """
    several = x.numel() > x.shape[1]
    return _is_batch_norm(norm, x) and norm.training and several and norm.running_mean is not None


def update_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, x: Tensor) -> None:
    """Move a norm's running statistics, as its forward pass does in training.

    Args:
        norm: The norm.
        mean: Of each channel of `x`.
        variance: Of each channel of `x`, biased.
        x: The norm's input.
    """
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    count = x.numel() / x.shape[1]
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        share = 1.0 / norm.num_batches_tracked.to(mean.dtype) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance * (count / (count - 1)), share)


def _is_batch_norm(norm: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    """Whether the norm is torch's own for maps, in float32, and kernels compute behind it."""
    if type(norm) is not nn.BatchNorm2d or x.dim() != 4:
        return False
    single = all(t is None or t.dtype == torch.float32 for t in (norm.weight, norm.bias, norm.running_mean))
    return single and backend_for(x.device.type, x.dtype, x.dim()) != "reference"
