"""Operators with an accumulator of products: convolutions, linear layers, matrix products, windows of sums."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from halfstep.export.integer_onnx.arithmetic import finish, requantize
from halfstep.export.integer_onnx.products import split_codes, split_weight, sum_of_products
from halfstep.export.integer_onnx.writer import INT32, Writer
from halfstep.integer.operators import AveragePool, Conv, ConvTranspose, Linear, Matmul


def write_conv(writer: Writer, operator: Conv) -> ir.Value:
    """ConvInteger of centred codes, so that its padding is one of zeros; the zero point leaves the bias again."""
    value = writer.program.values[operator.inputs[0]]
    weight = operator.weight.numpy()
    bias = operator.bias.numpy() + value.zero_point * weight.reshape(len(weight), -1).sum(1)
    sums = sum_of_products(
        writer, "ConvInteger",
        split_codes(writer, writer.values[value.name], value, value.zero_point, is_unsigned=True), split_weight(writer, weight),
        strides=operator.stride, pads=_ends(operator.padding), dilations=operator.dilation, group=operator.groups,
    )  # fmt: skip
    return finish(writer, operator, _plus_bias(writer, sums, bias, len(operator.stride)))


def write_conv_transpose(writer: Writer, operator: ConvTranspose) -> ir.Value:
    """ConvInteger over the input with zeros between its codes and around them, and the weight turned round."""
    value = writer.program.values[operator.inputs[0]]
    spread = _spread(writer, operator)
    grouped = operator.weight.unflatten(0, (operator.groups, -1)).transpose(1, 2).flatten(0, 1)  # [C_out, C_in / groups, *kernel]
    turned = grouped.flip(list(range(2, grouped.ndim))).numpy()
    sums = sum_of_products(
        writer, "ConvInteger", split_codes(writer, spread, value, value.zero_point, is_unsigned=True), split_weight(writer, turned),
        dilations=operator.dilation, group=operator.groups,
    )  # fmt: skip
    return finish(writer, operator, _plus_bias(writer, sums, operator.bias.numpy(), len(operator.stride)))


def _spread(writer: Writer, operator: ConvTranspose) -> ir.Value:
    """The input of a transposed convolution as that of an ordinary one: ``stride - 1`` zeros behind each code, and a frame."""
    value = writer.program.values[operator.inputs[0]]
    codes, (channels, *sizes) = writer.values[value.name], value.shape
    if max(operator.stride) > 1:
        codes = writer.reshape(codes, (channels, *[part for size in sizes for part in (size, 1)]))
        codes = writer.pad(codes, {2 * axis + 3: (0, step - 1) for axis, step in enumerate(operator.stride)}, value.zero_point)
        codes = writer.reshape(codes, (channels, *[size * step for size, step in zip(sizes, operator.stride, strict=True)]))
    reach = [d * (k - 1) for d, k in zip(operator.dilation, operator.weight.shape[2:], strict=True)]
    framed = writer.pad(codes, {axis + 2: (far, far + operator.output_padding[axis]) for axis, far in enumerate(reach)}, value.zero_point)
    starts, shape = operator.padding, writer.program.values[operator.output].shape[1:]
    return writer.cut(framed, {axis + 2: (starts[axis], starts[axis] + size + reach[axis]) for axis, size in enumerate(shape)})


def write_linear(writer: Writer, operator: Linear) -> ir.Value:
    """MatMulInteger with the codes as they are: the zero point is in the bias."""
    value = writer.program.values[operator.inputs[0]]
    codes = split_codes(writer, writer.values[value.name], value, 0)
    sums = sum_of_products(writer, "MatMulInteger", codes, split_weight(writer, operator.weight.numpy().T))
    return finish(writer, operator, _plus_bias(writer, sums, operator.bias.numpy(), 0))


def write_matmul(writer: Writer, operator: Matmul) -> ir.Value:
    """MatMulInteger of centred codes."""
    one, other = (writer.program.values[name] for name in operator.inputs)
    num_axes = len(writer.program.values[operator.output].shape)
    left = split_codes(writer, writer.aligned(one.name, num_axes), one, one.zero_point)
    right = split_codes(writer, writer.aligned(other.name, num_axes), other, other.zero_point, is_unsigned=True)
    return finish(writer, operator, sum_of_products(writer, "MatMulInteger", left, right))


def write_average_pool(writer: Writer, operator: AveragePool) -> ir.Value:
    """A depthwise ConvInteger with ones; each place has the rescale of its divisor."""
    value = writer.program.values[operator.inputs[0]]
    channels = value.shape[0]
    sums = sum_of_products(
        writer, "ConvInteger", split_codes(writer, writer.values[value.name], value, value.zero_point, is_unsigned=True),
        split_weight(writer, np.ones((channels, 1, *operator.kernel), np.int64)),
        strides=operator.stride, pads=_ends(operator.padding), group=channels,
    )  # fmt: skip
    chosen = np.array(0) if len(operator.divisors) == 1 else operator.divisor_index().numpy()
    multiplier, shift = (np.asarray(part.numpy()[chosen]) for part in (operator.rescale.multiplier, operator.rescale.shift))
    return requantize(writer, sums, (multiplier, shift), operator.output, (operator.low, operator.high))


def _plus_bias(writer: Writer, sums: ir.Value, bias: NDArray[np.int64], num_behind: int) -> ir.Value:
    shaped = bias.astype(np.int32).reshape(-1, *[1] * num_behind)
    return writer.emit("Add", [sums, writer.constant(shaped, "bias")], INT32) if shaped.any() else sums


def _ends(padding: tuple[tuple[int, int], ...]) -> list[int]:
    """All befores, then all afters, as ONNX has them."""
    return [before for before, _ in padding] + [after for _, after in padding]
