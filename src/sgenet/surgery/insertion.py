"""Build attention modules for the sites of a network, attach them, and take them off again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sgenet.attention import Attention, attention_class, create_attention
from sgenet.errors import ConfigError, did_you_mean
from sgenet.surgery.attachment import attach, detach, forget_displaced, remembers_displaced
from sgenet.surgery.recording import Recording, record
from sgenet.surgery.report import (
    AttentionReport,
    Placed,
    attention_report,
    default_options,
    forget_attention_report,
    set_attention_report,
)
from sgenet.surgery.search import find_sites
from sgenet.surgery.sites import Position, Site, Sites

__all__ = ["Existing", "add_attention", "attach_recorded", "insert_attention", "remove_attention"]

Existing = Literal["keep", "replace", "error"]


def add_attention(
    model: nn.Module,
    name: str,
    *,
    position: Position = "residual",
    modules: str | Sequence[str] | None = None,
    stages: int | Collection[int] | None = None,
    keep_output: bool = True,
    existing: Existing = "keep",
    example: Tensor | None = None,
    **options: Any,  # noqa: ANN401  # each module has its own
) -> nn.Module:
    """Put attention into any convolutional network.

    One forward pass is recorded to find the places, and one with attention, which must return the same. Every original
    state_dict key stays valid, but for those of attention that `existing="replace"` displaces; the new keys begin with
    the names of the attention modules, which the report lists. Where an option does not fit a place, it is adapted and
    the report says so: SGE's groups become the largest divisor of C not above the asked number that leaves at least 4
    channels a group, SE's reduction falls until at least 4 hidden units remain.

    Args:
        model: The network, detectors and segmenters too. It is changed in place, and unchanged after an error.
        name: One of `sgenet.list_attention()`.
        position: Where: "residual", "pre", "post", "identity", "inner", "module" or "stage"; see
            `sgenet.surgery.find_sites`.
        modules: Names of modules as glob patterns; attention goes behind each of them, and `position` says nothing.
        stages: Only these stages; stage k works at 1/2**k of the image's size, as in SENet's Table 13 (a ResNet's
            layer1 is stage 2).
        keep_output: Start so that the network computes what it computed before; False starts as the paper does.
        existing: What to do where the network has attention: "keep" it and pass over its block, "replace" it where it
            stands (the output is then not kept), or "error".
        example: An input, for a network that does not run on zeros of a usual size.
        **options: Keyword arguments of the attention module.

    Returns:
        `model`. `sgenet.surgery.attention_report(model)` tells what was done; print it for a table.

    Raises:
        UnknownNameError: If there is no attention module `name`.
        ConfigError: If the network has no such place, has been through this before, would return something else, or an
            option is wrong.

    Source:
        Places: arXiv 1905.09646, section 3 ("after the last BN"), arXiv 1709.01507v4, figures 3 and 5, table 13.

    Examples:
        >>> import torchvision
        >>> from sgenet.surgery import attention_report
        >>> model = add_attention(torchvision.models.resnet18(), "sge", groups=16, stages=[4, 5])
        >>> print(str(attention_report(model)).splitlines()[0])
        sge in 4 places
    """
    if name == "none":
        return model
    cls = attention_class(name)
    _check_host(model)
    _check_existing(existing)
    sites = find_sites(model, position, modules=modules, example=example)
    chosen, passed_over = _choose(model, sites, position, stages, existing)
    plan = _Plan(name, cls, options, keep_output=keep_output, fit=True)
    return _insert(model, plan, sites, chosen, passed_over, example)


def insert_attention(
    model: nn.Module,
    name: str,
    options: dict[str, Any],
    *,
    keep_output: bool,
    fit: bool,
    position: Position = "residual",
    stages: int | Collection[int] | None = None,
) -> nn.Module:
    """`add_attention` for networks whose options must not be adapted.

    Args:
        model: The network; changed in place.
        name: One of `sgenet.list_attention()`.
        options: Keyword arguments of the attention module.
        keep_output: Start as the identity.
        fit: Adapt options to each place; False takes them as they are, and fails where they are impossible.
        position: As `add_attention`.
        stages: As `add_attention`.

    Returns:
        `model`.

    Raises:
        UnknownNameError, ConfigError: As `add_attention`.
    """
    cls = attention_class(name)
    _check_host(model)
    sites = find_sites(model, position)
    chosen, passed_over = _choose(model, sites, position, stages, "keep")
    plan = _Plan(name, cls, options, keep_output=keep_output, fit=fit)
    return _insert(model, plan, sites, chosen, passed_over, None)


def remove_attention(model: nn.Module) -> nn.Module:
    """Take off what `add_attention` put in: the host with its present weights.

    Args:
        model: A network that has been through `add_attention`, or one of ours with attention; changed in place.

    Returns:
        `model`; right after insertion it is the original, bit for bit.

    Raises:
        ConfigError: If no attention was added to it, or what it displaced is not there: it is in no checkpoint.

    Examples:
        >>> import torchvision
        >>> model = torchvision.models.resnet18()
        >>> keys = list(model.state_dict())
        >>> list(remove_attention(add_attention(model, "sge")).state_dict()) == keys
        True
    """
    report = attention_report(model)
    if report is None:
        raise ConfigError(f"no attention was added to this {type(model).__name__}, so there is nothing to remove")
    replacing = (p.module for p in report.placed if p.attach == "replace")
    lost = next((name for name in replacing if not remembers_displaced(model.get_submodule(name))), None)
    if lost is not None:
        raise ConfigError(
            f"what '{report.attention}' displaced at '{lost}' is in no checkpoint, so it cannot be put back into this "
            f"{type(model).__name__}; build the network anew from the weights that it had before"
        )
    _detach_all(model, report.placed)
    forget_attention_report(model)
    return model


def attach_recorded(model: nn.Module, report: AttentionReport) -> nn.Module:
    """Put attention where a report says that it was; for loading a checkpoint, without searching places.

    Args:
        model: The host network without attention; changed in place.
        report: What surgery did to a network of the same architecture.

    Returns:
        `model`, with fresh attention modules.

    Raises:
        ConfigError: If the network lacks one of the report's places.
    """
    names = {name for name, _ in model.named_modules()}
    for placed in report.placed:
        if placed.place not in names:
            raise ConfigError(
                f"this {type(model).__name__} has no module '{placed.place}' for attention; "
                "give the network that the checkpoint was made from"
            )
    built = [(p, _build(model, report.attention, p, keep_output=False)) for p in report.placed]
    _attach_all(model, built)
    for placed, attention in built:
        if placed.attach == "replace":
            forget_displaced(attention)  # it is the host's as built, not the one of the network that was reported
    set_attention_report(model, report)
    return model


class _Plan(NamedTuple):
    """What to build at every place."""

    name: str
    cls: type[Attention]
    asked: dict[str, Any]
    keep_output: bool
    fit: bool

    def placed(self, model: nn.Module, site: Site) -> Placed:
        """The module for a site, not built yet."""
        asked = default_options(self.cls) | self.asked
        used = self.cls.fit_options(site.channels, asked, site.size) if self.fit else asked
        notes = [f"{k}={v} instead of {asked[k]}" for k, v in used.items() if asked[k] != v]
        if site.attach == "replace":
            notes.append(f"was {type(model.get_submodule(site.place)).__name__}")
        return Placed(
            site.module, site.channels, site.stage, site.place, site.attach, used, ", ".join(notes), site.channels_last
        )


def _insert(
    model: nn.Module,
    plan: _Plan,
    sites: Sites,
    chosen: Iterable[Site],
    passed_over: tuple[tuple[str, str], ...],
    example: Tensor | None,
) -> nn.Module:
    placed = [plan.placed(model, site) for site in chosen]
    built = [(p, _build(model, plan.name, p, keep_output=plan.keep_output)) for p in placed]
    _attach_all(model, built)  # only now: an error above leaves the network as it was
    keeps = plan.keep_output and not any(p.attach == "replace" for p in placed)
    try:
        calls = _trial(model.get_submodule(sites.part), sites.recording, example, keeps=keeps).calls
    except ConfigError as error:
        _detach_all(model, placed)
        raise ConfigError(f"'{plan.name}' does not work in this {type(model).__name__}: {error}") from error
    part = model.get_submodule(sites.part)
    unused = [p for p, attention in built if calls[_name_in(part, attention)] != 1]
    _detach_all(model, unused)
    placed = [p for p in placed if p not in unused]
    if not placed:
        raise ConfigError(
            f"{type(model).__name__} does not use what is attached at the places found in it; name some by modules=..."
        )
    lost = tuple((p.place, "the network does not use what is attached there") for p in unused)
    left = (*sites.passed_over, *passed_over, *lost)
    set_attention_report(model, AttentionReport(plan.name, tuple(placed), left))
    return model


def _trial(part: nn.Module, before: Recording, example: Tensor | None, *, keeps: bool) -> Recording:
    """A pass with attention on the input of the pass before; a forward may ask of what class its modules are."""
    given = torch.zeros(before.steps[0].shape, device="meta") if example is None else example
    after = record(part, given)
    changed = f"it returns {after.output} instead of {before.output}" if after.output != before.output else ""
    if not changed and keeps and not _agree(before.values, after.values):
        changed = "it returns other values"
    if changed:
        raise ConfigError(
            f"with it, {changed}: the forward asks of what class its modules are; name other modules by modules=..."
        )
    return after


def _agree(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    """Whether values are the same but for rounding, where both passes had any."""
    return all(
        torch.allclose(b, a, rtol=1e-2, atol=1e-2 * float(b.abs().max()), equal_nan=True)
        for b, a in zip(before, after, strict=False)
        if b.numel()
    )


def _name_in(part: nn.Module, attention: Attention) -> str:
    return next(str(name) for name, module in part.named_modules() if module is attention)


def _choose(
    model: nn.Module,
    sites: Sites,
    position: Position,
    stages: int | Collection[int] | None,
    existing: Existing,
) -> tuple[list[Site], tuple[tuple[str, str], ...]]:
    """The sites to use, and those passed over for what they have already."""
    if not sites.found:
        raise ConfigError(_nowhere(model, sites, position))
    if existing == "error" and sites.taken:
        raise ConfigError(
            f"{type(model).__name__} has attention already, first at '{sites.taken[0].place}'; "
            "existing='keep' leaves it, existing='replace' takes its place"
        )
    found = _of_stages(sites.found, stages)
    free = [site for site in found if not site.taken]
    if existing == "replace":
        return [*_of_stages(sites.taken, stages, found=False), *free], ()
    if not free:
        raise ConfigError(
            f"every place in this {type(model).__name__} has attention already; existing='replace' takes its place"
        )
    return free, tuple((site.place, f"has attention already: {site.taken}") for site in found if site.taken)


def _nowhere(model: nn.Module, sites: Sites, position: Position) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in sites.passed_over[:2])
    others = [p for p in get_args(Position) if p != position and _found(model, p)]
    way = f"it has {', '.join(others)}" if others else "name modules by modules='...'"
    why = f" ({reasons})" if reasons else ""
    return f"{type(model).__name__} has no place at position '{position}'{why}; {way}"


def _found(model: nn.Module, position: Position) -> tuple[Site, ...]:
    """The sites of a position; none where the network cannot be searched."""
    try:
        return find_sites(model, position).found
    except ConfigError:
        return ()


def _of_stages(sites: Sequence[Site], stages: int | Collection[int] | None, *, found: bool = True) -> list[Site]:
    if stages is None:
        return list(sites)
    wanted = {stages} if isinstance(stages, int) else set(stages)
    if not all(isinstance(stage, int) for stage in wanted):
        raise ConfigError(f"stages={stages!r} must be whole numbers, e.g. [4, 5]; name modules by modules=... instead")
    there = {site.stage for site in sites}
    if found and (not wanted or wanted - there):
        raise ConfigError(
            f"stages={sorted(wanted)} are not all there: this network has places in stages "
            f"{', '.join(map(str, sorted(there)))} (stage k works at 1/2**k of the image's size)"
        )
    return [site for site in sites if site.stage in wanted]


def _check_host(model: nn.Module) -> None:
    if attention_report(model) is not None:
        raise ConfigError(
            f"this {type(model).__name__} has '{attention_report(model).attention}' already; "  # type: ignore[union-attr]
            "take it off with remove_attention first"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ConfigError(f"{type(model).__name__} is compiled to TorchScript; add attention before scripting it")
    quantised = next((m for m in model.modules() if ".quantized" in type(m).__module__), None)
    if quantised is not None:
        raise ConfigError(
            f"{type(model).__name__} is quantised ({type(quantised).__name__}); add attention before quantising it"
        )


def _check_existing(existing: str) -> None:
    if existing not in get_args(Existing):
        raise ConfigError(
            f"existing='{existing}' is not possible.{did_you_mean(existing, get_args(Existing))} "
            f"Known: {', '.join(get_args(Existing))}"
        )


def _build(model: nn.Module, name: str, placed: Placed, *, keep_output: bool) -> Attention:
    host = model.get_submodule(placed.place)
    tensors = (t for part in (host, model) for t in part.parameters() if t.is_floating_point())
    beacon = next(tensors, torch.empty(0))
    attention = create_attention(name, placed.channels, **placed.options)
    if keep_output:
        with torch.no_grad():
            attention.start_as_identity()
    return attention.to(device=beacon.device, dtype=beacon.dtype).train(host.training)


def _attach_all(model: nn.Module, built: Iterable[tuple[Placed, Attention]]) -> None:
    # The deepest first: a module that gets a wrapper is found by its name no more from outside.
    for placed, attention in sorted(built, key=lambda pair: -pair[0].place.count(".")):
        attach(model, placed.place, placed.attach, attention, channels_last=placed.channels_last)


def _detach_all(model: nn.Module, placed: Iterable[Placed]) -> None:
    for one in sorted(placed, key=lambda one: one.place.count(".")):
        detach(model, one.module, one.place, one.attach)
