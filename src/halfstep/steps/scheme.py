"""Which tensor gets which grid: defaults, the first and last layer, exceptions by the user's module names."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from halfstep.grid import Grid
from halfstep.registry import Method

Requantization = Literal["fixed_point_32", "fixed_point_16", "single_shift", "double_shift", "float"]
FLOAT = "float"  # written instead of a type: leave it in float


class TensorScheme(Method):
    """type: "int8", "uint4" ... or "float". symmetric: zero point 0. per_channel: a scale for each output channel.

    narrow: a signed grid without its lowest code.
    """

    type: str
    symmetric: bool = True
    per_channel: bool = False
    narrow: bool = False

    @field_validator("type")
    @classmethod
    def _is_a_type(cls, value: str) -> str:
        if value != FLOAT:
            Grid.parse(value)
        return value

    def grid(self, type_name: str | None = None, channel_axis: int | None = None) -> Grid | None:
        """The grid of this scheme, or of another type with its other settings; None for float."""
        type_name = type_name or self.type
        if type_name == FLOAT:
            return None
        axis = channel_axis if self.per_channel else None
        return Grid.parse(type_name, symmetric=self.symmetric, channel_axis=axis, narrow=self.narrow)


class WeightScheme(TensorScheme):
    """Of the weights: a symmetric grid for each output channel unless told otherwise."""

    type: str = "int8"
    per_channel: bool = True


class ActivationScheme(TensorScheme):
    """Of the activations: one grid a tensor, its zero point wherever the values need it, unless told otherwise."""

    type: str = "uint8"
    symmetric: bool = False


class LayerTypes(Method):
    """Types for some layers; None keeps the default. activations: of the output of the layer."""

    weights: str | None = None
    activations: str | None = None

    @field_validator("weights", "activations")
    @classmethod
    def _is_a_type(cls, value: str | None) -> str | None:
        return value if value is None else TensorScheme(type=value).type


class Override(LayerTypes):
    """pattern: the user's module names it is for, with * and ? as in a shell ("layer1.*")."""

    pattern: str


@dataclass(frozen=True)
class Place:
    """A layer's name, and whether it is the first or the last with weights. clip: the name of the ReLU or clip fused into it.

    is_input: it is an input of the network. is_addend: what leaves it goes into additions and nowhere else.
    """

    name: str
    is_first: bool = False
    is_last: bool = False
    clip: str | None = None
    is_input: bool = False
    is_addend: bool = False


def _fits(place: Place, pattern: str) -> bool:
    return any(name is not None and fnmatch.fnmatchcase(name, pattern) for name in (place.name, place.clip))


class Scheme(Method):
    """Later entries win: the defaults, ``inputs`` and ``addends``, ``first_layer`` and ``last_layer``, then ``overrides`` in their order.

    inputs: type of the network's inputs (images have 8 bits to begin with); where it is given, all of
    them are quantized, also those that only functions in float read. addends: type of the tensors that go into additions and
    nowhere else, such as the last convolution of a residual block: an addition takes what its accumulator holds as easily as 4 bits of
    it. None keeps the default. outputs: whether the network's outputs are quantized too, where the operator before them can leave its
    integers as floats. requantization: how an integer program multiplies by the ratio of two scales (`integer.requantization`); for the
    shift modes the weights' scales are chosen so that a shift is exact. ONNX files do not depend on it otherwise.
    """

    weights: WeightScheme = WeightScheme(narrow=True)
    activations: ActivationScheme = ActivationScheme()
    inputs: str | None = None
    addends: str | None = None
    outputs: bool = False
    requantization: Requantization = "fixed_point_32"
    first_layer: LayerTypes | None = None
    last_layer: LayerTypes | None = None
    overrides: tuple[Override, ...] = Field(default=())

    @field_validator("inputs", "addends")
    @classmethod
    def _is_a_type(cls, value: str | None) -> str | None:
        return value if value is None else TensorScheme(type=value).type

    def weight_grid(self, place: Place, channel_axis: int | None) -> Grid | None:
        """The grid of a layer's weight; ``channel_axis`` is the axis of its output channels, None where it has none of its own."""
        return self.weights.grid(self._type("weights", place), channel_axis)

    def activation_grid(self, place: Place) -> Grid | None:
        """The grid of what leaves a layer or operator."""
        special = (self.addends if place.is_addend else None) or (self.inputs if place.is_input else None)
        return self.activations.grid(self._type("activations", place) or special)

    def _type(self, role: str, place: Place) -> str | None:
        entries: list[LayerTypes] = [entry for entry in (place.is_first and self.first_layer, place.is_last and self.last_layer) if entry]
        entries += [entry for entry in self.overrides if _fits(place, entry.pattern)]
        types: list[Any] = [getattr(entry, role) for entry in entries]
        return next((chosen for chosen in reversed(types) if chosen), None)
