"""Walk through a quantized graph and write down, for every grid it meets, the integer operator that fills it.

A quantizer node is a value of the program. What stands behind it (a fused clip, then one operator) is looked up by its role and name in
`LOWERINGS`, and lowered by the function entered there from values to a value. Operators in float between two grids are tried as a table.
What leaves the network without a grid becomes a value of 32 bits. Everything that has no integer form is collected and named in one error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from halfstep.errors import LoweringError
from halfstep.graph.edges import behind_quantizer, is_weight_edge, quantizer_of
from halfstep.graph.names import operator_name
from halfstep.graph.operators import Role, argument, role_of
from halfstep.integer.lower.target import Target
from halfstep.integer.operators import AbstractOperator, Argmax, Constant
from halfstep.integer.requantization import Rescale, relative_error, rescale
from halfstep.integer.value import Value
from halfstep.quantizers import AccumulatorQuantizer, UniformQuantizer

Lower = Callable[["Lowering", Node, Target], str]
_SKIPPED_AT_THE_END = ("softmax", "log_softmax", "_softmax", "_log_softmax")  # keep the order of the scores


class NoIntegerFormError(Exception):
    """One operator cannot be lowered; its text says why. An empty one: for want of a value that failed before it, and is named already."""


class Lowering:
    """The program as far as it is written, and what the functions that write it need to know of the graph.

    names: of the value of each node that has one. errors: of every rescale, by operator, the relative distance from the real scale.
    keeps_output: of each output of the network, whether the program computes it as it is (a softmax at the end is left out).
    """

    def __init__(self, graph: GraphModule, inputs: tuple[Tensor, ...], mode: str) -> None:
        self.graph, self.mode = graph, mode
        self.values: dict[str, Value] = {}
        self.operators: list[AbstractOperator] = []
        self.names: dict[Node, str] = {}
        self.errors: dict[str, float] = {}
        self.failed: set[Node] = set()
        self.notes: list[str] = []
        self.keeps_output: list[bool] = []
        self.seen = _Recorder(graph)
        self.seen.record(inputs)
        self.batch_size = len(inputs[0])

    def emit(self, operator: AbstractOperator, value: Value) -> str:
        """Append an operator and the value it makes; the value's name."""
        if value.name in self.values:
            raise NoIntegerFormError(f"a value called '{value.name}' is there already")
        self.values[value.name] = value
        self.operators.append(operator)
        return value.name

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of one sample of a node's tensor: without the batch, which may share the first axis with something else."""
        full = self.seen.shapes[node]
        if not full or full[0] % self.batch_size:
            raise NoIntegerFormError("the batch is not its first axis")
        return full[1:] if full[0] == self.batch_size else (full[0] // self.batch_size, *full[1:])

    def axis(self, node: Node, axis: int) -> int:
        """An axis of the node's tensor as an axis of one sample."""
        full = self.seen.shapes[node]
        axis %= len(full)
        if axis == 0:
            raise NoIntegerFormError("it works across the samples of a batch")
        return axis - (full[0] == self.batch_size)

    def input(self, node: object) -> Value:
        """The value an operand is; `NoIntegerFormError` where it has no grid."""
        if not isinstance(node, Node) or node not in self.names:
            raise NoIntegerFormError("" if node in self.failed else f"its input '{_name(node)}' is in float")
        return self.values[self.names[node]]

    def rescale(self, name: str, scale: Tensor, mode: str | None = None) -> Rescale:
        """The rescale nearest to ``scale`` in ``mode``, or in the program's; its error is noted under the operator's name."""
        chosen = rescale(scale, mode or self.mode)
        self.errors[name] = max(self.errors.get(name, 0.0), relative_error(scale, chosen))
        return chosen

    def value_name(self, name: str) -> str:
        """``name``, numbered where it is taken."""
        taken, free = 1, name
        while free in self.values:
            taken += 1
            free = f"{name}#{taken}"
        return free


class _Recorder(Interpreter):
    """One run of the graph: the shape of every tensor, every number, and every tensor that depends on no input (constants)."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=True)
        self.shapes: dict[Node, tuple[int, ...]] = {}
        self.numbers: dict[Node, Any] = {}
        self.constants: dict[Node, Tensor] = {}

    def record(self, inputs: tuple[Tensor, ...]) -> None:
        """Run on real inputs, batch first."""
        with torch.no_grad():
            self.run(*inputs)

    def run_node(self, n: Node) -> Any:
        """Compute one node and note what it is."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
            if n.op == "get_attr" or (n.op == "call_function" and all(x in self.constants for x in n.all_input_nodes)):
                self.constants[n] = result.detach()
        elif isinstance(result, (int, float)):
            self.numbers[n] = result
        return result


def lower_graph(lowering: Lowering, lower: Lower) -> tuple[list[str], list[str]]:
    """Lower every grid of the graph and every output; (names of the inputs, of the outputs). `LoweringError` lists what has no form."""
    inputs: list[str] = []
    failures: dict[str, str] = {}
    outputs: list[str] = []
    for node in lowering.graph.graph.nodes:
        try:
            if quantizer_of(node) is not None:
                _lower_quantizer(lowering, node, lower, inputs)
            elif node.op == "output":
                leaves = [leaf for leaf in pytree.tree_leaves(node.args) if isinstance(leaf, Node)]
                for leaf in leaves:
                    num_notes = len(lowering.notes)
                    outputs.append(_lower_output(lowering, leaf, lower))
                    lowering.keeps_output.append(len(lowering.notes) == num_notes)
        except NoIntegerFormError as error:
            lowering.failed.add(node)
            if str(error):
                failures.setdefault(str(_reason_node(node).meta["name"]), str(error))
    placeholders = [node for node in lowering.graph.graph.nodes if node.op == "placeholder"]
    if len(inputs) != len(placeholders):
        without = next(x for x in placeholders if not any(quantizer_of(user) for user in x.users))
        failures.setdefault(_name(without), "this input has no grid; 'inputs: uint8' in the recipe's scheme gives it one")
    if failures:
        raise LoweringError(_explain(failures))
    return inputs, outputs


def _lower_quantizer(lowering: Lowering, node: Node, lower: Lower, inputs: list[str]) -> None:
    """The value of a quantizer node."""
    quantizer, source = quantizer_of(node), behind_quantizer(node)
    if isinstance(quantizer, AccumulatorQuantizer) or (is_weight_edge(node) and source.op == "get_attr"):
        return  # belongs to its layer
    if not isinstance(quantizer, UniformQuantizer) or not quantizer.is_enabled or quantizer.scale.ndim:
        raise NoIntegerFormError("its grid is switched off, or of a kind that has no integer form")
    name = lowering.value_name(_name(source))
    if source in lowering.seen.constants:
        lowering.names[node] = _lower_constant(lowering, lowering.seen.constants[source], quantizer, name)
        return
    grid, scale, zero_point = quantizer.grid, float(quantizer.scale), int(quantizer.zero_point)
    if source in lowering.names and _is_same(lowering.values[lowering.names[source]], quantizer):
        lowering.names[node] = lowering.names[source]
        return
    target = Target(name, lowering.shape(source), grid, scale, zero_point)
    if source.op == "placeholder":
        lowering.values[name] = target.value(scale)
        inputs.append(name)
        lowering.names[node] = name
    else:
        lowering.names[node] = lower(lowering, source, target)


def _is_same(value: Value, quantizer: UniformQuantizer) -> bool:
    return (value.grid, value.scale, value.zero_point) == (quantizer.grid, float(quantizer.scale), int(quantizer.zero_point))


def _lower_constant(lowering: Lowering, stored: Tensor, quantizer: UniformQuantizer, name: str) -> str:
    codes = quantizer.quantize(stored).codes.long()
    codes = codes[0] if codes.ndim > 1 and codes.shape[0] == 1 else codes
    value = Value(name, tuple(codes.shape), quantizer.grid, float(quantizer.scale), int(quantizer.zero_point))
    return lowering.emit(Constant(name, (), name, codes), value)


def _lower_output(lowering: Lowering, node: Node, lower: Lower) -> str:
    """The value of an output of the network."""
    if node in lowering.names:
        return lowering.names[node]
    if not node.op.startswith("call"):
        raise NoIntegerFormError(f"the output '{_name(node)}' is an input or a stored tensor of the network itself")
    name = operator_name(node)
    if name == "argmax":
        return _lower_argmax(lowering, node, lower)
    if name in _SKIPPED_AT_THE_END:
        lowering.notes.append(f"The program ends before '{_name(node)}': its outputs are the scores, in the same order.")
        return _lower_output(lowering, node.all_input_nodes[0], lower)
    if role_of(node) is Role.PASS and tensor_source(node) not in lowering.names:
        lowering.names[tensor_source(node)] = _lower_output(lowering, tensor_source(node), lower)
    lowering.names[node] = lower(lowering, node, Target(lowering.value_name(_name(node)), lowering.shape(node)))
    return lowering.names[node]


def _lower_argmax(lowering: Lowering, node: Node, lower: Lower) -> str:
    source = node.all_input_nodes[0]
    scores = lowering.values[_lower_output(lowering, source, lower)]
    axis = argument(node, "dim", None)
    if axis is None:
        raise NoIntegerFormError("it works across the samples of a batch")
    target = Target(lowering.value_name(_name(node)), lowering.shape(node))
    operator = Argmax(_name(node), (scores.name,), target.name, lowering.axis(source, axis))
    return lowering.emit(operator, target.value(1.0))


def tensor_source(node: Node) -> Node:
    """The tensor that a node moves; a part of a split is taken from the tensor that was split."""
    source = node.args[0]
    assert isinstance(source, Node)
    return tensor_source(source) if operator_name(node) == "getitem" else source


def _reason_node(node: Node) -> Node:
    """The node to name where a value could not be lowered."""
    return behind_quantizer(node) if quantizer_of(node) is not None else node


def _name(node: object) -> str:
    return str(node.meta["name"]) if isinstance(node, Node) else repr(node)


def _explain(failures: dict[str, str]) -> str:
    listed = "; ".join(f"'{name}': {reason}" for name, reason in failures.items())
    return (
        f"{len(failures)} part(s) of the network have no integer form. {listed}. Quantize every tensor between them (no 'float' in the "
        "scheme), or cut the network before them; the ONNX export keeps them in float."
    )
