"""From an exported float model with markers to one that ONNX Runtime and OpenVINO run as integers.

what                                 becomes                                             why
marker on an activation              QuantizeLinear, DequantizeLinear on uint8 *         int8 activations lose their kernels at branches
weight, 5 to 8 bits                  int8 initializer, DequantizeLinear (per channel)    a quarter of the file; uint8 weights are slow
weight, up to 4 bits                 int4 initializer, Cast to int8, DequantizeLinear *  an eighth of the file, int8 kernels all the same
weight with a scale for each group   see `groups`                                        activations are in float
bias                                 int32 initializer, DequantizeLinear *               the accumulator's own grid, exact
rows of a stored table               Gather of its codes, DequantizeLinear *             a quarter of the file (`stored_rows`)
activation grid below 8 bits         Clip on the codes *                                 keeps the int8 kernels
ReLU or Clip that the grid repeats   dropped: QuantizeLinear saturates                   left in place it can cost the integer kernel
any other ReLU or Clip               Clip on the codes *                                 likewise
mean over all spatial axes           GlobalAveragePool                                   ReduceMean has no integer kernel
zero padding before a convolution    pads of the convolution itself                      one operator less
other zero padding within one grid   Pad on the codes *                                  Pad has no integer kernel between DQ and Q
padding in float before a pooling    Pad that names its axes                             fused it is another function (`pool_guard`)
average that counts its padding      a Max in front of it (`pool_guard`)                 its integer kernel divides by another number
softmax onto a grid of small scale   a Max in front of it                                its integer kernel overflows (`softmax_guard`)

* for ONNX Runtime; the target (`halfstep.targets`) says what else a runtime wants. The file is written for opset 21, IR version 10.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import torch

from halfstep.errors import ExportError
from halfstep.export.mark import DOMAIN, Constant, Marked
from halfstep.export.names import codes_name, give_names
from halfstep.export.nodes import initializer as _initializer
from halfstep.export.nodes import insert as _insert
from halfstep.export.nodes import replace as _replace
from halfstep.export.output_guard import guard_outputs
from halfstep.export.pool_guard import guard_pools
from halfstep.export.softmax_guard import guard_softmax
from halfstep.export.stored_rows import codes_of_rows
from halfstep.grid import Grid
from halfstep.quantizers import UniformQuantizer
from halfstep.targets import ONNXRUNTIME, Target

_INTEGER_TYPES = {
    8: (ir.DataType.INT8, ir.DataType.UINT8),
    16: (ir.DataType.INT16, ir.DataType.UINT16),
    32: (ir.DataType.INT32, ir.DataType.UINT32),
}


def rewrite(model: ir.Model, marked: Marked, target: Target = ONNXRUNTIME) -> ir.Model:
    """``model`` as PyTorch's exporter wrote it, changed in place into its integer form for ``target``."""
    _mean_to_global_pool(model.graph)
    read = {str(node.target) for node in marked.graph.graph.nodes if node.op == "get_attr"}
    for name, constant in marked.constants.items():
        if name in model.graph.initializers:
            _store_codes(model.graph, model.graph.initializers[name], constant, target)
        elif name in read:
            folded = marked.names[name]
            raise ExportError(f"PyTorch's exporter folded '{folded}' into something else, and its codes are lost. Report this as a defect.")
    for node in [node for node in model.graph if node.domain == DOMAIN]:
        _quantize_edge(model.graph, node, marked, target)
    _pad_in_convolution(model.graph)
    if target.works_on_codes:
        _pad_on_codes(model.graph)
    guard_pools(model.graph)
    guard_softmax(model.graph)
    guard_outputs(model.graph)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    model.opset_imports.pop(DOMAIN, None)
    model.ir_version = 10
    model.producer_name, model.producer_version = "halfstep", None
    _strip_metadata(model)
    give_names(model.graph, marked.names)
    return model


