"""Weights with a scale for each group of inputs, in ONNX.

form                 what is written                                                   codes (more than 8 bits: as qdq)
matmul_nbits         MatMulNBits of com.microsoft, activations in float                4 bits, or 8 where they have more
matmul_nbits_int8    the same, activations rounded to 8 bits in blocks by its kernel   2, 4 or 8 bits
qdq                  DequantizeLinear with block_size (opset 21), MatMul               4, 8 or 16 bits

MatMulNBits is what ONNX Runtime makes of the third form, too, so all of them run in the same kernels; the first two say in the file how
they compute, the third leaves it to the session (``session.qdq_matmulnbits_accuracy_level``, by default as in the second) and is standard
ONNX. With float activations, only 4-bit codes have a fast kernel in ONNX Runtime 1.31 on CPUs: this is why the first form stores 2 bits in
4.

    B [C_out, K, group_size bits / 8]   the codes, the first one in the lowest bits, a last group filled up; signed ones 2^(bits - 1) higher
    scales [C_out, K]                   float32
    zero points [C_out, K bits / 8]     packed alike; none where all are 2^(bits - 1), which is 0 of a signed grid
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from halfstep.export.mark import Constant, Marked
from halfstep.export.nodes import initializer, insert, replace
from halfstep.grid import Grid, Quantized
from halfstep.targets import GroupForm

_DOMAIN = "com.microsoft"
_ACCURACY = {"matmul_nbits": 1, "matmul_nbits_int8": 4}  # of its input: float32, or int8
_NIBBLES, _BYTES = (ir.DataType.INT4, ir.DataType.UINT4), (ir.DataType.INT8, ir.DataType.UINT8)
_WORDS = ir.DataType.INT16, ir.DataType.UINT16


def store_groups(model: ir.Model, marked: Marked, form: GroupForm) -> None:
    """Write every weight with groups, and the products that read it, in ``form``; they are taken out of ``marked.constants``."""
    grouped = {name: constant for name, constant in marked.constants.items() if constant.quantizer.grid.group_size is not None}
    for name, constant in grouped.items():
        value = model.graph.initializers.get(name)
        if value is None:
            continue  # `rewrite` says so
        del marked.constants[name]
        stored = torch.from_numpy(np.array(value.const_value.numpy()))  # type: ignore[union-attr]
        weight = constant.quantizer.quantize(stored.T if constant.is_transposed else stored)
        for use in list(value.uses()):
            if form != "qdq" and weight.grid.bits <= 8 and use.node.op_type == "MatMul" and use.idx == 1 and constant.is_transposed:
                _as_matmul_nbits(model.graph, use.node, name, weight, form)
        if value.uses():
            _dequantize_in_blocks(model.graph, value, constant, weight)
        del model.graph.initializers[name]
    if any(node.domain == _DOMAIN for node in model.graph):
        model.opset_imports[_DOMAIN] = 1


def in_float(model: ir.Model) -> None:
    """Let every MatMulNBits leave its input in float, as the simulation does."""
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", _ACCURACY["matmul_nbits"])


def _as_matmul_nbits(graph: ir.Graph, product: ir.Node, name: str, weight: Quantized, form: GroupForm) -> None:
    """Put a MatMulNBits in the place of a MatMul; ONNX Runtime adds the bias behind it in the same kernel."""
    grid = weight.grid
    assert grid.group_size is not None
    bits = next(width for width in ((4, 8) if form == "matmul_nbits" else (2, 4, 8)) if grid.bits <= width)
    offset = 1 << (bits - 1) if grid.signed else 0
    codes = weight.codes.detach().to(torch.int64) + offset
    num_outputs, num_inputs = codes.shape
    zero_point = weight.zero_point.to(torch.int64) + offset
    blocks = _filled(codes, grid.group_size).unflatten(1, (-1, grid.group_size))
    inputs = [product.inputs[0], initializer(graph, f"{name}.codes{bits}", _packed(blocks, bits))]
    inputs.append(initializer(graph, f"{name}.scale", weight.scale.detach().float().numpy()))
    if not bool((zero_point == 1 << (bits - 1)).all()):
        inputs.append(initializer(graph, f"{name}.zero_point", _packed(_filled(zero_point, 8 // bits), bits)))
    output = product.outputs[0]
    found = insert(
        graph, product, "MatMulNBits", inputs, f"{output.name}.nbits", output.dtype, _DOMAIN,
        K=num_inputs, N=num_outputs, bits=bits, block_size=grid.group_size, accuracy_level=_ACCURACY[form],
    )  # fmt: skip
    replace(graph, output, found)
    graph.remove(product, safe=True)


def _filled(values: Tensor, multiple: int) -> Tensor:
    """With zeros at the end of the last axis, up to a multiple."""
    return torch.nn.functional.pad(values, (0, -values.shape[-1] % multiple))


def _packed(values: Tensor, bits: int) -> np.ndarray[Any, Any]:
    """Unsigned integers of ``bits`` 2, 4 or 8 as bytes, along the last axis, the first in the lowest bits."""
    shifts = torch.arange(0, 8, bits)
    packed: Tensor = (values.unflatten(-1, (-1, len(shifts))) << shifts).sum(-1)
    return packed.numpy().astype(np.uint8)


def _dequantize_in_blocks(graph: ir.Graph, value: ir.Value, constant: Constant, weight: Quantized) -> None:
    """A DequantizeLinear for everyone who still reads the float weight."""
    grid, name = weight.grid, value.name
    data_type = _stored_type(grid)
    stored_type = data_type.numpy()

    def stored(tensor: Tensor) -> np.ndarray[Any, Any]:
        return (tensor.T.contiguous() if constant.is_transposed else tensor).numpy()

    inputs = [
        initializer(graph, f"{name}.codes", stored(weight.codes.detach().to(torch.int64)).astype(stored_type), data_type),
        initializer(graph, f"{name}.scale.blocks", stored(weight.scale.detach().float())),
        initializer(graph, f"{name}.zero_point.blocks", stored(weight.zero_point.to(torch.int64)).astype(stored_type), data_type),
    ]
    axis = 0 if constant.is_transposed else 1
    users = list(value.uses())
    real = insert(
        graph, users[0].node, "DequantizeLinear", inputs, f"{name}.real", ir.DataType.FLOAT, axis=axis, block_size=grid.group_size
    )  # fmt: skip
    for use in users:
        use.node.replace_input_with(use.idx, real)


def _stored_type(grid: Grid) -> ir.DataType:
    return (_NIBBLES if grid.bits <= 4 else _BYTES if grid.bits <= 8 else _WORDS)[int(not grid.signed)]
