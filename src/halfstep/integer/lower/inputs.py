"""Inputs of a network that are whole numbers already: tokens, masks of truth values. Their codes are the numbers themselves, at scale 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from halfstep.graph.edges import quantizer_of
from halfstep.graph.names import operator_name
from halfstep.graph.operators import Role, role_of
from halfstep.grid import Grid
from halfstep.integer.lower.lowering import Lowering
from halfstep.integer.value import Value


def enter_inputs(lowering: Lowering, samples: tuple[Tensor, ...]) -> None:
    """Give every input that holds whole numbers a value: from 0 to the last row of the embeddings that read it, else of what it was seen
    to hold in ``samples``. An input of floats counts where it has no grid and holds 0 and 1 alone, as masks do.
    """
    placeholders = [node for node in lowering.graph.graph.nodes if node.op == "placeholder"]
    for node, x in zip(placeholders, samples, strict=True):
        has_grid = any(quantizer_of(user) is not None for user in node.users)
        if not has_grid and (not x.is_floating_point() or bool(((x == 0) | (x == 1)).all())):
            name = lowering.value_name(str(node.meta["name"]))
            bounds = lowering.bounds[node] = _bounds(lowering, node, x)
            lowering.values[name] = Value(name, lowering.shape(node), _grid(*bounds), 1.0)
            lowering.names[node] = lowering.inputs[node] = name


def _bounds(lowering: Lowering, node: Node, x: Tensor) -> tuple[int, int]:
    """The least and the largest number an input is expected to hold; 0 and 1 always."""
    rows = [len(lowering.seen.constants[table]) for table in _tables(node) if table in lowering.seen.constants]
    low, high = (int(end) for end in torch.aminmax(x.to(torch.int64)))
    return min(low, 0), max(high, 1, *(count - 1 for count in rows))


def _grid(low: int, high: int) -> Grid:
    if low == 0:
        return Grid(max(2, high.bit_length()), signed=False)
    return Grid(max(2, high.bit_length() + 1, (-low - 1).bit_length() + 1), signed=True)


def _tables(node: Node) -> set[Node]:
    """What the embeddings look into that read ``node``, moved or as it is."""
    found: set[Node] = set()
    for user in node.users:
        if operator_name(user) == "embedding" and user.args[1] is node:
            found.add(user.args[0])  # type: ignore[arg-type]
        elif user.op == "call_function" and role_of(user) is Role.PASS:
            found |= _tables(user)
    return found
