"""A quantized file as the float network it stands for: stored codes become real numbers, quantization of activations disappears.

    w = (codes - zero_point) * scale

A ReLU that an exporter left to the saturation of a grid comes back as a clip from 0 to the top of that grid.

Between QuantizeLinear and DequantizeLinear values may be moved about (reshaped, pooled by their maximum, joined, padded with the zero
point); a Clip of codes there is a narrower grid and is treated like the saturation of one. Files whose layers are integer operators
themselves (QLinearConv and the like) hold no float network, and are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from halfstep.errors import ModelError
from halfstep.onnx_import.model import OnnxGraph, Operation
from halfstep.onnx_import.tensors import DAMAGED, Array

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
INTEGER_OPERATORS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
_SATURATED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "BatchNormalization")
"""Operators whose activation function exporters leave to the grid behind them."""
_MOVING = (
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather", "Concat", "Expand", "Tile", "MaxPool",
    "Identity", "DepthToSpace", "SpaceToDepth", "Pad",
)  # fmt: skip


def strip(graph: OnnxGraph) -> None:
    """Take every quantization out of ``graph``, in place; raises `ModelError` that names an operation that computes with codes."""
    _Strip(graph).run()


_FLOAT_FILE = "Pass the float file it was made from."


class _Strip:
    """makers: by value, the type of the operator that computed it. codes: values that are codes, with the names of scale and zero point."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.makers = {name: operation.op_type for operation in graph.operations for name in operation.outputs}
        self.codes: dict[str, tuple[str, str]] = {}

    def run(self) -> None:
        """Replace the operations one by one."""
        self.graph.operations = [left for operation in self.graph.operations if (left := self._stripped(operation)) is not None]
        coded = [name for name in self.graph.outputs if name in self.codes]
        if coded:
            raise ModelError(f"The output '{coded[0]}' of the network is codes, not real numbers. {_FLOAT_FILE}")

    def _stripped(self, operation: Operation) -> Operation | None:
        """What stays of an operation; None where it became a constant."""
        constants, first = self.graph.constants, operation.inputs[0] if operation.inputs else ""
        if operation.op_type in INTEGER_OPERATORS:
            where = operation.at(self.graph.opset)
            raise ModelError(f"{where}: this layer computes with integers, there is no float layer to strip it to. {_FLOAT_FILE}")
        if operation.op_type == QUANTIZE:
            return self._quantize(operation)
        if operation.op_type == DEQUANTIZE and first in constants:
            _store(self.graph, operation)
            return None
        if operation.op_type == DEQUANTIZE:
            return _identity(operation)
        if operation.op_type == "Cast" and first in constants and constants[first].dtype.kind not in "fiub":
            constants[operation.outputs[0]] = constants[first].astype(np.int8)  # 4-bit codes in a type that runs
            return None
        return self._between(operation) if any(name in self.codes for name in operation.inputs) else operation

    def _quantize(self, operation: Operation) -> Operation:
        """Saturation is the activation function of a layer whose ReLU an exporter left to it: where the lowest code means 0."""
        scale, zero_point = (*operation.inputs[1:], "", "")[:2]
        self.codes[operation.outputs[0]] = scale, zero_point
        zeros = self.graph.constants.get(zero_point, np.zeros(1, np.uint8))
        if self.makers.get(operation.inputs[0]) not in _SATURATED or zeros.dtype.kind not in "iu":
            return _identity(operation)
        limits = np.iinfo(zeros.dtype)
        return self._saturation(operation, int(limits.min), int(limits.max))

    def _saturation(self, operation: Operation, low: int, high: int) -> Operation:
        """The clip from 0 to what the code ``high`` means, where the code ``low`` means 0; else nothing."""
        scale, zero_point = (self.graph.constants.get(name) for name in self.codes[operation.outputs[0]])
        lowest = 0 if zero_point is None else int(zero_point.reshape(-1)[0])
        if scale is None or scale.size != 1 or lowest != low:
            return _identity(operation)
        made = operation.outputs[0]
        self.graph.constants[f"{made}_low"] = np.zeros((), scale.dtype)
        self.graph.constants[f"{made}_high"] = ((high - low) * scale.reshape(())).astype(scale.dtype)
        return dataclasses.replace(operation, op_type="Clip", inputs=(operation.inputs[0], f"{made}_low", f"{made}_high"), attributes={})

    def _between(self, operation: Operation) -> Operation:
        """An operation on codes as one on real numbers."""
        grid = next(self.codes[name] for name in operation.inputs if name in self.codes)
        for name in operation.outputs:
            self.codes[name] = grid
        if operation.op_type == "Clip":
            low, high = (self.graph.constants.get(name) for name in (*operation.inputs[1:], "", "")[:2])
            return _identity(operation) if low is None or high is None else self._saturation(operation, int(low), int(high))
        if operation.op_type == "Cast":
            return _identity(operation)
        if operation.op_type not in _MOVING:
            raise ModelError(
                f"{operation.at(self.graph.opset)} computes with codes, there is no float operator to strip it to. {_FLOAT_FILE}"
            )
        if operation.op_type == "Pad" and operation.attributes.get("mode", "constant") == "constant":
            return self._pad(operation, grid[1])
        return operation

    def _pad(self, operation: Operation, zero_point: str) -> Operation:
        """Padding with the zero point is padding with 0."""
        value = operation.inputs[2] if len(operation.inputs) > 2 else ""
        padded, wanted = (self.graph.constants.get(name, np.zeros(1)).reshape(-1)[:1].tolist() for name in (value, zero_point))
        if padded != wanted:
            raise ModelError(
                f"{operation.at(self.graph.opset)} pads codes with {padded}, not with their zero point {wanted}. {_FLOAT_FILE}"
            )
        return dataclasses.replace(operation, inputs=(*operation.inputs[:2], "", *operation.inputs[3:]))


