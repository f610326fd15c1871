"""Draws small quantized graphs by hand, node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
from onnx import TensorProto

CHANNELS, SIZE = 16, 8
Made = onnx.ModelProto


class Sketch:
    """A graph in the making: every method adds nodes and returns the name of what they compute."""

    def __init__(self, opset: int = 21, shape: tuple[int, ...] = (1, CHANNELS, SIZE, SIZE)) -> None:
        self.opset, self.shape = opset, shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def constant(self, array: Any, data_type: int | None = None) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(array)
        if data_type is None:
            self.constants.append(onnx.numpy_helper.from_array(array, name))
        else:
            self.constants.append(oh.make_tensor(name, data_type, array.shape, array.flatten().tolist()))
        return name

    def add(self, op_type: str, *inputs: str, domain: str = "", name: str = "", **attributes: Any) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(oh.make_node(op_type, inputs, [output], name=name or f"{op_type}_{len(self.nodes)}", domain=domain, **attributes))
        return output

    def judged(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        return self.add(op_type, *inputs, name="judged", **attributes)

    def quantize(self, x: str, kind: str = "uint8", zero: int = 128, scale: float = 0.02) -> str:
        """QuantizeLinear and what it needs."""
        return self.add("QuantizeLinear", x, self.constant(np.float32(scale)), self.constant(np.array(zero, kind)))

    def dequantize(self, codes: str, kind: str = "uint8", zero: int = 128, scale: float = 0.02) -> str:
        return self.add("DequantizeLinear", codes, self.constant(np.float32(scale)), self.constant(np.array(zero, kind)))

    def pair(self, x: str, kind: str = "uint8", zero: int = 128, scale: float = 0.02) -> str:
        """QuantizeLinear and DequantizeLinear."""
        return self.dequantize(self.quantize(x, kind, zero, scale), kind, zero, scale)

    def weight(self, shape: tuple[int, ...], form: str = "codes", zero: int = 0, axis: int = 0, kind: str = "int8") -> str:
        """A quantized weight, stored in one of the forms files have."""
        codes = self.random.integers(-7, 8, shape)
        if kind.startswith("u"):
            codes, zero = codes + 128, 128
        count = shape[axis]
        scale = self.constant(np.full(count, 0.02, np.float32))
        if form == "float":
            return self.constant((codes * 0.02).astype(np.float32))
        if form == "nibbles":
            point = self.constant(np.full(count, zero), TensorProto.INT4)
            return self.add("DequantizeLinear", self.constant(codes, TensorProto.INT4), scale, point, axis=axis)
        point = self.constant(np.full(count, zero, kind))
        stored = {
            "codes": lambda: self.constant(codes.astype(kind)),
            "cast": lambda: self.add("Cast", self.constant(codes, TensorProto.INT4), to=TensorProto.INT8),
            "rounded": lambda: self.add("QuantizeLinear", self.constant((codes * 0.02).astype(np.float32)), scale, point, axis=axis),
            "requantized": lambda: self._requantized(codes, scale, point, axis),
        }[form]()
        return self.add("DequantizeLinear", stored, scale, point, axis=axis)

    def _requantized(self, codes: Any, scale: str, point: str, axis: int) -> str:
        real = self.add("DequantizeLinear", self.constant(codes, TensorProto.INT4), scale, axis=axis)
        return self.add("QuantizeLinear", real, scale, point, axis=axis)

    def conv(self, x: str, name: str = "judged", **weight: Any) -> str:
        return self.add("Conv", x, self.weight((CHANNELS, CHANNELS, 3, 3), **weight), name=name, pads=[1, 1, 1, 1])

    def finish(self, *outputs: str) -> Made:
        x = oh.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        declared = [oh.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = oh.make_graph(self.nodes, "pattern", [x], declared, self.constants)
        domains = [oh.make_opsetid("", self.opset), oh.make_opsetid("com.microsoft", 1)]
        model = onnx.shape_inference.infer_shapes(oh.make_model(graph, opset_imports=domains, ir_version=10))
        for value in model.graph.output:  # operators outside ONNX infer nothing
            value.type.tensor_type.elem_type = value.type.tensor_type.elem_type or TensorProto.FLOAT
        return model
