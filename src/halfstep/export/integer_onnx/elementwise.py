"""Operators that work entry by entry or along an axis: sums, products, joins, means, tables, the largest."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from halfstep.export.integer_onnx.arithmetic import along, finish, requantize
from halfstep.export.integer_onnx.writer import INT32, INT64, Writer, storage
from halfstep.integer.operators import Add, Argmax, Concat, Lookup, Mean, Mul, Requantize


def write_add(writer: Writer, operator: Add) -> ir.Value:
    """The sum in int64, which `check` proves wide enough; one shift for all of it."""
    total, num_axes = None, len(writer.program.values[operator.output].shape)
    for name, multiplier in zip(operator.inputs, operator.multipliers, strict=True):
        term = writer.centred(name, INT64, num_axes)
        term = term if multiplier == 1 else writer.emit("Mul", [term, writer.number(multiplier, INT64)], INT64)
        total = term if total is None else writer.emit("Add", [total, term], INT64)
    assert total is not None
    return requantize(writer, total, (np.array(1), np.array(operator.shift)), operator.output, (operator.low, operator.high))


def write_mul(writer: Writer, operator: Mul) -> ir.Value:
    """The product in int32, which `check` proves wide enough."""
    num_axes = len(writer.program.values[operator.output].shape)
    return finish(writer, operator, writer.emit("Mul", [writer.centred(name, INT32, num_axes) for name in operator.inputs], INT32))


def write_concat(writer: Writer, operator: Concat) -> ir.Value:
    """Each part on the output's grid, then joined."""
    parts = []
    for name, rescale in zip(operator.inputs, operator.rescales, strict=True):
        codes = writer.centred(name, INT64)
        parts.append(requantize(writer, codes, along(rescale, 0), operator.output, (operator.low, operator.high)))
    return writer.emit("Concat", parts, storage(writer.program.values[operator.output]), axis=operator.axis + 1)


def write_requantize(writer: Writer, operator: Requantize) -> ir.Value:
    """The rescale alone."""
    return finish(writer, operator, writer.centred(operator.inputs[0], INT64))


def write_mean(writer: Writer, operator: Mean) -> ir.Value:
    """ReduceSum; the division is in the rescale."""
    axes = writer.integers([axis + 1 for axis in operator.axes])
    sums = writer.emit("ReduceSum", [writer.centred(operator.inputs[0], INT32), axes], INT32, keepdims=_keeps_axes(writer, operator))
    return finish(writer, operator, sums)


def write_argmax(writer: Writer, operator: Argmax) -> ir.Value:
    """ArgMax, of equals the first."""
    codes, keeps = writer.values[operator.inputs[0]], _keeps_axes(writer, operator)
    places = writer.emit("ArgMax", [codes], INT64, axis=operator.axis + 1, keepdims=keeps, select_last_index=0)
    return writer.cast(places, storage(writer.program.values[operator.output]))


def write_lookup(writer: Writer, operator: Lookup) -> ir.Value:
    """Gather from the table, a row a channel behind each other."""
    value, data_type = writer.program.values[operator.inputs[0]], storage(writer.program.values[operator.output])
    rows = np.arange(len(operator.table), dtype=np.int32) * operator.table.shape[1] - value.grid.minimum
    rows = rows.reshape(-1, *[1] * (len(value.shape) - 1)) if len(rows) > 1 else rows.reshape(())
    index = writer.cast(writer.values[value.name], INT32)
    index = writer.emit("Add", [index, writer.constant(rows, "rows")], INT32) if rows.any() else index
    table = writer.constant(operator.table.numpy().flatten().astype(data_type.numpy()), "table")
    return writer.emit("Gather", [table, index], data_type)


def _keeps_axes(writer: Writer, operator: Mean | Argmax) -> int:
    """Whether the axes it works along stay, with size 1."""
    x, y = (writer.program.values[name].shape for name in (operator.inputs[0], operator.output))
    return int(len(x) == len(y))