def _identity(operation: Operation) -> Operation:
    return dataclasses.replace(operation, op_type="Identity", inputs=operation.inputs[:1], attributes={})


def _store(graph: OnnxGraph, operation: Operation) -> None:
    """A dequantized constant."""
    codes, made = operation.inputs[0], operation.outputs[0]
    scale, zero_point = (graph.constants.get(name) for name in (*operation.inputs[1:], "", "")[:2])
    if scale is None or (zero_point is None and len(operation.inputs) > 2 and operation.inputs[2]):
        raise ModelError(f"{operation.at(graph.opset)}: its scale or zero point is computed, not stored. {_FLOAT_FILE}")
    try:
        graph.constants[made] = dequantize(graph.constants[codes], scale, zero_point, operation.attributes)
    except (ValueError, IndexError, TypeError) as error:
        raise ModelError(f"{operation.at(graph.opset)}: codes and scales do not fit together ({error}). {DAMAGED}") from error


def dequantize(codes: Array, scale: Array, zero_point: Array | None, attributes: Mapping[str, Any]) -> Array:
    """(codes - zero_point) * scale, with one scale for all, one along ``axis``, or one a block of ``block_size`` along it."""
    axis, block = int(attributes.get("axis", 1)), int(attributes.get("block_size", 0))
    parts = [scale.astype(np.float64), np.zeros((), np.float64) if zero_point is None else zero_point.astype(np.float64)]
    if block:
        parts = [np.repeat(part, block, axis).take(range(codes.shape[axis]), axis) if part.ndim else part for part in parts]
    elif scale.size > 1:
        shape = [-1 if other == axis % codes.ndim else 1 for other in range(codes.ndim)]
        parts = [part.reshape(shape) if part.size > 1 else part.reshape(()) for part in parts]
    else:
        parts = [part.reshape(()) for part in parts]
    real: Array = ((codes.astype(np.float64) - parts[1]) * parts[0]).astype(scale.dtype)
    return real
