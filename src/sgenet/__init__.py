"""Attention for convolutional networks that is as good as free.

Spatial Group-wise Enhance (SGE, arXiv 1905.09646) and the family it is judged against, put into any CNN, trained and
compared fairly. Names are imported when they are first used, so that `import sgenet` costs nothing; the attention
modules need torch alone.

Example:
    >>> import torch
    >>> import sgenet
    >>> enhance = sgenet.SpatialGroupEnhance(256, groups=64)
    >>> enhance(torch.randn(2, 256, 14, 14)).shape
    torch.Size([2, 256, 14, 14])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgenet.importing import names_on_use

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sgenet.attention import Attention as Attention
    from sgenet.attention import BottleneckAttention as BottleneckAttention
    from sgenet.attention import ConvBlockAttention as ConvBlockAttention
    from sgenet.attention import EfficientChannelAttention as EfficientChannelAttention
    from sgenet.attention import GatherExcite as GatherExcite
    from sgenet.attention import GlobalContext as GlobalContext
    from sgenet.attention import NoAttention as NoAttention
    from sgenet.attention import SelectiveKernelConv as SelectiveKernelConv
    from sgenet.attention import SimAM as SimAM
    from sgenet.attention import SpatialGroupEnhance as SpatialGroupEnhance
    from sgenet.attention import SqueezeExcite as SqueezeExcite
    from sgenet.attention import StyleRecalibration as StyleRecalibration
    from sgenet.attention import create_attention as create_attention
    from sgenet.attention import list_attention as list_attention
    from sgenet.attention import register_attention as register_attention
    from sgenet.classification import TrainConfig as TrainConfig
    from sgenet.classification import evaluate as evaluate
    from sgenet.classification import make_config as make_config
    from sgenet.classification import predict as predict
    from sgenet.classification import resume as resume
    from sgenet.classification import train as train
    from sgenet.inference import optimize as optimize
    from sgenet.models import create_model as create_model
    from sgenet.models import list_models as list_models
    from sgenet.models import load as load
    from sgenet.models import save as save
    from sgenet.ops.spatial_group_enhance import spatial_group_enhance as spatial_group_enhance
    from sgenet.surgery import add_attention as add_attention
    from sgenet.surgery import remove_attention as remove_attention

_HOME = {
    "Attention": "attention",
    "BottleneckAttention": "attention",
    "ConvBlockAttention": "attention",
    "EfficientChannelAttention": "attention",
    "GatherExcite": "attention",
    "GlobalContext": "attention",
    "NoAttention": "attention",
    "SelectiveKernelConv": "attention",
    "SimAM": "attention",
    "SpatialGroupEnhance": "attention",
    "SqueezeExcite": "attention",
    "StyleRecalibration": "attention",
    "TrainConfig": "classification",
    "add_attention": "surgery",
    "remove_attention": "surgery",
    "create_attention": "attention",
    "create_model": "models",
    "evaluate": "classification",
    "list_attention": "attention",
    "list_models": "models",
    "load": "models",
    "make_config": "classification",
    "optimize": "inference",
    "predict": "classification",
    "register_attention": "attention",
    "resume": "classification",
    "save": "models",
    "spatial_group_enhance": "ops",
    "train": "classification",
}

_ROOMS = (
    "attention",
    "bench",
    "classification",
    "cost",
    "data",
    "detection",
    "doctor",
    "errors",
    "inference",
    "models",
    "ops",
    "study",
    "surgery",
    "timing",
)

__all__ = ["__version__", *_HOME]  # the table above is the list
__getattr__, __dir__ = names_on_use(__name__, _HOME, _ROOMS)
