"""One file a network: safetensors weights with the network's full description in the header."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sgenet.errors import CheckpointError
from sgenet.models.networks import build, describe

__all__ = ["checkpoint_folder", "load", "read_metadata", "save"]

_KEY = "sgenet"


def save(model: nn.Module, path: str | os.PathLike[str], *, metadata: dict[str, Any] | None = None) -> Path:
    """Write weights and description of a network to one safetensors file.

    The file appears whole or not at all: it is written under a temporary name and then renamed.

    Args:
        model: A network from `create_model`, or any network with or without `add_attention`.
        path: The file to write; an existing one is replaced.
        metadata: More to keep beside the description, JSON-able, e.g. {"classes": [...]}.

    Returns:
        The path.

    Examples:
        >>> import tempfile
        >>> from sgenet.models import create_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(create_model("sge_resnet8_cifar", 10), Path(folder) / "net.safetensors")
        ...     type(load(path)).__name__
        'CifarResNet'
    """
    from safetensors.torch import save_file

    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    header = {"network": describe(model), **(metadata or {})}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata={"format": "pt", _KEY: json.dumps(header)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load(
    path: str | os.PathLike[str],
    *,
    checkpoint: Literal["last", "best"] = "last",
    model: nn.Module | None = None,
) -> nn.Module:
    """Build the network that a checkpoint describes, and load its weights.

    Args:
        path: A file that `save` wrote, or a run folder.
        checkpoint: Which of a run's checkpoints.
        model: The host network without attention, for a checkpoint of a network that sgenet cannot build itself.

    Returns:
        The network in eval mode, on the CPU (on `model`'s device, if that is given).

    Raises:
        CheckpointError: If there is no such file, it is damaged, was not written by `save`, or does not fit `model`.
    """
    file = checkpoint_folder(path, checkpoint) / "model.safetensors" if Path(path).is_dir() else Path(path)
    tensors, header = _read(file)
    network = build(header["network"], model)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file} does not fit {type(network).__name__}: {reason}") from error
    return network.eval()


def read_metadata(path: str | os.PathLike[str], *, checkpoint: Literal["last", "best"] = "last") -> dict[str, Any]:
    """The header that `save` wrote: `network`, the description, and what was given as metadata.

    Args:
        path: A file that `save` wrote, or a run folder.
        checkpoint: Which of a run's checkpoints.

    Returns:
        The header's values.

    Raises:
        CheckpointError: If there is no such file, or it was not written by `save`.
    """
    file = checkpoint_folder(path, checkpoint) / "model.safetensors" if Path(path).is_dir() else Path(path)
    with _opened(file) as opened:
        return _header(file, opened.metadata())


def checkpoint_folder(run: str | os.PathLike[str], which: Literal["last", "best"] = "last") -> Path:
    """The folder of a run's last or best checkpoint.

    Args:
        run: A run folder.
        which: "last" or "best".

    Returns:
        `RUN/checkpoints/NAME`.

    Raises:
        CheckpointError: If the folder is no run, or has no such checkpoint yet.
    """
    index = Path(run) / "checkpoints" / "index.json"
    try:
        name = json.loads(index.read_text(encoding="utf-8"))[which]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{run} holds no '{which}' checkpoint; give a run folder of `sgenet train`") from error
    return index.parent / str(name)


def _opened(file: Path) -> Any:  # noqa: ANN401  # safetensors has no types
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint {file}")
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a safetensors checkpoint, or is damaged ({error}); give a file that sgenet.save wrote"
        ) from error


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with _opened(file) as opened:
        header = _header(file, opened.metadata())
        return {name: opened.get_tensor(name) for name in opened.keys()}, header  # noqa: SIM118  # it is no dict


def _header(file: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    try:
        header = json.loads((metadata or {})[_KEY])
        header["network"]["host"], header["network"]["attention"]  # their absence is what is asked
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{file} does not describe its network: sgenet.save did not write it; "
            "build the network and load the tensors with safetensors.torch.load_file"
        ) from error
    return dict(header)
