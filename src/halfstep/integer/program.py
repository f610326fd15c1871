"""The integer program: what a quantized network computes, with no float anywhere.

A program is a list of operators over named values, in the order of computation. A value is a tensor of codes of **one sample** (the batch
is the business of whoever runs the program); its scale and zero point say what the codes stand for and take no part in the arithmetic
beyond what the operators hold as integers. `integer.interpreter` defines what a program computes; `integer.check` what must hold of it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from halfstep.digests import note_written
from halfstep.errors import LoweringError, RecipeError
from halfstep.files import atomic_path
from halfstep.integer.operators import OPERATORS, AbstractOperator
from halfstep.integer.packing import pack, packed_bytes, unpack
from halfstep.integer.requantization import Rescale
from halfstep.integer.value import Value

FORMAT = 1


@dataclass(frozen=True, eq=False)
class IntegerProgram:
    """values: by name. operators: in order. inputs, outputs: names of values. mode: the requantization it was lowered with.

    name: of the network. Raises nothing by itself: `integer.check` says whether a program is sound.
    """

    name: str
    values: dict[str, Value]
    operators: tuple[AbstractOperator, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    mode: str = "fixed_point_32"
    notes: tuple[str, ...] = field(default=())

    @property
    def num_weight_bytes(self) -> int:
        """Bytes of all stored codes, packed, and of the int32 biases and tables beside them."""
        return sum(packed_bytes(array) for operator in self.operators for _, array in operator.arrays())

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: packed arrays, and the structure as JSON in its header."""
        tensors: dict[str, Tensor] = {}
        header = {
            "format": FORMAT,
            "name": self.name,
            "mode": self.mode,
            "notes": list(self.notes),
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "values": [value.to_json() for value in self.values.values()],
            "operators": [_to_json(operator, f"{index}", tensors) for index, operator in enumerate(self.operators)],
        }
        with atomic_path(path) as temporary:
            safetensors.torch.save_file(tensors, temporary, {"halfstep": json.dumps(header)})
        note_written(path)

    @classmethod
    def load(cls, path: str | Path) -> IntegerProgram:
        """Read what `save` wrote; `LoweringError` on anything else."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                header = json.loads(file.metadata()["halfstep"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header["format"] != FORMAT:
                raise LoweringError(f"'{path}' was written in format {header['format']}; this version of halfstep reads format {FORMAT}.")
            values = [Value.from_json(entry) for entry in header["values"]]
            operators = tuple(_from_json(entry, tensors) for entry in header["operators"])
        except (OSError, AttributeError, KeyError, RuntimeError, TypeError, ValueError, RecipeError, safetensors.SafetensorError) as error:
            raise LoweringError(f"'{path}' holds no integer program: {error}.") from error
        inputs, outputs, notes = (tuple(header[key]) for key in ("inputs", "outputs", "notes"))
        return cls(header["name"], {value.name: value for value in values}, operators, inputs, outputs, header["mode"], notes)


def _to_json(operator: AbstractOperator, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of an operator; its tensors go to ``tensors``, packed, and are named in their place."""
    fields = {entry.name: getattr(operator, entry.name) for entry in dataclasses.fields(operator)}
    return {"kind": operator.kind, **{name: _value_to_json(value, f"{prefix}.{name}", tensors) for name, value in fields.items()}}


def _value_to_json(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path], described = pack(value)
        return {"tensor": path, **described}
    if isinstance(value, Rescale):
        parts = {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
        return {"rescale": {name: _value_to_json(part, f"{path}.{name}", tensors) for name, part in parts.items()}}
    if isinstance(value, tuple):
        return [_value_to_json(part, f"{path}.{index}", tensors) for index, part in enumerate(value)]
    return value


def _from_json(entry: dict[str, Any], tensors: dict[str, Tensor]) -> AbstractOperator:
    fields = {name: _value_from_json(value, tensors) for name, value in entry.items() if name != "kind"}
    return OPERATORS[entry["kind"]](**fields)


def _value_from_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return tuple(_value_from_json(part, tensors) for part in value)
    if isinstance(value, dict) and "tensor" in value:
        return unpack(tensors[value["tensor"]], value)
    if isinstance(value, dict):
        return Rescale(**{name: _value_from_json(part, tensors) for name, part in value["rescale"].items()})
    return value
