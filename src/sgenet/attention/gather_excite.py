"""Gather-Excite (GE).

Hu, Shen, Albanie, Sun, Vedaldi: "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks",
arXiv 1810.12348.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgenet.attention.base import Attention
from sgenet.attention.batch_norm import apply_layers
from sgenet.attention.reduction import fit_reduction, hidden_units
from sgenet.attention.registry import register_attention
from sgenet.errors import ConfigError, did_you_mean
from sgenet.ops import channel_means

__all__ = ["GatherExcite"]

_VARIANTS = ("theta-minus", "theta", "theta-plus")


@register_attention("ge")
class GatherExcite(Attention):
    """Gather each channel over a neighbourhood, and gate the channel's positions there with what was gathered.

    Args:
        channels: C, the number of input channels.
        extent: The side of the neighbourhood: 2, 4, 8, ... positions, or 0 for the whole map. An extent e gives one
            gate for each e-th position, which its nearest positions share.
        variant: "theta-minus": the mean over 2e - 1 positions a side, and no parameters. "theta": log2(e) depthwise 3x3
            convolutions of stride 2, or one as large as the map; a batch norm follows each, and a ReLU stands between
            two. "theta-plus": the same, and a ReLU and two 1x1 convolutions that mix the channels as SE does.
        size: The map's height and width, or one number for both. For extent 0 with "theta" or "theta-plus" alone, whose
            convolution is as large as the map and fits no other.
        reduction: r; between the two 1x1 convolutions there are C // r channels, at least 1. 16 in the paper.
        device: Where the parameters are created.
        dtype: Of the parameters.

    Shape:
        - Input: (B, C, H, W) of any size, any floating dtype, any memory format; of the size `size` where it is given.
          Without parameters also (B, C, *spatial) with 1 or 3 spatial axes.
        - Output: the same shape, dtype and memory format.
        - A program that torch.export made for many sizes takes those for which an extent's strided layers leave more
          than one position, H and W > extent: whether a strided layer leaves one is settled in exporting.

    Raises:
        ConfigError: If `channels` or `reduction` is below 1, `extent` is neither 0 nor a power of 2, `variant` is
            unknown, `size` is missing, given in vain or not the input's, or the input is not (B, C, *spatial).

    Source:
        arXiv 1810.12348, sections 2 and 3; where biases are, and the ReLU before the 1x1 convolutions: the authors'
        prototxt of ResNet-50 with "theta-plus".

    Examples:
        >>> x = torch.randn(2, 64, 14, 14)
        >>> GatherExcite(64, extent=8, variant="theta").gate(x).shape
        torch.Size([2, 64, 14, 14])
        >>> GatherExcite(64, variant="theta-plus", size=14).gate(x).shape
        torch.Size([2, 64, 1, 1])
        >>> sum(p.numel() for p in GatherExcite(64).parameters())
        0
    """

    gate_range: tuple[float, float] | None = (0.0, 1.0)

    def __init__(
        self,
        channels: int,
        extent: int = 0,
        variant: Literal["theta-minus", "theta", "theta-plus"] = "theta-minus",
        *,
        size: int | tuple[int, int] | None = None,
        reduction: int = 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        if variant not in _VARIANTS:
            raise ConfigError(
                f"there is no variant '{variant}'.{did_you_mean(variant, _VARIANTS)} Known: {', '.join(_VARIANTS)}"
            )
        if extent < 0 or extent == 1 or extent & (extent - 1):
            raise ConfigError(f"extent={extent} is not possible; give 2, 4, 8, ..., or 0 for the whole map")
        hidden = hidden_units(channels, reduction)
        self.extent = extent
        self.variant = variant
        self.size = _size_of_map(extent, variant, size)
        if variant == "theta-minus":
            return
        self.spatial_axes = (2, 2)
        self.gather = nn.Sequential(*_gathering_layers(channels, extent, self.size, device, dtype))
        if variant == "theta-plus":
            self.excite = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels, hidden, 1, device=device, dtype=dtype),
                nn.ReLU(),
                nn.Conv2d(hidden, channels, 1, device=device, dtype=dtype),
            )

    def gate(self, x: Tensor) -> Tensor:
        """The factor of each value: (B, C, *spatial), or (B, C, 1...) for extent 0; in the dtype of `x`.

        Batch norms in train mode count the batch as in `forward`.
        """
        self.check_input(x)
        gathered = self._mean(x) if self.variant == "theta-minus" else apply_layers(self.gather, x)
        if self.variant == "theta-plus":
            gathered = self.excite(gathered)
        gate = self.blended(torch.sigmoid(gathered) * self.scale).to(x.dtype)
        return gate if self.extent == 0 else F.interpolate(gate, size=x.shape[2:], mode="nearest")

    def _mean(self, x: Tensor) -> Tensor:
        if self.extent == 0:
            return channel_means(x).reshape(x.shape[:2] + (1,) * (x.dim() - 2))
        if x.dim() == 3:
            return self._pooled(x[:, :, None], axes=1).squeeze(2)
        if x.dim() == 4:
            return self._pooled(x, axes=2)
        # One axis after the other: avg_pool3d refuses maps that are smaller than its kernel.
        batch, channels, depth, *_ = x.shape
        planes = self._pooled(x.flatten(1, 2), axes=2)
        height, width = planes.shape[2:]
        columns = planes.reshape(batch, channels, depth, height * width).transpose(2, 3)
        pooled = self._pooled(columns, axes=1).transpose(2, 3)
        return pooled.reshape(batch, channels, pooled.shape[2], height, width)

    def _pooled(self, x: Tensor, axes: int) -> Tensor:
        """The means over neighbourhoods in the last one or two axes; what lies outside the map counts nothing."""
        kernel, stride, padding = 2 * self.extent - 1, self.extent, self.extent - 1
        if axes == 1:
            return F.avg_pool2d(x, (1, kernel), (1, stride), (0, padding), count_include_pad=False)
        return F.avg_pool2d(x, kernel, stride, padding, count_include_pad=False)

    def check_input(self, x: Tensor) -> None:
        """Refuse a tensor that is not (B, C, *spatial), or not of the size that the module was made for."""
        super().check_input(x)
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            raise ConfigError(
                f"{type(self).__name__}({self.channels}, size={self.size}) takes maps of that height and width, not a "
                f"tensor of shape {tuple(x.shape)}; give its size, or an extent such as 8 for maps of any size"
            )

    def start_as_identity(self) -> None:
        """Start the last layer at zero, where the gate is sigmoid(0) = 1/2, and undo that by a factor of 2.

        Without parameters there is no such layer: there the gate comes in by `blend`.
        """
        if self.variant == "theta-minus":
            self.start_blended()
            return
        last = self.gather[-1] if self.variant == "theta" else self.excite[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.scale = 2.0

    @classmethod
    def fit_options(cls, channels: int, options: dict[str, Any], size: tuple[int, ...] | None = None) -> dict[str, Any]:
        """For "theta-plus", lower `reduction` where it would leave fewer than 4 hidden channels (at most to 1).

        A convolution as large as the map takes the size of the place, where none is asked for.
        """
        fitted = fit_reduction(channels, options) if options.get("variant") == "theta-plus" else options
        convolves = options.get("variant", "theta-minus") != "theta-minus"
        if convolves and not options.get("extent") and options.get("size") is None and size is not None:
            return {**fitted, "size": list(size)}
        return fitted

    def extra_repr(self) -> str:
        """Channels, extent and variant; the map's size where it is fixed."""
        size = "" if self.size is None else f", size={self.size}"
        return f"{self.channels}, extent={self.extent}, variant='{self.variant}'{size}"


