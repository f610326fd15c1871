"""An ONNX file as plain values: inputs, constants and operations in order, every part of it checked.

What a damaged or hostile file can hold ends here: what `read` returns has known operators' shape (names, attributes of known kinds), its
constants have the sizes they say, and every operation reads what stands before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from halfstep.errors import ModelError
from halfstep.onnx_import.functions import check_size_inlined
from halfstep.onnx_import.tensors import DAMAGED, TORCH_TYPES, Array, first_line, read_tensor, type_name
from halfstep.onnx_import.text import refuse_other_bytes

MIN_OPSET, MAX_OPSET = 11, 28
_KINDS = (
    AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.STRING, AttributeProto.TENSOR,
    AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS,
)  # fmt: skip
_CONTRIBUTED = (("com.microsoft", "QuantizeLinear"), ("com.microsoft", "DequantizeLinear"))  # for types ONNX did not have yet
_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


@final
@dataclass(frozen=True)
class Operation:
    """One node. name: the file's, or one made of its type where it has none. inputs, outputs: names, "" for one left out."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def at(self, opset: int) -> str:
        """How errors speak of it."""
        return f"Node '{self.name}' ({self.op_type}, opset {opset})"


@final
@dataclass(frozen=True)
class Input:
    """shape: a size, or None where it is free; None as a whole where the file does not say. element_type: ONNX's number."""

    name: str
    element_type: int
    shape: tuple[int | None, ...] | None


@final
@dataclass
class OnnxGraph:
    """A network. constants: initializers by name. operations: each after those it reads from."""

    opset: int
    inputs: list[Input]
    outputs: list[str]
    constants: dict[str, Array] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)

    def readers(self) -> dict[str, list[Operation]]:
        """By value, the operations that read it, once for each time they do."""
        found: dict[str, list[Operation]] = {}
        for operation in self.operations:
            for name in operation.inputs:
                found.setdefault(name, []).append(operation)
        return found


def read(path: Path) -> OnnxGraph:
    """The graph in the file; raises `ModelError` with the way out."""
    return from_proto(read_proto(path), path.parent, str(path))


def read_proto(path: Path) -> ModelProto:
    """The file as it is, its functions written out, without the data it keeps in other files; raises `ModelError`."""
    if not path.is_file():
        raise ModelError(f"There is no file '{path}'.")
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf and the file system raise many kinds
        raise ModelError(f"'{path}' is not an ONNX file, or it is truncated: {first_line(error)} Copy or export it again.") from error
    return _whole(proto, str(path))


def from_proto(proto: ModelProto, folder: Path | None, where: str) -> OnnxGraph:
    """The graph of a model in memory. folder: where external data may lie; where: what errors call the model."""
    opset = _opset(proto, where)
    graph = _whole(proto, where).graph
    if graph.sparse_initializer:
        raise ModelError(f"'{where}' holds sparse tensors ('{graph.sparse_initializer[0].values.name}'). Export it with dense weights.")
    constants = {tensor.name: read_tensor(tensor, folder) for tensor in graph.initializer}
    inputs = [_input(value) for value in graph.input if value.name not in constants]
    found = OnnxGraph(opset, inputs, [value.name for value in graph.output], constants)
    _add_operations(found, graph)
    return found


def _whole(proto: ModelProto, where: str) -> ModelProto:
    """The model with its functions written out, once it is found to hold a network."""
    refuse_other_bytes(proto, where)
    if not proto.graph.output:
        raise ModelError(f"'{where}' holds no network: it names no output. It may be truncated: copy or export it again.")
    return _inlined(proto, where) if proto.functions else proto


def _opset(proto: ModelProto, where: str) -> int:
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    opset = int(versions.get("", versions.get("ai.onnx", 0)))
    if not opset:
        raise ModelError(f"'{where}' names no version of ONNX's operators. It may be truncated: copy or export it again.")
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ModelError(
            f"'{where}' is written in opset {opset}; this version of halfstep reads {MIN_OPSET} to {MAX_OPSET}. "
            "Convert it: onnx.version_converter.convert_version(onnx.load(path), 17)."
        )
    return opset


def _inlined(proto: ModelProto, where: str) -> ModelProto:
    """Functions that the file defines itself, written out."""
    import onnx.inliner

    check_size_inlined(proto, where)

    try:
        return onnx.inliner.inline_local_functions(proto)
    except Exception as error:  # C++ code raises several kinds
        raise ModelError(f"The functions that '{where}' defines cannot be written out: {first_line(error)} Export it without.") from error


def _input(value: onnx.ValueInfoProto) -> Input:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(
            f"The input '{value.name}' is a {kind or 'value without type'}; only tensors can be quantized. Export it with tensors."
        )
    tensor = value.type.tensor_type
    if tensor.elem_type not in TORCH_TYPES:
        raise ModelError(f"The input '{value.name}' has elements of type {type_name(tensor.elem_type)}: export the network with numbers.")
    if not tensor.HasField("shape"):
        return Input(value.name, tensor.elem_type, None)
    sizes = [size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None for size in tensor.shape.dim]
    return Input(value.name, tensor.elem_type, tuple(sizes))


def _add_operations(found: OnnxGraph, graph: GraphProto) -> None:
    known = {"", *found.constants, *(value.name for value in found.inputs)}
    names: set[str] = set()
    for index, node in enumerate(graph.node):
        operation = _operation(node, index, names, found.opset)
        for name in operation.inputs:
            if name not in known:
                raise ModelError(f"{operation.at(found.opset)} reads '{name}', which nothing before it computes. {DAMAGED}")
        for name in operation.outputs:
            if name and name in known:
                raise ModelError(f"{operation.at(found.opset)} computes '{name}', which exists already. {DAMAGED}")
            known.add(name)
        found.operations.append(operation)
    for name in found.outputs:
        if not name or name not in known:
            raise ModelError(f"Nothing computes the output '{name}'. {DAMAGED}")


def _operation(node: NodeProto, index: int, names: set[str], opset: int) -> Operation:
    name = node.name or f"{node.op_type}_{index}"
    while name in names:
        name = f"{name}_{index}"
    names.add(name)
    operation = Operation(name, node.op_type, tuple(node.input), tuple(node.output), {})
    if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in _CONTRIBUTED:
        raise ModelError(
            f"{operation.at(opset)} is an operator of the domain '{node.domain}'; only ONNX's own are read. "
            "Export the network without the fusions of a runtime, or pass the PyTorch network it came from."
        )
    for attribute in node.attribute:
        operation.attributes[attribute.name] = _attribute(attribute, operation, opset)
    return operation


def _attribute(attribute: AttributeProto, operation: Operation, opset: int) -> Any:
    """A number, a string, a list of either, or an array; `None` for a graph, whose operator is refused by name."""
    if attribute.type in _SUBGRAPHS:
        return None
    where = f"{operation.at(opset)}, attribute '{attribute.name}'"
    if attribute.type not in _KINDS:
        raise ModelError(f"{where}: values of kind {attribute.type} are not read. {DAMAGED}")
    try:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.TENSOR:
            return read_tensor(value, None)
        if attribute.type == AttributeProto.STRING:
            return value.decode()
        return list(value) if attribute.type in (AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS) else value
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"{where}: {first_line(error)} {DAMAGED}") from error
