"""One run of the graph that is lowered: what every tensor looks like, which of them depend on no input, and where the samples lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from halfstep.graph.names import operator_name
from halfstep.graph.operators import FILLS, argument
from halfstep.integer.lower.layout import Layout, find_layout
from halfstep.integer.lower.refusal import NoIntegerFormError

_MOVES = (
    "view view_as reshape reshape_as flatten unflatten permute transpose swapaxes t mT numpy_T movedim expand expand_as broadcast_to "
    "repeat repeat_interleave squeeze unsqueeze select index_select getitem roll flip slice narrow contiguous clone alias detach"
)
_MAY_MOVE_THE_BATCH = frozenset(_MOVES.split())
_SHAPED_LIKE = ("expand_as", "view_as", "reshape_as")
_SPLITS = ("chunk", "split", "split_with_sizes", "tensor_split", "unbind")
_REDUCTIONS = ("mean", "sum", "amax", "amin", "argmax")


class Recorder(Interpreter):
    """inputs: of the network, as given. shapes: of every tensor. numbers: every scalar. constants: tensors that no input changes.

    sized: constants that were made for this batch size. layouts: where the samples lie; None where an operator mixed them; constants have
    no entry.
    """

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=True)
        self.shapes: dict[Node, tuple[int, ...]] = {}
        self.numbers: dict[Node, Any] = {}
        self.constants: dict[Node, Tensor] = {}
        self.sized: set[Node] = set()
        self.inputs: dict[Node, Tensor] = {}
        self.layouts: dict[Node, Layout | None] = {}
        self._batch_size = 1

    def record(self, inputs: tuple[Tensor, ...]) -> None:
        """Run on real inputs, batch first."""
        self._batch_size = len(inputs[0])
        with torch.no_grad():
            self.run(*inputs)

    def run_node(self, n: Node) -> Any:
        """Compute one node and note what it is."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
            if n.op == "placeholder":
                self.inputs[n] = result
            if n.op == "get_attr" or self._is_constant(n):
                self.constants[n] = result.detach()
                if any(x in self.numbers or x in self.sized or x in self.layouts for x in n.all_input_nodes):
                    self.sized.add(n)
            elif n.op != "output":
                self.layouts[n] = self._layout(n)
        elif isinstance(result, (int, float)):
            self.numbers[n] = result
        return result

    def _is_constant(self, node: Node) -> bool:
        """Whether a call's result is the same whatever the inputs hold: of a tensor it may read the shape."""
        if not node.op.startswith("call"):
            return False
        is_filled = node.op == "call_function" and operator_name(node) in FILLS
        return is_filled or all(x in self.constants or x in self.numbers for x in node.all_input_nodes)

    def evaluate(self, node: Node, given: dict[Node, Tensor]) -> Tensor:
        """What ``node`` computes where the nodes of ``given`` have these values instead of their own."""
        found: dict[Node, Any] = self._models(node) | given
        waiting = [node]
        while waiting:
            current = waiting[-1]
            missing = [x for x in current.all_input_nodes if x not in found and x not in self.numbers and x not in self.constants]
            if current in found or not missing:
                waiting.pop()
                if current not in found:
                    found[current] = self._computed(current, found)
            waiting += missing
        result = found[node]
        assert isinstance(result, Tensor)
        return result

    def _models(self, node: Node) -> dict[Node, Any]:
        """Something of the shape of the operand that is read for its shape alone."""
        if operator_name(node) not in _SHAPED_LIKE:
            return {}
        return {x: torch.zeros(()).expand(self.shapes[x]) for x in node.all_input_nodes[1:] if x in self.shapes}

    def _computed(self, node: Node, found: dict[Node, Any]) -> Any:
        if node in self.constants:
            return self.constants[node]

        def operand(x: Any) -> Any:
            if not isinstance(x, Node):
                return x
            return next(table[x] for table in (found, self.constants, self.numbers) if x in table)

        args, kwargs = pytree.tree_map(operand, (list(node.args), dict(node.kwargs)))
        if node.op == "placeholder":
            raise NoIntegerFormError(f"what it does depends on the values of the network's input '{node.name}'")
        target: object = self.module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        assert callable(target)
        with torch.no_grad():
            return target(*args, **kwargs)

    def _layout(self, node: Node) -> Layout | None:
        if node.op == "placeholder":
            return Layout()
        read = node.all_input_nodes[:1] if operator_name(node) in _SHAPED_LIKE else node.all_input_nodes
        sources = [x for x in map(_tensor_behind, read) if x in self.layouts]
        if not sources:
            return None
        source = max(sources, key=lambda x: len(self.shapes[x]))
        known = self.layouts[source]
        if known is None:
            return None
        if operator_name(node) in _MAY_MOVE_THE_BATCH:
            return self._moved(node, source, known)
        axis = known.axis + self._shift(node, source, known.axis)
        shape = self.shapes[node]
        fits = 0 <= axis < len(shape) and shape[axis] == self.shapes[source][known.axis]
        return Layout(axis, known.outer, known.inner) if fits else None

    def _shift(self, node: Node, source: Node, axis: int) -> int:
        """By how many places an operator that computes moves the axis of the batch: a mean takes axes away, broadcasting adds some."""
        num_axes, num_before = len(self.shapes[node]), len(self.shapes[source])
        if num_axes < num_before and operator_name(node) in _REDUCTIONS:
            given = argument(node, "dim", None)
            axes: list[int] = [given] if isinstance(given, int) else list(given or range(num_before))
            return -sum(a % num_before < axis for a in axes)
        return 0 if operator_name(node) == "embedding" else max(0, num_axes - num_before)

    def _moved(self, node: Node, source: Node, known: Layout) -> Layout | None:
        """From a run on the numbers of the samples."""
        shape = self.shapes[source]
        numbers = torch.arange(self._batch_size).view(-1, *[1] * len(known.sample(shape)))
        numbers = numbers.expand(-1, *known.sample(shape)).contiguous()
        return find_layout(self.evaluate(node, {source: known.from_samples(numbers, shape)}), self._batch_size)


def _tensor_behind(node: Node) -> Node:
    """The tensor that was split, for the parts of a split; any other node is itself."""
    source = node.args[0] if node.op == "call_function" and operator_name(node) in _SPLITS else node
    assert isinstance(source, Node)
    return source
