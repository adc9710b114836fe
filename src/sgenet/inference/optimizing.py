"""Norms folded, residual blocks ended in one operator, constant factors gone.

A network is traced by torch.fx as a whole where that works, and a program takes its place. Where it does not work
(detectors, data-dependent forwards), the parts of it are tried, down to single blocks. Who calls a part, or layers of
it one by one, is not known then: a part that is called executes its program, and all that is in it stays what it was.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections import Counter
from functools import cache

import torch
from torch import Tensor, fx, nn

from sgenet.attention import Attention, ConvBlockAttention
from sgenet.errors import ConfigError
from sgenet.inference.layers import folded, is_hooked, is_norm, why_not_folded
from sgenet.inference.modules import InferenceOnly, execute, for_inference, settings_of
from sgenet.inference.program import Program, joined_name
from sgenet.inference.report import REPORT_ATTRIBUTE, OptimizationReport
from sgenet.inference.tracing import trace

__all__ = ["optimize"]

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
        ConfigError: If `model` is no module, one that `torch.compile` or TorchScript made, or one that cannot be
            copied.

    Source:
        Folding: torch.nn.utils.fusion. That SGE may take a factor of its input: with s x in place of x, every
        similarity of arXiv 1905.09646, section 3, is s² times as large, and so is its deviation; with s² ε in place of
        ε the gate stays what it is.

    Examples:
        >>> from sgenet.inference import optimization_report
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
    copied = _copied(model).eval()
    if isinstance(copied, InferenceOnly):
        return copied
    work = _Work(copied)
    for name, module in copied.named_modules():
        if isinstance(module, Attention):
            work.fold_inside(module, name)
    optimized = for_inference(work.optimized(copied), {REPORT_ATTRIBUTE: work.report})
    return optimized.eval().requires_grad_(False)


def _copied(model: nn.Module) -> nn.Module:
    # What a hook computes of parameters before each call (old weight norms, pruning) is no leaf, which has no copy.
    computed = [t for m in model.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf]
    try:
        return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})
    except Exception as error:  # a network's own code copies it, which may raise anything
        raise ConfigError(
            f"optimize changes a copy, and copy.deepcopy cannot copy this network ({_shown(error)}); take out what "
            "cannot be copied, and optimize the network then"
        ) from error


class _Work:
    """One pass over a copy of a network."""

    def __init__(self, network: nn.Module) -> None:
        self.report = OptimizationReport()
        counts = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
        self.shared = {identity for identity, count in counts.items() if count > 1}
        self.folded = cache(folded)  # the programs of a part and of a part of that have the same layers

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

    def optimized(self, network: nn.Module) -> nn.Module:
        """What takes the place of the network: a program, or itself with parts that execute programs."""
        program = self._program(network, "", self.report)
        if program is None:
            self._optimize_children(network, "", self.report)
            return network
        for inner, opaque in program.opaque():
            self._optimize_children(opaque, inner, self.report)
        return program.compiled(settings_of(network))

    def _program(self, module: nn.Module, name: str, report: OptimizationReport) -> Program | None:
        graph = _traced(module, name, report)
        if graph is None:
            return None
        program = Program(module, graph, name, report, self.folded)
        program.fold()
        program.join()
        return program

    def _fold_pair(self, owner: nn.Module, first: str, second: str) -> None:
        layer, norm = owner.get_submodule(first), owner.get_submodule(second)
        free = not any(is_hooked(m) or id(m) in self.shared for m in (layer, norm))
        if free and is_norm(norm) and why_not_folded(layer, norm) is None:
            setattr(owner, first, folded(layer, norm))
            setattr(owner, second, nn.Identity())
            self.report.norms += 1

    def _optimize_children(self, module: nn.Module, name: str, report: OptimizationReport) -> None:
        for child, part in module.named_children():
            known = isinstance(part, Attention | InferenceOnly) or is_norm(part)
            if not known and next(part.children(), None) is not None:
                self._optimize_part(part, joined_name(name, child), report)

    def _optimize_part(self, part: nn.Module, name: str, report: OptimizationReport) -> None:
        """Let a part execute a program when it is called, and its own parts when they are."""
        before = report.steps
        program = self._program(part, name, report)
        if program is None:
            self._optimize_children(part, name, report)
            return
        changed = report.steps > before
        for inner, opaque in program.opaque():
            self._optimize_children(opaque, inner, report)
        # What else is called inside is a part of what was reported, once more for those who call it by itself.
        self._optimize_children(part, name, OptimizationReport())
        if changed:
            execute(program.compiled({}), part)


def _traced(module: nn.Module, name: str, report: OptimizationReport) -> fx.Graph | None:
    """The graph of a module, or None where there is none; then why goes to the report."""
    if type(module) in (nn.ModuleList, nn.ModuleDict):
        return None  # nobody calls it
    try:
        reason = _why_not_traced(module, name)
        if reason is None:
            return trace(module)
    except Exception as error:  # tracing runs the network's own code, which may raise anything
        reason = f"torch.fx cannot trace it: {_shown(error)}"
    if any(is_norm(part) or isinstance(part, Attention) for part in module.modules()):
        report.leave(name, reason)
    return None


def _shown(error: Exception) -> str:
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__


def _why_not_traced(module: nn.Module, name: str) -> str | None:
    if isinstance(module, Attention):
        return "it is an attention module by itself"
    if name and isinstance(module, fx.GraphModule):
        return "it is a program of torch.fx, and no copy of it would have another one"
    if is_hooked(module):
        return "it has hooks, which see what goes in and comes out of it alone"
    if "forward" in vars(module):
        return "its forward was replaced"
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return "its forward takes optional arguments"  # of which a trace would know one case
    return None
