"""Named networks and their checkpoints."""

from sgenet.models.checkpoint import checkpoint_folder, load, load_weights, read_metadata, save
from sgenet.models.networks import build, create_model, describe, list_models, set_host_description

__all__ = [
    "build",
    "checkpoint_folder",
    "create_model",
    "describe",
    "list_models",
    "load",
    "load_weights",
    "read_metadata",
    "save",
    "set_host_description",
]
