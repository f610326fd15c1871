"""Walk through a quantized graph and write down, for every grid it meets, the integer operator that fills it.

A quantizer node is a value of the program. What stands behind it (a fused clip, then one operator) is looked up by its role and name in
`LOWERINGS`, and lowered by the function entered there from values to a value. Operators in float between two grids are tried as a table.
What leaves the network without a grid becomes a value of 32 bits. Everything that has no integer form is collected and named in one error.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from halfstep.errors import LoweringError, first_few
from halfstep.graph.edges import behind_quantizer, is_weight_edge, quantizer_of
from halfstep.graph.names import operator_name
from halfstep.graph.operators import Role, argument, role_of
from halfstep.integer.lower.layout import Layout
from halfstep.integer.lower.recorder import Recorder
from halfstep.integer.lower.refusal import NoIntegerFormError
from halfstep.integer.lower.target import Target
from halfstep.integer.operators import AbstractOperator, Argmax, Constant
from halfstep.integer.requantization import MAX_ERROR, Rescale, relative_error, rescale
from halfstep.integer.value import Value
from halfstep.quantizers import AbstractLearnedQuantizer, AccumulatorQuantizer, UniformQuantizer

Lower = Callable[["Lowering", Node, Target], str]
_NAMED = 8  # parts without an integer form, for each reason; the list of a whole network would fill a page
_SKIPPED_AT_THE_END = ("softmax", "log_softmax", "_softmax", "_log_softmax")  # keep the order of the scores


class Lowering:
    """The program as far as it is written, and what the functions that write it need to know of the graph.

    names: of the value of each node that has one. errors: of every rescale, by operator, the relative distance from the real scale.
    keeps_output: of each output of the network, whether the program computes it as it is (a softmax at the end is left out).
    inputs: of the network, the values they are. bounds: what an input of whole numbers is expected to hold. masks: values made from inputs
    for softmaxes, by what they hide.
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
        self.inputs: dict[Node, str] = {}
        self.bounds: dict[Node, tuple[int, int]] = {}
        self.masks: dict[tuple[object, ...], str] = {}
        self.seen = Recorder(graph)
        self.seen.record(inputs)
        self.batch_size = len(inputs[0])

    def emit(self, operator: AbstractOperator, value: Value) -> str:
        """Append an operator and the value it makes; the value's name."""
        if value.name in self.values:
            raise NoIntegerFormError(f"a value called '{value.name}' is there already")
        self.values[value.name] = value
        self.operators.append(operator)
        return value.name

    def layout(self, node: Node) -> Layout:
        """Where the samples of a batch lie in a node's tensor."""
        found = self.seen.layouts.get(node)
        if found is None:
            raise NoIntegerFormError("the samples of a batch do not lie along one axis of it")
        return found

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of one sample of a node's tensor: without the batch, which may share its axis with something else."""
        return self.layout(node).sample(self.seen.shapes[node])

    def samples(self, node: Node, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A node's tensor as [batch, *shape]; one of a constant is the same for every sample."""
        layout = self.seen.layouts.get(node)
        return x.reshape(-1, *shape) if layout is None else layout.to_samples(x).reshape(-1, *shape)

    def axis(self, node: Node, axis: int) -> int:
        """An axis of the node's tensor as an axis of one sample."""
        layout = self.layout(node)
        axis %= len(self.seen.shapes[node])
        if axis == layout.axis:
            raise NoIntegerFormError("it works across the samples of a batch")
        return axis - (layout.is_alone and axis > layout.axis)

    def image(self, node: object, num_axes: int) -> Value:
        """The value of an operand of channels and ``num_axes`` axes of an image; `NoIntegerFormError` where the batch is among these."""
        x = self.input(node)
        if len(x.shape) != num_axes + 1:
            raise NoIntegerFormError("the batch shares its axis with something else")
        for axis in range(-num_axes, 0):
            self.axis(node, axis)  # type: ignore[arg-type]
        return x

    def input(self, node: object) -> Value:
        """The value an operand is; `NoIntegerFormError` where it has no grid."""
        if not isinstance(node, Node) or node not in self.names:
            raise NoIntegerFormError("" if node in self.failed else f"its input '{_name(node)}' is in float")
        return self.values[self.names[node]]

    def rescale(self, name: str, scale: Tensor, mode: str | None = None) -> Rescale:
        """The rescale nearest to ``scale`` in ``mode``, or in the program's; its error is noted under the operator's name.

        `LoweringError` where it is off by more than `MAX_ERROR`.
        """
        chosen = rescale(scale, mode or self.mode)
        error = relative_error(scale, chosen)
        if error > MAX_ERROR:
            raise LoweringError(
                f"Layer '{name}': no multiplier of '{chosen.mode}' is nearer than {100 * error:.2g} % to its real scale; at most "
                f"{100 * MAX_ERROR:.2g} % are allowed. Quantize with 'requantization: {chosen.mode}' in the recipe's scheme "
                "(--requantization), which gives weights scales for it. Where a weight has several readers, whose scales differ, lower "
                "with fixed_point_16 or fixed_point_32."
            )
        self.errors[name] = max(self.errors.get(name, 0.0), error)
        return chosen

    def value_name(self, name: str) -> str:
        """``name``, numbered where it is taken."""
        taken, free = 1, name
        while free in self.values:
            taken += 1
            free = f"{name}#{taken}"
        return free


def lower_graph(lowering: Lowering, lower: Lower) -> tuple[list[str], list[str]]:
    """Lower every grid of the graph and every output; (names of the inputs, of the outputs). `LoweringError` lists what has no form."""
    _refuse_levels_without_grid(lowering.graph)
    failures: dict[str, str] = {}
    outputs: list[str] = []
    for node in lowering.graph.graph.nodes:
        try:
            if quantizer_of(node) is not None:
                _lower_quantizer(lowering, node, lower)
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
    for without in [x for x in placeholders if x not in lowering.inputs]:
        failures.setdefault(_name(without), "this input has no grid; 'inputs: uint8' in the recipe's scheme gives it one")
    if failures:
        raise LoweringError(_explain(failures))
    return [lowering.inputs[x] for x in placeholders], outputs


def _refuse_levels_without_grid(graph: GraphModule) -> None:
    """`LoweringError` where a quantizer stayed in the graph after training."""
    found = {node: quantizer for node in graph.graph.nodes if isinstance(quantizer := quantizer_of(node), AbstractLearnedQuantizer)}
    if found:
        names = ", ".join(f"'{behind_quantizer(node).meta['name']}'" for node in found)
        kinds = ", ".join(sorted({quantizer.name for quantizer in found.values()}))
        ways = ". ".join(sorted({quantizer.way_out for quantizer in found.values()}))
        raise LoweringError(f"Levels that are no grid have no integer form: {names}, by {kinds}. {ways}.")


def _lower_quantizer(lowering: Lowering, node: Node, lower: Lower) -> None:
    """The value of a quantizer node."""
    quantizer, source = quantizer_of(node), behind_quantizer(node)
    if isinstance(quantizer, AccumulatorQuantizer) or (is_weight_edge(node) and source.op == "get_attr"):
        return  # belongs to its layer
    if not isinstance(quantizer, UniformQuantizer) or not quantizer.is_enabled or quantizer.scale.ndim:
        raise NoIntegerFormError("its grid is switched off, or of a kind that has no integer form")
    name = lowering.value_name(_name(source))
    if source in lowering.seen.constants:
        lowering.names[node] = _lower_constant(lowering, _of_one_sample(lowering, source), quantizer, name)
        return
    grid, scale, zero_point = quantizer.grid, float(quantizer.scale), int(quantizer.zero_point)
    if source in lowering.names and _is_same(lowering.values[lowering.names[source]], quantizer):
        lowering.names[node] = lowering.names[source]
        return
    target = Target(name, lowering.shape(source), grid, scale, zero_point)
    if source.op == "placeholder":
        lowering.values[name] = target.value(scale)
        lowering.names[node] = lowering.inputs[source] = name
    else:
        lowering.names[node] = lower(lowering, source, target)


def _is_same(value: Value, quantizer: UniformQuantizer) -> bool:
    return (value.grid, value.scale, value.zero_point) == (quantizer.grid, float(quantizer.scale), int(quantizer.zero_point))


def _of_one_sample(lowering: Lowering, source: Node) -> Tensor:
    """A constant without its first axis, where that is of size 1, or the batch that it was repeated for."""
    stored = lowering.seen.constants[source]
    is_repeated = source in lowering.seen.sized or lowering.graph.meta.get("batch_size") == lowering.batch_size
    sizes = (1, lowering.batch_size) if is_repeated else (1,)
    is_same = stored.ndim > 1 and stored.shape[0] in sizes and torch.equal(stored, stored[:1].expand_as(stored))
    return stored[0] if is_same else stored


def _lower_constant(lowering: Lowering, stored: Tensor, quantizer: UniformQuantizer, name: str) -> str:
    codes = quantizer.quantize(stored).codes.long()
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
    names: dict[str, list[str]] = {}
    for name, reason in failures.items():
        names.setdefault(reason, []).append(f"'{name}'")
    listed = "; ".join(f"{first_few(found, _NAMED)}: {reason}" for reason, found in names.items())
    return (
        f"{len(failures)} part(s) of the network have no integer form. {listed}. Quantize every tensor between them (no 'float' in the "
        "scheme), or cut the network before them; the ONNX export keeps them in float."
    )
