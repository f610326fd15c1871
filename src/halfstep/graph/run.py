"""Run a graph on batches, whatever batch size it was captured with, and look at tensors on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from halfstep.errors import DataError


def run(graph: GraphModule, inputs: tuple[Tensor, ...]) -> Any:
    """``graph(*inputs)`` without gradients. A graph of fixed batch size gets its batches cut and padded to it."""
    check_inputs(graph, inputs)
    inputs = _channels_last(inputs)
    size = graph.meta.get("batch_size")
    with torch.no_grad():
        if size is None or len(inputs[0]) == size:
            return graph(*inputs)
        outputs = [graph(*part) for part in _parts(inputs, size)]
    leaves = zip(*(pytree.tree_leaves(output) for output in outputs), strict=True)
    joined = [torch.cat(list(parts))[: len(inputs[0])] if isinstance(parts[0], Tensor) else parts[0] for parts in leaves]
    return pytree.tree_unflatten(joined, pytree.tree_structure(outputs[0]))


def _channels_last(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Images with their channels innermost in memory: convolutions on the CPU are a fifth faster that way, the values are the same."""
    return tuple(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs)


def _parts(inputs: tuple[Tensor, ...], size: int) -> list[tuple[Tensor, ...]]:
    """Slices of exactly ``size`` samples; the last one is filled up by repeating its first sample."""
    parts = [tuple(x[start : start + size] for x in inputs) for start in range(0, len(inputs[0]), size)]
    missing = size - len(parts[-1][0])
    if missing:
        parts[-1] = tuple(torch.cat([x, x[:1].expand(missing, *x.shape[1:])]) for x in parts[-1])
    return parts


def check_inputs(graph: GraphModule, inputs: tuple[Tensor, ...]) -> None:
    """Raises `DataError` where number, type or shape of the inputs does not fit what the graph was captured with."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if len(inputs) != len(placeholders):
        raise DataError(f"The network takes {len(placeholders)} input(s), the data gives {len(inputs)}.")
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
    """`run`, with every tensor of ``nodes`` shown to ``see``; what ``see`` returns goes on in its place."""
    check_inputs(graph, inputs)
    inputs = _channels_last(inputs)
    size = graph.meta.get("batch_size")
    parts = [inputs] if size is None or len(inputs[0]) == size else _parts(inputs, size)
    with torch.no_grad():
        return [Observer(graph, nodes, see).run(*part) for part in parts][-1]
