"""Find the places in a network where attention belongs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sgenet.surgery.blocks import BlockRule, block_rule

__all__ = ["Site", "find_sites"]


@dataclass(frozen=True)
class Site:
    """A place for attention: the end of a residual branch, before the sum.

    Attributes:
        block: Name of the residual block in the network, e.g. "layer1.0".
        channels: Channels of the branch's output.
        rule: How the block takes attention.
    """

    block: str
    channels: int
    rule: BlockRule

    @property
    def module(self) -> str:
        """Name that the attention module has, or will have, in the network."""
        return f"{self.block}.{self.rule.key}"


def find_sites(model: nn.Module) -> list[Site]:
    """Every residual block of torchvision's and timm's ResNets in `model`, in the order of its modules.

    Args:
        model: Any network; one without such blocks has no sites.

    Returns:
        The sites, including those whose block has attention already.

    Examples:
        >>> import torchvision
        >>> [site.module for site in find_sites(torchvision.models.resnet18())][:2]
        ['layer1.0.attention', 'layer1.1.attention']
    """
    sites = []
    for name, module in model.named_modules():
        rule = block_rule(module)
        if rule is not None and name:
            sites.append(Site(name, rule.channels(module), rule))
    return sites
