"""What a network costs, counted without running it; `sgenet.timing` measures.

Three conventions are in use in this field and are kept apart here, each under its own name:

- `Cost.macs`: multiply-adds of convolutions and matrix products, nothing else. "4.09 GFLOPs" for ResNet-50 is this
  figure, and so are most tables of today.
- `Cost.elementwise`: the operations that the first figure leaves out. Attention modules consist of them, so that a
  table of MACs alone calls them free.
- `Cost.paper_operations`: what the counter of the SGE paper reports, "4.122 GFLOPs" for ResNet-50. It looks at layers
  of known classes only and mixes multiply-adds with single operations; use it to compare with that paper's table.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sgenet.attention import ConvBlockAttention, SelectiveKernelConv, SpatialGroupEnhance, SqueezeExcite
from sgenet.errors import ConfigError
from sgenet.ops import decompositions

__all__ = ["Cost", "count"]

_aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """What one forward pass costs, for an input of `input_size`, in eval mode.

    Attributes:
        input_size: Shape of the input; every figure but `parameters` is for this whole input, batch included.
        parameters: Number of parameters, trainable or not; one that is shared counts once.
        macs: Multiply-adds of convolutions and matrix products (convention: one multiply-add is 1; biases, norms,
            activations, pooling and elementwise products are 0).
        elementwise: Operations outside convolutions and matrix products (convention: one arithmetic operation or
            function such as sigmoid on one element is 1; a reduction or pooling is 1 per input element; a batch norm
            is 2 per element, as it scales and shifts; views and copies are 0).
        bytes_moved: Bytes that the operations read and write, each operation by itself, views free, weights included:
            an upper bound for memory traffic, as caches and fusion save some of it.
        paper_operations: What the SGE paper's counter gives (convention: multiply-adds of convolutions with bias and
            of linear layers without, plus 2 per element for affine batch norm, 1 per element for ReLU, 1 per input
            element for pooling; functional calls are not seen, so that of SGE only its average pooling counts).
    """

    input_size: tuple[int, ...]
    parameters: int
    macs: int
    elementwise: int
    bytes_moved: int
    paper_operations: int

    @property
    def gmacs(self) -> float:
        """`macs` in units of 10^9 multiply-adds."""
        return self.macs / 1e9

    @property
    def paper_gflops(self) -> float:
        """`paper_operations` in units of 10^9: the "GFLOPs" column of the SGE paper's tables."""
        return self.paper_operations / 1e9


def count(model: nn.Module, input_size: Sequence[int] = (1, 3, 224, 224)) -> Cost:
    """Count parameters, operations and bytes of one forward pass.

    The pass runs in eval mode on a twin of the network whose tensors have shapes and no contents, so that it takes
    milliseconds and no memory; the network itself, its mode, device and buffers stay as they are.

    Args:
        model: A network that takes one floating-point tensor.
        input_size: Shape of the input, batch first.

    Returns:
        The figures; `Cost` says which convention each of them follows.

    Raises:
        ConfigError: If the network cannot take an input of this size, or decides by the contents of a tensor what it
            computes (a detector's choice of boxes, say); count such a network's backbone.

    Source:
        `paper_operations` follows the layer rules behind table 1 of arXiv 1905.09646 and reproduces its GFLOPs.

    Examples:
        >>> cost = count(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (1, 3, 10, 10))
        >>> cost.parameters, cost.macs, cost.elementwise, cost.paper_operations
        (224, 13824, 512, 14848)
    """
    if not _is_shape(input_size):
        raise ConfigError(
            f"input_size={input_size!r} must be positive whole numbers, batch first, e.g. (1, 3, 224, 224)"
        )
    parameters = sum(p.numel() for p in model.parameters())
    twin = _without_contents(model).eval()
    dtype = next((p.dtype for p in twin.parameters() if p.is_floating_point()), torch.float32)
    by_layer = _PaperCounter(twin)
    try:
        with torch.no_grad(), _OperationCounter() as operations:
            twin(torch.empty(tuple(input_size), dtype=dtype, device="meta"))
    except Exception as error:  # whatever a network may raise that does not take such an input
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"{type(model).__name__} cannot be counted with an input of {tuple(input_size)}: {reason}"
        ) from error
    return Cost(
        input_size=tuple(input_size),
        parameters=parameters,
        macs=operations.macs,
        elementwise=operations.elementwise,
        bytes_moved=operations.bytes_moved,
        paper_operations=by_layer.operations,
    )


def _is_shape(size: object) -> bool:
    if not isinstance(size, Sequence) or len(size) == 0:
        return False
    return all(isinstance(n, SupportsIndex) and index(n) >= 1 for n in size)


def _without_contents(model: nn.Module) -> nn.Module:
    """A copy of `model` on the meta device; the original's memory is neither copied nor touched."""
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper hides the operations
    memo: dict[int, Any] = {}
    for tensor in _tensors(model):
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = (
            nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        )
    return copy.deepcopy(model, memo)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor):  # constants that a network keeps without registering them
                yield value


