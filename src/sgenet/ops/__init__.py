"""Spatial Group-wise Enhance and its neighbours as operators of torch: the one place where their backends live."""

from sgenet.ops.backends import availability, use_backend
from sgenet.ops.batch_norm import batch_norm_spatial_group_enhance
from sgenet.ops.channel_means import channel_means
from sgenet.ops.decompositions import decompositions
from sgenet.ops.scale_channels import scale_channels, scale_channels_
from sgenet.ops.spatial_group_enhance import spatial_group_enhance, spatial_group_enhance_, spatial_group_gate
from sgenet.ops.squeeze_excite import squeeze_excite_gate

__all__ = [
    "availability",
    "batch_norm_spatial_group_enhance",
    "channel_means",
    "decompositions",
    "scale_channels",
    "scale_channels_",
    "spatial_group_enhance",
    "spatial_group_enhance_",
    "spatial_group_gate",
    "squeeze_excite_gate",
    "use_backend",
]
