"""The ONNX graph as far as it is written, and how numbers, sizes and tensors of the ATen graph stand in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.export.mark import DOMAIN
from halfstep.graph.names import operator_name

OPSET = 21
DATA_TYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.float16: ir.DataType.FLOAT16,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.int16: ir.DataType.INT16,
    torch.int8: ir.DataType.INT8,
    torch.uint8: ir.DataType.UINT8,
    torch.bool: ir.DataType.BOOL,
}
_SIZES = {"mul": "Mul", "add": "Add", "sub": "Sub", "floordiv": "Div"}


class Untranslatable(Exception):  # noqa: N818 - not an error: the other way out is taken
    """An operator, or a form of one, that the tables do not hold."""


class Writer:
    """``values`` of finished nodes (a tuple where an operator has several), ``nodes`` in order, ``constants`` by name."""

    def __init__(self, graph: GraphModule) -> None:
        self.graph = graph
        self.values: dict[Node, Result] = {}
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}
        self._sizes: dict[tuple[Node, int], ir.Value] = {}

    def value(self, argument: Any, dtype: torch.dtype = torch.float32) -> ir.Value:
        """The ONNX value of an argument: a finished node, or a number as a constant of type ``dtype``."""
        if isinstance(argument, Node):
            value = self.values.get(argument)
            if not isinstance(value, ir.Value):
                raise Untranslatable(str(argument))
            return value
        if isinstance(argument, (int, float)) and (not isinstance(argument, bool) or dtype is torch.bool):
            return self.number(argument, dtype)
        raise Untranslatable(repr(argument))

    def operand(self, argument: Any, dtype: torch.dtype) -> ir.Value:
        """As `value`, converted to ``dtype``: an operator on tensors of two types."""
        value = self.value(argument, dtype)
        if not isinstance(argument, Node) or argument.meta["dtype"] is dtype:
            return value
        return self.emit("Cast", [value], argument, dtype=dtype, to=DATA_TYPES[dtype].value)

    def number(self, number: float, dtype: torch.dtype) -> ir.Value:
        """One number as a constant."""
        array = torch.tensor(number, dtype=dtype).numpy()
        name = f"number_{float(number)!r}" if dtype is torch.float32 else f"number_{number!r}_{str(dtype).removeprefix('torch.')}"
        return self.constant(name, array)

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """A named initializer."""
        if name not in self.constants:
            tensor = ir.tensor(array, name=name)
            self.constants[name] = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        return self.constants[name]

    def stored(self, name: str, tensor: Tensor) -> ir.Value:
        """A tensor as an initializer called ``name``."""
        return self.constant(name, tensor.detach().contiguous().numpy())

    def integers(self, values: Sequence[int]) -> ir.Value:
        """An int64 vector as an input: shapes, axes, paddings."""
        return self.constant("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def emit(
        self, op_type: str, inputs: Sequence[ir.Value | None], node: Node, *, dtype: torch.dtype | None = None, **attributes: Any
    ) -> ir.Value:
        """A new ONNX node for ``node`` with one output, of the type ``dtype`` (None: that of the node's tensor)."""
        return self.emit_several(op_type, inputs, node, 1, dtype=dtype, **attributes)[0]

    def emit_several(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        node: Node,
        count: int,
        *,
        dtype: torch.dtype | None = None,
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """A new ONNX node with ``count`` outputs."""
        name = f"{node.name}.{len(self.nodes)}"
        domain = DOMAIN if op_type == "Edge" else ""
        made = ir.node(op_type, inputs, attributes=attributes, name=name, domain=domain, num_outputs=count)
        dtype = dtype or node.meta.get("dtype")
        for index, output in enumerate(made.outputs):
            output.name = name if count == 1 else f"{name}.{index}"
            if dtype is not None:
                output.type = ir.TensorType(DATA_TYPES[dtype])
        self.nodes.append(made)
        return tuple(made.outputs)

    def reshape(self, x: ir.Value, node: Node, shape: Sequence[int | None], sizes: Sequence[Any] = ()) -> ir.Value:
        """``x`` in the shape of ``node``: None is a free size, the one at its place in ``sizes``."""
        if list(shape).count(None) <= 1 and 0 not in shape:
            return self.emit("Reshape", [x, self.integers([-1 if size is None else size for size in shape])], node)
        if len(sizes) != len(shape):
            raise Untranslatable("a shape of several free sizes")
        full = [given if size is None else size for size, given in zip(shape, sizes, strict=True)]
        return self.emit("Reshape", [x, self.vector(full, node)], node)

    def vector(self, sizes: Sequence[Any], node: Node) -> ir.Value:
        """Sizes, some of them computed, as one int64 vector."""
        if all(isinstance(size, int) for size in sizes):
            return self.integers(sizes)
        parts = [self.size(size) for size in sizes]
        return parts[0] if len(parts) == 1 else self.emit("Concat", parts, node, dtype=torch.int64, axis=0)

    def size(self, size: Any) -> ir.Value:
        """A size as an int64 vector of one: a number, or arithmetic on the sizes of tensors; one that is written already is itself."""
        if isinstance(size, ir.Value):
            return size
        if isinstance(size, int):
            return self.integers([size])
        if not isinstance(size, Node):
            raise Untranslatable(f"the size {size}")
        name = operator_name(size)
        if name == "sym_size":
            return self.size_of(size.args[0], size.args[1])  # type: ignore[arg-type]
        if name not in _SIZES:
            raise Untranslatable(f"the size {size}")
        return self.emit(_SIZES[name], [self.size(argument) for argument in size.args], size, dtype=torch.int64)

    def size_of(self, x: Node, axis: int) -> ir.Value:
        """The size of a tensor's axis as an int64 vector of one."""
        axis %= len(x.meta["shape"])
        if (x, axis) not in self._sizes:
            self._sizes[x, axis] = self.emit("Shape", [self.value(x)], x, dtype=torch.int64, start=axis, end=axis + 1)
        return self._sizes[x, axis]


Result = ir.Value | tuple[ir.Value, ...]
Translate = Callable[[Writer, Node, list[Any]], Result]
"""What writes one ATen call: given all its arguments, defaults included, it returns the value, or one for each of several outputs."""


def spread(values: Sequence[int], count: int) -> list[int]:
    """PyTorch writes [1] for [1, 1]."""
    return list(values) * count if len(values) == 1 else list(values)


def num_spatial(node: Node) -> int:
    """How many axes lie behind batch and channels."""
    return len(node.meta["shape"]) - 2


def rank(node: Node) -> int:
    """The number of axes of a node's tensor."""
    return len(node.meta["shape"])


def plain(op_type: str, num_inputs: int = 1, **attributes: Any) -> Translate:
    """An operator that is one ONNX node with nothing to convert but the types of its operands."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        inputs = [writer.operand(x, node.meta["dtype"]) for x in arguments[:num_inputs]]
        return writer.emit(op_type, inputs, node, **attributes)

    return emit
