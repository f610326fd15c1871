"""Compute a graph operation by operation, on real tensors, on fake ones (shapes only), or while torch.export records it."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeGuard

import onnx
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from halfstep.errors import ModelError, did_you_mean
from halfstep.onnx_import import sizes
from halfstep.onnx_import.call import Call, Known, Result, Translation, Value
from halfstep.onnx_import.model import OnnxGraph, Operation
from halfstep.onnx_import.table import OPERATORS
from halfstep.onnx_import.tensors import TORCH_TYPES, Array, first_line, to_numpy, to_torch

MAX_FOLDED, _MAX_GROWTH = 256 << 20, 16
"""The largest constant, in bytes, that is computed from smaller ones; or so many times the bytes of those."""
MAX_TENSOR = 1 << 34
"""The largest tensor of a network, in bytes, where the machine has memory for it."""
_LARGE = 1 << 16
_QUANTIZED = "QLinearConv QLinearMatMul ConvInteger MatMulInteger DynamicQuantizeLinear QuantizeLinear DequantizeLinear"

Execute = Callable[[Operation, tuple[Value | None, ...]], Result]


@contextmanager
def without_data() -> Iterator[None]:
    """Tensors made inside the block have a shape and a type, and no memory. What torch logs of shapes that do not fit becomes an error."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            yield
    finally:
        logger.setLevel(level)


def translation_of(operation: Operation, opset: int) -> Translation:
    """How the operation is computed; `ModelError` names an operator that is not translated."""
    if operation.op_type in OPERATORS:
        return OPERATORS[operation.op_type]
    where = operation.at(opset)
    if operation.op_type in _QUANTIZED.split():
        raise ModelError(f"{where}: {QUANTIZED_ALREADY}")
    close = did_you_mean(operation.op_type, OPERATORS)
    suggestion = f"{close} " if close.startswith("Did") else ""  # not a list of all of them
    raise ModelError(
        f"{where}: this operator is not translated. {suggestion}"
        "Export the network without it, or pass the PyTorch network it came from ('package.module:factory' or a .pt2 file)."
    )


QUANTIZED_ALREADY = (
    "the network is quantized already. Pass the float file it was made from, or ask for a stripped one: --strip-quantization, "
    "hs.load_onnx(path, strip_quantization=True)."
)


def compute(translation: Translation, operation: Operation, opset: int, inputs: tuple[Value | None, ...]) -> Result:
    """The result of one operation; `ModelError` that names it where it cannot be computed."""
    call = Call(operation, opset, inputs)
    try:
        if all(isinstance(value, Known) for value in inputs if value is not None) and inputs:
            result = _of_known(translation, call)
        else:
            result = translation.translate(call)
    except ModelError:
        raise
    except Exception as error:  # whatever PyTorch makes of sizes and types that do not fit together
        raise ModelError(
            f"{operation.at(opset)} cannot be computed: {first_line(error)} Check the file and the shape of the data."
        ) from error
    _refuse_gigantic(operation, opset, result)
    return result


def _of_known(translation: Translation, call: Call) -> Result:
    """Known from known, outside whatever records or fakes tensors."""
    if all(value.is_numeric for value in call.inputs if isinstance(value, Known)):
        return fold(translation, call)
    result = sizes.compute(call)
    return translation.translate(call) if result is None else result


def fold(translation: Translation, call: Call) -> Known | tuple[Known | None, ...]:
    """The result of an operation on constants, after a look at its size."""
    call = Call(call.operation, call.opset, [Known(value.array) if isinstance(value, Known) else value for value in call.inputs])
    given = sum(value.array.nbytes for value in call.inputs if isinstance(value, Known))
    with _disable_current_modes(), torch.no_grad():
        with without_data():
            for part in parts(_translated_without_data(translation, call)):
                if isinstance(part, Tensor) and part.numel() * part.element_size() > max(MAX_FOLDED, _MAX_GROWTH * given):
                    raise call.refusal(f"it makes a constant of {part.numel():,} values. The file is damaged: export it again.")
        result = translation.translate(call)
        folded = tuple(Known(to_numpy(part)) if isinstance(part, Tensor) else part for part in parts(result))
    return folded if isinstance(result, tuple) else folded[0]  # type: ignore[return-value]


def _translated_without_data(translation: Translation, call: Call) -> Result:
    """The shapes of the result. Within `without_data` torch computes on constants of one value all the same, whatever comes of it: so
    there they are tensors without data, unless the shape of the result depends on the value.
    """
    given = [Known(x.array, torch.empty(x.array.shape, dtype=to_torch(x.array).dtype)) if _is_one(x) else x for x in call.inputs]
    try:
        return translation.translate(Call(call.operation, call.opset, given))
    except (DataDependentOutputException, DynamicOutputShapeException):
        return translation.translate(call)


def _is_one(value: Value | None) -> TypeGuard[Known]:
    return isinstance(value, Known) and value.array.size == 1 and value.array.dtype != object


def parts(result: Result) -> tuple[Value | None, ...]:
    """The outputs one by one."""
    return result if isinstance(result, tuple) else (result,)


def _refuse_gigantic(operation: Operation, opset: int, result: Result) -> None:
    for part in parts(result):
        if (
            isinstance(part, FakeTensor)
            and isinstance(part.numel(), int)
            and part.numel() * part.element_size() > min(_memory(), MAX_TENSOR)
        ):
            raise ModelError(
                f"{operation.at(opset)} makes a tensor of shape {list(part.shape)}, more than any network's or this machine's memory. "
                "Check the sizes in the file and the shape of the data."
            )


def _memory() -> int:
    """Bytes of memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 40


def run(graph: OnnxGraph, values: dict[str, Value], execute: Execute) -> dict[str, Value]:
    """All operations in order. values: inputs and constants by name; tensors are dropped after their last use, what is known is kept."""
    left = Counter(name for operation in graph.operations for name in operation.inputs)
    left.update(graph.outputs)
    for operation in graph.operations:
        result = parts(execute(operation, tuple(values[name] if name else None for name in operation.inputs)))
        values |= {name: part for name, part in zip(operation.outputs, result, strict=False) if name and part is not None}
        left.subtract(operation.inputs)
        for name in operation.inputs:
            if name and not left[name] and isinstance(values.get(name), Tensor):
                del values[name]
    return values


def _like(array: Array) -> Tensor | None:
    """A tensor without data in place of a large constant, so that none is copied to learn its shape."""
    if array.size < _LARGE:
        return None
    return torch.empty(array.shape, dtype=TORCH_TYPES.get(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), torch.float32))


def shapes(graph: OnnxGraph, batch_size: int) -> Mapping[str, Value]:
    """Every known value and the shapes of the outputs for one batch size, computed without data; all other sizes must be given."""
    with without_data():
        values: dict[str, Value] = {name: Known(array, _like(array)) for name, array in graph.constants.items()}
        for value in graph.inputs:
            assert value.shape is not None
            shape = [batch_size if size is None else size for size in value.shape]
            values[value.name] = torch.empty(shape, dtype=TORCH_TYPES[value.element_type])
        opset = graph.opset
        return run(graph, values, lambda operation, inputs: compute(translation_of(operation, opset), operation, opset, inputs))
