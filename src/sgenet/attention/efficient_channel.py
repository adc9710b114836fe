"""Efficient Channel Attention (ECA).

Wang, Wu, Zhu, Li, Zuo, Hu: "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
arXiv 1910.03151.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sgenet.attention.base import Attention
from sgenet.attention.registry import register_attention
from sgenet.errors import ConfigError
from sgenet.ops import channel_means

__all__ = ["EfficientChannelAttention"]


@register_attention("eca")
class EfficientChannelAttention(Attention):
    """Weigh each channel by the means of its k neighbours in channel order: sigmoid(conv1d(mean(x))).

    Args:
        channels: C, the number of input channels.
        kernel_size: k, odd. None takes the paper's size for C: the integer part t of |log2(C) + beta| / gamma, or t + 1
            where t is even.
        gamma: Of that rule, 2 in the paper.
        beta: Of that rule, 1 in the paper (there b).
        device: Where the parameters are created.
        dtype: Of the parameters.

    Shape:
        - Input: (B, C, *spatial) with 1, 2 or 3 spatial axes of any size, any floating dtype, any memory format.
        - Output: the same shape, dtype and memory format.

    Raises:
        ConfigError: If `channels` is below 1, `kernel_size` is not odd and positive, `gamma` is not positive, `beta` is
            not finite, or the input does not have C channels.

    Source:
        arXiv 1910.03151, section 3.2. `conv.weight` has the name and shape of the authors' checkpoints, whose released
        networks have k fixed by hand in some stages: give `kernel_size` for those.

    Examples:
        >>> attention = EfficientChannelAttention(256)
        >>> attention(torch.randn(2, 256, 7, 7)).shape, attention.conv.weight.shape
        (torch.Size([2, 256, 7, 7]), torch.Size([1, 1, 5]))
    """

    gate_range = (0.0, 1.0)

    def __init__(
        self,
        channels: int,
        kernel_size: int | None = None,
        *,
        gamma: float = 2.0,
        beta: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        if not gamma > 0:
            raise ConfigError(f"gamma={gamma} must be positive: the kernel size is divided by it; 2 in the paper")
        if not math.isfinite(beta):
            raise ConfigError(f"beta={beta} must be finite: the kernel size is computed from it; 1 in the paper")
        size = _adaptive_kernel_size(channels, gamma, beta) if kernel_size is None else kernel_size
        if size < 1 or size % 2 == 0:
            raise ConfigError(f"kernel_size={size} must be odd and positive, so that it has a middle; e.g. 3")
        # Zeros stand beside the first and the last channel, as in the authors' code.
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, device=device, dtype=dtype)

    def gate(self, x: Tensor) -> Tensor:
        """The weight of each channel: (B, C, 1...), in the dtype of `x`."""
        self.check_input(x)
        weights = torch.sigmoid(self.conv(channel_means(x).unsqueeze(1)).squeeze(1)) * self.scale
        return weights.to(x.dtype).reshape(weights.shape + (1,) * (x.dim() - 2))

    def start_as_identity(self) -> None:
        """Start the kernel at zero, where the gate is sigmoid(0) = 1/2, and undo that by a factor of 2."""
        nn.init.zeros_(self.conv.weight)
        self.scale = 2.0


def _adaptive_kernel_size(channels: int, gamma: float, beta: float) -> int:
    whole = int(abs(math.log2(channels) + beta) / gamma)
    return whole if whole % 2 else whole + 1
