"""Attention modules, one file a paper, and the registry that names them."""

from sgenet.attention.bam import BottleneckAttention
from sgenet.attention.base import Attention
from sgenet.attention.cbam import ConvBlockAttention
from sgenet.attention.efficient_channel import EfficientChannelAttention
from sgenet.attention.gather_excite import GatherExcite
from sgenet.attention.global_context import GlobalContext
from sgenet.attention.none import NoAttention
from sgenet.attention.registry import attention_class, create_attention, list_attention, register_attention
from sgenet.attention.selective_kernel import SelectiveKernelConv
from sgenet.attention.simam import SimAM
from sgenet.attention.spatial_group_enhance import SpatialGroupEnhance
from sgenet.attention.squeeze_excite import SqueezeExcite
from sgenet.attention.style_recalibration import StyleRecalibration

__all__ = [
    "Attention",
    "BottleneckAttention",
    "ConvBlockAttention",
    "EfficientChannelAttention",
    "GatherExcite",
    "GlobalContext",
    "NoAttention",
    "SelectiveKernelConv",
    "SimAM",
    "SpatialGroupEnhance",
    "SqueezeExcite",
    "StyleRecalibration",
    "attention_class",
    "create_attention",
    "list_attention",
    "register_attention",
]
