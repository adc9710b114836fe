"""Norms folded, residual blocks ended in one operator, constant factors gone.

A module is traced by torch.fx as a whole where that works; where it does not (detectors, data-dependent forwards), the
parts of it are tried, down to single blocks. Folding changes layers alone, so that it holds whoever calls them; sums
and attention are joined in the traced program, which then takes the module's place.
"""

from __future__ import annotations

import copy
import inspect
import itertools

import torch
from torch import fx, nn

from sgenet.attention import Attention, ConvBlockAttention
from sgenet.errors import ConfigError
from sgenet.inference.layers import folded, is_hooked, is_norm, why_not_folded
from sgenet.inference.modules import for_inference
from sgenet.inference.program import Program, joined_name, shared_modules
from sgenet.inference.report import REPORT_ATTRIBUTE, OptimizationReport, optimization_report
from sgenet.inference.tracing import trace

__all__ = ["optimize"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_SHOWN = 100  # letters of an error of somebody else's code


def optimize(model: nn.Module) -> nn.Module:
    """Make a faster copy of a network, for inference alone.

    The copy computes what the network computes in eval mode, up to rounding:

    - Every batch norm that follows a convolution or a linear layer becomes a part of it.
    - Where an attention module of this package is followed by the block's sum and ReLU, the three are one operator.
    - The constant factor of a module that started as the identity becomes a part of the layer in front of it.
    - Other sums and ReLUs write over what nobody reads any more.
    - Dropout, stochastic depth and identities are left out.

    It keeps device, dtype and memory format, and works with `torch.compile`, `torch.export`, `copy.deepcopy` and
    autocast. Its parameters want no gradient.

    Args:
        model: Any network, in any mode; it is left as it is.

    Returns:
        The copy; `sgenet.inference.optimization_report` says what was done, and what was left and why.

    Raises:
        ConfigError: If `model` is no module, or one that `torch.compile` or TorchScript made.

    Source:
        Folding: torch.nn.utils.fusion. That SGE may take a factor of its input: with s x in place of x, every
        similarity of arXiv 1905.09646, section 3, is s² times as large, and so is its deviation; with s² ε in place of
        ε the gate stays what it is.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> faster = optimize(model)
        >>> print(optimization_report(faster))
        1 norm folded, 0 attention modules joined with sum and ReLU, 0 factors folded, 1 step in place
        >>> x = torch.randn(1, 3, 8, 8)
        >>> torch.allclose(faster(x), model.eval()(x), atol=1e-6)
        True
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"optimize takes a torch.nn.Module, not {type(model).__name__}")
    if hasattr(model, "_orig_mod") or isinstance(model, torch.jit.ScriptModule):
        raise ConfigError("this network is compiled already; optimize it first, and give the result to the compiler")
    copied = copy.deepcopy(model).eval()
    if optimization_report(copied) is not None:
        return copied
    work = _Work(copied)
    for name, module in copied.named_modules():
        if isinstance(module, Attention):
            work.fold_inside(module, name)
    optimized = for_inference(work.optimized(copied, whole=True), {REPORT_ATTRIBUTE: work.report})
    return optimized.eval().requires_grad_(False)


class _Work:
    """One pass over a copy of a network, which it changes."""

    def __init__(self, network: nn.Module) -> None:
        self.report = OptimizationReport()
        self.shared = shared_modules(network)

    def fold_inside(self, attention: Attention, name: str) -> None:
        """Fold the norms that an attention module has itself: to the tracer it is a single step."""
        for sequence in attention.modules():
            if isinstance(sequence, nn.Sequential):
                for first, second in itertools.pairwise(list(sequence._modules)):
                    self._fold_pair(sequence, first, second)
        if isinstance(attention, ConvBlockAttention):
            self._fold_pair(attention, "conv", "norm")
        for inner, module in attention.named_modules():
            if is_norm(module):
                self.report.leave(joined_name(name, inner), "it is a part of an attention module, and behind no layer")

    def optimized(self, module: nn.Module, name: str = "", *, whole: bool = False) -> nn.Module:
        """What takes the place of a module: a program, or itself with other layers."""
        graph = self._traced(module, name)
        if graph is None:
            self._optimize_children(module, name)
            return module
        program = Program(module, graph, name, self.report, self.shared)
        program.fold()
        if isinstance(module, _CONTAINERS) and not whole:
            # Who holds a container may index its members, so it stays one, and each of them is seen by itself.
            self._optimize_children(module, name)
            return module
        for inner, opaque in program.opaque():
            self._optimize_children(opaque, inner)
        return program.compiled() if program.join() or whole else module

    def _fold_pair(self, owner: nn.Module, first: str, second: str) -> None:
        layer, norm = owner.get_submodule(first), owner.get_submodule(second)
        free = not any(is_hooked(m) or id(m) in self.shared for m in (layer, norm))
        if free and is_norm(norm) and why_not_folded(layer, norm) is None:
            setattr(owner, first, folded(layer, norm))
            setattr(owner, second, nn.Identity())
            self.report.norms += 1

    def _optimize_children(self, module: nn.Module, name: str) -> None:
        for child, part in list(module.named_children()):
            if not isinstance(part, Attention) and not is_norm(part) and next(part.children(), None) is not None:
                module._modules[child] = self.optimized(part, joined_name(name, child))

    def _traced(self, module: nn.Module, name: str) -> fx.Graph | None:
        """The graph of a module, or None where there is none; then why goes to the report."""
        if type(module) in (nn.ModuleList, nn.ModuleDict):
            return None  # nobody calls it
        try:
            reason = _why_not_traced(module)
            if reason is None:
                return trace(module)
        except Exception as error:  # tracing runs the network's own code, which may raise anything
            reason = f"torch.fx cannot trace it: {' '.join(str(error).split())[:_SHOWN] or type(error).__name__}"
        if any(is_norm(part) or isinstance(part, Attention) for part in module.modules()):
            self.report.leave(name, reason)
        return None


def _why_not_traced(module: nn.Module) -> str | None:
    if isinstance(module, Attention):
        return "it is an attention module by itself"
    if is_hooked(module):
        return "it has hooks, which see what goes in and comes out of it alone"
    if "forward" in vars(module):
        return "its forward was replaced"
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return "its forward takes optional arguments"  # of which a trace would know one case
    return None
