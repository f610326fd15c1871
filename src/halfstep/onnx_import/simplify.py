"""What is done to the graph of a file before it becomes a network: constants are computed, layers get the form PyTorch has for them.

1. Operations on constants are computed once, those on shapes too as far as the shapes do not depend on the batch.
2. A product with a stored matrix, and the bias that is added to it, becomes one linear layer: ``Gemm`` with its weight turned round to
   [outputs, inputs], on inputs of any number of axes.
3. Functions that are written out in parts become one operation (`fuse`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import numpy as np

from halfstep.errors import ModelError
from halfstep.onnx_import.call import Call, Known, Value
from halfstep.onnx_import.fuse import fuse
from halfstep.onnx_import.model import OnnxGraph, Operation
from halfstep.onnx_import.run import compute, parts, shapes, translation_of
from halfstep.onnx_import.tensors import Array

_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast")
_BATCHES = (2, 3)  # what is the same for both does not depend on the batch size


def simplify(graph: OnnxGraph) -> OnnxGraph:
    """The same network with fewer operations; ``graph`` itself is changed and returned."""
    for operation in graph.operations:
        translation_of(operation, graph.opset)  # the first unknown operator is named before anything is computed
    _fold_constants(graph)
    _drop_identities(graph)
    _fold_shapes(graph)
    _make_linear(graph)
    fuse(graph)
    _drop_unused(graph)
    return graph


def _fold_constants(graph: OnnxGraph) -> None:
    counts = Counter(name for operation in graph.operations for name in operation.inputs)
    counts.update(graph.outputs)
    kept = []
    for operation in graph.operations:
        if not all(name in graph.constants for name in operation.inputs if name):
            kept.append(operation)
            continue
        inputs = tuple(Known(graph.constants[name]) if name else None for name in operation.inputs)
        translation = translation_of(operation, graph.opset)
        result = compute(translation, operation, graph.opset, inputs) if inputs else translation.translate(Call(operation, graph.opset, ()))
        _store(graph, operation, parts(result), counts)
    graph.operations = kept


def _store(graph: OnnxGraph, operation: Operation, result: tuple[Value | None, ...], counts: Counter[str]) -> None:
    """Enter results as constants. A weight that is only moved about keeps the name it has in the file."""
    for name, value in zip(operation.outputs, result, strict=False):
        if name and isinstance(value, Known):
            graph.constants[name] = value.array
    moved, made = operation.inputs[:1], operation.outputs[0]
    if operation.op_type in _MOVES and moved and counts[moved[0]] == 1 and made not in graph.outputs and moved[0]:
        _rename_later(graph, made, moved[0])
        counts[moved[0]] = counts[made]


def _rename_later(graph: OnnxGraph, made: str, name: str) -> None:
    """Let the constant ``made`` be called ``name`` wherever it is read."""
    graph.constants[name] = graph.constants.pop(made)
    graph.operations[:] = [_reading(operation, made, name) for operation in graph.operations]


def _reading(operation: Operation, old: str, new: str) -> Operation:
    if old not in operation.inputs:
        return operation
    return dataclasses.replace(operation, inputs=tuple(new if name == old else name for name in operation.inputs))


def _drop_identities(graph: OnnxGraph) -> None:
    """Operations that hand their input on: who reads the output reads the input."""
    renamed: dict[str, str] = {}
    kept = []
    for operation in graph.operations:
        operation = dataclasses.replace(operation, inputs=tuple(renamed.get(name, name) for name in operation.inputs))
        if operation.op_type == "Identity" and operation.outputs[0] not in graph.outputs:
            renamed[operation.outputs[0]] = operation.inputs[0]
        else:
            kept.append(operation)
    graph.operations = kept


def _fold_shapes(graph: OnnxGraph) -> None:
    """Where the file gives all sizes but the batch: values that turn out to be known, and equal for two batch sizes, become constants."""
    if not graph.inputs or any(value.shape is None or None in value.shape[1:] for value in graph.inputs):
        return
    is_free = any(value.shape and value.shape[0] is None for value in graph.inputs)
    try:
        first, *others = [shapes(graph, batch_size) for batch_size in (_BATCHES if is_free else _BATCHES[:1])]
    except ModelError:
        return  # the network takes another batch size, or none: what is wrong shows when it meets data
    for name, value in first.items():
        if name not in graph.constants and isinstance(value, Known) and all(_are_equal(value, other.get(name)) for other in others):
            graph.constants[name] = value.array
    graph.operations = [
        operation for operation in graph.operations if not all(name in graph.constants for name in operation.outputs if name)
    ]


def _are_equal(value: Known, other: Value | None) -> bool:
    return isinstance(other, Known) and value.array.shape == other.array.shape and bool(np.array_equal(value.array, other.array))


def _make_linear(graph: OnnxGraph) -> None:
    readers = graph.readers()
    absorbed: set[str] = set()
    kept: list[Operation] = []
    for operation in graph.operations:
        if operation.name in absorbed:
            continue
        if operation.op_type == "MatMul" and _is_matrix(graph, operation.inputs[1]):
            operation = _linear(graph, operation, readers, absorbed)
        elif operation.op_type == "Gemm" and _is_matrix(graph, operation.inputs[1]) and not operation.attributes.get("transB"):
            operation = _turned(graph, operation, readers)
        kept.append(operation)
    graph.operations = kept


def _is_matrix(graph: OnnxGraph, name: str) -> bool:
    return name in graph.constants and graph.constants[name].ndim == 2


def _linear(graph: OnnxGraph, operation: Operation, readers: Mapping[str, list[Operation]], absorbed: set[str]) -> Operation:
    """A MatMul with a stored matrix as a Gemm, together with the Add behind it if that adds a bias."""
    num_outputs = graph.constants[operation.inputs[1]].shape[1]
    inputs, outputs = operation.inputs, operation.outputs
    users = readers.get(outputs[0], [])
    if len(users) == 1 and users[0].op_type == "Add" and outputs[0] not in graph.outputs:
        bias = next(name for name in users[0].inputs if name != outputs[0]) if len(set(users[0].inputs)) == 2 else ""
        if bias in graph.constants and graph.constants[bias].shape == (num_outputs,):
            inputs, outputs = (*inputs, bias), users[0].outputs
            absorbed.add(users[0].name)
    linear = dataclasses.replace(operation, op_type="Gemm", inputs=inputs, outputs=outputs, attributes={})
    return _turned(graph, linear, readers)


def _turned(graph: OnnxGraph, operation: Operation, readers: Mapping[str, list[Operation]]) -> Operation:
    """A Gemm on a stored [inputs, outputs] with the matrix turned round; one that others read too is stored a second time."""
    name = operation.inputs[1]
    weight: Array = np.ascontiguousarray(graph.constants[name].T)
    turned = name if len(readers[name]) == 1 and name not in graph.outputs else f"{name}_transposed"
    graph.constants[turned] = weight
    inputs = (operation.inputs[0], turned, *operation.inputs[2:])
    return dataclasses.replace(operation, inputs=inputs, attributes={**operation.attributes, "transB": 1})


def _drop_unused(graph: OnnxGraph) -> None:
    """Operations and constants that no output depends on."""
    needed = set(graph.outputs)
    kept: list[Operation] = []
    for operation in reversed(graph.operations):
        if needed.intersection(operation.outputs):
            needed.update(operation.inputs)
            kept.append(operation)
    graph.operations = [_without_unread(operation, needed) for operation in reversed(kept)]
    graph.constants = {name: array for name, array in graph.constants.items() if name in needed}


def _without_unread(operation: Operation, needed: set[str]) -> Operation:
    """The operation with outputs left out that nothing reads: some exporters name all an operator can have."""
    return dataclasses.replace(operation, outputs=tuple(name if name in needed else "" for name in operation.outputs))
