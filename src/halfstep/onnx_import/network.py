"""The network in an ONNX file as an ``nn.Module``, with a module for each of its nodes.

The modules are there for their names alone: torch.export notes in which module an operator was recorded. Names in a file are any text, so
that none of them is the name of an attribute: `OnnxNetwork.names` holds them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from halfstep.errors import DataError
from halfstep.graph.names import NamedNetwork, as_text
from halfstep.graph.tree import put
from halfstep.onnx_import.call import Known, Result, Translation, Value
from halfstep.onnx_import.model import Input, OnnxGraph, Operation
from halfstep.onnx_import.normalization import BATCH_NORM, STATE
from halfstep.onnx_import.run import compute, run, translation_of, without_data
from halfstep.onnx_import.tensors import TORCH_TYPES, Array, to_numpy, to_torch


@final
class OneOperation(nn.Module):
    """One node of the file."""

    def __init__(self, operation: Operation, opset: int) -> None:
        super().__init__()
        self._operation, self._opset = operation, opset
        self._translation: Translation = translation_of(operation, opset)

    def forward(self, *inputs: Value | None) -> Result:
        """The node's outputs."""
        return compute(self._translation, self._operation, self._opset, inputs)


class OnnxNetwork(NamedNetwork):
    """Call it with one tensor for each input of the file, in its order; returns a tensor, or a tuple where the file has several outputs.

    Sizes that the file fixes are demanded. Made by `load_onnx`.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self._graph = graph
        self._checked: set[tuple[torch.Size, ...]] = set()
        self.names: dict[str, str] = {}
        self.input_names = tuple(value.name for value in graph.inputs)
        self._operations = {operation.name: f"n_{index}" for index, operation in enumerate(graph.operations)}
        for operation in graph.operations:
            put(self, self._operations[operation.name], OneOperation(operation, graph.opset))
            self.names[self._operations[operation.name]] = operation.name
        self._state: dict[str, tuple[str, ...]] = {}
        for operation in (operation for operation in graph.operations if _has_state(graph, operation)):
            tensors = [to_torch(graph.constants[constant]) for constant in operation.inputs[1:]]
            self._state[operation.name] = tuple(
                self._store(f"{operation.name}.{name}", tensor if name.startswith("running") else nn.Parameter(tensor))
                for name, tensor in zip(STATE, tensors, strict=True)
            )
        self._stored: dict[str, str] = {}
        for name in _stored_constants(graph):
            tensor = _parameter(graph.constants[name])
            self._stored[name] = self._store(name, tensor)
            graph.constants[name] = to_numpy(tensor)  # the same memory: a large network is held once
        self.train(False)

    def _store(self, name: str, tensor: Tensor) -> str:
        """Keep a tensor that the file calls ``name``; its path."""
        path = f"t_{len(self._parameters) + len(self._buffers)}"
        put(self, path, tensor)
        self.names[path] = name
        return path

    def compute(self, inputs: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """What `forward` does, whatever its arguments are called."""
        self._check(inputs)
        signature = tuple(x.shape for x in inputs)
        if not any(isinstance(x, FakeTensor) for x in inputs) and not torch.compiler.is_exporting() and signature not in self._checked:
            with without_data():  # sizes beyond all memory are found before they are asked for
                self._run([torch.empty(x.shape, dtype=x.dtype) for x in inputs])
            self._checked.add(signature)
        return self._run(inputs)

    def _run(self, inputs: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        graph = self._graph
        values: dict[str, Value] = {name: Known(array, self._tensor(name)) for name, array in graph.constants.items()}
        values |= {value.name: x for value, x in zip(graph.inputs, inputs, strict=True)}
        values = run(graph, values, self._execute)
        outputs = tuple(_as_tensor(values[name]) for name in graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _execute(self, operation: Operation, inputs: tuple[Value | None, ...]) -> Result:
        if operation.name in self._state:
            tensors = [getattr(self, path) for path in self._state[operation.name]]
            known = [value for value in inputs[1:] if isinstance(value, Known)]
            inputs = (inputs[0], *(Known(value.array, tensor) for value, tensor in zip(known, tensors, strict=True)))
        module = getattr(self, self._operations[operation.name])
        result: Result = module(*inputs)
        return result

    def _tensor(self, name: str) -> Tensor | None:
        return getattr(self, self._stored[name]) if name in self._stored else None

    def _check(self, inputs: Sequence[Tensor]) -> None:
        """Number, type and given sizes of the inputs."""
        expected = self._graph.inputs
        if len(inputs) != len(expected):
            raise DataError(
                f"The network takes {len(expected)} input(s), {', '.join(map(_described, expected))}; the data gives {len(inputs)}."
            )
        for value, x in zip(expected, inputs, strict=True):
            if x.dtype != TORCH_TYPES[value.element_type]:
                raise DataError(f"Input {_described(value)} must be {TORCH_TYPES[value.element_type]}, the data is {x.dtype}: convert it.")
            if value.shape is not None and (
                len(value.shape) != x.ndim or any(s not in (None, t) for s, t in zip(value.shape, x.shape, strict=True))
            ):
                raise DataError(
                    f"The input of the ONNX file is {_described(value)}, the data has {[str(size) for size in x.shape]}. "
                    "Check the order of the axes and the options --size and --crop; for other sizes export the file with free axes."
                )


def _described(value: Input) -> str:
    sizes = "any shape" if value.shape is None else ", ".join("any" if size is None else str(size) for size in value.shape)
    return f"'{value.name}' [{sizes}]"


def network(graph: OnnxGraph, name: str) -> OnnxNetwork:
    """The module, of a class called ``name``."""
    inputs = [inspect.Parameter(f"x_{index}", inspect.Parameter.POSITIONAL_OR_KEYWORD) for index in range(len(graph.inputs))]

    def forward(self: OnnxNetwork, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.compute(inputs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = inspect.Signature([own, *inputs])  # type: ignore[attr-defined]
    kind: type[OnnxNetwork] = type(as_text(name), (OnnxNetwork,), {"forward": forward, "__doc__": OnnxNetwork.__doc__})
    return kind(graph)


def _has_state(graph: OnnxGraph, operation: Operation) -> bool:
    """Whether it is a batch norm whose statistics are stored."""
    return operation.op_type == BATCH_NORM and len(operation.inputs) == 5 and all(name in graph.constants for name in operation.inputs[1:])


def _stored_constants(graph: OnnxGraph) -> list[str]:
    """Constants that an operation reads as tensors, in the order of the file; not those that stand for a number, axes or a shape."""
    wanted: set[str] = set()
    for operation in graph.operations:
        translation = translation_of(operation, graph.opset)
        for index, name in enumerate(operation.inputs):
            if name not in graph.constants or index in translation.values or _has_state(graph, operation):
                continue
            if graph.constants[name].size > 1 or not translation.takes_numbers:
                wanted.add(name)
    return [name for name in graph.constants if name in wanted]


def _parameter(array: Array) -> Tensor:
    """Real numbers are parameters, integers buffers."""
    tensor = to_torch(array, is_copied=False)
    return nn.Parameter(tensor) if tensor.is_floating_point() else tensor


def _as_tensor(value: Value) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return value.tensor if value.tensor is not None else to_torch(value.array)
