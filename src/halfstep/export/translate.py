"""The quick way to ONNX: a graph whose every operator is in this file's table, written down directly.

PyTorch's exporter (`torch_exporter`) knows every operator, but traces the network again twice and takes several seconds however small
it is. Networks made of convolutions, linear layers, element-wise operators, pooling and data movement, that is nearly all that run as
integers, need none of that: one row of `TRANSLATIONS` an operator, one ONNX node a row. A graph with anything else is not half
translated: `Untranslatable` is raised before anything is kept, and PyTorch's exporter takes the whole graph. Both ways are tested to
give equal outputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.fx import GraphModule, Node

from halfstep.export.mark import DOMAIN
from halfstep.graph.edit import attribute
from halfstep.graph.operators import module_of

OPSET = 21


class Untranslatable(Exception):  # noqa: N818 - not an error: the other way out is taken
    """An operator, or a form of one, that the table does not hold."""


class Writer:
    """The ONNX graph so far: ``values`` of finished nodes, ``nodes`` in order, ``constants`` by name."""

    def __init__(self, graph: GraphModule) -> None:
        self.graph = graph
        self.values: dict[Node, ir.Value] = {}
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}

    def value(self, argument: Any) -> ir.Value:
        """The ONNX value of an argument: a finished node, or a number as a float constant."""
        if isinstance(argument, Node):
            if argument not in self.values:
                raise Untranslatable(str(argument))
            return self.values[argument]
        if isinstance(argument, (int, float)) and not isinstance(argument, bool):
            return self.constant(f"number_{float(argument)!r}", np.array(argument, np.float32))
        raise Untranslatable(repr(argument))

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """A named initializer."""
        if name not in self.constants:
            tensor = ir.tensor(array, name=name)
            self.constants[name] = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        return self.constants[name]

    def integers(self, values: Sequence[int]) -> ir.Value:
        """An int64 vector as an input: shapes, axes, paddings."""
        return self.constant("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def emit(self, op_type: str, inputs: Sequence[ir.Value | None], node: Node, **attributes: Any) -> ir.Value:
        """A new ONNX node; the value is named after ``node`` once it is the result of it (`translate`)."""
        name = f"{node.name}.{len(self.nodes)}"
        made = ir.node(op_type, inputs, attributes=attributes, name=name, domain=DOMAIN if op_type == "Edge" else "")
        made.outputs[0].name, made.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
        self.nodes.append(made)
        return made.outputs[0]


Translate = Callable[[Writer, Node, list[Any]], ir.Value]


def translate(graph: GraphModule) -> ir.Model:
    """``graph``, marked by `mark`, as an ONNX model with ``halfstep::Edge`` nodes; raises `Untranslatable`."""
    writer = Writer(graph)
    inputs, outputs = [], []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            writer.values[node] = _input(node)
            inputs.append(writer.values[node])
        elif node.op == "get_attr":
            writer.values[node] = writer.constant(str(node.target), attribute(graph, node).numpy())
        elif node.op == "output":
            outputs = [_output(writer, leaf, index) for index, leaf in enumerate(_leaves(node.args[0]))]
        elif not node.meta.get("is_number"):
            writer.values[node] = _call(writer, node)
    used = {value for node in writer.nodes for value in node.inputs} | set(outputs)
    onnx_graph = ir.Graph(
        inputs, outputs, nodes=writer.nodes, name="halfstep", opset_imports={"": OPSET, DOMAIN: 1},
        initializers=[value for value in writer.constants.values() if value in used],
    )  # fmt: skip
    return ir.Model(onnx_graph, ir_version=10)


def _input(node: Node) -> ir.Value:
    shape = ir.Shape(["batch" if size is None else size for size in node.meta["shape"]])
    if node.meta["dtype"] is not torch.float32:
        raise Untranslatable(f"input of type {node.meta['dtype']}")
    return ir.Value(name=str(node.meta["name"]), shape=shape, type=ir.TensorType(ir.DataType.FLOAT))


def _leaves(outputs: Any) -> list[Node]:
    """The tensors a network returns, in order, whatever it wraps them in (the graph holds them flat)."""
    leaves = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    if not leaves or not all(isinstance(leaf, Node) for leaf in leaves):
        raise Untranslatable("output")
    return leaves


def output_name(index: int) -> str:
    """ "output", "output_1" ...: what the outputs of every exported file are called, in the network's own order."""
    return "output" if index == 0 else f"output_{index}"


