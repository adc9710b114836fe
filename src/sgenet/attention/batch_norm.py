"""Batch normalisation where a channel may have a single value, as in pooled maps and with one image a device."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F

__all__ = ["apply_layers"]


def apply_layers(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Apply layers one after another; a batch norm that is given too little to take statistics of uses its own.

    In train mode torch refuses to normalise one value a channel, since a value minus itself says nothing. A pooled map
    of a batch of one image is such a case, and an image of one position. There, and for an empty batch, the running
    statistics are used and stay as they are, as in eval mode.

    Args:
        layers: Modules of one input each. The batch norms among them stay plain children of their owner, so that
            SyncBatchNorm conversion, freezing and fusion find them; what replaces them is called as it is.
        x: Input of the first layer, (B, C, ...).

    Returns:
        The output of the last layer.
    """
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.training and _one_value_a_channel(x):
            x = F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
        else:
            x = layer(x)
    return x


def _one_value_a_channel(x: Tensor) -> bool:
    # torch.fx traces without sizes; a program of it takes a map to have more values than that.
    return not isinstance(x, Proxy) and x.numel() <= x.shape[1]
