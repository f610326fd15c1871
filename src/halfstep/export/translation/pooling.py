"""Pooling and resizing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.fx import Node

from halfstep.export.translation.writer import Translate, Untranslatable, Writer, num_spatial, plain, spread


def _max_pool(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, kernel, stride, padding, dilation, _ = arguments
    count = num_spatial(node)
    kernel, pads, dilation = spread(kernel, count), spread(padding, count), spread(dilation, count)
    stride = spread(stride, count) if stride else kernel
    reach = [step * (size - 1) + 1 for step, size in zip(dilation, kernel, strict=True)]
    # torch drops a window that begins behind the input, ONNX's ceil_mode may keep it: whatever hangs over is written as padding instead.
    covered = [_covered(*axis) for axis in zip(x.meta["shape"][-count:], node.meta["shape"][-count:], reach, stride, pads, strict=True)]
    ends = [a + b for a, b in zip(pads, covered, strict=True)]
    return writer.emit(
        "MaxPool", [writer.value(x)], node, kernel_shape=kernel, strides=stride, pads=pads + ends, dilations=dilation, ceil_mode=0
    )


def _average_pool(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, kernel, stride, padding, _, count_include_pad = arguments[:6]
    if len(arguments) > 6 and arguments[6] is not None:
        raise Untranslatable("avg_pool with a divisor of its own")
    count = num_spatial(node)
    kernel, pads = spread(kernel, count), spread(padding, count)
    stride = spread(stride, count) if stride else kernel
    covered = [_covered(*axis) for axis in zip(x.meta["shape"][2:], node.meta["shape"][2:], kernel, stride, pads, strict=True)]
    value = writer.value(x)
    if any(covered) and any(pads) and count_include_pad:  # what is padded counts, what lies beyond it does not: two kinds of padding
        amounts = writer.integers([0, 0, *pads, 0, 0, *pads])
        value, pads = writer.emit("Pad", [value, amounts, writer.number(0, node.meta["dtype"])], node), [0] * count
    # A window that hangs over the end (ceil_mode) averages what is there: padding that is not counted.
    ends = [a + b for a, b in zip(pads, covered, strict=True)]
    return writer.emit(
        "AveragePool", [value], node, kernel_shape=kernel, strides=stride, pads=pads + ends,
        count_include_pad=int(count_include_pad and not any(covered)),
    )  # fmt: skip


def _covered(size: int, result: int, kernel: int, stride: int, pad: int) -> int:
    """How far the last window reaches beyond the padded input."""
    return max(0, (result - 1) * stride + kernel - size - 2 * pad)


def _global_average(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    if any(size != 1 for size in arguments[1]):
        return _adaptive_average(writer, node, arguments)
    return writer.emit("GlobalAveragePool", [writer.value(arguments[0])], node)


def _adaptive_average(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    """Pooling to a given size: windows of one size where that divides the input's, else one product with a matrix of means an axis."""
    x, count = arguments[0], num_spatial(node)
    sizes = list(zip(x.meta["shape"][-count:], node.meta["shape"][-count:], strict=True))
    if all(size is not None and size % result == 0 for size, result in sizes):
        kernel = [size // result for size, result in sizes]
        return writer.emit("AveragePool", [writer.value(x)], node, kernel_shape=kernel, strides=kernel)
    if any(size is None for size, _ in sizes):
        raise Untranslatable("adaptive pooling of a free axis")
    return _product_of_means(writer, node, writer.value(x), sizes)


def _product_of_means(writer: Writer, node: Node, value: ir.Value, sizes: list[tuple[int, int]]) -> ir.Value:
    count = len(sizes)
    for axis, (size, result) in enumerate(sizes):
        matrix = np.zeros((size, result), np.float32)
        for k in range(result):
            first, end = k * size // result, -(-(k + 1) * size // result)
            matrix[first:end, k] = 1 / (end - first)
        order = list(range(2 + count))
        order[2 + axis], order[-1] = order[-1], order[2 + axis]
        turned = value if axis == count - 1 else writer.emit("Transpose", [value], node, perm=order)
        value = writer.emit("MatMul", [turned, writer.constant(f"means_{size}_{result}", matrix)], node)
        value = value if axis == count - 1 else writer.emit("Transpose", [value], node, perm=order)
    return value


def _resize(mode: str) -> Translate:
    """``upsample_*.vec(x, output_size, [align_corners,] scale_factors)``."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        x, factors, is_aligned = arguments[0], arguments[-1], len(arguments) == 4 and bool(arguments[2])
        shape, result = x.meta["shape"], node.meta["shape"]
        if any(size is None for size in (*shape[1:], *result[1:])):
            raise Untranslatable("resizing to a computed size")
        # PyTorch maps positions by the factors where they are given, else by the ratio of the sizes; so does ONNX with scales and sizes.
        inputs: list[ir.Value | None] = [writer.value(x), None]
        if factors is not None and not is_aligned:
            scales = np.array([1, 1, *factors], np.float32)
            if any(int(s * float(f)) != r for s, f, r in zip(shape[2:], scales[2:], result[2:], strict=True)):
                raise Untranslatable("resizing by a factor that float32 rounds to another size")
            inputs.append(writer.constant("scales_" + "_".join(f"{scale:.9g}" for scale in scales), scales))
        else:
            inputs += [None, _sizes(writer, node, x, list(result[1:]))]
        position = "asymmetric" if mode == "nearest" else "align_corners" if is_aligned else "half_pixel"
        rule = {"nearest_mode": "floor"} if mode == "nearest" else {"cubic_coeff_a": -0.75} if mode == "cubic" else {}
        return writer.emit("Resize", inputs, node, mode=mode, coordinate_transformation_mode=position, **rule)

    return emit


def _sizes(writer: Writer, node: Node, x: Node, sizes: list[int]) -> ir.Value:
    batch = x.meta["shape"][0]
    first = writer.size_of(x, 0) if batch is None else writer.integers([batch])
    return writer.emit("Concat", [first, writer.integers(sizes)], node, dtype=torch.int64, axis=0)


TRANSLATIONS: dict[str, Translate] = {
    **dict.fromkeys(("max_pool1d.default", "max_pool2d.default", "max_pool3d.default"), _max_pool),
    **dict.fromkeys(("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default"), _average_pool),
    **dict.fromkeys(("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default"), _global_average),
    **dict.fromkeys(("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec"), _resize("nearest")),
    **dict.fromkeys(("upsample_linear1d.vec", "upsample_bilinear2d.vec", "upsample_trilinear3d.vec"), _resize("linear")),
    "upsample_bicubic2d.vec": _resize("cubic"),
    "pixel_shuffle.default": lambda w, n, a: plain("DepthToSpace", 1, blocksize=a[1], mode="CRD")(w, n, a),
}
