"""The words for places in a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from sgenet.surgery.recording import Recording

__all__ = ["Attach", "Position", "Site", "Sites"]

Position = Literal["residual", "pre", "post", "identity", "inner", "module", "stage"]
Attach = Literal["slot", "shortcut", "append", "block", "after", "before", "replace"]


@dataclass(frozen=True)
class Site:
    """A place for attention.

    Attributes:
        module: Name that the attention module has, or will have, in the network.
        place: Name of the module that it is attached to.
        attach: How: "slot" (the host's own), "shortcut" (the host's own on the shortcut), "append" (to a Sequential),
            "block" (a known block that gets `attention`), "after" or "before" (around a module), "replace" (in place of
            other attention).
        channels: Channels of its input.
        stage: k where the map is 2**k times smaller than the image: 2 to 5 in a ResNet.
        kind: What was found there: "sum", "concatenation", "activation", "module" (named by the user), "attention".
        taken: Name of the attention module that the branch has already, or an empty string.
        size: Of the map, where the image has the size that was recorded.
        channels_last: Whether its input is (batch, *spatial, channels) instead of (batch, channels, *spatial).
    """

    module: str
    place: str
    attach: Attach
    channels: int
    stage: int
    kind: str
    taken: str
    size: tuple[int, ...]
    channels_last: bool


class Sites(NamedTuple):
    """What `find_sites` found.

    Attributes:
        found: The sites, in the order of the forward pass.
        taken: The attention modules that the network has already, as places for others instead of them.
        passed_over: Names of places that cannot take attention, each with the reason.
        part: Name of the part of the network that was run; empty for all of it.
        recording: Of its forward pass.
    """

    found: tuple[Site, ...]
    taken: tuple[Site, ...]
    passed_over: tuple[tuple[str, str], ...]
    part: str
    recording: Recording
