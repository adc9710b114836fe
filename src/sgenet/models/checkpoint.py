"""One file a network: safetensors weights with the network's full description in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from sgenet.attention import Attention
from sgenet.errors import CheckpointError, ConfigError
from sgenet.models.networks import build, describe, unwrapped
from sgenet.surgery import attention_report, classifier_names
from sgenet.writing import appearing_whole

__all__ = ["checkpoint_folder", "load", "load_weights", "read_metadata", "save"]

_KEY = "sgenet"


def save(model: nn.Module, path: str | os.PathLike[str], *, metadata: dict[str, Any] | None = None) -> Path:
    """Write weights and description of a network to one safetensors file.

    The file appears whole or not at all: it is written under a temporary name and then renamed.

    Args:
        model: A network from `create_model`, or any network with or without `add_attention`. Compiled, or in
            `DataParallel` or `DistributedDataParallel`, it is the network within that is written.
        path: The file to write; an existing one is replaced, and a folder that is not there is made.
        metadata: More to keep beside the description, JSON-able, e.g. {"classes": [...]}.

    Returns:
        The path.

    Raises:
        ConfigError: If an option that the network was built with, or a value of `metadata`, is nothing that JSON holds,
            or `metadata` has a "network", which is the description's own place.

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
    header = _header_text(model, metadata or {})
    state = unwrapped(model).state_dict()
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing_whole(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", _KEY: header})
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
        The network in eval mode, on the CPU and in torch's default dtype, whatever it was saved in; `model`, if that is
        given, on its own device and in its own dtype. Torch's random numbers go on as if nothing had been loaded.

    Raises:
        CheckpointError: If there is no such file, it is damaged, was not written by `save`, or does not fit `model`.
    """
    file = _file(path, checkpoint)
    tensors, header = _read(file)
    with torch.random.fork_rng(devices=[]):
        network = build(header["network"], model)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file} does not fit {type(network).__name__}: {reason}") from error
    return network.eval()


def load_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    checkpoint: Literal["last", "best"] = "last",
    classes: Sequence[str] | None = None,
) -> nn.Module:
    """Start a network from the weights of a checkpoint of the same architecture, to train it further.

    Attention that the checkpoint has not starts so that the network computes what it computed without it. A classifier
    for other classes stays random.

    Args:
        model: The network; changed in place, and unchanged after an error.
        path: A file that `save` wrote, or a run folder.
        checkpoint: Which of a run's checkpoints.
        classes: Names of the network's classes, where they are known: a classifier for as many others stays random.

    Returns:
        `model`.

    Raises:
        CheckpointError: If there is no such file, it is damaged, was not written by `save`, or does not fit the
            network; the message names what it is of and the first key that does not fit.

    Examples:
        >>> import tempfile
        >>> from sgenet.models import create_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(create_model("resnet8_cifar", 10), Path(folder) / "plain.safetensors")
        ...     model = load_weights(create_model("sge_resnet8_cifar", 4), path)
        >>> model.fc.out_features
        4
    """
    file = _file(path, checkpoint)
    tensors, header = _read(file)
    fresh = _attention_to_start(model, header)
    own = model.state_dict()
    random = _of_other_classes(model, own, tensors, header, classes)
    taken = {key: tensor for key, tensor in tensors.items() if key not in random}
    left = {
        key: tensor for key, tensor in own.items() if key in random or key.startswith(tuple(f"{n}." for n in fresh))
    }
    problem = _other_attention(model, header) or _misfit(model, own, taken, left)
    if problem is not None:
        raise CheckpointError(f"{file} does not fit the network: it is of {_built_as(header)}, and {problem}")
    for key in own.keys() - taken.keys() - left.keys():  # a factor or a blend, which the checkpoint does without
        module = cast(Attention, model.get_submodule(key.rpartition(".")[0]))
        module.scale, module.blend = 1.0, None
    model.load_state_dict(taken | left)
    with torch.no_grad():
        for module in fresh.values():
            module.start_as_identity()
    return model


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
    file = _file(path, checkpoint)
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


def _header_text(model: nn.Module, metadata: dict[str, Any]) -> str:
    """What is written of a network beside its tensors."""
    if "network" in metadata:
        raise ConfigError("metadata has 'network', where the description of the network is kept; give it another name")
    header = {"network": describe(model), **metadata}
    foreign = next((found for key, value in header.items() if (found := _foreign(key, value))), None)
    if foreign is not None:
        raise ConfigError(
            f"{foreign} cannot be written to a checkpoint, which holds numbers, texts, and lists and mappings of them; "
            "give one of these, or build the network without create_model and load it by model=..."
        )
    return json.dumps(header)


def _foreign(name: str, value: object) -> str | None:
    """The first part of a value that JSON does not hold, with its name; None if it holds all."""
    if value is None or isinstance(value, str | int | float):
        return None
    parts: list[tuple[str, object]]
    if isinstance(value, dict):
        parts = [(f"{name}.{key}", part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{name}[{index}]", part) for index, part in enumerate(value)]
    else:
        return f"{name}={value!r}"
    return next((found for part in parts if (found := _foreign(*part))), None)


def _file(path: str | os.PathLike[str], checkpoint: Literal["last", "best"]) -> Path:
    """The file of weights at a path: the path itself, or that of a run's checkpoint."""
    return checkpoint_folder(path, checkpoint) / "model.safetensors" if Path(path).is_dir() else Path(path)


def _attention_to_start(model: nn.Module, header: dict[str, Any]) -> dict[str, Attention]:
    """The attention modules that were added to the network, by name, where the checkpoint was written without any."""
    report = attention_report(model)
    if report is None or header["network"]["attention"] is not None:
        return {}
    return {placed.module: cast(Attention, model.get_submodule(placed.module)) for placed in report.placed}


def _other_attention(model: nn.Module, header: dict[str, Any]) -> str | None:
    """What the network lacks of a checkpoint's attention; None where it has the same, or the checkpoint has none."""
    theirs, own = header["network"]["attention"], attention_report(model)
    if theirs is None:
        return None
    places = {placed["module"] for placed in theirs["placed"]}
    if own is not None and own.attention == theirs["attention"] and {placed.module for placed in own.placed} == places:
        return None
    return "the network has " + ("no attention" if own is None else f"'{own.attention}' in {len(own.placed)} places")


def _of_other_classes(
    model: nn.Module,
    own: dict[str, torch.Tensor],
    tensors: dict[str, torch.Tensor],
    header: dict[str, Any],
    classes: Sequence[str] | None,
) -> set[str]:
    """Keys of the classifier, where it names other classes than the checkpoint's."""
    keys = {key for name in classifier_names(model) for key in own if key.startswith(f"{name}.") and key in tensors}
    resized = any(own[key].shape[1:] == tensors[key].shape[1:] and len(own[key]) != len(tensors[key]) for key in keys)
    renamed = classes is not None and header.get("classes") not in (None, list(classes))
    return keys if resized or renamed else set()


def _misfit(
    model: nn.Module, own: dict[str, torch.Tensor], taken: dict[str, torch.Tensor], left: dict[str, torch.Tensor]
) -> str | None:
    """The first reason why the tensors of a checkpoint do not make up a network's state; None if they do."""
    # A module that starts as the identity may have these more than one that does not.
    optional = {f"{n}.{k}" for n, m in model.named_modules() if isinstance(m, Attention) for k in ("factor", "blend")}
    for key, tensor in taken.items():
        if key not in own and key not in optional:
            return f"the network has no '{key}'"
        if key in own and own[key].shape != tensor.shape:
            return f"'{key}' has shape {tuple(tensor.shape)} instead of {tuple(own[key].shape)}"
    lacking = next((key for key in own if key not in taken and key not in left and key not in optional), None)
    return None if lacking is None else f"it has no '{lacking}'"


def _built_as(header: dict[str, Any]) -> str:
    """The network of a checkpoint in a few words."""
    host, attention = header["network"]["host"], header["network"]["attention"]
    name = "a network that sgenet did not build" if host is None else str(host["name"])
    options = f" with {host['options']}" if host and host["options"] else ""
    added = f" and '{attention['attention']}' in {len(attention['placed'])} places" if attention else ""
    return f"{name}{options}{added}"


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
