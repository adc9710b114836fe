"""The steps of a module's forward pass, as torch.fx sees them, and what can be done to them."""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from sgenet.attention import Attention
from sgenet.inference.factors import takes_factor, without_factor
from sgenet.inference.layers import (
    behind,
    does_nothing,
    is_hooked,
    is_linear,
    is_norm,
    takes_scaling,
    why_not_folded,
)
from sgenet.inference.modules import InferenceGraph, InferenceOnly, Join, Sum
from sgenet.inference.report import OptimizationReport

__all__ = ["Program", "joined_name"]

_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_SUMS_IN_PLACE = {operator.iadd, "add_"}
_RELUS = {F.relu, torch.relu, torch.relu_, F.relu_, "relu", "relu_"}
_RELUS_IN_PLACE = {torch.relu_, F.relu_, "relu_"}
_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}


class Program:
    """The graph that torch.fx made of a module's forward pass, and the layers that it calls.

    Args:
        module: The module; it stays as it is.
        graph: The graph.
        name: The module's name in the network.
        report: What is done and left goes there.
        folded: As `sgenet.inference.layers.folded`.
    """

    def __init__(
        self,
        module: nn.Module,
        graph: fx.Graph,
        name: str,
        report: OptimizationReport,
        folded: Callable[[nn.Module, nn.Module | None, float], nn.Module],
    ) -> None:
        self.module = module
        self.graph = graph
        self.name = name
        self.report = report
        self.folded = folded
        called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        self.layers = {target: module.get_submodule(target) for target in called}
        self.calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
        self.read = {str(node.target).rpartition(".")[0] for node in graph.nodes if _reads_values(node)}

    def fold(self) -> None:
        """Make norms and factors parts of the layers in front of them, in the module and in the graph."""
        self._leave_out()
        for node in self._calls_of(is_norm):
            self._fold_norm(node)
        for node in self._calls_of(lambda module: isinstance(module, Attention) and module.scale != 1.0):
            self._fold_factor(node)

    def join(self) -> None:
        """Join attention, sums and ReLUs in the graph."""
        for node in list(self.graph.nodes):
            if self._summands(node) is not None and not self._join_attention(node):
                self._sum_in_place(node)
        for node in list(self.graph.nodes):
            if self._relu(node) == "new" and self._is_free(_input(node)):
                self._substitute(node, node, torch.relu_, (node.args[0],))
                self.report.in_place += 1

    def opaque(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules that the graph calls without looking into them, by their names in the network."""
        for target in self.calls:
            module = self.module.get_submodule(str(target))
            if not isinstance(module, Attention | InferenceOnly) and not is_norm(module):
                yield joined_name(self.name, str(target)), module

    def compiled(self, settings: dict[str, Any]) -> InferenceGraph:
        """The module that executes the graph, with some attributes."""
        self.graph.lint()
        read = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        return InferenceGraph(
            {**{target: self._value(target) for target in read}, **self.layers},
            self.graph,
            type(self.module).__name__,
            settings,
        )

    def _value(self, target: str) -> Any:  # noqa: ANN401  # most often a tensor
        """What the graph reads by a name: of the layer that it calls, where it is a part of one."""
        layer = next((called for called in self.layers if target.startswith(f"{called}.")), None)
        if layer is None:
            return operator.attrgetter(target)(self.module)
        return operator.attrgetter(target.removeprefix(f"{layer}."))(self.layers[layer])

    # ------------------------------------------------------------------------------------ layers

    def _leave_out(self) -> None:
        for node in list(self.graph.nodes):
            module = self._called(node)
            idle = module is not None and does_nothing(module) and not is_hooked(module)
            if idle or (node.op == "call_function" and _is_idle_dropout(node)):
                node.replace_all_uses_with(_input(node))
                self.graph.erase_node(node)

    def _fold_norm(self, node: fx.Node) -> None:
        reason = self._why_norm_stays(node)
        if reason is not None:
            self._leave(node, reason)
            return
        source, norm = _input(node), self._called(node)
        rest = behind(norm)
        factor = self._take_factor(node) if type(rest) is nn.Identity else 1.0
        self._replace(source, self.folded(self._called(source), norm, factor))
        self._replace(node, rest)
        if type(rest) is nn.Identity:
            node.replace_all_uses_with(source)
            self.graph.erase_node(node)
        self.report.norms += 1

    def _why_norm_stays(self, node: fx.Node) -> str | None:
        if not self._is_alone(node):
            return "it is used more than once, or has hooks"
        source = _input(node)
        layer = self._called(source)
        if layer is None:
            return "there is no convolution or linear layer in front of it"
        reason = why_not_folded(layer, self._called(node))
        if reason is None and not (self._is_alone(source) and len(source.users) == 1):
            return f"the {type(layer).__name__} in front of it is used elsewhere too, or has hooks"
        if reason is None and is_linear(layer) and not self._is_flat(source):
            return "it may normalise an axis that the linear layer in front of it does not change"
        return reason

    def _is_flat(self, node: Any) -> bool:  # noqa: ANN401  # a node or what else stands among arguments
        """Whether a node certainly returns (batch, features), on which BatchNorm1d and a linear layer agree."""
        while isinstance(node, fx.Node) and node.op in ("call_module", "call_function", "call_method"):
            module = self._called(node)
            if isinstance(module, nn.Flatten):
                return (module.start_dim, module.end_dim) == (1, -1)
            if node.target in (torch.flatten, "flatten"):
                return node.args[1:] == (1,) or dict(node.kwargs) == {"start_dim": 1}
            elementwise = type(module).__module__ == "torch.nn.modules.activation" or self._relu(node) is not None
            if not (isinstance(module, nn.Linear | nn.BatchNorm1d) or elementwise):
                return False
            node = _input(node)
        return False

    def _fold_factor(self, node: fx.Node) -> None:
        attention, source = self._called(node), _input(node)
        layer = self._called(source)
        if not takes_factor(attention):
            self._leave(node, "its factor is no other layer's to take")
        elif not (takes_scaling(layer) and self._is_alone(source) and len(source.users) == 1 and self._is_alone(node)):
            self._leave(node, "no layer of its own in front of it takes its factor")
        else:
            self._replace(source, self.folded(layer, None, self._take_factor(source)))

    def _take_factor(self, node: fx.Node) -> float:
        """The factor of the attention that is the only reader of a node; then it has none any more."""
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        attention = self._called(reader)
        if reader is None or not takes_factor(attention) or not self._is_alone(reader):
            return 1.0
        self._replace(reader, without_factor(attention))
        self.report.factors += 1
        return float(attention.scale)

    # ------------------------------------------------------------------------------------ sums

    def _join_attention(self, node: fx.Node) -> bool:
        """Make one step of attention, sum and ReLU, if that is what the sum `node` is the middle of."""
        relu = self._relu_behind(node)
        for branch, residual in self._orders(node):
            attention = self._called(branch)
            if relu is None or not isinstance(attention, Attention):
                continue
            if not (self._is_alone(branch) and len(branch.users) == 1):
                continue
            if not self._is_free(_input(branch)):
                self._leave(branch, "it cannot write over its input, which may be used elsewhere too")
                continue
            self._replace(branch, Join(attention))
            self._substitute(node, relu, str(branch.target), (branch.args[0], residual))
            for done in (node, branch):
                self.graph.erase_node(done)
            self.report.joins += 1
            return True
        return False

    def _sum_in_place(self, node: fx.Node) -> None:
        relu = self._relu_behind(node)
        if node.target in _SUMS_IN_PLACE and (relu is None or self._relu(relu) == "over"):
            return  # as it is
        for first, second in self._orders(node):
            if self._is_free(first):
                target = self._add_sum(Sum(relu=relu is not None))
                self._substitute(node, relu or node, target, (first, second))
                if relu is not None:
                    self.graph.erase_node(node)
                self.report.in_place += 1
                return

    def _summands(self, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
        """What a node adds, where that is two results."""
        if node.op not in ("call_function", "call_method") or node.target not in _SUMS or node.kwargs:
            return None
        nodes = [summand for summand in node.args if isinstance(summand, fx.Node)]
        return (nodes[0], nodes[1]) if len(nodes) == len(node.args) == 2 and nodes[0] is not nodes[1] else None

    def _orders(self, node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
        """A sum's two summands, in the orders in which the first may be written over in place of what was."""
        first, second = self._summands(node) or (None, None)
        if first is not None and second is not None:
            yield first, second
            if node.target not in _SUMS_IN_PLACE or self._is_free(first):
                yield second, first

    def _relu_behind(self, node: fx.Node) -> fx.Node | None:
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        return reader if reader is not None and self._relu(reader) is not None else None

    def _relu(self, node: fx.Node) -> str | None:
        """Whether a ReLU has a "new" result or writes it "over" its input; None for what is no ReLU."""
        module = self._called(node)
        if type(module) is nn.ReLU:
            return None if is_hooked(module) else "over" if module.inplace else "new"
        if node.op not in ("call_function", "call_method") or node.target not in _RELUS or len(node.args) != 1:
            return None
        return "over" if node.target in _RELUS_IN_PLACE or node.kwargs.get("inplace") else "new"

    def _is_free(self, node: Any) -> bool:  # noqa: ANN401
        """Whether a node's one reader may write over it: it is fresh memory that nothing else looks at."""
        return isinstance(node, fx.Node) and len(node.users) == 1 and self._is_fresh(node)

    def _is_fresh(self, node: fx.Node) -> bool:
        """Whether a node returns a tensor in memory that no other node's result lies in."""
        module = self._called(node)
        if module is not None and is_hooked(module):
            return False  # a hook may have kept the result
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or (module is not None and is_norm(module)):
            return True
        if self._relu(node) == "new":
            return True
        if self._relu(node) == "over" or isinstance(module, Attention | Join | Sum):
            return self._is_free(_input(node))
        summands = self._summands(node)
        if summands is None:
            return False
        if node.target in _SUMS_IN_PLACE:
            return self._is_free(summands[0])
        # What is added to a map is a map; sizes are added too, and cannot be written over.
        return any(self._is_fresh(summand) for summand in summands)

    # ------------------------------------------------------------------------------------ the graph

    def _called(self, node: fx.Node | None) -> Any:  # noqa: ANN401  # a layer, whose attributes are no Module's
        """The module that a node calls, or None."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        return self.layers[str(node.target)]

    def _calls_of(self, kind: Callable[[nn.Module], bool]) -> list[fx.Node]:
        return [node for node in self.graph.nodes if node.op == "call_module" and kind(self._called(node))]

    def _is_alone(self, node: fx.Node) -> bool:
        """Whether a node is the only one to use the module that it calls, and nobody watches."""
        target = str(node.target)
        once = self.calls[target] == 1 and not any(target.startswith(f"{caller}.") for caller in self.calls)
        watched = is_hooked(self._called(node)) or any(f"{read}.".startswith(f"{target}.") for read in self.read)
        return once and not watched and len(node.args) == 1 and not node.kwargs

    def _leave(self, node: fx.Node, reason: str) -> None:
        self.report.leave(joined_name(self.name, str(node.target)), reason)

    def _replace(self, node: fx.Node, module: nn.Module) -> None:
        self.layers[str(node.target)] = module

    def _add_sum(self, module: Sum) -> str:
        """Give a module to the program, and return its name."""
        names = (f"sum{k}" for k in itertools.count(1))
        name = next(n for n in names if n not in self.layers and not hasattr(self.module, n))
        self.layers[name] = module
        return name

    def _substitute(
        self, place: fx.Node, replaced: fx.Node, target: str | Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        """Put a call in front of `place`, for all who read `replaced`, which goes."""
        with self.graph.inserting_before(place):
            new = self.graph.create_node("call_module" if isinstance(target, str) else "call_function", target, args)
        new.meta = dict(place.meta)
        replaced.replace_all_uses_with(new)
        self.graph.erase_node(replaced)


def joined_name(name: str, child: str) -> str:
    """The name of a module's child in the network."""
    return f"{name}.{child}" if name else child


def _input(node: fx.Node) -> Any:  # noqa: ANN401  # most often a node
    """What a step is applied to."""
    return node.args[0] if len(node.args) > 0 else node.kwargs.get("input")


def _reads_values(node: fx.Node) -> bool:
    """Whether a step reads a tensor of a module for more than its dtype or device."""
    kinds = ("dtype", "device")
    return node.op == "get_attr" and not all(u.target is getattr and u.args[1] in kinds for u in node.users)


def _is_idle_dropout(node: fx.Node) -> bool:
    """Whether a step is dropout or stochastic depth, which do nothing in eval mode."""
    if node.target is stochastic_depth:
        return node.kwargs.get("training", node.args[3] if len(node.args) > 3 else True) is False
    return node.target in _DROPOUTS and node.kwargs.get("training", True) is False and not node.kwargs.get("inplace")
