"""Products of matrices. A product with a stored matrix is a linear layer, whose weight `simplify` has turned round already."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.onnx_import.call import Call, Known, Translation


def _gemm(call: Call) -> Tensor:
    """The sum alpha A B + beta C. With a stored B of shape [outputs, inputs] and factors of 1 a linear layer."""
    x, weight, bias = call.tensor(0), call.tensor(1), call.optional_tensor(2)
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    x = x.transpose(-1, -2) if call.flag("transA") else x
    is_vector = bias is None or (bias.ndim == 1 and bias.shape[0] == weight.shape[0])
    if call.flag("transB") and alpha == beta == 1 and isinstance(call.value(1), Known) and is_vector:
        return F.linear(x, weight, bias)
    product = torch.matmul(x, weight.transpose(-1, -2) if call.flag("transB") else weight)
    product = product if alpha == 1 else product * alpha
    if bias is None:
        return product
    return product + (bias if beta == 1 else bias * beta)


def _matmul(call: Call) -> Tensor:
    return torch.matmul(call.tensor(0), call.tensor(1))


def _einsum(call: Call) -> Tensor:
    """A sum over products of two tensors is a product of matrices; anything else is left to PyTorch."""
    equation, tensors = call.text("equation", "").replace(" ", ""), call.tensors()
    operands, _, result = equation.partition("->")
    names = operands.split(",")
    is_plain = (
        len(names) == 2 and "->" in equation and "." not in equation and all(len(set(name)) == len(name) for name in [*names, result])
    )
    if not is_plain or set(result) != (set(names[0]) ^ set(names[1])) | (set(result) & set(names[0]) & set(names[1])):
        return torch.einsum(equation, *tensors)
    return _product(tensors[0], tensors[1], names[0], names[1], result)


def _product(x: Tensor, y: Tensor, x_axes: str, y_axes: str, result: str) -> Tensor:
    """The axes in both and in the result are batches, those in both alone are summed over, the others are rows and columns."""
    batches = [axis for axis in x_axes if axis in y_axes and axis in result]
    summed = [axis for axis in x_axes if axis in y_axes and axis not in result]
    rows, columns = ([axis for axis in axes if axis not in batches and axis not in summed] for axes in (x_axes, y_axes))
    left = _grouped(x, x_axes, [batches, rows, summed])
    right = _grouped(y, y_axes, [batches, summed, columns])
    sizes = dict(zip(x_axes + y_axes, (*x.shape, *y.shape), strict=True))
    found = batches + rows + columns
    product = torch.matmul(left, right)
    if not len(batches) == len(rows) == len(columns) == 1:
        product = product.reshape([sizes[axis] for axis in found])
    order = [found.index(axis) for axis in result]
    return product if order == sorted(order) else product.permute(order)


def _grouped(x: Tensor, axes: str, groups: list[list[str]]) -> Tensor:
    """``x`` with one axis for each group, in their order."""
    order = [axes.index(axis) for group in groups for axis in group]
    x = x if order == sorted(order) else x.permute(order)
    sizes = dict(zip([axes[index] for index in order], x.shape, strict=True))
    shape = [math.prod(sizes[axis] for axis in group) for group in groups]
    return x if all(len(group) == 1 for group in groups) else x.reshape(shape)


PRODUCTS: dict[str, Translation] = {
    "Gemm": Translation(_gemm),
    "MatMul": Translation(_matmul),
    "Einsum": Translation(_einsum),
}
"""Operator -> its translation."""
