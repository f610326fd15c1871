"""Softmax and the norms: the formulas of their operators, node by node, in int64, and in uint64 where there are shifts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from halfstep.export.integer_onnx.arithmetic import requantize
from halfstep.export.integer_onnx.writer import BOOL, INT32, INT64, UINT64, Writer
from halfstep.integer.operators import LayerNorm, Softmax
from halfstep.integer.operators.layer_norm import FRACTION, NUM_STEPS
from halfstep.integer.operators.softmax import HIDDEN, MOST_DISTANCE, coarse_table, fine_table

Array = np.ndarray[Any, np.dtype[np.int64]]
_ORIGIN = 1 << 62  # keeps sums positive where they are shifted


def write_softmax(writer: Writer, operator: Softmax) -> ir.Value:
    """Two Gathers make a power, one Div a row's ratio."""
    value = writer.program.values[operator.output]
    scores, axes = _scores(writer, operator), writer.integers([operator.axis + 1])
    most = writer.emit("ReduceMax", [scores, axes], INT32, keepdims=1)
    octaves = _octaves(writer, operator, writer.emit("Sub", [most, scores], INT32))
    fraction = writer.emit("BitwiseAnd", [octaves, writer.number(65535, UINT64)], UINT64)
    coarse = _shifted(writer, fraction, writer.number(8, UINT64))
    fine = writer.emit("BitwiseAnd", [fraction, writer.number(255, UINT64)], UINT64)
    parts = []
    for table, index in ((coarse_table(), coarse), (fine_table(), fine)):
        stored = writer.constant(table.numpy().astype(np.uint64), "powers")
        parts.append(writer.emit("Gather", [stored, writer.cast(index, INT64)], UINT64))
    shift = writer.emit("Add", [_shifted(writer, octaves, writer.number(16, UINT64)), writer.number(30, UINT64)], UINT64)
    powers = writer.cast(_shifted(writer, writer.emit("Mul", parts, UINT64), shift), INT64)
    sums = writer.emit("ReduceSum", [powers, axes], INT64, keepdims=1)
    ratio = writer.emit("Div", [writer.number(operator.numerator, INT64), sums], INT64)
    total = writer.emit("Mul", [powers, ratio], INT64)
    bounds = value.grid.minimum, value.grid.maximum
    return requantize(writer, total, (np.array(1), np.array(operator.precision)), operator.output, bounds)


def _scores(writer: Writer, operator: Softmax) -> ir.Value:
    """t, int32."""
    num_axes = len(writer.program.values[operator.output].shape)
    hidden = writer.number(HIDDEN, INT32)
    scores = writer.centred(operator.inputs[0], INT32)
    if operator.guard:
        scores = writer.emit("Mul", [scores, writer.number(1 << operator.guard, INT32)], INT32)
    if operator.bias is not None:
        bias = operator.bias.numpy().astype(np.int32)[None]
        scores = writer.emit("Add", [scores, writer.constant(np.where(bias == HIDDEN, 0, bias), "bias")], INT32)
        if (bias == HIDDEN).any():
            scores = writer.emit("Where", [writer.constant(bias == HIDDEN, "hidden"), hidden, scores], INT32)
    if len(operator.inputs) > 1:
        is_hidden = writer.emit("Equal", [writer.centred(operator.inputs[1], INT32, num_axes), writer.number(0, INT32)], BOOL)
        scores = writer.emit("Where", [is_hidden, hidden, scores], INT32)
    return scores


def _octaves(writer: Writer, operator: Softmax, distance: ir.Value) -> ir.Value:
    """x, uint64."""
    multiplier, shift = int(operator.rescale.multiplier), int(operator.rescale.shift)
    total = writer.cast(writer.cast(distance, INT64), UINT64)
    total = writer.emit("Mul", [total, writer.number(multiplier, UINT64)], UINT64)
    total = writer.emit("Add", [total, writer.number((1 << shift) >> 1, UINT64)], UINT64)
    shifted = _shifted(writer, total, writer.number(shift, UINT64))
    return writer.emit("Clip", [shifted, None, writer.number(MOST_DISTANCE, UINT64)], UINT64)


