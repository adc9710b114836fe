"""What is known of layers: which are linear, which are norms, and how a norm becomes a part of the layer before it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized
from torchvision.ops import FrozenBatchNorm2d

__all__ = [
    "behind",
    "does_nothing",
    "folded",
    "is_convolution",
    "is_hooked",
    "is_linear",
    "is_norm",
    "takes_scaling",
    "why_not_folded",
]

_CONVOLUTIONS = {
    cls.forward for cls in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
}
_NORMS = {nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward, FrozenBatchNorm2d.forward}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_convolution(layer: nn.Module) -> bool:
    """Whether a layer convolves its input, or a padded one, with its own weight and adds its own bias."""
    # timm's padding of TensorFlow's kind is a convolution of a padded map; its other subclasses change the weights.
    same_padding = type(layer).__module__.startswith("timm.") and type(layer).__name__ == "Conv2dSame"
    return same_padding or (type(layer).forward in _CONVOLUTIONS and not is_parametrized(layer))


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer is torch's linear layer, in all but name."""
    return type(layer).forward is nn.Linear.forward and not is_parametrized(layer)


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer is a batch norm, alone or with an activation behind it."""
    known = type(layer).forward in _NORMS or has_activation(layer)
    return known and not is_parametrized(layer)


def has_activation(norm: nn.Module) -> bool:
    """Whether a norm is one of timm's, which applies dropout and an activation to what it returns."""
    kind = type(norm)
    names = ("BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d")
    return kind.__module__.startswith("timm.") and kind.__name__ in names


def behind(norm: Any) -> nn.Module:  # noqa: ANN401  # of timm's class, or another
    """What a norm does to its result."""
    return _without_identities(norm.drop, norm.act) if has_activation(norm) else nn.Identity()


def _without_identities(*layers: nn.Module) -> nn.Module:
    acting = [layer for layer in layers if not isinstance(layer, nn.Identity)]
    return acting[0] if len(acting) == 1 else nn.Sequential(*acting) if acting else nn.Identity()


def is_hooked(module: nn.Module) -> bool:
    """Whether someone watches what goes in and comes out of a module."""
    return any(getattr(module, kind) for kind in _HOOKS)


def does_nothing(module: nn.Module) -> bool:
    """Whether a module returns its input in eval mode."""
    return type(module) is nn.Identity or isinstance(module, nn.modules.dropout._DropoutNd)


def why_not_folded(layer: Any, norm: Any) -> str | None:  # noqa: ANN401
    """Why a norm cannot become a part of the layer in front of it; None where it can."""
    if getattr(norm, "running_mean", None) is None or getattr(norm, "running_var", None) is None:
        return "it has no running statistics"
    if not (is_convolution(layer) or is_linear(layer)):
        return f"in front of it is {type(layer).__name__}, no convolution or linear layer"
    width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if width != norm.running_mean.shape[0]:
        return "it normalises another axis than the channels"
    if _is_transposed(layer) and layer.groups > 1:
        return "the convolution in front of it is transposed and has groups"
    return None


def _is_transposed(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.conv._ConvTransposeNd)


def folded(layer: Any, norm: Any, factor: float = 1.0) -> nn.Module:  # noqa: ANN401  # layers and their attributes
    """A layer that does what it and a norm do, times a factor; formed in float64 and rounded once."""
    device = torch.device("cpu") if layer.weight.device.type == "mps" else layer.weight.device

    def wide(tensor: Tensor | None) -> Any:  # noqa: ANN401  # None stays None, which torch's types do not foresee
        return None if tensor is None else tensor.detach().to(device, torch.float64)

    weight, bias = wide(layer.weight), wide(layer.bias)
    if norm is not None:
        statistics = (wide(norm.running_mean), wide(norm.running_var), norm.eps, wide(norm.weight), wide(norm.bias))
        weight, bias = fuse_conv_bn_weights(weight, bias, *statistics, _is_transposed(layer))
    result: nn.Module = copy.deepcopy(layer)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            values = (tensor * factor).detach().to(layer.weight.device, layer.weight.dtype)
            setattr(result, name, nn.Parameter(values, requires_grad=False))
    return result


def takes_scaling(layer: Any) -> bool:  # noqa: ANN401
    """Whether a layer's weight and bias are factors of what it returns."""
    scales = is_convolution(layer) or is_linear(layer) or (is_norm(layer) and not has_activation(layer))
    return scales and isinstance(layer.weight, nn.Parameter)
