"""The ONNX graph of an integer program while it is written: named values, nodes in order, constants once each.

Between operators the codes of a value lie in the type `storage` names; whoever needs more bits casts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from halfstep.export.translate import output_name
from halfstep.export.translation.writer import OPSET
from halfstep.integer.program import IntegerProgram
from halfstep.integer.value import Value

INT8, INT16, INT32, INT64 = ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64
BOOL = ir.DataType.BOOL
UINT8, UINT16, UINT32, UINT64 = ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64
_IR_VERSION = 10


def storage(value: Value) -> ir.DataType:
    """uint8 or int8 up to 8 bits, else int32: ONNX Runtime has hardly a kernel for 16-bit integers."""
    if value.grid.bits > 8:
        return INT32
    return INT8 if value.grid.signed else UINT8


def border_type(value: Value) -> ir.DataType:
    """The type of an input or output of the file: the smallest that holds the codes."""
    if value.grid.bits <= 8 or value.grid.bits > 16:
        return storage(value)
    return INT16 if value.grid.signed else UINT16


class Writer:
    """program: what is written. values: the tensor that holds each value's codes, by the value's name."""

    def __init__(self, program: IntegerProgram) -> None:
        self.program = program
        self.values: dict[str, ir.Value] = {}
        self._layer = "input"  # the name before all names inside an operator
        self._nodes: list[ir.Node] = []
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._taken = {output_name(index) for index in range(len(program.outputs))}
        self._inputs = [self._input(program.values[name]) for name in program.inputs]

    def open(self, layer: str) -> None:
        """What is emitted from now on belongs to ``layer``."""
        self._layer = layer

    def emit(self, op_type: str, inputs: Sequence[ir.Value | None], data_type: ir.DataType, **attributes: Any) -> ir.Value:
        """A new node of one output."""
        name = self._unique(f"{self._layer}:{op_type}")
        made = ir.node(op_type, inputs, attributes=attributes, name=name)
        made.outputs[0].name, made.outputs[0].type = name, ir.TensorType(data_type)
        self._nodes.append(made)
        return made.outputs[0]

    def constant(self, array: NDArray[Any], what: str = "constant") -> ir.Value:
        """An initializer; the same one for equal arrays."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._unique(f"{self._layer}:{what}")
            tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
            self._constants[key] = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        return self._constants[key]

    def integers(self, numbers: Sequence[int]) -> ir.Value:
        """An int64 vector: shapes, axes, paddings."""
        return self.constant(np.array(numbers, np.int64), "integers")

    def number(self, number: int, data_type: ir.DataType) -> ir.Value:
        """A scalar."""
        return self.constant(np.array(number, data_type.numpy()), "number")

    def cast(self, x: ir.Value, data_type: ir.DataType) -> ir.Value:
        """``x`` in another type, bits above its width dropped; itself where it has that type."""
        return x if x.dtype == data_type else self.emit("Cast", [x], data_type, to=data_type.value)

    def aligned(self, name: str, num_axes: int) -> ir.Value:
        """The codes of a value with axes of size 1 behind the batch, up to ``num_axes`` a sample: so samples broadcast."""
        shape = self.program.values[name].shape
        return self.values[name] if len(shape) >= num_axes else self.reshape(self.values[name], [1] * (num_axes - len(shape)) + [*shape])

    def centred(self, name: str, data_type: ir.DataType, num_axes: int = 0) -> ir.Value:
        """``code - zero_point`` of a value, aligned."""
        zero_point = self.program.values[name].zero_point
        codes = self.cast(self.aligned(name, num_axes), data_type)
        return codes if zero_point == 0 else self.emit("Sub", [codes, self.number(zero_point, data_type)], data_type)

    def reshape(self, codes: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Samples of another shape."""
        assert codes.dtype is not None
        return self.emit("Reshape", [codes, self.integers([0, *shape])], codes.dtype)

    def pad(self, codes: ir.Value, frame: Mapping[int, tuple[int, int]], code: int) -> ir.Value:
        """``codes`` in a frame of ``code``; (before, after) by axis, the batch being axis 0.

        The axes are named even where they are all: ONNX Runtime draws a Pad without into a MaxPool behind it, which pads with nothing.
        """
        assert codes.dtype is not None
        pads = self.integers([pair[end] for end in (0, 1) for pair in frame.values()])
        return self.emit("Pad", [codes, pads, self.number(code, codes.dtype), self.integers(list(frame))], codes.dtype)

    def cut(self, codes: ir.Value, frame: Mapping[int, tuple[int, int]], step: int = 1) -> ir.Value:
        """``codes`` from the first to the second number of each axis, the latter left out."""
        assert codes.dtype is not None
        starts, ends = ([pair[end] for pair in frame.values()] for end in (0, 1))
        numbers = [self.integers(part) for part in (starts, ends, list(frame), [step] * len(frame))]
        return self.emit("Slice", [codes, *numbers], codes.dtype)

    def batch(self) -> ir.Value:
        """The size of the batch, int64 [1]."""
        return self.emit("Shape", [self._inputs[0]], INT64, start=0, end=1)

    def finish_value(self, name: str, made: ir.Value) -> None:
        """``made`` holds the codes of the value ``name``, and is called after it."""
        made.name = self._unique(name)
        made.shape = _shape(self.program.values[name])
        self.values[name] = made

    def model(self) -> ir.Model:
        """The finished file."""
        outputs = [self._output(name, output_name(index)) for index, name in enumerate(self.program.outputs)]
        used = {value for node in self._nodes for value in node.inputs}
        constants = [value for value in self._constants.values() if value in used]
        graph = ir.Graph(
            self._inputs, outputs, nodes=self._nodes, initializers=constants, opset_imports={"": OPSET}, name=self.program.name
        )
        return ir.Model(graph, ir_version=_IR_VERSION, producer_name="halfstep")

    def _input(self, value: Value) -> ir.Value:
        made = ir.Value(name=self._unique(value.name), shape=_shape(value), type=ir.TensorType(border_type(value)))
        self.values[value.name] = self.cast(made, storage(value))
        return made

    def _output(self, name: str, called: str) -> ir.Value:
        self.open(called)
        value, data_type = self.program.values[name], border_type(self.program.values[name])
        codes = self.values[name]
        made = self.emit("Identity", [codes], data_type) if codes.dtype == data_type else self.cast(codes, data_type)
        made.name, made.shape = called, _shape(value)
        return made

    def _unique(self, name: str) -> str:
        found, count = name, 1
        while found in self._taken:
            found, count = f"{name}_{count}", count + 1
        self._taken.add(found)
        return found


def _shape(value: Value) -> ir.Shape:
    return ir.Shape(["batch", *value.shape])
