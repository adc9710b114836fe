"""Squeeze-and-Excitation (SE).

Hu, Shen, Albanie, Sun, Wu: "Squeeze-and-Excitation Networks", arXiv 1709.01507.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from sgenet.attention.base import Attention
from sgenet.attention.folding import running_norm, wants_gradient
from sgenet.attention.reduction import fit_reduction, hidden_units
from sgenet.attention.registry import register_attention
from sgenet.errors import ConfigError, did_you_mean
from sgenet.ops import channel_means, scale_channels, scale_channels_, squeeze_excite_gate
from sgenet.ops.reference import Norm

__all__ = ["SqueezeExcite"]

_SQUEEZES = ("avg", "max", "none")
_EXCITATIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, float]]] = {
    "sigmoid": (torch.sigmoid, (0.0, 1.0)),
    "tanh": (torch.tanh, (-1.0, 1.0)),
    "relu": (F.relu, (0.0, math.inf)),
}


@register_attention("se")
class SqueezeExcite(Attention):
    """Weigh each channel by what the means of all channels say: sigmoid(W2 relu(W1 mean(x))).

    Args:
        channels: C, the number of input channels.
        reduction: r; the hidden layer has C // r units, at least 1. 16 in the paper, 2 to 32 in its ablation.
        bias: Whether the two layers have biases. The released networks have them, the ablations do not.
        squeeze: What is kept of a channel's map: "avg", its mean; "max", its maximum; "none", all of it: the two layers
            work at each position by itself, and the gate has the size of the input (the paper's NoSqueeze).
        excitation: What makes the last layer's output a gate: "sigmoid", or for the ablation "tanh" or "relu".
        device: Where the parameters are created.
        dtype: Of the parameters.

    Shape:
        - Input: (B, C, *spatial) with 1, 2 or 3 spatial axes of any size, any floating dtype, any memory format.
        - Output: the same shape, dtype and memory format.

    Raises:
        ConfigError: If `channels` or `reduction` is below 1, `squeeze` or `excitation` is unknown, or the input does
            not have C channels.

    Source:
        arXiv 1709.01507, section 3; biases, reduction, squeeze and excitation: section 6; NoSqueeze: section 7.1.

    Examples:
        >>> SqueezeExcite(256)(torch.randn(2, 256, 7, 7)).shape
        torch.Size([2, 256, 7, 7])
        >>> SqueezeExcite(256, squeeze="none").gate(torch.randn(2, 256, 7, 7)).shape
        torch.Size([2, 256, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        bias: bool = True,
        squeeze: Literal["avg", "max", "none"] = "avg",
        excitation: Literal["sigmoid", "tanh", "relu"] = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        hidden = hidden_units(channels, reduction)
        _check_known("squeeze", squeeze, _SQUEEZES)
        _check_known("excitation", excitation, tuple(_EXCITATIONS))
        self.reduction = reduction
        self.squeeze = squeeze
        self.excitation = excitation
        self.gate_range = _EXCITATIONS[excitation][1]
        self.fc1 = nn.Linear(channels, hidden, bias=bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, channels, bias=bias, device=device, dtype=dtype)

    def gate(self, x: Tensor) -> Tensor:
        """The weight of each channel: (B, C, 1...), or (B, C, *spatial) without a squeeze; in the dtype of `x`."""
        self.check_input(x)
        if self.squeeze == "none":
            return self._excited(x.movedim(1, -1)).movedim(-1, 1)
        return self._weights(x).to(x.dtype).reshape(x.shape[:2] + (1,) * (x.dim() - 2))

    def _weights(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """The weight of each channel, (B, C): for x, or, after a mean, for what a norm makes of it."""
        if self.squeeze == "max":
            return self._excited(x.amax(list(range(2, x.dim()))))
        if self.excitation == "sigmoid" and self.blend is None and _is_plain(self.fc1) and _is_plain(self.fc2):
            first, second = self.fc1, self.fc2
            weights = squeeze_excite_gate(x, first.weight, first.bias, second.weight, second.bias, norm)
            return weights if self.scale == 1.0 else weights * self.scale
        return self._excited(channel_means(x, norm))

    def _excited(self, squeezed: Tensor) -> Tensor:
        """What the two layers make of (..., C), in the same shape and dtype."""
        excite, _ = _EXCITATIONS[self.excitation]
        excited = excite(self.fc2(F.relu(self.fc1(squeezed))))
        return self.blended(excited * self.scale).to(squeezed.dtype)

    def join(self, x: Tensor, residual: Tensor, norm: nn.Module | None = None) -> Tensor:
        """relu(attend(norm(x)) + residual): behind the squeeze, one operator."""
        if self.squeeze == "none":
            return super().join(x, residual, norm)
        if wants_gradient(x, residual, norm, self):
            branch = x if norm is None else norm(x)
            return scale_channels(branch, self._weights(branch), residual, relu=True)
        # The mean of what a norm in eval mode returns is what it does to the mean; a maximum may become a minimum.
        # And the kernels round a norm differently in the last bit; one that started as the identity keeps them all.
        folds = self.squeeze == "avg" and self.scale == 1.0 and self.blend is None and x.dtype == residual.dtype
        folded = running_norm(norm, x) if folds and norm is not None else None
        branch = x if norm is None or folded is not None else norm(x)
        gate = self._weights(branch, folded)
        if branch.dtype != residual.dtype:  # under autocast the sum has the wider dtype, and needs a place of its own
            return scale_channels(branch, gate, residual, relu=True)
        return scale_channels_(branch, gate, residual, True, folded)

    def start_as_identity(self) -> None:
        """Start the last layer at zero, where the gate is sigmoid(0) = 1/2, and undo that by a factor of 2.

        Tanh and ReLU of zero are 0, which no factor undoes, and the ReLU would not learn from there: with them the
        layers keep their values, and the gate comes in by `blend`.
        """
        if self.excitation != "sigmoid":
            self.start_blended()
            return
        nn.init.zeros_(self.fc2.weight)
        if self.fc2.bias is not None:
            nn.init.zeros_(self.fc2.bias)
        self.scale = 2.0

    @classmethod
    def fit_options(cls, channels: int, options: dict[str, Any], size: tuple[int, ...] | None = None) -> dict[str, Any]:
        """Lower `reduction` where it would leave fewer than 4 hidden units (at most to 1)."""
        del size
        return fit_reduction(channels, options)

    def extra_repr(self) -> str:
        """What the layers do not show: the squeeze and the excitation, where they are not the paper's."""
        shown = {"squeeze": (self.squeeze, "avg"), "excitation": (self.excitation, "sigmoid")}
        return ", ".join(f"{name}='{value}'" for name, (value, usual) in shown.items() if value != usual)


def _is_plain(layer: nn.Module) -> bool:
    """Whether calling a layer is nothing but its formula: it is torch's own, and nobody has hung anything on it."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return type(layer) is nn.Linear and not hooks and not _has_any_global_hook()  # type: ignore[no-untyped-call]


def _check_known(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"{option}='{value}' is not known.{did_you_mean(value, known)} Choose one of {', '.join(known)}"
        )
