"""Attention modules, one file a paper, and the registry that names them."""

from sgenet.attention.base import Attention
from sgenet.attention.registry import attention_class, create_attention, list_attention, register_attention
from sgenet.attention.spatial_group_enhance import SpatialGroupEnhance
from sgenet.attention.squeeze_excite import SqueezeExcite

__all__ = [
    "Attention",
    "SpatialGroupEnhance",
    "SqueezeExcite",
    "attention_class",
    "create_attention",
    "list_attention",
    "register_attention",
]
