"""Residual blocks that have a place for attention between the last BN of the branch and the sum.

torchvision's blocks have no such place, so each gets a subclass whose forward has one; timm's blocks have the slot
`se`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torchvision.models import resnet as tv_resnet

if TYPE_CHECKING:
    from sgenet.attention import Attention

__all__ = ["BasicBlockWithAttention", "BlockRule", "BottleneckWithAttention", "block_rule"]


class BasicBlockWithAttention(tv_resnet.BasicBlock):
    """torchvision's BasicBlock with `attention` after its second BN."""

    attention: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, C, H, W) to (B, C', H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.attention(self.bn2(self.conv2(branch)))
        return self.relu(branch.add_(identity))  # type: ignore[no-any-return]


class BottleneckWithAttention(tv_resnet.Bottleneck):
    """torchvision's Bottleneck with `attention` after its third BN."""

    attention: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, C, H, W) to (B, C', H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.attention(self.bn3(self.conv3(branch)))
        return self.relu(branch.add_(identity))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class BlockRule:
    """How one kind of block takes attention.

    Attributes:
        key: Name of the attribute that will hold the module.
        channels: Channels of the residual branch's output, read off the block.
        attach: Returns the block that takes the place of the given one (it may be the same object).
    """

    key: str
    channels: Callable[[nn.Module], int]
    attach: Callable[[nn.Module, Attention], nn.Module]

    def present(self, block: nn.Module) -> nn.Module | None:
        """The attention module that the block has already, if any."""
        return getattr(block, self.key, None)


def _rebuild(subclass: type[nn.Module]) -> Callable[[nn.Module, Attention], nn.Module]:
    def attach(block: nn.Module, attention: Attention) -> nn.Module:
        # The new block shares the old one's children, hooks and flags, so that its keys and tensors stay as they are.
        rebuilt = subclass.__new__(subclass)
        rebuilt.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in block.__dict__.items()}
        rebuilt.attention = attention
        return rebuilt

    return attach


def _fill_slot(block: nn.Module, attention: Attention) -> nn.Module:
    block.se = attention
    return block


def _norm_channels(name: str) -> Callable[[nn.Module], int]:
    def channels(block: nn.Module) -> int:
        return int(getattr(block, name).weight.shape[0])

    return channels


def _torchvision_rules() -> dict[type[nn.Module], BlockRule]:
    basic = BlockRule("attention", _norm_channels("bn2"), _rebuild(BasicBlockWithAttention))
    bottleneck = BlockRule("attention", _norm_channels("bn3"), _rebuild(BottleneckWithAttention))
    return {
        tv_resnet.BasicBlock: basic,
        tv_resnet.Bottleneck: bottleneck,
        BasicBlockWithAttention: basic,
        BottleneckWithAttention: bottleneck,
    }


def _timm_rules(block: nn.Module) -> dict[type[nn.Module], BlockRule]:
    if not type(block).__module__.startswith("timm."):
        return {}  # timm is optional, and slow to import for a network that has nothing of it
    from timm.models import resnet as timm_resnet

    return {
        timm_resnet.BasicBlock: BlockRule("se", _norm_channels("bn2"), _fill_slot),
        timm_resnet.Bottleneck: BlockRule("se", _norm_channels("bn3"), _fill_slot),
    }


def block_rule(block: nn.Module) -> BlockRule | None:
    """The rule for a block of exactly a known class; a subclass may compute something else and has none."""
    return (_torchvision_rules() | _timm_rules(block)).get(type(block))
