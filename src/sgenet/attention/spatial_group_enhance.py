"""Spatial Group-wise Enhance (SGE).

Li, Hu, Yang: "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks",
arXiv 1905.09646.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from sgenet.attention.base import Attention
from sgenet.attention.folding import running_norm, training_folds, update_statistics, wants_gradient
from sgenet.attention.registry import register_attention
from sgenet.errors import ConfigError
from sgenet.ops import (
    batch_norm_spatial_group_enhance,
    spatial_group_enhance,
    spatial_group_enhance_,
    spatial_group_gate,
)
from sgenet.ops.checks import check_eps, check_groups

__all__ = ["SpatialGroupEnhance"]

_LEAST_GROUP = 4  # channels a group must keep where surgery lowers the number of groups: ResNet-50's smallest


@register_attention("sge")
class SpatialGroupEnhance(Attention):
    """Enhance, in each group of channels, the positions that agree with the group's mean vector.

    At the start the gate is sigmoid(1) = 0.731 everywhere: attention fades in as `weight` leaves zero.

    Args:
        channels: C, the number of input channels.
        groups: G, a divisor of C; 64 in the paper.
        eps: Added to the standard deviation, outside the root.
        normalize: Whether a group's similarities are normalised over the positions; without, only for the ablation.
        initial_weight: What γ starts at: 0 in the paper, other values only for the ablation.
        initial_bias: What β starts at: 1 in the paper.
        device: Where the parameters are created.
        dtype: Of the parameters.

    Attributes:
        weight: γ, shape (1, G, 1, 1), `initial_weight` at the start.
        bias: β, shape (1, G, 1, 1), `initial_bias` at the start.

    Shape:
        - Input: (B, C, *spatial) with 1, 2 or 3 spatial axes of any size, any floating dtype, any memory format.
        - Output: the same shape, dtype and memory format.

    Raises:
        ConfigError: If C is not divisible by `groups` (a ValueError that offers divisors), if `eps` is not positive, or
            an initial value not finite.

    Source:
        arXiv 1905.09646, section 3. `weight` and `bias` have the names and shapes of the authors' checkpoints.

    Examples:
        >>> enhance = SpatialGroupEnhance(256, groups=64)
        >>> y = enhance(torch.ones(2, 256, 7, 7))
        >>> y.shape, round(y.mean().item(), 4)
        (torch.Size([2, 256, 7, 7]), 0.7311)
    """

    gate_range = (0.0, 1.0)

    def __init__(
        self,
        channels: int,
        groups: int = 64,
        *,
        eps: float = 1e-5,
        normalize: bool = True,
        initial_weight: float = 0.0,
        initial_bias: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        check_groups(channels, groups)
        check_eps(eps)
        for option, value in (("initial_weight", initial_weight), ("initial_bias", initial_bias)):
            if not math.isfinite(value):
                raise ConfigError(
                    f"{option}={value} is not finite; the paper starts with a weight of 0 and a bias of 1"
                )
        self.groups = groups
        self.eps = eps
        self.normalize = normalize
        self.initial_weight = initial_weight
        self.initial_bias = initial_bias
        self.weight = nn.Parameter(torch.empty(1, groups, 1, 1, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(1, groups, 1, 1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set `weight` and `bias` to their initial values: zeros and ones in the paper."""
        nn.init.constant_(self.weight, self.initial_weight)
        nn.init.constant_(self.bias, self.initial_bias)

    def attend(self, x: Tensor) -> Tensor:
        """Multiply `x` with its gate."""
        self.check_input(x)
        settings = (self.groups, self.eps, self.scale)
        return spatial_group_enhance(x, self.weight, self.bias, *settings, normalize=self.normalize)

    def join(self, x: Tensor, residual: Tensor, norm: nn.Module | None = None) -> Tensor:
        """relu(attend(norm(x)) + residual), by one operator; where there are kernels, with the batch norm in it."""
        self.check_input(x)
        if not self.normalize:
            return super().join(x, residual, norm)
        parameters = (self.weight, self.bias, self.groups, self.eps, self.scale, residual, True)
        # The kernels round a norm differently in the last bit, and a network that started as another one computes all
        # that one's bits until it is trained: in eval mode such a module leaves the norm to torch.
        if wants_gradient(x, residual, norm, self):
            if isinstance(norm, nn.BatchNorm2d) and training_folds(norm, x) and (self.training or self.scale == 1.0):
                kept = (None, None) if norm.training else (norm.running_mean, norm.running_var)
                y, mean, variance = batch_norm_spatial_group_enhance(
                    x, norm.weight, norm.bias, norm.eps, *parameters, *kept
                )
                if norm.training:
                    update_statistics(norm, mean, variance, x)
                return y
            return spatial_group_enhance(x if norm is None else norm(x), *parameters)
        folds = self.scale == 1.0 and x.dtype == residual.dtype
        folded = running_norm(norm, x) if folds and norm is not None else None
        branch = x if norm is None or folded is not None else norm(x)
        if branch.dtype != residual.dtype:  # under autocast the sum has the wider dtype, and needs a place of its own
            return spatial_group_enhance(branch, *parameters)
        return spatial_group_enhance_(branch, *parameters, folded)

    def gate(self, x: Tensor) -> Tensor:
        """The gate of each position: (B, C, *spatial), equal for the channels of one group.

        For the masks themselves, one a group, see `sgenet.ops.spatial_group_gate`.
        """
        return self.masks(x).repeat_interleave(self.channels // self.groups, dim=1)

    def masks(self, x: Tensor) -> Tensor:
        """The gate of each group, as pictures: (B, G, *spatial)."""
        self.check_input(x)
        settings = (self.groups, self.eps, self.scale)
        return spatial_group_gate(x, self.weight, self.bias, *settings, normalize=self.normalize)

    def start_as_identity(self) -> None:
        """Start at the paper's values, where the gate is sigmoid(1), and undo that by a constant factor.

        Other initial values are given up: a weight other than 0 lets the gate differ from place to place, and the
        sigmoid of any bias is not undone to the last bit.
        """
        nn.init.zeros_(self.weight)
        nn.init.ones_(self.bias)
        self.scale = 1.0 + math.exp(-1.0)  # 1 / sigmoid(1); times sigmoid(1) it rounds to 1 in float32 and float64

    @classmethod
    def fit_options(cls, channels: int, options: dict[str, Any], size: tuple[int, ...] | None = None) -> dict[str, Any]:
        """Lower `groups` to the largest divisor of C that leaves at least 4 channels a group (or to 1)."""
        del size
        asked = options.get("groups", 64)
        if not isinstance(asked, Integral) or asked < 1:
            return options  # for the constructor to refuse
        fitting = [g for g in range(1, min(int(asked), channels // _LEAST_GROUP) + 1) if channels % g == 0]
        return {**options, "groups": max(fitting, default=1)}

    def extra_repr(self) -> str:
        """Channels, groups and eps; that the normalisation is off, and the factor where it is not 1."""
        normalize = "" if self.normalize else ", normalize=False"
        scale = "" if self.scale == 1.0 else f", scale={self.scale:.6g}"
        return f"{self.channels}, groups={self.groups}, eps={self.eps:g}{normalize}{scale}"