def _size_of_map(extent: int, variant: str, size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """The fixed (height, width) of the maps; None where maps of any size are taken."""
    fixed = extent == 0 and variant != "theta-minus"
    if not fixed:
        if size is not None:
            raise ConfigError(
                f"size={size} is for extent=0 with variant 'theta' or 'theta-plus' alone, not for extent={extent} with "
                f"'{variant}', which takes maps of any size; leave it out"
            )
        return None
    if size is None:
        raise ConfigError(
            f"extent=0 with variant '{variant}' needs size=, the map's height and width, since its convolution is as "
            "large as the map; give it, or an extent such as 8, or variant='theta-minus'"
        )
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ConfigError(f"size={size} is not possible; give a height and a width of 1 or more")
    return height, width


def _gathering_layers(
    channels: int,
    extent: int,
    size: tuple[int, int] | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> list[nn.Module]:
    """Depthwise convolutions, each with its batch norm, and a ReLU between two of them."""
    if size is not None:
        convolutions = [nn.Conv2d(channels, channels, size, groups=channels, bias=False, device=device, dtype=dtype)]
    else:
        convolutions = [
            nn.Conv2d(
                channels, channels, 3, stride=2, padding=1, groups=channels, bias=False, device=device, dtype=dtype
            )
            for _ in range(extent.bit_length() - 1)
        ]
    layers: list[nn.Module] = []
    for convolution in convolutions:
        layers += [convolution, nn.BatchNorm2d(channels, device=device, dtype=dtype), nn.ReLU()]
    return layers[:-1]
