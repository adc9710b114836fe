"""Whether the networks of several runs started and were trained alike, so that a difference can come from what differs.

Published gains of attention in detectors were measured on backbones from other recipes than their baselines'; here
every such inequality gets a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["EPOCHS_DONE", "StartingPoint", "same_start"]

EPOCHS_DONE = "epochs so far"
"""Beside the settings of a training: how many epochs of it are done."""

# What a comparison is about, and where something was computed, may differ.
_COMPARED = frozenset({"model", "attention", "attention_options", "backbone", "backbone_weights", "fpn_attention"})
_CIRCUMSTANCES = frozenset({"output", "accelerator", "devices", "nodes", "loader", "workers", "compile"})
_CIRCUMSTANCES |= {"channels_last", "checkpoint_every_steps"}
# Named first, because they matter most.
_FIRST = ("data", "weights", "pretrained", "epochs", EPOCHS_DONE, "batch_size", "schedule", "milestones", "lr", "seed")


@dataclass(frozen=True)
class StartingPoint:
    """What is known of how a run's detector came about.

    Attributes:
        name: Of the run.
        backbone: How its backbone was trained: the settings of that training (a TrainConfig as a mapping), or words
            where they are another's ("torchvision's IMAGENET1K_V1", "random weights"), or None if nothing is known.
        detector: The settings of the detector's own training; None if nothing is known.
    """

    name: str
    backbone: Mapping[str, Any] | str | None
    detector: Mapping[str, Any] | None = None


def same_start(runs: Sequence[StartingPoint]) -> list[str]:
    """Warn of what else differs between runs than what they compare.

    Names of networks, of attention and its options, of weights files of backbones whose training is known, and of
    devices and folders may differ; everything else that is set may not.

    Args:
        runs: Two or more.

    Returns:
        One sentence for each setting that differs, the most important first; nothing where all started alike.

    Examples:
        >>> settings = {"model": "resnet50", "epochs": 100, "batch_size": 256}
        >>> plain = StartingPoint("plain", settings)
        >>> same_start([plain, StartingPoint("sge", settings | {"model": "sge_resnet50", "batch_size": 128})])
        ['The backbones were trained with different batch_size: 256 for plain; 128 for sge.']
        >>> same_start([plain, StartingPoint("sge", "random weights")])
        ['The backbones come from different trainings: one with known settings for plain; random weights for sge.']
        >>> same_start([plain, StartingPoint("sge", None)])
        ['How the backbone of sge was trained is unknown, so a difference may come from that.']
    """
    found = _unknown("backbone", [run.name for run in runs if run.backbone is None])
    origins = {run.name: _origin(run.backbone) for run in runs if run.backbone is not None}
    if len(set(origins.values())) > 1:
        found.append(f"The backbones come from different trainings: {_listed(origins)}.")
    found += _differing("backbones", {run.name: run.backbone for run in runs if isinstance(run.backbone, Mapping)})
    known = {run.name: run.detector for run in runs if run.detector is not None}
    if known:
        found += _unknown("detector", [run.name for run in runs if run.detector is None])
    return found + _differing("detectors", known)


def _unknown(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    whose = f"the {what} of {names[0]} was" if len(names) == 1 else f"the {what}s of {_joined(names)} were"
    return [f"How {whose} trained is unknown, so a difference may come from that."]


def _origin(backbone: Mapping[str, Any] | str) -> str:
    return backbone if isinstance(backbone, str) else "one with known settings"


def _differing(what: str, settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each setting that not all have alike."""
    every = dict.fromkeys([*_FIRST, *(name for own in settings.values() for name in own)])
    found = []
    for setting in every:
        if setting in _COMPARED or setting in _CIRCUMSTANCES:
            continue
        values = {name: _shown(own[setting]) if setting in own else "unknown" for name, own in settings.items()}
        if len(set(values.values())) > 1:
            found.append(f"The {what} were trained with different {setting}: {_listed(values)}.")
    return found


def _shown(value: object) -> str:
    """A setting's value, alike for what is alike: a list out of a file and the tuple that it was written from."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_shown(own)}" for name, own in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_shown, value)) + ")"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if str(value) else "nothing"


def _listed(values: Mapping[str, str]) -> str:
    """Values with the names of those that have them: 256 for a and b; 128 for c."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return "; ".join(f"{value} for {_joined(own)}" for value, own in names.items())


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
