"""Rows of a stored table, looked up as codes.

    quantize(table[i])  =  quantize(table)[i]

Rounding works entry by entry, so the codes of a row are the row of the codes. The file then holds the table in the bits of the grid, a
quarter of float's at 8 bits, and has a Gather of codes and a DequantizeLinear where it had a Gather of floats and a QuantizeLinear.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from halfstep.export.nodes import initializer, insert
from halfstep.quantizers import UniformQuantizer


def codes_of_rows(
    graph: ir.Graph, marker: ir.Node, name: str, quantizer: UniformQuantizer, offset: int, data_type: ir.DataType
) -> ir.Value | None:
    """The codes of what ``marker`` reads, called ``name``; None where that is not a Gather from a stored table.

    offset: what is added to codes on their way into the file.
    """
    source = marker.inputs[0]
    gather = None if source is None else source.producer()
    if gather is None or gather.op_type != "Gather":
        return None
    table, rows = gather.inputs
    if table is None or table.const_value is None or table.dtype is not ir.DataType.FLOAT:
        return None
    real = torch.from_numpy(np.array(table.const_value.numpy()))
    codes = (quantizer.quantize(real).codes.detach().to(torch.int64) + offset).numpy().astype(data_type.numpy())
    stored = initializer(graph, f"{name}.table", codes, data_type)
    axis = gather.attributes["axis"].as_int() if "axis" in gather.attributes else 0
    return insert(graph, marker, "Gather", [stored, rows], name, data_type, axis=axis)
