"""What a translation sees of one operation: its inputs as tensors, numbers or known values, and its attributes by type.

A value is a tensor (computed from the network's inputs) or `Known`: constants, and shapes read with the operator Shape, whose free batch
size is a symbol of torch's. Known values are arrays, so that shape arithmetic is done while the network is recorded and leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from halfstep.errors import ModelError
from halfstep.onnx_import.model import Operation
from halfstep.onnx_import.tensors import Array, to_torch


@final
@dataclass(frozen=True)
class Known:
    """A value that is known while the network is recorded. tensor: the parameter or buffer with the same numbers, if there is one."""

    array: Array
    tensor: Tensor | None = None

    @property
    def is_numeric(self) -> bool:
        """Whether there are only numbers in it, no symbols of sizes."""
        return bool(self.array.dtype != object)


Value: TypeAlias = Tensor | Known
Number: TypeAlias = float | int | bool
Result: TypeAlias = Value | tuple[Value | None, ...]


@final
class Call:
    """One operation with its inputs; None stands for one left out."""

    def __init__(self, operation: Operation, opset: int, inputs: Sequence[Value | None]) -> None:
        self.operation, self.opset, self.inputs = operation, opset, inputs

    def refusal(self, reason: str) -> ModelError:
        """The error to raise where this form of the operator is not translated; ``reason`` is a sentence with the way out."""
        return ModelError(f"{self.operation.at(self.opset)}: {reason}")

    # Inputs

    def has(self, index: int) -> bool:
        """Whether there is an input at ``index``."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """The input at ``index`` as it is."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise self.refusal(f"it lacks its input {index + 1}. The file is damaged: export it again.")
        return value

    def tensor(self, index: int) -> Tensor:
        """The input at ``index`` as a tensor."""
        return self.as_tensor(self.value(index))

    def optional_tensor(self, index: int) -> Tensor | None:
        """As `tensor`; None where it is left out."""
        return self.tensor(index) if self.has(index) else None

    def tensors(self) -> list[Tensor]:
        """All inputs as tensors."""
        return [self.tensor(index) for index in range(len(self.inputs))]

    def as_tensor(self, value: Value) -> Tensor:
        """A known value as a tensor, a size that is a symbol included."""
        if isinstance(value, Tensor):
            return value
        if value.tensor is not None:
            return value.tensor
        if value.array.dtype != object:
            return to_torch(value.array)
        parts = [torch.scalar_tensor(size, dtype=torch.int64) for size in value.array.flat]
        return torch.stack(parts).reshape(value.array.shape) if value.array.ndim else parts[0]

    def operand(self, index: int, beside: Tensor) -> Tensor | Number:
        """An operand of an element-wise operator: a plain number where it is known and does not add axes to ``beside``."""
        value = self.value(index)
        if isinstance(value, Known) and value.array.size == 1 and value.array.ndim <= beside.ndim:
            number: Number = value.array.reshape(-1)[0]
            return number.item() if isinstance(number, np.generic) else number
        return self.as_tensor(value)

    def known(self, index: int) -> Array:
        """The input at ``index`` where its numbers must be known."""
        value = self.value(index)
        if isinstance(value, Tensor):
            raise self.refusal(
                f"its input '{self.operation.inputs[index]}' is computed from the network's inputs, and must be known beforehand. "
                "Export the network with fixed sizes (all but the batch), or simplify the file first (onnxsim)."
            )
        return value.array

    def integers(self, index: int) -> list[int]:
        """A known input as a flat list of integers; symbols of sizes, which act like integers, stay symbols."""
        sizes: list[Any] = self.known(index).reshape(-1).tolist()
        return [size if isinstance(size, torch.SymInt) else int(size) for size in sizes]  # type: ignore[misc]

    def number(self, index: int) -> Number:
        """A known input of one element."""
        array = self.known(index).reshape(-1)
        if len(array) != 1:
            raise self.refusal(
                f"its input {index + 1} has {len(array)} elements where one is expected. The file is damaged: export it again."
            )
        return array.tolist()[0]  # type: ignore[no-any-return]

    # Attributes

    def attribute(self, name: str, default: Any, kind: type | tuple[type, ...]) -> Any:
        """An attribute, whose type is checked."""
        value = self.operation.attributes.get(name, default)
        if value is not default and not isinstance(value, kind):
            raise self.refusal(f"its attribute '{name}' is a {type(value).__name__}. The file is damaged: export it again.")
        return value

    def integer(self, name: str, default: int) -> int:
        """An attribute that is an integer."""
        return int(self.attribute(name, default, int))

    def flag(self, name: str, default: int = 0) -> bool:
        """An attribute that is 0 or 1."""
        return bool(self.integer(name, default))

    def real(self, name: str, default: float) -> float:
        """An attribute that is a real number."""
        return float(self.attribute(name, default, (int, float)))

    def text(self, name: str, default: str) -> str:
        """An attribute that is a string."""
        return str(self.attribute(name, default, str))

    def listed(self, name: str) -> list[int] | None:
        """An attribute that is a list of integers; None where it is absent."""
        found = self.attribute(name, None, list)
        if found is not None and not all(isinstance(item, int) for item in found):
            raise self.refusal(f"its attribute '{name}' holds other things than integers. The file is damaged: export it again.")
        return found  # type: ignore[no-any-return]

    def axes(self, index: int) -> list[int] | None:
        """Axes, an attribute in older opsets and the input at ``index`` in newer ones; None where neither is there."""
        return self.integers(index) if self.has(index) else self.listed("axes")

    def sizes(self, index: int, name: str) -> list[int]:
        """As `axes`, for something else that became an input; an error where neither is there."""
        found = self.integers(index) if self.has(index) else self.listed(name)
        if found is None:
            raise self.refusal(f"it lacks '{name}'. The file is damaged: export it again.")
        return found

    def axis(self, rank: int, default: int, name: str = "axis") -> int:
        """The attribute ``axis`` as a number from 0 to ``rank`` - 1."""
        return self.within(self.integer(name, default), rank)

    def within(self, axis: int, rank: int) -> int:
        """``axis``, negative ones counted from the end."""
        if not -rank <= axis < rank:
            raise self.refusal(f"there is no axis {axis} in a tensor of {rank}. The file is damaged: export it again.")
        return axis % rank

    def only_output(self, count: int, what: str) -> None:
        """Refuses a node more than ``count`` of whose outputs are read."""
        extra = [name for name in self.operation.outputs[count:] if name]
        if extra:
            raise self.refusal(f"its output '{extra[0]}' ({what}) is not translated. Export the network without it.")


Translate: TypeAlias = Callable[[Call], Result]


@final
@dataclass(frozen=True)
class Translation:
    """How an operator is computed.

    values: inputs that are read as known values (shapes, axes), not as tensors. takes_numbers: whether a constant of one element is used
    as a plain number.
    """

    translate: Translate
    values: tuple[int, ...] = ()
    takes_numbers: bool = False
