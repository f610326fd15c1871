"""Run a graph on batches, whatever batch size it was captured with, and look at tensors on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from halfstep.errors import CalibrationError, DataError


def run(graph: GraphModule, inputs: tuple[Tensor, ...]) -> Any:
    """``graph(*inputs)`` without gradients. A graph of fixed batch size gets its batches cut and filled up to it."""
    parts = cut(graph, inputs)
    with torch.no_grad():
        outputs = [graph(*part) for part, _ in parts]
    return outputs[0] if len(parts) == 1 and parts[0][1] == len(parts[0][0][0]) else join(outputs, len(inputs[0]))


def join(outputs: list[Any], num_samples: int) -> Any:
    """The outputs of consecutive parts as those of one batch of ``num_samples``."""
    leaves = zip(*(pytree.tree_leaves(output) for output in outputs), strict=True)
    joined = [torch.cat(list(parts))[:num_samples] if isinstance(parts[0], Tensor) else parts[0] for parts in leaves]
    return pytree.tree_unflatten(joined, pytree.tree_structure(outputs[0]))


def cut(graph: GraphModule, inputs: tuple[Tensor, ...]) -> list[tuple[tuple[Tensor, ...], int]]:
    """Checked inputs in parts that ``graph`` accepts, each with the number of its real samples: one part where any batch size will do.

    Images get their channels innermost in memory: convolutions on the CPU are a fifth faster that way, the values are the same.
    """
    check_inputs(graph, inputs)
    inputs = tuple(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs)
    size = graph.meta.get("batch_size")
    return [(inputs, len(inputs[0]))] if size is None else cut_to(inputs, size)


def broken_at(node: Node) -> CalibrationError:
    """What to raise where the float network gives ``node`` a value that is no number."""
    return CalibrationError(f"The output of '{node.meta['name']}' is NaN or infinite on the calibration data: the network is broken there.")


def cut_to(inputs: tuple[Tensor, ...], size: int) -> list[tuple[tuple[Tensor, ...], int]]:
    """Parts of exactly ``size`` samples, with the number of real ones; the last part is filled up by repeating its first sample."""
    parts = [tuple(x[start : start + size] for x in inputs) for start in range(0, len(inputs[0]), size)]
    missing = size - len(parts[-1][0])
    if missing:
        parts[-1] = tuple(torch.cat([x, x[:1].expand(missing, *x.shape[1:])]) for x in parts[-1])
    return [(part, size - missing if part is parts[-1] else size) for part in parts]


def check_inputs(graph: GraphModule, inputs: tuple[Tensor, ...]) -> None:
    """Raises `DataError` where number, type or shape of the inputs does not fit what the graph was captured with."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if len(inputs) != len(placeholders):
        raise DataError(f"The network takes {len(placeholders)} input(s), the data gives {len(inputs)}.")
    if len({len(x) for x in inputs}) > 1:
        raise DataError(f"The inputs hold different numbers of samples: {', '.join(str(len(x)) for x in inputs)}.")
    for x, node in zip(inputs, placeholders, strict=True):
        shape, dtype = node.meta["shape"], node.meta["dtype"]
        if x.dtype != dtype:
            raise DataError(f"Input '{node.meta['name']}' must be {dtype}, the data is {x.dtype}: convert it or set the preprocessing.")
        if x.ndim != len(shape) or any(want is not None and want != got for want, got in zip(shape[1:], x.shape[1:], strict=True)):
            want_text = ", ".join("any" if size is None else str(size) for size in shape[1:])
            raise DataError(
                f"Input '{node.meta['name']}' must have the shape [batch, {want_text}], the data has {list(x.shape)}. "
                "Check the order of the axes (N, C, H, W) and the options --size and --crop."
            )


class Observer(Interpreter):
    """Runs a graph node by node, shows chosen tensors to ``observe(node, tensor)`` and takes what that returns instead.

    Tensors are freed after their last use, so that memory does not grow with depth.
    """

    def __init__(self, graph: GraphModule, nodes: set[Node], observe: Callable[[Node, Tensor], Tensor]) -> None:
        super().__init__(graph, garbage_collect_values=True)
        self._nodes, self._observe = nodes, observe

    def run_node(self, n: Node) -> Any:
        """Compute one node; show its result if it was asked for."""
        result = super().run_node(n)
        return self._observe(n, result) if n in self._nodes else result


def observe(graph: GraphModule, inputs: tuple[Tensor, ...], nodes: set[Node], see: Callable[[Node, Tensor], Tensor]) -> Any:
    """Run one part as `cut` makes it, with every tensor of ``nodes`` shown to ``see``; what ``see`` returns goes on in its place."""
    with torch.no_grad():
        return Observer(graph, nodes, see).run(*inputs)