# Operations that move elements or write constants and compute nothing, and those that only ask for memory.
_MOVES = {
    _aten._to_copy,
    _aten._upsample_nearest_exact1d,
    _aten._upsample_nearest_exact2d,
    _aten._upsample_nearest_exact3d,
    _aten.block_diag,
    _aten.cat,
    _aten.channel_shuffle,
    _aten.clone,
    _aten.constant_pad_nd,
    _aten.copy_,
    _aten.embedding,
    _aten.fill_,
    _aten.flip,
    _aten.full,
    _aten.full_like,
    _aten.gather,
    _aten.im2col,
    _aten.index,
    _aten.index_put,
    _aten.index_put_,
    _aten.index_select,
    _aten.max_unpool2d,
    _aten.max_unpool3d,
    _aten.narrow_copy,
    _aten.native_channel_shuffle,
    _aten.new_full,
    _aten.new_ones,
    _aten.new_zeros,
    _aten.ones,
    _aten.ones_like,
    _aten.pixel_shuffle,
    _aten.pixel_unshuffle,
    _aten.reflection_pad1d,
    _aten.reflection_pad2d,
    _aten.reflection_pad3d,
    _aten.repeat,
    _aten.replication_pad1d,
    _aten.replication_pad2d,
    _aten.replication_pad3d,
    _aten.roll,
    _aten.rot90,
    _aten.scatter,
    _aten.scatter_,
    _aten.stack,
    _aten.upsample_nearest1d,
    _aten.upsample_nearest2d,
    _aten.upsample_nearest3d,
    _aten.zero_,
    _aten.zeros,
    _aten.zeros_like,
}
_FREE = {_aten._unsafe_view, _aten.detach, _aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty}

# Matrix products that torch's own table of operations lacks; the factors are their last two positional arguments.
_PRODUCTS = {_aten.addbmm, _aten.addmv, _aten.dot, _aten.mv, _aten.vdot}

# Operations on each element where that is not one. Group and layer norm: mean 1, squared deviation 2, then
# scaling and shifting twice, by the statistics and by the parameters, which one pass can join to 2.
_PER_ELEMENT = {
    _aten.native_batch_norm: 2,
    _aten._native_batch_norm_legit_no_training: 2,
    _aten.cudnn_batch_norm: 2,
    _aten.native_group_norm: 5,
    _aten.native_layer_norm: 5,
    _aten._softmax: 3,
    _aten.std: 3,
    _aten.var: 3,
    _aten.var_mean: 3,
}


class _OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what passes the dispatcher: below functional calls, above kernels."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._decompositions = decompositions()
        self.macs = 0
        self.elementwise = 0
        self.bytes_moved = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  # torch's signature
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        del types
        kwargs = kwargs or {}
        if func in self._decompositions:
            with self:
                return self._decompositions[func](*args, **kwargs)
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        if func.is_view or packet in _FREE:
            return out
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        written = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.bytes_moved += sum(_distinct(t) * t.element_size() for t in read + written)
        if packet in flop_registry:
            self.macs += flop_registry[packet](*args, **kwargs, out_val=out) // 2
        elif packet in _PRODUCTS:
            self.macs += _product_macs(*args[-2:])
        elif packet not in _MOVES and written:
            self.elementwise += max(t.numel() for t in read + written) * _PER_ELEMENT.get(packet, 1)
        return out


def _product_macs(left: Tensor, right: Tensor) -> int:
    """Each element of the left factor meets one element of every column of the right one."""
    return left.numel() * (right.shape[-1] if right.dim() > 1 else 1)


def _distinct(tensor: Tensor) -> int:
    """Elements in memory: an axis that a broadcast repeats has stride 0 and is there once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return elements


class _PaperCounter:
    """Counts by layer class, as the SGE paper's counter does."""

    def __init__(self, model: nn.Module) -> None:
        self.operations = 0
        for module in model.modules():
            for kinds, rule in _PAPER_RULES:
                if isinstance(module, kinds):
                    module.register_forward_hook(self._hook(rule), with_kwargs=True)
                    break

    def _hook(self, rule: Callable[[Any, Tensor, Tensor], int]) -> Callable[[nn.Module, Any, Any, Any], None]:
        def add(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
            x, *_ = (*args, *kwargs.values())
            self.operations += rule(module, x, output)

        return add


def _paper_convolution(layer: nn.Conv2d, x: Tensor, y: Tensor) -> int:
    per_position = layer.weight.numel() + (0 if layer.bias is None else layer.out_channels)
    return per_position * (y.numel() // layer.out_channels)


_PAPER_RULES: tuple[tuple[tuple[type[nn.Module], ...], Callable[[Any, Tensor, Tensor], int]], ...] = (
    ((nn.Conv2d,), _paper_convolution),
    ((nn.Linear,), lambda layer, x, y: x.numel() * layer.out_features),
    ((nn.BatchNorm2d,), lambda layer, x, y: x.numel() * (2 if layer.affine else 1)),
    ((nn.ReLU, nn.PReLU, nn.ELU, nn.LeakyReLU, nn.ReLU6), lambda layer, x, y: y.numel()),
    ((nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d), lambda layer, x, y: x.numel()),
    ((nn.Upsample,), lambda layer, x, y: y.numel()),
    # Ours pool by `mean` and `amax`; the paper's code has pooling layers in these four, and ReLU layers in SE and CBAM.
    ((SpatialGroupEnhance,), lambda layer, x, y: x.numel()),
    ((SqueezeExcite,), lambda layer, x, y: x.numel() + x.shape[0] * layer.fc1.out_features),
    ((ConvBlockAttention,), lambda layer, x, y: 2 * (x.numel() + x.shape[0] * layer.fc1.out_features)),
    ((SelectiveKernelConv,), lambda layer, x, y: y.numel()),
)
