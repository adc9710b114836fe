"""Spatial Group-wise Enhance as functions of tensors: the one place where its backends live."""

from sgenet.ops.spatial_group_enhance import spatial_group_enhance, spatial_group_gate

__all__ = ["spatial_group_enhance", "spatial_group_gate"]