def _output(writer: Writer, leaf: Node, index: int) -> ir.Value:
    value = writer.value(leaf)
    if value.producer() is None or value.name.startswith("output"):  # type: ignore[union-attr]
        raise Untranslatable("an output that is an input, a constant, or another output too")
    value.name = output_name(index)
    value.shape = ir.Shape(["batch" if size is None else size for size in leaf.meta["shape"]])
    return value


def _call(writer: Writer, node: Node) -> ir.Value:
    if node.op == "call_module":
        return _module(writer, node)
    if node.target is operator.getitem or node.target not in _BY_TARGET:
        raise Untranslatable(str(node.target))
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    arguments = [argument.default_value if argument.has_default_value() else None for argument in schema]
    arguments[: len(node.args)] = node.args
    for name, value in node.kwargs.items():
        arguments[next(index for index, argument in enumerate(schema) if argument.name == name)] = value
    return _BY_TARGET[node.target](writer, node, arguments)


def _module(writer: Writer, node: Node) -> ir.Value:
    module, x = module_of(node), writer.value(node.args[0])
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return x
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is None or module.running_var is None:
        raise Untranslatable(type(module).__name__)
    ones = torch.ones_like(module.running_mean)
    state = {"weight": module.weight, "bias": module.bias, "running_mean": module.running_mean, "running_var": module.running_var}
    tensors = {name: ones * (name == "weight") if tensor is None else tensor for name, tensor in state.items()}
    inputs = [writer.constant(f"{node.target}.{name}", tensor.detach().numpy()) for name, tensor in tensors.items()]
    return writer.emit("BatchNormalization", [x, *inputs], node, epsilon=float(module.eps))


def _spread(values: Sequence[int], count: int) -> list[int]:
    """PyTorch writes [1] for [1, 1]."""
    return list(values) * count if len(values) == 1 else list(values)


def _spatial(node: Node) -> int:
    """How many axes lie behind batch and channels."""
    return len(node.meta["shape"]) - 2


