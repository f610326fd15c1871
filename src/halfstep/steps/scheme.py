"""Which tensor gets which grid: defaults, the first and last layer, exceptions by the user's module names."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from halfstep.grid import Grid
from halfstep.registry import Method
from halfstep.targets import TARGETS, TargetName

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

    def grid(self, type_name: str | None = None, channel_axis: int | None = None, group_size: int | None = None) -> Grid | None:
        """The grid of this scheme, or of another type with its other settings; None for float."""
        type_name = type_name or self.type
        if type_name == FLOAT:
            return None
        axis = channel_axis if self.per_channel else None
        return Grid.parse(type_name, symmetric=self.symmetric, channel_axis=axis, narrow=self.narrow, group_size=group_size)


_MAX_GROUP = 1 << 20  # more inputs than any layer has


def _checked_group_size(value: int | None) -> int | None:
    """Raises `ValueError` for what ONNX's MatMulNBits cannot hold."""
    if value is not None and value != 0 and (not 16 <= value <= _MAX_GROUP or value & (value - 1)):
        raise ValueError(f"a group has 16, 32, 64 ... {_MAX_GROUP:,} inputs (a power of two), or 0 for no groups, not {value}")
    return value


GroupSize = Annotated[int, AfterValidator(_checked_group_size)]


class WeightScheme(TensorScheme):
    """Of the weights: a symmetric grid for each output channel unless told otherwise.

    group_size: of linear layers, how many inputs of an output channel share a scale: 16, 32, 64 ...; 0: all of them. Needs per_channel.
    """

    type: str = "int8"
    per_channel: bool = True
    group_size: GroupSize = 0

    @model_validator(mode="after")
    def _has_channels(self) -> WeightScheme:
        if self.group_size and not self.per_channel:
            raise ValueError("group_size needs per_channel: true, for a group is a part of an output channel")
        return self


class ActivationScheme(TensorScheme):
    """Of the activations: one grid a tensor, its zero point wherever the values need it, unless told otherwise."""

    type: str = "uint8"
    symmetric: bool = False


class LayerTypes(Method):
    """Types for some layers; None keeps the default. activations: of the output of the layer. group_size: of the weights; 0: no groups."""

    weights: str | None = None
    activations: str | None = None
    group_size: GroupSize | None = None

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

    is_input: it is an input of the network. is_addend: what leaves it goes into additions and nowhere else. is_shortcut: it goes into an
    addition and into a layer. is_norm_input: a norm reads it, and nothing that multiplies it. is_softmax: it is a softmax. feeds_last: the
    last layer with weights reads it.
    """

    name: str
    is_first: bool = False
    is_last: bool = False
    clip: str | None = None
    is_input: bool = False
    is_addend: bool = False
    is_shortcut: bool = False
    is_norm_input: bool = False
    is_softmax: bool = False
    feeds_last: bool = False


def _fits(place: Place, pattern: str) -> bool:
    return any(name is not None and fnmatch.fnmatchcase(name, pattern) for name in (place.name, place.clip))


class Scheme(Method):
    """Later entries win: the defaults, ``inputs`` to ``softmax``, ``first_layer`` and ``last_layer``, then ``overrides`` in their order.

    inputs: type of the network's inputs (images have 8 bits to begin with); where it is given, all of them are quantized, also those that
    only functions in float read. addends: type of the tensors that go into additions and nowhere else, such as the last convolution of a
    residual block: an addition takes what its accumulator holds as easily as 4 bits of it. shortcuts: type of the tensors that go into
    additions and into layers too, such as the input of a residual block: the layers read them once more rounded, on a grid of the default
    type. norm_inputs: type of what layer, RMS, group and instance norms read and no product does, such as the sums of a transformer.
    softmax: type of the outputs of softmaxes, whose grid is laid over 0 .. 1. last_input: type of what the last layer with weights reads.
    None keeps the default. outputs: whether the network's outputs are quantized too, where the operator before them can leave its integers
    as floats. requantization: how an integer program multiplies by the ratio of two scales (`integer.requantization`); for the shift modes
    the weights' scales are chosen so that a shift is exact. ONNX files do not depend on it otherwise. target: the runtime whose fusions
    decide which tensors get grids and of which sign (`halfstep.targets`).
    """

    weights: WeightScheme = WeightScheme(narrow=True)
    activations: ActivationScheme = ActivationScheme()
    inputs: str | None = None
    addends: str | None = None
    shortcuts: str | None = None
    norm_inputs: str | None = None
    softmax: str | None = None
    last_input: str | None = None
    outputs: bool = False
    requantization: Requantization = "fixed_point_32"
    target: TargetName = "onnxruntime"
    first_layer: LayerTypes | None = None
    last_layer: LayerTypes | None = None
    overrides: tuple[Override, ...] = Field(default=())

    @field_validator("inputs", "addends", "shortcuts", "norm_inputs", "softmax", "last_input")
    @classmethod
    def _is_a_type(cls, value: str | None) -> str | None:
        return value if value is None else TensorScheme(type=value).type

    def weight_grid(self, place: Place, channel_axis: int | None, is_linear: bool = False) -> Grid | None:
        """The grid of a layer's weight; ``channel_axis`` is the axis of its output channels, None where it has none of its own.

        is_linear: whether it is a linear layer; the weights of others have no groups.
        """
        chosen = self._chosen("group_size", place)
        group_size = self.weights.group_size if chosen is None else chosen
        grid = self.weights.grid(self._chosen("weights", place), channel_axis, group_size or None if is_linear else None)
        return grid if grid is None else TARGETS[self.target].weights(grid)

    def activation_grid(self, place: Place) -> Grid | None:
        """The grid of what leaves a layer or operator."""
        chosen = [
            (self.softmax, place.is_softmax), (self.norm_inputs, place.is_norm_input), (self.addends, place.is_addend),
            (self.shortcuts, place.is_shortcut), (self.inputs, place.is_input), (self.last_input, place.feeds_last),
        ]  # fmt: skip
        special = next((kind for kind, applies in chosen if applies and kind), None)
        grid = self.activations.grid(self._chosen("activations", place) or special)
        return grid if grid is None else TARGETS[self.target].activations(grid)

    def _chosen(self, field: str, place: Place) -> Any:
        """What the last entry that speaks of a layer says of one field of `LayerTypes`; None where none does."""
        entries: list[LayerTypes] = [entry for entry in (place.is_first and self.first_layer, place.is_last and self.last_layer) if entry]
        entries += [entry for entry in self.overrides if _fits(place, entry.pattern)]
        values = (getattr(entry, field) for entry in reversed(entries))
        return next((value for value in values if value is not None), None)
