"""Operators whose output codes are input codes: shapes, windows of the largest, frames, and stored tensors."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from halfstep.export.integer_onnx.writer import INT32, INT64, Writer, storage
from halfstep.integer.operators import Constant, Copy, Embedding, Gather, MaxPool, Pad, Reshape


def write_reshape(writer: Writer, operator: Reshape) -> ir.Value:
    """Reshape; the batch stays."""
    return writer.reshape(writer.values[operator.inputs[0]], writer.program.values[operator.output].shape)


def write_copy(writer: Writer, operator: Copy) -> ir.Value:
    """Transpose where every code is moved once, else Gather."""
    x, y = (writer.program.values[name] for name in (operator.inputs[0], operator.output))
    order = sorted(range(len(operator.sizes)), key=lambda loop: -operator.strides[loop])
    behind = [math.prod(operator.sizes[loop] for loop in order[place + 1 :]) for place in range(len(order))]
    is_permutation = math.prod(operator.sizes) == x.size and behind == [operator.strides[loop] for loop in order]
    if not is_permutation:
        return _gathered(writer, operator, operator.indices().flatten().numpy())
    codes = writer.reshape(writer.values[x.name], tuple(operator.sizes[loop] for loop in order))
    moved = writer.emit("Transpose", [codes], storage(x), perm=[0, *(order.index(loop) + 1 for loop in range(len(order)))])
    return writer.reshape(moved, y.shape)


def write_gather(writer: Writer, operator: Gather) -> ir.Value:
    """Gather along the flat sample."""
    return _gathered(writer, operator, operator.index.numpy())


def write_pad(writer: Writer, operator: Pad) -> ir.Value:
    """Pad with the code of 0."""
    value = writer.program.values[operator.inputs[0]]
    frame = {axis + 1: pair for axis, pair in enumerate(operator.padding)}
    return writer.pad(writer.values[value.name], frame, value.zero_point)


def write_constant(writer: Writer, operator: Constant) -> ir.Value:
    """The stored codes, once for each sample of the batch."""
    value = writer.program.values[operator.output]
    codes = writer.constant(operator.codes.numpy().astype(storage(value).numpy()), "codes")
    shape = writer.emit("Concat", [writer.batch(), writer.integers(value.shape)], INT64, axis=0)
    return writer.emit("Expand", [codes, shape], storage(value))


def write_embedding(writer: Writer, operator: Embedding) -> ir.Value:
    """Gather of rows; numbers beyond the last are that of the last."""
    data_type, table = storage(writer.program.values[operator.output]), operator.table.numpy()
    rows = writer.centred(operator.inputs[0], INT32)
    rows = writer.emit("Clip", [rows, writer.number(0, INT32), writer.number(len(table) - 1, INT32)], INT32)
    return writer.emit("Gather", [writer.constant(table.astype(data_type.numpy()), "rows"), rows], data_type, axis=0)


def write_max_pool(writer: Writer, operator: MaxPool) -> ir.Value:
    """MaxPool up to 8 bits. ONNX Runtime has none for wider integers: there, Max of the shifted input, one axis after the other."""
    value = writer.program.values[operator.inputs[0]]
    is_narrow = all(max(pair) < size for pair, size in zip(operator.padding, operator.kernel, strict=True))  # ONNX Runtime takes no other
    if storage(value) != INT32 and is_narrow:
        return writer.emit(
            "MaxPool", [writer.values[value.name]], storage(value), kernel_shape=operator.kernel, strides=operator.stride,
            dilations=operator.dilation, pads=[pair[end] for end in (0, 1) for pair in operator.padding],
        )  # fmt: skip
    frame = {axis + 2: pair for axis, pair in enumerate(operator.padding)}
    codes = writer.pad(writer.values[value.name], frame, value.grid.minimum)
    sizes = writer.program.values[operator.output].shape[1:]
    for axis, (kernel, stride, dilation, size) in enumerate(zip(operator.kernel, operator.stride, operator.dilation, sizes, strict=True)):
        starts = [tap * dilation for tap in range(kernel)]
        shifted = [writer.cut(codes, {axis + 2: (start, start + (size - 1) * stride + 1)}, stride) for start in starts]
        codes = writer.emit("Max", shifted, storage(value))
    return codes


def _gathered(writer: Writer, operator: Copy | Gather, index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ir.Value:
    x, y = (writer.program.values[name] for name in (operator.inputs[0], operator.output))
    flat = writer.reshape(writer.values[x.name], (x.size,))
    found = writer.emit("Gather", [flat, writer.constant(index.astype(np.int32), "index")], storage(x), axis=1)
    return writer.reshape(found, y.shape)
