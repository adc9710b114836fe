"""Checkpoints as folders: weights, resumable state and checksums in files that run no code when they are opened.

`checkpoints/step-00001234/` holds `model.safetensors` (the weights to use, as `sgenet.save` writes them),
`state.safetensors` (everything else that resuming needs) and `manifest.json` (size and SHA-256 of both). A folder is
written under a temporary name and renamed; `checkpoints/index.json`, which names the last and the best one, is replaced
after that; what it names no more is removed at the very end. So a crash at any moment leaves the previous checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sgenet.errors import CheckpointError, RunError
from sgenet.models import save
from sgenet.writing import write_whole

__all__ = ["pack", "publish", "read_checkpoint", "unpack", "verify", "write_checkpoint"]

_MODEL, _STATE, _MANIFEST = "model.safetensors", "state.safetensors", "manifest.json"


def pack(value: Any) -> tuple[Any, dict[str, Tensor]]:  # noqa: ANN401  # any nested value
    """Split nested values into JSON-able structure and tensors.

    Args:
        value: None, bool, int, float (inf and nan too), str, Tensor, and lists, tuples and mappings of them with any of
            these but tensors as keys.

    Returns:
        The structure, in which tensors are names, and the tensors by name: contiguous copies on the CPU.

    Raises:
        TypeError: For anything else.

    Examples:
        >>> import torch
        >>> pack({"lr": 0.1, 0: (torch.zeros(2), None)})[0]
        {'dict': [['lr', 0.1], [0, {'tuple': [{'tensor': '0'}, None]}]]}
    """
    tensors: dict[str, Tensor] = {}
    return _packed(value, tensors), tensors


def unpack(structure: Any, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401  # any nested value
    """The value that `pack` split.

    Args:
        structure: From `pack`, or from its JSON text.
        tensors: From `pack`.

    Returns:
        The nested value.

    Examples:
        >>> unpack(*pack([1, (2.5, float("inf")), {"a": None}]))
        [1, (2.5, inf), {'a': None}]
    """
    if isinstance(structure, list):
        return [unpack(item, tensors) for item in structure]
    if not isinstance(structure, dict):
        return structure
    kind, content = next(iter(structure.items()))
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in content)
    return {unpack(key, tensors): unpack(item, tensors) for key, item in content}


def write_checkpoint(
    folder: Path, weights: nn.Module, prefix: str, metadata: dict[str, Any], state: dict[str, Any]
) -> None:
    """Write a checkpoint folder, whole or not at all; an existing one is replaced.

    Args:
        folder: Where.
        weights: The network whose weights go to `model.safetensors`.
        prefix: Of the keys that these weights have in `state["state_dict"]`; they are not written twice.
        metadata: Kept beside the network's description.
        state: All that resuming needs.

    Raises:
        RunError: If it cannot be written, e.g. on a full disk; nothing of it is left then.
    """
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save(weights, temporary / _MODEL, metadata=metadata)
        rest = {name: tensor for name, tensor in state["state_dict"].items() if not name.startswith(prefix)}
        structure, tensors = pack({**state, "state_dict": rest})
        save_file(tensors, temporary / _STATE, metadata={"structure": json.dumps(structure)})
        manifest = {name: _fingerprint(temporary / name) for name in (_MODEL, _STATE)}
        for name in (_MODEL, _STATE):
            _to_disk(temporary / name)
        write_whole(temporary / _MANIFEST, json.dumps({"files": manifest}, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
        _to_disk(folder.parent)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"the checkpoint '{folder}' cannot be written: {reason}; make room, and go on with --resume "
            f"{folder.parent.parent}"
        ) from (error if isinstance(error, OSError) else OSError(reason))  # by which a study tells that a cell is sound
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_checkpoint(folder: Path, prefix: str) -> dict[str, Any]:
    """The state that `write_checkpoint` was given, with all tensors on the CPU.

    Args:
        folder: Where.
        prefix: As it was given to `write_checkpoint`.

    Returns:
        The state.

    Raises:
        CheckpointError: If a file is missing or is none of ours.
    """
    try:
        with safe_open(folder / _STATE, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no dict
            state = dict(unpack(json.loads(opened.metadata()["structure"]), tensors))
        weights = load_file(folder / _MODEL)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"'{folder}' is no checkpoint of a training, or is damaged ({error})") from error
    state["state_dict"].update({prefix + name: tensor for name, tensor in weights.items()})
    return state


def publish(checkpoints: Path, name: str, *, best: bool = False) -> None:
    """Make a written checkpoint the last one, and remove those that are neither the last nor the best.

    Args:
        checkpoints: The run's folder of checkpoints.
        name: Of a folder in it that `write_checkpoint` wrote.
        best: Make it the best one too.
    """
    index = _read_index(checkpoints)
    index["last"] = name
    if best:
        index["best"] = name
    write_whole(checkpoints / "index.json", json.dumps(index) + "\n")
    for folder in checkpoints.iterdir():
        if folder.is_dir() and folder.name not in index.values():
            shutil.rmtree(folder, ignore_errors=True)


def verify(folder: Path) -> None:
    """See that a checkpoint's files are as they were written.

    Args:
        folder: The checkpoint's.

    Raises:
        CheckpointError: If a file is missing or differs; the message names it.
    """
    try:
        files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {name: files[name] for name in (_MODEL, _STATE)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / _MANIFEST} is missing or damaged, so that the checkpoint cannot be trusted{_way_out(folder)}"
        ) from error
    for name, fingerprint in expected.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing{_way_out(folder)}")
        if _fingerprint(file) != fingerprint:
            raise CheckpointError(f"{file} is damaged: it differs from its checksum in {_MANIFEST}{_way_out(folder)}")


def _way_out(folder: Path) -> str:
    index = _read_index(folder.parent)
    other = next((which for which, name in index.items() if name != folder.name), None)
    if other is None:
        return "; there is no other one, so train anew"
    return f"; the {other} one, '{index[other]}', may be whole: eval and predict take it with --checkpoint {other}"


def _read_index(checkpoints: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        return dict(json.loads((checkpoints / "index.json").read_text(encoding="utf-8")))
    return {}


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401  # any nested value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[_packed(k, tensors), _packed(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_packed(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_packed(item, tensors) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    msg = f"a checkpoint cannot hold {type(value).__name__}: {value!r:.80}"
    raise TypeError(msg)


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return {"sha256": hashlib.file_digest(opened, "sha256").hexdigest(), "bytes": file.stat().st_size}


def _to_disk(path: Path) -> None:
    """Ask the system to write a file or a folder's entries out, so that a power cut keeps them."""
    with suppress(OSError):  # some file systems refuse it for folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
