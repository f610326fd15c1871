"""Convolutions, linear layers and products of matrices."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from torch.fx import Node

from halfstep.export.translation.writer import Translate, Untranslatable, Writer, num_spatial, plain, rank, spread


def _inputs(writer: Writer, x: Any, weight: Any, bias: Any) -> list[ir.Value]:
    return [writer.value(x), writer.value(weight), *([] if bias is None else [writer.value(bias)])]


def _conv(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, weight, bias, stride, padding, dilation, groups = arguments
    count = num_spatial(node)
    common = {"strides": spread(stride, count), "dilations": spread(dilation, count), "group": groups}
    if isinstance(padding, str):
        return writer.emit(
            "Conv", _inputs(writer, x, weight, bias), node, pads=_named_padding(padding, weight, common["dilations"]), **common
        )
    pads = spread(padding, count)
    return writer.emit("Conv", _inputs(writer, x, weight, bias), node, pads=pads + pads, **common)


def _named_padding(padding: str, weight: Node, dilations: list[int]) -> list[int]:
    """ "same": the odd one goes to the end."""
    totals = [d * (size - 1) if padding == "same" else 0 for d, size in zip(dilations, weight.meta["shape"][2:], strict=True)]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]


def _conv_transpose(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, weight, bias, stride, padding, output_padding, groups, dilation = arguments
    count = num_spatial(node)
    pads = spread(padding, count)
    return writer.emit(
        "ConvTranspose", _inputs(writer, x, weight, bias), node, strides=spread(stride, count), pads=pads + pads,
        dilations=spread(dilation, count), group=groups, output_padding=spread(output_padding, count),
    )  # fmt: skip


def _linear(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, weight, bias = arguments
    if rank(node) == 2:
        return writer.emit("Gemm", _inputs(writer, x, weight, bias), node, transB=1)
    swapped = writer.emit("Transpose", [writer.value(weight)], node, perm=[1, 0])
    product = writer.emit("MatMul", [writer.value(x), swapped], node)
    return product if bias is None else writer.emit("Add", [product, writer.value(bias)], node)


def _scaled(writer: Writer, node: Node, x: ir.Value, factor: float) -> ir.Value:
    return x if factor == 1 else writer.emit("Mul", [x, writer.value(float(factor))], node)


def _product_and_sum(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    """A product added to something (addmm, baddbmm): beta * input + alpha * first @ second."""
    added, first, second, beta, alpha = arguments
    product = _scaled(writer, node, writer.emit("MatMul", [writer.value(first), writer.value(second)], node), alpha)
    return writer.emit("Add", [product, _scaled(writer, node, writer.value(added), beta)], node)


def _einsum(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    equation, operands = arguments[:2]
    if "." in equation:
        raise Untranslatable("einsum with an ellipsis")
    return writer.emit("Einsum", [writer.value(x) for x in operands], node, equation=equation)


TRANSLATIONS: dict[str, Translate] = {
    **dict.fromkeys(("conv1d.default", "conv2d.default", "conv3d.default"), _conv),
    **dict.fromkeys(("conv1d.padding", "conv2d.padding", "conv3d.padding"), _conv),
    **dict.fromkeys(("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"), _conv_transpose),
    "linear.default": _linear,
    **dict.fromkeys(("matmul.default", "bmm.default", "mm.default"), plain("MatMul", 2)),
    **dict.fromkeys(("addmm.default", "baddbmm.default"), _product_and_sum),
    "einsum.default": _einsum,
}
