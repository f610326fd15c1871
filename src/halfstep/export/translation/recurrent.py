"""LSTM and GRU, a layer after the other, each in both directions at once where the network has two.

what                 PyTorch                                     ONNX
order of gates       LSTM: i f g o, GRU: r z n                   LSTM: i o f g, GRU: z r n
biases               of the input and of the state, apart        one behind the other
layers               all in one operator                         one operator each
outputs              [length, batch, directions * size]          [length, directions, batch, size]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import Node

from halfstep.export.translation.writer import Result, Translate, Untranslatable, Writer
from halfstep.graph.edit import attribute

_ORDERS = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
_FLOAT = torch.float32


def _recurrent(op_type: str, num_states: int) -> Translate:
    """num_states: how many tensors are handed on from step to step."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> Result:
        x, states, parameters, has_biases, num_layers, dropout, is_training, has_two_directions, is_batch_first = arguments
        num_directions = 2 if has_two_directions else 1
        count = 4 if has_biases else 2
        is_plain = all(isinstance(parameter, Node) and parameter.op == "get_attr" for parameter in parameters)
        if not is_plain or len(parameters) != count * num_layers * num_directions or (is_training and dropout):
            raise Untranslatable(f"{op_type} with projections, dropout or computed weights")
        starts = [writer.value(state) for state in (states if num_states > 1 else [states])]
        value, ends = _time_first(writer, node, writer.value(x), is_batch_first), []
        for layer in range(num_layers):
            places = range(layer * num_directions, (layer + 1) * num_directions)
            own = [[attribute(writer.graph, p) for p in parameters[place * count : (place + 1) * count]] for place in places]
            name = f"{node.name}.{layer}"
            stored = [writer.stored(f"{name}.{key}", array) for key, array in _arrays(own, _ORDERS[op_type]).items()]
            begins = [_part(writer, node, state, places.start, places.stop) for state in starts]
            value, *found = _layer(writer, node, op_type, [value, *stored], begins, own[0][1].shape[1])
            ends.append(found)
        joined = [_along_layers(writer, node, parts) for parts in zip(*ends, strict=True)]
        return (_time_first(writer, node, value, is_batch_first), *joined)

    return emit


def _time_first(writer: Writer, node: Node, x: ir.Value, is_batch_first: bool) -> ir.Value:
    """From the network's order of batch and time to ONNX's, or back."""
    return writer.emit("Transpose", [x], node, dtype=_FLOAT, perm=[1, 0, 2]) if is_batch_first else x


def _arrays(parameters: Sequence[Sequence[Tensor]], order: Sequence[int]) -> dict[str, Tensor]:
    """Weights of the input [directions, gates * size, inputs], of the state, and biases [directions, 2 * gates * size]."""

    def ordered(x: Tensor) -> Tensor:
        gates = x.chunk(len(order))
        return torch.cat([gates[gate] for gate in order])

    turned = [[ordered(x) for x in parts] for parts in parameters]
    found = {"weight": torch.stack([parts[0] for parts in turned]), "recurrence": torch.stack([parts[1] for parts in turned])}
    if len(turned[0]) == 4:
        found["bias"] = torch.stack([torch.cat(parts[2:]) for parts in turned])
    return found


def _along_layers(writer: Writer, node: Node, states: Sequence[ir.Value]) -> ir.Value:
    """The states of all layers on the first axis."""
    return states[0] if len(states) == 1 else writer.emit("Concat", states, node, dtype=_FLOAT, axis=0)


def _part(writer: Writer, node: Node, state: ir.Value, first: int, last: int) -> ir.Value:
    """The states of one layer, of all layers' on the first axis."""
    ends = [writer.integers([bound]) for bound in (first, last, 0)]
    return writer.emit("Slice", [state, *ends], node, dtype=_FLOAT)


def _layer(writer: Writer, node: Node, op_type: str, inputs: list[ir.Value], starts: list[ir.Value], size: int) -> tuple[ir.Value, ...]:
    """(outputs [length, batch, directions * size], the states at the end [directions, batch, size]). inputs: X, W, R and perhaps B."""
    weight = inputs[1].shape
    assert weight is not None
    num_directions = int(weight[0])  # type: ignore[arg-type]
    options: dict[str, Any] = {"hidden_size": size, "direction": "bidirectional" if num_directions == 2 else "forward"}
    if op_type == "GRU":
        options["linear_before_reset"] = 1
    given = [*inputs, *[None] * (5 - len(inputs)), *starts]
    every, *ends = writer.emit_several(op_type, given, node, 1 + len(starts), dtype=_FLOAT, **options)
    apart = writer.emit("Transpose", [every], node, dtype=_FLOAT, perm=[0, 2, 1, 3])
    return writer.emit("Reshape", [apart, writer.integers([0, 0, num_directions * size])], node, dtype=_FLOAT), *ends


TRANSLATIONS: dict[str, Translate] = {"lstm.input": _recurrent("LSTM", 2), "gru.input": _recurrent("GRU", 1)}
