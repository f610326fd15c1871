"""Sums of products of codes of any width with ConvInteger and MatMulInteger, which multiply 8 bits by 8.

Wider codes are sums of bytes, and so are their products:

    q = q0 + 256 q1 + 65536 q2 ...,        sum q w = sum_ij 256^(i + j) sum q_i w_j        modulo 2^32

All bytes but the highest are unsigned; so are weights, with the zero point 128, the second operand of a matrix product and what a
convolution reads, which is the second operand of its kernel: x86 processors without VNNI add two products of uint8 and int8 in 16 bits,
which saturates (ONNX Runtime issues 6004 and 16105); products of two uint8 they add in 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from halfstep.export.integer_onnx.writer import INT8, INT32, UINT8, UINT32, Writer
from halfstep.integer.value import Value


@dataclass(frozen=True)
class Byte:
    """codes: uint8 or int8. It stands for ``(codes - zero_point) * factor``."""

    codes: ir.Value
    zero_point: ir.Value
    factor: int


def split_codes(writer: Writer, codes: ir.Value, value: Value, zero_point: int, is_unsigned: bool = False) -> list[Byte]:
    """``codes - zero_point`` for codes on the grid of ``value`` as bytes, the lowest first. is_unsigned: the highest byte, too."""
    found, factor, bits = [], 1, value.grid.bits
    highest = INT8 if value.grid.signed else UINT8
    while bits > 8:
        low = writer.cast(codes, UINT8)
        found.append(Byte(low, writer.number(zero_point & 255, UINT8), factor))
        rest = writer.emit("Sub", [codes, writer.cast(low, INT32)], INT32)
        codes = writer.emit("Div", [rest, writer.number(256, INT32)], INT32)
        factor, bits, zero_point = factor * 256, bits - 8, zero_point >> 8
    if is_unsigned and highest == INT8:
        codes = writer.emit("Add", [writer.cast(codes, INT32), writer.number(128, INT32)], INT32)
        highest, zero_point = UINT8, zero_point + 128
    return [*found, Byte(writer.cast(codes, highest), writer.number(zero_point, highest), factor)]


def split_weight(writer: Writer, weight: NDArray[np.int64]) -> list[Byte]:
    """A stored tensor as bytes, all of them unsigned."""
    found, factor = [], 1
    while weight.min() < -128 or weight.max() > 127:
        found.append(Byte(writer.constant((weight & 255).astype(np.uint8), "weight"), writer.number(0, UINT8), factor))
        weight, factor = weight >> 8, factor * 256
    return [*found, Byte(writer.constant((weight + 128).astype(np.uint8), "weight"), writer.number(128, UINT8), factor)]


def sum_of_products(writer: Writer, op_type: str, ones: list[Byte], others: list[Byte], **attributes: Any) -> ir.Value:
    """The product of two sums of bytes, int32. op_type: ConvInteger or MatMulInteger."""
    terms = []
    for one in ones:
        for other in others:
            operands = [one.codes, other.codes, one.zero_point, other.zero_point]
            terms.append((writer.emit(op_type, operands, INT32, **attributes), one.factor * other.factor % (1 << 32)))
    if len(terms) == 1:
        return terms[0][0]
    total = None
    for product, factor in terms:
        term = writer.cast(product, UINT32)
        term = term if factor == 1 else writer.emit("Mul", [term, writer.number(factor, UINT32)], UINT32)
        total = term if total is None else writer.emit("Add", [total, term], UINT32)
    assert total is not None
    return writer.cast(total, INT32)
