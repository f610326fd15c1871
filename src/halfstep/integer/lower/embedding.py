"""Embeddings: the table's rows on the grid of what they become. Quantizing a row that was looked up is looking up a quantized row."""

from __future__ import annotations

import torch
from torch.fx import Node

from halfstep.graph.operators import Role, role_of
from halfstep.grid import Grid, quantize_affine
from halfstep.integer.lower.lowering import Lowering
from halfstep.integer.lower.movement import lower_movement
from halfstep.integer.lower.refusal import NoIntegerFormError
from halfstep.integer.lower.target import Target
from halfstep.integer.operators import Embedding
from halfstep.integer.value import Value

_WIDE = Grid(bits=16, signed=True)


def lower_embedding(lowering: Lowering, node: Node, target: Target) -> str:
    """An `Embedding`."""
    table, rows = node.args[:2]
    if table not in lowering.seen.constants:
        raise NoIntegerFormError("its table is computed by the network")
    assert isinstance(table, Node) and isinstance(rows, Node)
    x = _rows(lowering, rows)
    real = lowering.seen.constants[table]
    if target.is_wide:
        value = Value(target.name, target.shape, _WIDE, max(float(real.abs().max()) / _WIDE.maximum, 1e-30))
    else:
        value = target.value(target.scale)
    scale, zero_point = torch.tensor(value.scale, dtype=torch.float32), torch.tensor(float(value.zero_point))
    codes = quantize_affine(real, scale, zero_point, value.grid).codes.long()
    return lowering.emit(Embedding(target.name, (x.name,), value.name, codes), value)


def _rows(lowering: Lowering, node: Node) -> Value:
    """The numbers of the rows: an input of the network, as it is or moved."""
    if node not in lowering.names and node.op == "call_function" and role_of(node) is Role.PASS:
        source = node.args[0]
        assert isinstance(source, Node)
        _rows(lowering, source)
        name = lowering.value_name(str(node.meta["name"]))
        lowering.names[node] = lower_movement(lowering, node, Target(name, lowering.shape(node)))
    return lowering.input(node)
