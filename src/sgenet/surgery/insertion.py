"""Build attention modules for the sites of a network, and attach them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from sgenet.attention import Attention, attention_class, create_attention
from sgenet.errors import ConfigError
from sgenet.surgery.report import AttentionReport, Placed, attention_report, set_attention_report
from sgenet.surgery.sites import Site, find_sites

__all__ = ["add_attention", "attach_recorded", "insert_attention"]


def add_attention(model: nn.Module, name: str, *, keep_output: bool = True, **options: Any) -> nn.Module:  # noqa: ANN401
    """Put attention at the end of every residual branch of a ResNet, before the sum.

    Every original state_dict key stays valid. Where an option does not fit a place, it is adapted and the report says
    so: SGE's groups become the largest divisor of C not above the asked number that leaves at least 4 channels a group,
    SE's reduction falls until at least 4 hidden units remain.

    Args:
        model: A network with residual blocks of torchvision's or timm's ResNets (detectors and segmenters on them too).
            It is changed in place.
        name: One of `sgenet.list_attention()`.
        keep_output: Start so that the network computes what it computed before; False starts as the paper does.
        **options: Keyword arguments of the attention module.

    Returns:
        `model`. `sgenet.surgery.attention_report(model)` tells what was done; print it for a table.

    Raises:
        UnknownNameError: If there is no attention module `name`.
        ConfigError: If the network has no place that sgenet knows, has been through this before, or an option is wrong.

    Source:
        Place: arXiv 1905.09646, section 3 ("after the last BN"), arXiv 1709.01507, figure 3.

    Examples:
        >>> import torchvision
        >>> model = add_attention(torchvision.models.resnet18(), "sge", groups=16)
        >>> print(str(attention_report(model)).splitlines()[0])
        sge in 8 places
    """
    return insert_attention(model, name, options, keep_output=keep_output, fit=True)


def insert_attention(
    model: nn.Module, name: str, options: dict[str, Any], *, keep_output: bool, fit: bool
) -> nn.Module:
    """`add_attention`, with the choice whether options are adapted to each place.

    Args:
        model: The network; changed in place.
        name: One of `sgenet.list_attention()`.
        options: Keyword arguments of the attention module.
        keep_output: Start as the identity.
        fit: Adapt options to each place; False takes them as they are, and fails where they are impossible.

    Returns:
        `model`.

    Raises:
        UnknownNameError, ConfigError: As `add_attention`.
    """
    cls = attention_class(name)
    if attention_report(model) is not None:
        raise ConfigError(
            f"this {type(model).__name__} has '{attention_report(model).attention}' already; "  # type: ignore[union-attr]
            "add attention to a network without it"
        )
    sites = find_sites(model)
    if not sites:
        raise ConfigError(
            f"{type(model).__name__} has no place for attention that sgenet knows: "
            "it takes networks with residual blocks of torchvision's or timm's ResNets"
        )
    asked = _defaults(cls) | options
    placed, passed_over, built = [], [], []
    for site in sites:
        if site.rule.present(model.get_submodule(site.block)) is not None:
            passed_over.append((site.module, "has attention already"))
            continue
        used = cls.fit_options(site.channels, asked) if fit else asked
        built.append((site, _build(name, site, used, model, keep_output=keep_output)))
        placed.append(Placed(site.module, site.channels, used, _difference(asked, used)))
    if not placed:
        raise ConfigError(f"every residual block of this {type(model).__name__} has attention already")
    for site, attention in built:  # only now: an error above leaves the network as it was
        _attach(model, site, attention)
    set_attention_report(model, AttentionReport(name, tuple(placed), tuple(passed_over)))
    return model


def attach_recorded(model: nn.Module, report: AttentionReport) -> nn.Module:
    """Put attention where a report says that it was; for loading a checkpoint.

    Args:
        model: The host network without attention; changed in place.
        report: What surgery did to a network of the same architecture.

    Returns:
        `model`, with fresh attention modules.

    Raises:
        ConfigError: If the network lacks one of the report's places.
    """
    sites = {site.module: site for site in find_sites(model)}
    for placed in report.placed:
        site = sites.get(placed.module)
        if site is None or site.channels != placed.channels:
            raise ConfigError(
                f"this {type(model).__name__} has no place '{placed.module}' with {placed.channels} channels; "
                "give the network that the report was made for"
            )
        _attach(model, site, _build(report.attention, site, placed.options, model, keep_output=False))
    set_attention_report(model, report)
    return model


def _build(name: str, site: Site, options: dict[str, Any], model: nn.Module, *, keep_output: bool) -> Attention:
    example = next(model.get_submodule(site.block).parameters())
    attention = create_attention(name, site.channels, **options, device=example.device, dtype=example.dtype)
    if keep_output:
        with torch.no_grad():
            attention.start_as_identity()
    return attention.train(model.get_submodule(site.block).training)


def _attach(model: nn.Module, site: Site, attention: Attention) -> None:
    model.set_submodule(site.block, site.rule.attach(model.get_submodule(site.block), attention))


def _defaults(cls: type[Attention]) -> dict[str, Any]:
    """The options of a module's class that shape it: complete, so that a description outlives a changed default."""
    parameters = inspect.signature(cls).parameters
    return {k: p.default for k, p in parameters.items() if k not in ("channels", "device", "dtype")}


def _difference(asked: dict[str, Any], used: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v} instead of {asked[k]}" for k, v in used.items() if asked[k] != v)
