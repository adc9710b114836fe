"""The gate of Squeeze-and-Excitation at once: squeeze, both layers, sigmoid."""

from __future__ import annotations

import torch
from torch import Tensor, get_num_threads
from torch.nn import functional as F

from sgenet.errors import ConfigError
from sgenet.ops.backends import at_once, may_go_at_once
from sgenet.ops.channel_means import channel_means
from sgenet.ops.checks import check_device
from sgenet.ops.reference import NO_NORM, Norm

__all__ = ["squeeze_excite_gate"]


def squeeze_excite_gate(
    x: Tensor, weight1: Tensor, bias1: Tensor | None, weight2: Tensor, bias2: Tensor | None, norm: Norm | None = None
) -> Tensor:
    """sigmoid(W2 relu(W1 mean(x) + b1) + b2) for each sample.

    For one image, torch's calls of layers so small cost more than the layers: without gradients, and where nobody
    watches operators, a kernel computes all of it, with what lies between the layers in float32.

    Args:
        x: Input of shape (B, C, *spatial), any memory format, any floating dtype.
        weight1: W1, (hidden, C), in the dtype of `x`; under autocast in any.
        bias1: b1, `hidden` values, or None.
        weight2: W2, (C, hidden).
        bias2: b2, C values, or None.
        norm: As for `channel_means`.

    Returns:
        (B, C), in float32 where a kernel computed it, and otherwise in the dtype of torch's linear layers.

    Raises:
        ConfigError: If a weight or a bias has another shape, or lies on another device than `x`; or as `channel_means`.

    Source:
        arXiv 1709.01507, section 3.2, equation 3.

    Examples:
        >>> x, weight = torch.ones(1, 4, 2, 2), torch.ones(2, 4)
        >>> squeeze_excite_gate(x, weight, None, weight.t().contiguous() * 0, None)
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    if may_go_at_once(x):
        gate = x.new_empty(x.shape[:2], dtype=torch.float32)
        layers = (weight1, bias1, weight2, bias2)
        if not at_once.squeeze_excite(x, *layers, *(norm or NO_NORM), gate, get_num_threads()):
            return gate
    _check(x, weight1, bias1, weight2, bias2)
    hidden = F.relu(F.linear(channel_means(x, norm), weight1, bias1))
    return torch.sigmoid(F.linear(hidden, weight2, bias2))


def _check(x: Tensor, weight1: Tensor, bias1: Tensor | None, weight2: Tensor, bias2: Tensor | None) -> None:
    hidden, channels = len(weight1), x.shape[1]
    wanted = (("weight1", weight1, (hidden, channels)), ("bias1", bias1, (hidden,)))
    for name, values, shape in (*wanted, ("weight2", weight2, (channels, hidden)), ("bias2", bias2, (channels,))):
        if values is None:
            continue
        if values.shape != shape:
            raise ConfigError(
                f"{name} has the shape {tuple(values.shape)}; for {channels} channels and {hidden} hidden units "
                f"give {shape}"
            )
        check_device(x, values, name)