def storage_offset(grid: Grid, is_constant: bool, target: Target = ONNXRUNTIME) -> int:
    """What is added to codes on their way into the file, where ``target`` wants signed activations of up to 8 bits as uint8."""
    return 128 if target.stores_unsigned and grid.signed and grid.bits <= 8 and not is_constant else 0


def _storage(grid: Grid, offset: int = 0) -> ir.DataType:
    """The integer type QuantizeLinear / DequantizeLinear work on."""
    width = next(width for width in _INTEGER_TYPES if grid.bits <= width)
    return _INTEGER_TYPES[width][int(not grid.signed or offset != 0)]


def _store_codes(graph: ir.Graph, value: ir.Value, constant: Constant, target: Target) -> None:
    """Replace a float initializer by the codes of its quantizer and a DequantizeLinear."""
    assert value.name is not None and value.const_value is not None
    name, grid = value.name, constant.quantizer.grid
    stored_as = torch.from_numpy(np.array(value.const_value.numpy()))
    users = list(value.uses())
    quantized = constant.quantizer.quantize(stored_as.T if constant.is_transposed else stored_as)
    if grid.bits > 16 and not target.has_integer_bias:
        graph.initializers.pop(name)
        real = _initializer(graph, name, quantized.dequantize().detach().float().numpy())
        for use in users:
            use.node.replace_input_with(use.idx, real)
        return
    integers = quantized.codes.detach().to(torch.int64)
    codes = (integers.T.contiguous() if constant.is_transposed else integers).numpy()
    data_type = _storage(grid)
    is_nibble = grid.bits <= 4 and target.nibbles != "bytes"
    narrow = (ir.DataType.INT4 if grid.signed else ir.DataType.UINT4) if is_nibble else data_type
    graph.initializers.pop(name)
    stored = _initializer(graph, name, codes.astype(narrow.numpy()), narrow)
    first = users[0].node
    if is_nibble and target.nibbles == "plain":
        data_type = narrow
    elif is_nibble:
        stored = _insert(graph, first, "Cast", [stored], f"{name}.int8", data_type, to=data_type.value)
    inputs = [stored, _initializer(graph, f"{name}.scale", quantized.scale.detach().float().numpy())]
    if grid.bits <= 16:  # a bias has none; a weight's is written even where it is 0: without it ONNX Runtime leaves Gemm in float
        zero_point = quantized.zero_point.to(torch.int64).numpy()
        inputs.append(_initializer(graph, f"{name}.zero_point", zero_point.astype(data_type.numpy()), data_type))
    axis: dict[str, Any] = (
        {} if grid.channel_axis is None else {"axis": 1 - grid.channel_axis if constant.is_transposed else grid.channel_axis}
    )
    dequantized = _insert(graph, first, "DequantizeLinear", inputs, f"{name}.real", ir.DataType.FLOAT, **axis)
    for use in users:
        use.node.replace_input_with(use.idx, dequantized)


def _quantize_edge(graph: ir.Graph, marker: ir.Node, marked: Marked, target: Target) -> None:
    """Replace a marker by QuantizeLinear and DequantizeLinear; rows of a stored table by codes and DequantizeLinear."""
    name = marker.attributes["edge"].as_string()
    quantizer = marked.edges[name]
    assert isinstance(quantizer, UniformQuantizer)
    grid, offset = quantizer.grid, storage_offset(quantizer.grid, False, target)
    if not target.reads(grid):
        kind = f"{'a symmetric' if grid.symmetric else 'an asymmetric'} {grid.type_name}"
        raise ExportError(
            f"'{marked.names[name]}' lies on {kind} grid, which {target.name} does not read: "
            f"quantize with --target {target.name} (scheme: target: {target.name})."
        )
    data_type = _storage(grid, offset)
    point = (quantizer.zero_point.to(torch.int64) + offset).numpy().astype(data_type.numpy())
    parameters = [
        _initializer(graph, f"{name}.scale", quantizer.scale.detach().float().numpy()),
        _initializer(graph, f"{name}.zero_point", point, data_type),
    ]
    codes = codes_of_rows(graph, marker, codes_name(name), quantizer, offset, data_type) if target.works_on_codes else None
    codes = codes or _rounded(graph, marker, name, quantizer, parameters, target)
    real = _insert(graph, marker, "DequantizeLinear", [codes, *parameters], f"{name}.real", ir.DataType.FLOAT)
    _replace(graph, marker.outputs[0], real)
    graph.remove(marker, safe=True)