def write_layer_norm(writer: Writer, operator: LayerNorm) -> ir.Value:
    """Groups as rows; the root by Newton's steps, written out."""
    x, y = (writer.program.values[name] for name in (operator.inputs[0], operator.output))
    count = x.size // operator.num_groups
    codes = writer.reshape(writer.centred(x.name, INT64), (operator.num_groups, count))
    axes, size = writer.integers([2]), writer.number(count, INT64)
    squares = writer.emit("ReduceSum", [writer.emit("Mul", [codes, codes], INT64), axes], INT64, keepdims=1)
    centred, variance = writer.emit("Mul", [codes, size], INT64), writer.emit("Mul", [squares, size], INT64)
    if operator.is_centred:
        sums = writer.emit("ReduceSum", [codes, axes], INT64, keepdims=1)
        centred = writer.emit("Sub", [centred, sums], INT64)
        variance = writer.emit("Sub", [variance, writer.emit("Mul", [sums, sums], INT64)], INT64)
    variance = writer.emit("Mul", [variance, writer.number(1 << 2 * operator.guard, INT64)], INT64)
    root, k = _root(writer, writer.emit("Add", [variance, writer.number(operator.epsilon, INT64)], INT64))
    inverse = writer.emit("Div", [writer.number(2**61, INT64), root], INT64)
    normalized = _normalized(writer, writer.emit("Mul", [centred, inverse], INT64), k, operator.guard)
    weight, bias = (_along(operator, part.numpy(), count) for part in (operator.weight, operator.bias))
    total = writer.emit("Mul", [normalized, writer.constant(weight, "weight")], INT64)
    total = writer.emit("Add", [total, writer.constant(bias << operator.bias_shift, "bias")], INT64) if bias.any() else total
    made = requantize(writer, total, (np.array(1), np.array(operator.shift)), operator.output, (operator.low, operator.high))
    return writer.reshape(made, y.shape)


def _root(writer: Writer, v: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(root of 4^k v, k), int64."""
    k: ir.Value | None = None
    for bits in (32, 16, 8, 4, 2):
        is_small = writer.cast(writer.emit("Less", [v, writer.number(1 << (62 - bits), INT64)], BOOL), INT64)
        factor = writer.emit("Mul", [is_small, writer.number((1 << bits) - 1, INT64)], INT64)
        v = writer.emit("Mul", [v, writer.emit("Add", [factor, writer.number(1, INT64)], INT64)], INT64)
        step = writer.emit("Mul", [is_small, writer.number(bits // 2, INT64)], INT64)
        k = step if k is None else writer.emit("Add", [k, step], INT64)
    root = writer.number(2**31, INT64)
    for _ in range(NUM_STEPS):
        root = writer.emit("Add", [root, writer.emit("Div", [v, root], INT64)], INT64)
        root = writer.emit("Div", [root, writer.number(2, INT64)], INT64)
    assert k is not None
    return root, k


def _normalized(writer: Writer, product: ir.Value, k: ir.Value, guard: int) -> ir.Value:
    """u, int64: with 2^62 added before the shift and what is left of it taken off again."""
    rest = writer.cast(writer.emit("Sub", [writer.number(61 - FRACTION - guard, INT64), k], INT64), UINT64)
    before = writer.emit("Sub", [rest, writer.number(1, UINT64)], UINT64)
    half = writer.emit("BitShift", [writer.number(1, UINT64), before], UINT64, direction="LEFT")
    total = writer.emit("Add", [writer.cast(product, UINT64), writer.number(_ORIGIN, UINT64)], UINT64)
    shifted = _shifted(writer, writer.emit("Add", [total, half], UINT64), rest)
    origin = _shifted(writer, writer.number(_ORIGIN, UINT64), rest)
    return writer.emit("Sub", [writer.cast(shifted, INT64), writer.cast(origin, INT64)], INT64)


def _shifted(writer: Writer, x: ir.Value, shift: ir.Value) -> ir.Value:
    return writer.emit("BitShift", [x, shift], UINT64, direction="RIGHT")


def _along(operator: LayerNorm, stored: Array, count: int) -> Array:
    """Weight or bias for every entry of the groups, axes along which it does not change of size 1."""
    full = stored.astype(np.int64)[operator.places(count * operator.num_groups).numpy()].reshape(operator.num_groups, count)
    full = full[:1] if (full == full[:1]).all() else full
    return np.asarray(full[:, :1] if (full == full[:, :1]).all() else full)
