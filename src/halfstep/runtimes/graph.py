"""From an ONNX file, ours or not, to `Operator` values; what is damaged ends here with one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from halfstep.errors import ModelError
from halfstep.onnx_import.model import read_proto
from halfstep.onnx_import.tensors import DAMAGED, Array, read_tensor, type_name
from halfstep.runtimes.operator import CODE_TYPES, FUSED, LAYERS, MOVING, Codes, Operand, Operator

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_SHAPES = ("Shape", "Size", "NonZero", "ArgMax", "ArgMin")
_SMALL = 1 << 20  # elements of a scale or zero point that are read
_CLIPS = ("Relu", "Clip")


def read_graph(path: Path) -> tuple[ModelProto, Graph]:
    """The file and its connections; raises `ModelError`."""
    proto = read_proto(path)
    return proto, Graph(proto, path.parent)


@final
class Graph:
    """A file with its connections. makers: by value, its node. readers: by value, its nodes, the graph's outputs as None."""

    def __init__(self, proto: ModelProto, folder: Path) -> None:
        self.folder = folder
        self.nodes = list(proto.graph.node)
        self.stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.makers: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto | None]] = {}
        self.types = {value.name: _type(value.type.tensor_type.elem_type) for value in proto.graph.input}
        self.types |= {name: _type(tensor.data_type) for name, tensor in self.stored.items()}
        self.constants = set(self.stored)
        known = {*self.types, ""}
        for node in self.nodes:
            for name in node.input:
                if name not in known:
                    raise ModelError(f"{_called(node)} reads '{name}', which nothing before it computes. {DAMAGED}")
                self.readers.setdefault(name, []).append(node)
            known.update(node.output)
            self._add(node)
        for value in proto.graph.output:
            if value.name not in known:
                raise ModelError(f"Nothing computes the output '{value.name}'. {DAMAGED}")
            self.readers.setdefault(value.name, []).append(None)

    def _add(self, node: NodeProto) -> None:
        made = self._result_type(node)
        for place, name in enumerate(node.output):
            self.makers[name] = node
            self.types[name] = "float" if node.op_type == "DynamicQuantizeLinear" and place == 1 else made
        if node.op_type == "Constant" or (node.input and all(name in self.constants for name in node.input if name)):
            self.constants.update(node.output)

    def _result_type(self, node: NodeProto) -> str:
        """The element type of what a node computes, as far as it matters here: codes, float or integer."""
        types = [self.types.get(name, "") for name in node.input]
        if node.op_type in ("Cast", "QuantizeLinear", "Constant"):
            return self._stated_type(node, types)
        if node.op_type in _SHAPES:
            return "int64"
        if node.op_type in (DEQUANTIZE, "MatMulIntegerToFloat", "DynamicQuantizeMatMul") or (node.op_type == "QGemm" and len(types) < 9):
            return "float"
        if node.op_type in ("ConvInteger", "MatMulInteger"):
            return "int32"
        if node.op_type == "DynamicQuantizeLinear":
            return "uint8"
        return types[int(node.op_type in ("QLinearConcat", "Where"))] if len(types) > 1 else (types[0] if types else "")

    def _stated_type(self, node: NodeProto, types: list[str]) -> str:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Constant":
            return _type(attributes["value"].t.data_type) if "value" in attributes else "float"
        if node.op_type == "Cast":
            return _type(attributes["to"].i) if "to" in attributes else ""
        if len(types) > 2 and types[2]:
            return types[2]
        return _type(attributes["output_dtype"].i) if "output_dtype" in attributes and attributes["output_dtype"].i else "uint8"

    def operators(self) -> list[Operator]:
        """Every node that computes something from the network's inputs, but Q and DQ."""
        found = []
        for index, node in enumerate(self.nodes):
            if node.op_type in (QUANTIZE, DEQUANTIZE, "Constant", "DynamicQuantizeLinear") or node.output[0] in self.constants:
                continue
            if self.types.get(next((name for name in node.input if name), ""), "") not in ("float", "float16", "bfloat16", *CODE_TYPES):
                continue  # arithmetic on shapes
            found.append(self._operator(index, node))
        return found

    def _operator(self, index: int, node: NodeProto) -> Operator:
        named = [name for name in node.input if name and self.types.get(name) in ("float", "float16", "bfloat16", *CODE_TYPES)]
        between, result = self._behind(node)
        return Operator(
            index,
            node.name or f"{node.op_type}_{index}",
            node.op_type,
            node.domain if node.domain != "ai.onnx" else "",
            tuple(Operand(name, self._codes(name, node.op_type), name in self.constants) for name in named),
            result,
            works_on_codes=self.types.get(node.input[0]) in CODE_TYPES,
            between=between.op_type if between is not None else "",
            is_absorbed=result is not None and self._is_absorbed(between or node, result),
            mode=next((attribute.s.decode(errors="replace") for attribute in node.attribute if attribute.name == "mode"), ""),
            follows_layer=self._follows_layer(node),
        )

    def _follows_layer(self, node: NodeProto) -> bool:
        makers = [self.makers[name] for name in node.input if name in self.makers and name not in self.constants]
        return any(maker.op_type in LAYERS or (maker.op_type in FUSED and self._follows_layer(maker)) for maker in makers)

    def _codes(self, name: str, reader: str) -> Codes | None:
        """The grid of a float tensor that an operator of type ``reader`` reads, or the type of codes."""
        if self.types.get(name) in CODE_TYPES:
            return Codes(self.types[name])
        maker = self.makers.get(name)
        if maker is None:
            return None
        if maker.op_type in MOVING or (maker.op_type == "Pad" and reader == "Conv"):  # a convolution takes padding over
            return self._codes(maker.input[0], reader)
        if maker.op_type != DEQUANTIZE:
            return None
        return self._grid(maker, maker.input[0])

    def _grid(self, node: NodeProto, codes: str) -> Codes:
        """The grid a Q or DQ names, of the tensor ``codes``."""
        zero_point = self._value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros((), np.int64)
        return Codes(self.types[codes], zero_point, self._value(node.input[1]), self._form(codes), self._num_readers(codes))

    def _form(self, name: str) -> str:
        maker = self.makers.get(name)
        if maker is None or maker.op_type == "Constant":
            return "stored"
        if maker.op_type == QUANTIZE:
            return "rounded" if maker.input[0] in self.stored else "requantized"
        return "cast" if maker.op_type == "Cast" and maker.input[0] in self.stored else "computed"

    def _num_readers(self, codes: str) -> int:
        """How many read a tensor behind its DequantizeLinear nodes, or its codes themselves."""
        readers = self.readers.get(codes, [])
        behind = [reader for reader in readers if reader is not None and reader.op_type == DEQUANTIZE]
        return len(readers) - len(behind) + sum(len(self.readers.get(node.output[0], [])) for node in behind)

    def _behind(self, node: NodeProto) -> tuple[NodeProto | None, Codes | None]:
        """The operator between ``node`` and the QuantizeLinear behind it, if there is one, and the grid of that."""
        reader = self._only_reader(node)
        if reader is None or reader.op_type == QUANTIZE:
            return None, None if reader is None else self._grid(reader, reader.output[0])
        last = self._only_reader(reader)
        if last is None or last.op_type != QUANTIZE or len([name for name in reader.input if name not in self.constants]) > 1:
            return reader, None
        return reader, self._grid(last, last.output[0])

    def _only_reader(self, node: NodeProto) -> NodeProto | None:
        """The only node that reads what ``node`` computes, behind operators that move values; None where there are more, or outputs."""
        readers = self.readers.get(node.output[0], [])
        if len(readers) != 1 or readers[0] is None:
            return None
        return self._only_reader(readers[0]) if readers[0].op_type in MOVING else readers[0]

    def _is_absorbed(self, node: NodeProto, grid: Codes) -> bool:
        """Whether ``grid`` holds no value that ``node`` would change."""
        if node.op_type not in _CLIPS:
            return False
        bounds: list[Array | None] = [np.zeros(()), np.array(np.inf)]
        if node.op_type == "Clip":
            bounds = [np.array(-np.inf), np.array(np.inf)]
            for place, name in enumerate(node.input[1:3]):
                bounds[place] = self._value(name) if name else bounds[place]
            for attribute in node.attribute:  # up to opset 10
                bounds[int(attribute.name == "max")] = np.array(attribute.f)
        low, high = bounds
        return low is not None and high is not None and bool((low <= grid.lowest).all() and (grid.highest <= high * (1 + 1e-6)).all())

    def _value(self, name: str) -> Array | None:
        """A small constant; None where it is computed."""
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            return next((onnx.numpy_helper.to_array(a.t) for a in maker.attribute if a.name == "value"), None)
        tensor = self.stored.get(name)
        if tensor is None or np.prod(tensor.dims) > _SMALL:
            return None
        return read_tensor(tensor, self.folder).astype(np.float64)


def _type(number: int) -> str:
    """ "float", "uint8" ..."""
    return type_name(number).lower() if number != TensorProto.UNDEFINED else ""


def _called(node: NodeProto) -> str:
    return f"Node '{node.name or node.op_type}' ({node.op_type})"
