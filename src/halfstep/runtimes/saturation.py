"""Which layers of a file can saturate in 16 bits on x64 processors without VNNI.

    x1 w1 + x2 w2        x: uint8, up to 255        w: int8        beyond -32768 .. 32767 for some x where w1 + w2 > 128 or < -128

ONNX Runtime's kernels for AVX2 and for AVX-512 without VNNI add two products with the instruction VPMADDUBSW, whose sum saturates (its
issues 6004 and 16105). Which two weights meet depends on how it packs them, so any two of one output channel count.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto

from halfstep.onnx_import.tensors import Array, read_tensor
from halfstep.runtimes.graph import DEQUANTIZE, Graph

_MOST = 128  # that two weights may add up to
_WEIGHT_PLACES = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat"), 1),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), 3),
}


def saturation_notes(graph: Graph) -> list[str]:
    """One line where a layer can saturate: how many can, and the ways out."""
    from halfstep.export.session import EXACT_PRODUCTS  # loads ONNX Runtime: not before it is needed

    layers = list(_layers(graph))
    num_open = sum(can_saturate(weight) for weight in layers)
    if not num_open:
        return []
    return [
        f"On x64 processors without VNNI onnxruntime can saturate in {num_open} of {len(layers)} layers with int8 weights. Set the "
        f"session option {EXACT_PRODUCTS} to 1 there, or give the weights 7 bits (type: int7 in the recipe)."
    ]


def can_saturate(rows: Array) -> bool:
    """Whether two of the weights of one output channel, a row of ``rows``, add up to more than 16 bits hold."""
    if rows.shape[1] < 2:
        return False
    ends = np.partition(rows.astype(np.int16), (1, -2), axis=1)  # the two least of each row in front, the two greatest behind
    return bool((ends[:, -2:].sum(1) > _MOST).any() or (ends[:, :2].sum(1) < -_MOST).any())


def _layers(graph: Graph) -> Iterator[Array]:
    """The stored int8 weights of convolutions and products, a row an output channel."""
    for node in graph.nodes:
        place = _WEIGHT_PLACES.get(node.op_type, 0)
        if not 0 < place < len(node.input):
            continue
        maker = graph.makers.get(node.input[place])
        tensor = graph.stored.get(maker.input[0] if maker is not None and maker.op_type == DEQUANTIZE else node.input[place])
        if tensor is not None and graph.types[tensor.name] == "int8" and len(tensor.dims) > 1:
            yield _rows(node, read_tensor(tensor, graph.folder))


def _rows(node: NodeProto, weight: Array) -> Array:
    is_turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    axis = 0 if "Conv" in node.op_type or is_turned else -1
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
