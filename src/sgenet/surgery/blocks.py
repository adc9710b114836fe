"""Residual blocks whose own ways of taking attention are known.

torchvision's blocks have no place for it, so each gets a subclass whose forward has one; timm's ResNet blocks have the
slot `se`; both have the slot `downsample` on the shortcut.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.module import _has_any_global_hook as has_any_global_hook
from torchvision.models import resnet as tv_resnet

from sgenet.attention import Attention

__all__ = [
    "BasicBlockWithAttention",
    "BottleneckWithAttention",
    "has_slot",
    "is_known_block",
    "shortcut_slot",
    "with_attention",
    "without_attention",
]


class BasicBlockWithAttention(tv_resnet.BasicBlock):
    """torchvision's BasicBlock with `attention` after its second BN."""

    attention: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, C, H, W) to (B, C', H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        branch = self.relu(self.bn1(self.conv1(x)))
        return _join(self, branch, identity, self.conv2, self.bn2)


class BottleneckWithAttention(tv_resnet.Bottleneck):
    """torchvision's Bottleneck with `attention` after its third BN."""

    attention: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, C, H, W) to (B, C', H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        return _join(self, branch, identity, self.conv3, self.bn3)


def _join(
    block: BasicBlockWithAttention | BottleneckWithAttention,
    branch: Tensor,
    identity: Tensor,
    last: nn.Module,
    norm: nn.Module,
) -> Tensor:
    """The end of a block, from its last convolution on."""
    attention, relu = block.attention, block.relu
    branch = last(branch)
    kept = bool(last._forward_hooks)  # by whoever wants to see it, and it must not be written over
    watched = kept or _watched(branch, norm, attention, relu)
    if isinstance(attention, Attention) and type(relu) is nn.ReLU and not watched:
        return attention.join(branch, identity, norm)
    return relu(attention(norm(branch)).add_(identity))  # type: ignore[no-any-return]


def _watched(branch: Tensor, *parts: nn.Module) -> bool:
    """Whether someone wants to see the modules one by one: torch.fx, or a hook."""
    for part in parts:
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
            return True
    return isinstance(branch, Proxy) or has_any_global_hook()  # type: ignore[no-untyped-call, no-any-return]


_SUBCLASSES: dict[type[nn.Module], type[nn.Module]] = {
    tv_resnet.BasicBlock: BasicBlockWithAttention,
    tv_resnet.Bottleneck: BottleneckWithAttention,
}
_CLASSES = {subclass: cls for cls, subclass in _SUBCLASSES.items()}


def is_known_block(block: nn.Module) -> bool:
    """Whether a block is of exactly a class that has a subclass with attention; a subclass may compute otherwise."""
    return type(block) in _SUBCLASSES


def has_slot(block: nn.Module) -> bool:
    """Whether a block has timm's slot `se` at the end of its branch."""
    return type(block) in _timm_blocks(block)


def shortcut_slot(block: nn.Module) -> str | None:
    """Name of an empty slot on a block's shortcut."""
    known = (*_SUBCLASSES, *_CLASSES, *_timm_blocks(block))
    return "downsample" if type(block) in known and block.downsample is None else None


def with_attention(block: nn.Module, attention: nn.Module) -> nn.Module:
    """A known block with attention. It shares the old one's children, hooks and flags: keys and tensors stay."""
    rebuilt = _rebuilt(block, _SUBCLASSES[type(block)])
    rebuilt.attention = attention
    return rebuilt


def without_attention(block: nn.Module) -> nn.Module:
    """What `with_attention` was given."""
    rebuilt = _rebuilt(block, _CLASSES[type(block)])
    del rebuilt.attention
    return rebuilt


def _rebuilt(block: nn.Module, cls: type[nn.Module]) -> nn.Module:
    rebuilt = cls.__new__(cls)
    rebuilt.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in block.__dict__.items()}
    return rebuilt


def _timm_blocks(block: nn.Module) -> tuple[type[nn.Module], ...]:
    if not type(block).__module__.startswith("timm."):
        return ()  # timm is optional, and slow to import for a network that has nothing of it
    from timm.models import resnet as timm_resnet

    return timm_resnet.BasicBlock, timm_resnet.Bottleneck