def _rounded(
    graph: ir.Graph, marker: ir.Node, name: str, quantizer: UniformQuantizer, parameters: list[ir.Value], target: Target
) -> ir.Value:
    """The codes of what ``marker`` reads: QuantizeLinear, and a Clip for bounds that its type does not have.

    parameters: scale and zero point.
    """
    offset = storage_offset(quantizer.grid, False, target)
    data_type = _storage(quantizer.grid, offset)
    source = marker.inputs[0]
    assert source is not None
    source, bounds = _without_clip(source, quantizer, target)
    limits = np.iinfo(data_type.numpy())
    is_narrower = (bounds[0] + offset, bounds[1] + offset) != (limits.min, limits.max)
    if is_narrower and not target.works_on_codes:
        ends = [
            _initializer(graph, f"{name}.{end}", ((code - quantizer.zero_point) * quantizer.scale).detach().float().numpy())
            for end, code in zip(_ENDS, bounds, strict=True)
        ]
        source = _insert(graph, marker, "Clip", [source, *ends], f"{name}.clipped", ir.DataType.FLOAT)
    is_clipped = is_narrower and target.works_on_codes
    made = f"{name}.unclipped" if is_clipped else codes_name(name)
    codes = _insert(graph, marker, "QuantizeLinear", [source, *parameters], made, data_type)
    if is_clipped:
        ends = [
            _initializer(graph, f"{name}.{end}", np.array(code + offset, data_type.numpy()), data_type)
            for end, code in zip(_ENDS, bounds, strict=True)
        ]
        codes = _insert(graph, marker, "Clip", [codes, *ends], codes_name(name), data_type)
    return codes


def _without_clip(value: ir.Value, quantizer: UniformQuantizer, target: Target) -> tuple[ir.Value, tuple[int, int]]:
    """What a ReLU or Clip in front of a grid reads, and the lowest and highest code it leaves; ``value`` itself where there is none.

    Rounding keeps the order, so that codes clipped at the codes of the two bounds are the codes of what is clipped. Where ``target`` does
    not work on codes, a clip that the grid does not repeat stays.
    """
    grid, node = quantizer.grid, value.producer()
    whole = grid.minimum, grid.maximum
    if node is None or node.op_type not in ("Relu", "Clip") or len(value.uses()) > 1:
        return value, whole
    bounds = [0.0, np.inf] if node.op_type == "Relu" else [_constant(node, 1, -np.inf), _constant(node, 2, np.inf)]
    source = node.inputs[0]
    if source is None or any(bound is None for bound in bounds):
        return value, whole
    low, high = (int(code) for code in quantizer.quantize(torch.tensor(bounds, dtype=torch.float32)).codes.detach())
    return (source, (low, high)) if target.works_on_codes or (low, high) == whole else (value, whole)


_ENDS = ("lowest", "highest")