def _conv(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, weight, bias, stride, padding, dilation, groups = arguments
    count = _spatial(node)
    pads = _spread(padding, count)
    return writer.emit(
        "Conv", [writer.value(x), writer.value(weight), *([] if bias is None else [writer.value(bias)])], node,
        strides=_spread(stride, count), pads=pads + pads, dilations=_spread(dilation, count), group=groups,
    )  # fmt: skip


def _conv_transpose(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, weight, bias, stride, padding, output_padding, groups, dilation = arguments
    count = _spatial(node)
    pads = _spread(padding, count)
    return writer.emit(
        "ConvTranspose", [writer.value(x), writer.value(weight), *([] if bias is None else [writer.value(bias)])], node,
        strides=_spread(stride, count), pads=pads + pads, dilations=_spread(dilation, count), group=groups,
        output_padding=_spread(output_padding, count),
    )  # fmt: skip


def _linear(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, weight, bias = arguments
    if len(node.meta["shape"]) != 2:
        raise Untranslatable("linear on more than two axes")
    inputs = [writer.value(x), writer.value(weight), *([] if bias is None else [writer.value(bias)])]
    return writer.emit("Gemm", inputs, node, transB=1)


def _clip(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, low, high = arguments[:3]
    bounds = [None if bound is None else writer.value(bound) for bound in (low, high)]
    return writer.emit("Clip", [writer.value(x), *bounds], node)


def _with_alpha(op_type: str) -> Translate:
    """Add and sub, whose second operand may be scaled."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        if arguments[2] != 1:
            raise Untranslatable("alpha")
        return writer.emit(op_type, [writer.value(x) for x in arguments[:2]], node)

    return emit


def _plain(op_type: str, num_inputs: int = 1, **attributes: Any) -> Translate:
    """Operators that are one ONNX node with nothing to convert."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        return writer.emit(op_type, [writer.value(x) for x in arguments[:num_inputs]], node, **attributes)

    return emit


def _identity(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    return writer.value(arguments[0])


def _silu(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x = writer.value(arguments[0])
    return writer.emit("Mul", [x, writer.emit("Sigmoid", [x], node)], node)


def _concat(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    return writer.emit("Concat", [writer.value(x) for x in arguments[0]], node, axis=arguments[1])


def _max_pool(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, kernel, stride, padding, dilation, ceil_mode = arguments
    count = _spatial(node)
    kernel, pads = _spread(kernel, count), _spread(padding, count)
    return writer.emit(
        "MaxPool", [writer.value(x)], node, kernel_shape=kernel, strides=_spread(stride, count) if stride else kernel,
        pads=pads + pads, dilations=_spread(dilation, count), ceil_mode=int(ceil_mode),
    )  # fmt: skip


def _average_pool(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, kernel, stride, padding, ceil_mode, count_include_pad = arguments[:6]
    if ceil_mode or (len(arguments) > 6 and arguments[6] is not None):
        raise Untranslatable("avg_pool with ceil_mode or divisor_override")
    count = _spatial(node)
    kernel, pads = _spread(kernel, count), _spread(padding, count)
    return writer.emit(
        "AveragePool", [writer.value(x)], node, kernel_shape=kernel, strides=_spread(stride, count) if stride else kernel,
        pads=pads + pads, count_include_pad=int(count_include_pad),
    )  # fmt: skip


def _global_average(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    if any(size != 1 for size in arguments[1]):
        raise Untranslatable("adaptive pooling to more than one value")
    return writer.emit("GlobalAveragePool", [writer.value(arguments[0])], node)


def _mean(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, axes, keeps, dtype = arguments
    rank = len(x.meta["shape"])
    if axes is None or dtype is not None or rank < 3 or sorted(axis % rank for axis in axes) != list(range(2, rank)):
        raise Untranslatable("mean over other than all spatial axes")
    pooled = writer.emit("GlobalAveragePool", [writer.value(x)], node)
    return pooled if keeps else writer.emit("Reshape", [pooled, writer.integers([0, -1])], node)


def _flatten(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, start, end = arguments
    if start != 1 or end not in (-1, len(x.meta["shape"]) - 1):
        raise Untranslatable("flatten of other than all axes behind the batch")
    return writer.emit("Reshape", [writer.value(x), writer.integers([0, -1])], node)


def _reshape(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    """A free batch size is copied from the input (0); any other computed size is left to PyTorch's exporter."""
    x, sizes = arguments[:2]
    copied = [_is_batch_of(size, x) and index == 0 for index, size in enumerate(sizes)]
    if any(not is_copied and not isinstance(size, int) for is_copied, size in zip(copied, sizes, strict=True)):
        raise Untranslatable("computed shape")
    shape = [0 if is_copied else size for is_copied, size in zip(copied, sizes, strict=True)]
    return writer.emit("Reshape", [writer.value(x), writer.integers(shape)], node)


def _is_batch_of(size: Any, x: Node) -> bool:
    """Whether ``size`` is the free batch size, which every tensor of the graph that has a free first axis shares."""
    if not isinstance(size, Node) or str(size.target) != "aten.sym_size.int" or size.args[1] != 0:
        return False
    measured = size.args[0]
    return isinstance(measured, Node) and measured.meta["shape"][0] is None and x.meta["shape"][0] is None


def _permute(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    rank = len(node.meta["shape"])
    return writer.emit("Transpose", [writer.value(arguments[0])], node, perm=[axis % rank for axis in arguments[1]])


def _slice(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, axis, start, end, step = arguments
    bounds = [0 if start is None else start, 2**63 - 1 if end is None else end, step]
    if not all(isinstance(bound, int) for bound in [axis, *bounds]):
        raise Untranslatable("computed slice")
    if bounds[0] == 0 and bounds[1] == 2**63 - 1 and step == 1:
        return writer.value(x)
    inputs = [writer.integers([bound]) for bound in (bounds[0], bounds[1], axis, step)]
    return writer.emit("Slice", [writer.value(x), *inputs], node)


def _index_select(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, axis, indices = arguments
    return writer.emit("Gather", [writer.value(x), writer.value(indices)], node, axis=axis)


def _pad(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, padding, mode, value = arguments if len(arguments) == 4 else (*arguments[:2], "constant", arguments[2])
    if mode != "constant" or not all(isinstance(amount, int) for amount in padding):
        raise Untranslatable(f"padding of mode {mode}")
    rank = len(node.meta["shape"])
    pairs = [(0, 0)] * (rank - len(padding) // 2) + list(zip(padding[-2::-2], padding[-1::-2], strict=True))
    amounts = [begin for begin, _ in pairs] + [end for _, end in pairs]
    return writer.emit("Pad", [writer.value(x), writer.integers(amounts), writer.value(float(value or 0))], node)


def _axes(op_type: str) -> Translate:
    """Squeeze and unsqueeze."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        axes = arguments[1] if isinstance(arguments[1], (list, tuple)) else [arguments[1]]
        return writer.emit(op_type, [writer.value(arguments[0]), writer.integers(list(axes))], node)

    return emit


def _edge(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    return writer.emit("Edge", [writer.value(arguments[0])], node, edge=arguments[1])


TRANSLATIONS: dict[str, Translate] = {
    **dict.fromkeys(("conv1d.default", "conv2d.default", "conv3d.default"), _conv),
    **dict.fromkeys(("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"), _conv_transpose),
    "linear.default": _linear,
    "matmul.default": _plain("MatMul", 2),
    "bmm.default": _plain("MatMul", 2),
    "relu.default": _plain("Relu"),
    "relu6.default": lambda writer, node, arguments: _clip(writer, node, [arguments[0], 0.0, 6.0]),
    **dict.fromkeys(("hardtanh.default", "clamp.default", "clamp_min.default"), lambda w, n, a: _clip(w, n, [*a, None])),
    "add.Tensor": _with_alpha("Add"),
    "sub.Tensor": _with_alpha("Sub"),
    "mul.Tensor": _plain("Mul", 2),
    "div.Tensor": _plain("Div", 2),
    "minimum.default": _plain("Min", 2),
    "cat.default": _concat,
    **dict.fromkeys(("max_pool1d.default", "max_pool2d.default", "max_pool3d.default"), _max_pool),
    **dict.fromkeys(("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default"), _average_pool),
    **dict.fromkeys(("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default"), _global_average),
    "mean.dim": _mean,
    "flatten.using_ints": _flatten,
    **dict.fromkeys(("view.default", "reshape.default"), _reshape),
    "permute.default": _permute,
    "slice.Tensor": _slice,
    "index_select.default": _index_select,
    "pad.default": _pad,
    "constant_pad_nd.default": _pad,
    "squeeze.dims": _axes("Squeeze"),
    "squeeze.dim": _axes("Squeeze"),
    "unsqueeze.default": _axes("Unsqueeze"),
    "sigmoid.default": _plain("Sigmoid"),
    "tanh.default": _plain("Tanh"),
    "silu.default": _silu,
    "hardswish.default": _plain("HardSwish"),
    "hardsigmoid.default": _plain("HardSigmoid", alpha=1 / 6),
    **dict.fromkeys(("clone.default", "contiguous.default", "alias.default", "dropout.default"), _identity),
}
"""ATen operator and overload -> how it is written in ONNX."""


def _overload(name: str) -> Any:
    packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


_BY_TARGET: dict[Any, Translate] = {_overload(name): translation for name, translation in TRANSLATIONS.items()}
_BY_TARGET[torch.ops.halfstep.edge.default] = _edge
