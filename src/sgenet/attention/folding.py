"""When the batch norm in front of an attention module becomes a part of it, at the end of a residual block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sgenet.ops.backends import backend_for
from sgenet.ops.reference import Norm

__all__ = ["running_norm", "training_folds", "update_statistics", "wants_gradient"]


def wants_gradient(*parts: Tensor | nn.Module | None) -> bool:
    """Whether a gradient is wanted of any of some tensors and modules' parameters."""
    if not torch.is_grad_enabled():
        return False
    tensors = [t for part in parts for t in (part.parameters() if isinstance(part, nn.Module) else (part,))]
    return any(t is not None and t.requires_grad for t in tensors)


def running_norm(norm: nn.Module, x: Tensor) -> Norm | None:
    """A norm in eval mode, for an operator to apply.

    Args:
        norm: The norm.
        x: Its input.

    Returns:
        Its statistics and weights; None where it is of another kind, or where no kernel takes them: in plain torch, the
        norm itself is as fast, and compilers join it to the convolution.
    """
    if norm.training or _backend(norm, x) is None:
        return None
    # From the dictionaries: a module looks up its parameters and buffers slowly, which shows at a batch of 1.
    statistics, parameters = norm._buffers, norm._parameters
    mean, variance = statistics["running_mean"], statistics["running_var"]
    if mean is None or variance is None or "weight" not in parameters or "bias" not in parameters:
        return None
    return Norm(mean, variance, parameters["weight"], parameters["bias"], norm.eps)  # type: ignore[arg-type]


def training_folds(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether `batch_norm_spatial_group_enhance` does what a norm and SGE do to `x`, and a kernel computes it.

    Args:
        norm: The norm.
        x: Its input.

    Returns:
        Whether it does; not for a norm that learns from one value a channel, which torch refuses.
    """
    if norm.running_mean is None or norm.running_var is None:
        return False
    single = all(t is None or t.dtype == torch.float32 for t in (norm.weight, norm.bias, norm.running_mean))
    several = not norm.training or x.numel() > x.shape[1]
    return single and several and _backend(norm, x) is not None


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


def _backend(norm: nn.Module, x: Tensor) -> str | None:
    """The kernels behind a norm that is torch's own for maps; None behind others, and where there are no kernels."""
    if type(norm) is not nn.BatchNorm2d or x.dim() != 4:
        return None
    backend = backend_for(x.device.type, x.dtype, 4)
    return None if backend == "reference" else backend