def _constant(node: ir.Node, index: int, default: float) -> float | None:
    """The number behind an input; ``default`` where the input is absent, None where it is computed."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return default
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else float(tensor.numpy().item())


def _mean_to_global_pool(graph: ir.Graph) -> None:
    """ReduceMean over every axis behind the channels, axes kept, is a GlobalAveragePool."""
    for node in list(graph):
        if node.op_type != "ReduceMean" or node.inputs[0] is None or node.inputs[0].shape is None:
            continue
        axes = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
        rank = len(node.inputs[0].shape)
        keeps = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
        if axes is None or not keeps or rank < 3 or sorted(int(a) % rank for a in axes.numpy().flatten()) != list(range(2, rank)):
            continue
        output = node.outputs[0]
        pooled = _insert(graph, node, "GlobalAveragePool", [node.inputs[0]], f"{output.name}.pooled", output.dtype)
        pooled.shape = output.shape
        _replace(graph, output, pooled)
        graph.remove(node, safe=True)


def _pad_in_convolution(graph: ir.Graph) -> None:
    """Pad with 0 whose result, on its input's own grid, only convolutions read: they pad themselves, and the pair behind it goes."""
    for node in list(graph):
        chain = _grid_preserving_pad(node)
        if chain is None:
            continue
        before, quantize, dequantize = chain
        readers = [use.node for use in dequantize.outputs[0].uses()]
        amounts = ir.convenience.get_const_tensor(node.inputs[1])  # type: ignore[arg-type]
        if amounts is None or len(node.inputs) > 3 or not readers or any(reader.op_type != "Conv" for reader in readers):
            continue
        begins, ends = np.split(amounts.numpy(), 2)
        if any(begins[:2]) or any(ends[:2]) or (begins < 0).any() or (ends < 0).any():
            continue
        extra = [int(amount) for amount in (*begins[2:], *ends[2:])]
        for reader in readers:
            own = reader.attributes["pads"].as_ints() if "pads" in reader.attributes else [0] * len(extra)
            reader.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, extra, strict=True)])
        _replace(graph, dequantize.outputs[0], before.outputs[0])
        graph.remove([dequantize, quantize, node], safe=True)


def _grid_preserving_pad(node: ir.Node) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """For DequantizeLinear, Pad with 0, QuantizeLinear, DequantizeLinear on one grid: the three around ``node``; else None."""
    if node.op_type != "Pad" or node.inputs[0] is None or not _pads_with_zero(node):
        return None
    if "mode" in node.attributes and node.attributes["mode"].as_string() != "constant":
        return None
    before, after = node.inputs[0].producer(), [use.node for use in node.outputs[0].uses()]
    if before is None or before.op_type != "DequantizeLinear" or len(after) != 1 or after[0].op_type != "QuantizeLinear":
        return None
    last = [use.node for use in after[0].outputs[0].uses()]
    if len(last) != 1 or last[0].op_type != "DequantizeLinear" or not _same_grid(before, after[0]):
        return None
    return before, after[0], last[0]


def _pad_on_codes(graph: ir.Graph) -> None:
    """Any other padding within one grid works on the codes, with their zero point; ONNX Runtime has no Pad for 16 bits."""
    for node in list(graph):
        chain = _grid_preserving_pad(node)
        if chain is None or chain[1].outputs[0].dtype not in _INTEGER_TYPES[8]:
            continue
        before, quantize, _ = chain
        inputs = [before.inputs[0], node.inputs[1], before.inputs[2], *node.inputs[3:]]
        codes = quantize.outputs[0]
        name = codes.name
        padded = _insert(graph, node, "Pad", inputs, f"{name}.padded", codes.dtype)
        _replace(graph, codes, padded)
        graph.remove([quantize, node], safe=True)
        padded.name = name


def _pads_with_zero(pad: ir.Node) -> bool:
    return _constant(pad, 2, 0.0) == 0.0


def _same_grid(first: ir.Node, second: ir.Node) -> bool:
    """Whether two Q/DQ nodes have equal scale and zero point."""
    pairs = zip(first.inputs[1:3], second.inputs[1:3], strict=True)
    return all(np.array_equal(a.const_value.numpy(), b.const_value.numpy()) for a, b in pairs)  # type: ignore[union-attr]


def _strip_metadata(model: ir.Model) -> None:
    """Drop the exporter's notes on nodes: stack traces hold paths of the user's machine."""
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
