"""Find the places in a network where attention belongs, from a recording of one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import get_args

from torch import Tensor, nn

from sgenet.errors import ConfigError, did_you_mean
from sgenet.surgery.places import Places, is_inside
from sgenet.surgery.recording import record
from sgenet.surgery.sites import Position, Site, Sites
from sgenet.surgery.sums import ResidualSums
from sgenet.surgery.unsummed import Unsummed

__all__ = ["find_sites"]


def find_sites(
    model: nn.Module,
    position: Position = "residual",
    *,
    modules: str | Sequence[str] | None = None,
    example: Tensor | None = None,
) -> Sites:
    """The places of one kind in any convolutional network.

    Args:
        model: The network. One that takes no plain batch of images (a detector) is searched part by part.
        position: Where, by the names of SENet's figure 5: "residual" (end of the branch, before the sum), "pre" (begin
            of the branch), "post" (after the sum and its activation), "identity" (on the shortcut), "inner" (after the
            branch's last convolution wider than 1x1), "module" (output of a module that ends in a concatenation), and
            "stage" (after the last sum of every stage but the last, where BAM belongs). Networks without sums have
            their "residual" places at the end of each new part of a concatenation, else after such a module, else
            after each convolution's activation.
        modules: Names of modules, as glob patterns; attention goes behind each of them instead.
        example: An input, for a network that does not run on zeros of a usual size.

    Returns:
        The sites.

    Raises:
        ConfigError: If the network has no convolution, cannot be run, or a pattern names nothing usable.

    Source:
        Positions: arXiv 1709.01507v4, figure 5.

    Examples:
        >>> import torchvision
        >>> sites = find_sites(torchvision.models.resnet18())
        >>> [site.module for site in sites.found][:2]
        ['layer1.0.attention', 'layer1.1.attention']
        >>> [site.stage for site in sites.found]
        [2, 2, 3, 3, 4, 4, 5, 5]
    """
    if position not in get_args(Position):
        raise ConfigError(
            f"there is no position '{position}'.{did_you_mean(position, get_args(Position))} "
            f"Known: {', '.join(get_args(Position))}"
        )
    if modules is not None:
        if not modules:
            raise ConfigError(f"modules={modules!r} names no module; give names or patterns, or leave it out")
        places = Places(model, record(model, example), "")
        return _answer(places, _named(places, [modules] if isinstance(modules, str) else modules))
    try:
        return _find(Places(model, record(model, example), ""), position)
    except ConfigError as error:
        if example is not None:
            raise
        return _find_in_parts(model, position, error)


def _find_in_parts(model: nn.Module, position: Position, reason: ConfigError) -> Sites:
    """Sites of the first part of a network that runs on images; a detector's backbone."""
    waiting = list(model.named_children())
    while waiting:
        name, part = waiting.pop(0)
        try:
            sites = _find(Places(part, record(part), f"{name}."), position)
        except ConfigError:
            waiting += [(f"{name}.{child}", inner) for child, inner in part.named_children()]
            continue
        if sites.found:
            return sites
    raise reason


def _find(places: Places, position: Position) -> Sites:
    if position == "module":
        return _answer(places, Unsummed(places).concatenating_modules())
    if position == "residual":
        return _answer(places, _standard(places))
    return _answer(places, getattr(ResidualSums(places), position)())


def _standard(places: Places) -> list[Site]:
    """Where attention goes if nobody says where. A single sum does not make a residual network (LCNetV2's)."""
    sums, unsummed = list(ResidualSums(places).residual()), Unsummed(places)
    if len(sums) > 1:
        return sums
    others = [*unsummed.new_parts()] or [*unsummed.concatenating_modules()] or [*unsummed.activations()]
    return others if not sums or len({site.stage for site in others}) > 2 else sums


def _answer(places: Places, found: Iterable[Site]) -> Sites:
    by_name: dict[str, Site] = {}
    for site in found:
        by_name.setdefault(site.module, site)
    passed_over = tuple(
        (places.prefix + block, reason)
        for block, reason in places.passed_over.items()
        if not _holds_any(places.prefix + block, by_name.values())
    )
    part = places.prefix.rstrip(".")
    return Sites(tuple(by_name.values()), tuple(_taken(places)), passed_over, part, places.recording)


def _holds_any(block: str, sites: Iterable[Site]) -> bool:
    """Whether a block has a site in spite of a sum without one: Res2Net's blocks have sums inside."""
    return any(site.place == block or is_inside(site.place, block) for site in sites)


def _taken(places: Places) -> Iterator[Site]:
    """The attention that is there, where it gets one map and returns another of the same shape."""
    for name in places.recording.calls:
        inner = any(is_inside(name, other) for other in places.attention if other != name)
        if name not in places.attention or inner or places.recording.calls[name] != 1:
            continue
        end = next((step for step in places.recording.steps if name in step.ends), None)
        if end is not None and places.is_map(end) and places.recording.inputs.get(name) == end.shape:
            yield places.site(name, name, "replace", end, "attention", "")


def _named(places: Places, patterns: Sequence[str]) -> Iterator[Site]:
    """Behind each module that a pattern names."""
    for pattern in patterns:
        names = [n for n in places.recording.shapes if n and fnmatchcase(n, pattern)]
        if not names:
            hint = did_you_mean(pattern, places.recording.shapes)
            raise ConfigError(f"no module that returns a tensor is named '{pattern}'.{hint}")
        for name in names:
            end = next(step for step in places.recording.steps if name in step.ends)
            if places.recording.calls[name] > 1:
                raise ConfigError(
                    f"module '{name}' is used {places.recording.calls[name]} times in one pass; "
                    "attention behind it would mix places: name modules that are used once"
                )
            refusal = places.refusal(end)
            if refusal:
                raise ConfigError(
                    f"module '{name}' returns {refusal}; attention takes (batch, channels, {places.axes - 2} spatial "
                    "axes) or channels last: name another module"
                )
            yield places.behind(end, "module", "", names=[name])
