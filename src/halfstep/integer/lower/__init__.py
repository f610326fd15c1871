"""From a quantized graph to an integer program: one file for each kind of operator, `lowering.py` for the walk through the graph."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.names import operator_name
from halfstep.graph.operators import ASKING, Role, argument, num_tensors, role_of
from halfstep.graph.run import cut
from halfstep.integer.check import check
from halfstep.integer.lower.embedding import lower_embedding
from halfstep.integer.lower.inputs import enter_inputs
from halfstep.integer.lower.lowering import Lower, Lowering, lower_graph, tensor_source
from halfstep.integer.lower.merge import lower_add, lower_concat, lower_matmul, lower_mul
from halfstep.integer.lower.movement import lower_movement
from halfstep.integer.lower.normalization import lower_norm
from halfstep.integer.lower.pooling import lower_adaptive_pool, lower_average_pool, lower_max_pool, lower_mean, lower_requantize
from halfstep.integer.lower.refusal import NoIntegerFormError
from halfstep.integer.lower.softmax import lower_softmax
from halfstep.integer.lower.table import lower_table
from halfstep.integer.lower.target import Target
from halfstep.integer.lower.weighted import lower_weighted
from halfstep.integer.program import IntegerProgram
from halfstep.integer.requantization import DEFAULT_MODE, check_mode

LOWERINGS: dict[str, Lower] = {
    **dict.fromkeys(["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"], lower_weighted),
    **dict.fromkeys(["matmul", "bmm", "mm"], lower_matmul),
    **dict.fromkeys(["cat", "concat", "concatenate"], lower_concat),
    "add": lower_add,
    "sub": lower_add,
    "embedding": lower_embedding,
    **dict.fromkeys(["layer_norm", "rms_norm", "group_norm", "instance_norm"], lower_norm),
    **dict.fromkeys(["softmax", "_softmax", "_safe_softmax"], lower_softmax),
    "mul": lower_mul,
    "mean": lower_mean,
    **dict.fromkeys(["avg_pool1d", "avg_pool2d", "avg_pool3d"], lower_average_pool),
    **dict.fromkeys(["adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"], lower_adaptive_pool),
    **dict.fromkeys(["max_pool1d", "max_pool2d", "max_pool3d"], lower_max_pool),
}
"""By operator name: what writes its integer form. Moving operators and functions of one tensor need no entry."""


def lower(
    graph: GraphModule, samples: tuple[Tensor, ...], mode: str = DEFAULT_MODE, name: str = "network"
) -> tuple[IntegerProgram, Lowering]:
    """The program of a quantized ``graph``, checked, and how it came about.

    samples: a few inputs, batch first, for the shapes. mode: one of `integer.MODES`. Raises `LoweringError` that names every operator
    without an integer form, a scale beyond the mode's reach, or an accumulator that could pass 32 bits.
    """
    check_mode(mode)
    pair = samples if len(samples[0]) > 1 else tuple(torch.cat([x, x]) for x in samples)  # a batch of one lies along any axis
    lowering = Lowering(graph, cut(graph, tuple(x[:2] for x in pair))[0][0], mode)
    enter_inputs(lowering, samples)
    names = lower_graph(lowering, lower_node)
    program = IntegerProgram(
        name, lowering.values, tuple(lowering.operators), tuple(names[0]), tuple(names[1]), mode, tuple(lowering.notes)
    )  # fmt: skip
    return check(program), lowering


def lower_node(lowering: Lowering, node: Node, target: Target) -> str:
    """The value that ``node`` becomes."""
    role = role_of(node)
    if role is Role.QUANTIZER:
        return lower_requantize(lowering, node, target)
    if role is Role.CLIP:
        bounded = dataclasses.replace(target, bounds=_bounds(node))
        source = node.args[0]
        assert isinstance(source, Node)
        if source in lowering.names:
            return lower_requantize(lowering, source, bounded)
        if role_of(source) in ASKING and source.op == "call_function":
            return _lower_operator(lowering, source, bounded)
    if role is Role.PASS and operator_name(node) not in LOWERINGS:
        return _lower_moved(lowering, node, target)
    return _lower_operator(lowering, node, target)


def _lower_operator(lowering: Lowering, node: Node, target: Target) -> str:
    """By name, or as a table."""
    write = LOWERINGS.get(operator_name(node))
    if write is None or (role_of(node) is Role.MERGE and write is not lower_concat and num_tensors(node) < 2):
        return lower_table(lowering, node, target)
    return write(lowering, node, target)


def _lower_moved(lowering: Lowering, node: Node, target: Target) -> str:
    """Codes in another place; then, where the target has a grid of its own, on that grid."""
    source = tensor_source(node)
    computed = None if target.is_wide else _computed_behind(lowering, source)
    if computed is not None:
        return _lower_before_moving(lowering, node, computed, target)
    if source not in lowering.names and _moves(source):
        moved = Target(lowering.value_name(str(source.meta["name"])), lowering.shape(source))
        lowering.names[source] = _lower_moved(lowering, source, moved)
    x = lowering.input(source)
    if target.is_wide or (x.grid, x.scale, x.zero_point) == (target.grid, target.scale, target.zero_point):
        return lower_movement(lowering, node, target)
    between = dataclasses.replace(target, name=lowering.value_name(f"{target.name}:moved"))
    lowering.names[node] = lower_movement(lowering, node, between)
    return lower_requantize(lowering, node, target)


def _moves(node: Node) -> bool:
    return node.op.startswith("call") and role_of(node) is Role.PASS


def _computed_behind(lowering: Lowering, node: Node) -> Node | None:
    """What computes the values that ``node`` moves, where it has no grid and nothing between them frames or chooses."""
    while _moves(node) and node not in lowering.names and operator_name(node) not in (*LOWERINGS, "pad", "constant_pad_nd"):
        node = tensor_source(node)
    is_computed = node.op.startswith("call") and node not in lowering.names and role_of(node) not in (Role.PASS, Role.QUANTIZER)
    return node if is_computed else None


def _lower_before_moving(lowering: Lowering, node: Node, computed: Node, target: Target) -> str:
    """A function in float whose values are moved before they meet a grid: computed on that grid, then moved."""
    name = lowering.value_name(str(computed.meta["name"]))
    value = lower_node(lowering, computed, dataclasses.replace(target, name=name, shape=lowering.shape(computed)))
    return lower_movement(lowering, node, target, (computed, lowering.values[value]))


def _bounds(node: Node) -> tuple[float, float]:
    """The real numbers between which a CLIP keeps its input."""
    name = operator_name(node)
    if name == "relu":
        return 0.0, math.inf
    if name == "relu6":
        return 0.0, 6.0
    if name == "clamp_min":
        return float(argument(node, "min", -math.inf)), math.inf
    names = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
    defaults = (-1.0, 1.0) if name == "hardtanh" else (None, None)
    low, high = (argument(node, bound, default) for bound, default in zip(names, defaults, strict=True))
    if isinstance(low, Node) or isinstance(high, Node):
        raise NoIntegerFormError("its bounds are tensors")
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)
