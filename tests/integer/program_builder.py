"""A random integer program while it grows: picks values to read, grids, scales and arrays that keep every accumulator within 32 bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from halfstep.grid import Grid
from halfstep.integer.operators import INT32, AbstractOperator, Constant
from halfstep.integer.requantization import Rescale, exact_power, rescale
from halfstep.integer.value import Value

WEIGHT_BITS = (2, 3, 4, 8, 16)
VALUE_BITS = (2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 9, 10, 11, 12, 13, 14, 15, 16, 16)
_PREFIXES = ("", "layer1.", "layer1_", "1/a b ", "if.")  # names as users have them, hard on whoever makes identifiers of them
_MAX_SIZE = 600  # codes of a value
_SCALES = (2.0**-45, 2.0**14)  # a 16-bit multiplier reaches no further up


@dataclass
class Builder:
    """The program so far. random: where every choice comes from."""

    random: Random
    mode: str
    values: dict[str, Value] = field(default_factory=dict)
    operators: list[AbstractOperator] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, fits: Callable[[Value], bool]) -> Value | None:
        """An existing value that fits, rather a late one than an early one; None where there is none."""
        found = [value for value in self.values.values() if fits(value)]
        if not found:
            return None
        return found[max(self.random.randrange(len(found)), self.random.randrange(len(found)))]

    def partner(self, shape: tuple[int, ...], max_bits: int = 16) -> Value:
        """A value of that shape: an existing one, else a new input or constant."""
        found = self.pick(lambda value: value.shape == shape and value.grid.bits <= max_bits)
        if found is not None and self.chance(0.6):
            return found
        if self.chance(0.5):
            value = self.new("input", shape, self.grid(max_bits))
            self.inputs.append(value.name)
            return value
        value = self.new("constant", shape, self.grid(max_bits))
        return self.add(Constant, value, (), codes=self.codes(value.grid.minimum, value.grid.maximum, shape))

    def grid(self, max_bits: int = 16) -> Grid:
        bits = self.random.choice([bits for bits in VALUE_BITS if bits <= max_bits])
        is_signed = self.chance(0.5)
        return Grid(bits, is_signed, self.chance(0.5), narrow=is_signed and self.chance(0.2))

    def new(self, kind: str, shape: Sequence[int], grid: Grid, zero_point: int | None = None) -> Value:
        """A new value of any zero point where the grid may have one."""
        if math.prod(shape) > _MAX_SIZE or min(shape, default=1) < 1:
            raise TooLargeError
        if zero_point is None:
            ends = self.random.choice([grid.minimum, grid.maximum, self.random.randint(grid.minimum, grid.maximum)])
            zero_point = 0 if grid.symmetric else ends
        name = f"{self.random.choice(_PREFIXES)}{kind}_{len(self.values)}"
        self.values[name] = Value(name, tuple(shape), grid, 2.0 ** self.random.uniform(-12, 0), zero_point)
        return self.values[name]

    def like(self, kind: str, shape: Sequence[int], value: Value) -> Value:
        """A new value on the grid of an old one."""
        made = self.new(kind, shape, value.grid, value.zero_point)
        self.values[made.name] = Value(made.name, made.shape, made.grid, value.scale, value.zero_point)
        return self.values[made.name]

    def add(self, kind: type[Any], output: Value, inputs: tuple[Value, ...], **fields: Any) -> Value:
        """Append an operator."""
        self.operators.append(kind(f"{output.name}.layer", tuple(value.name for value in inputs), output.name, **fields))
        return output

    def codes(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        """Integers in low .. high, int64: anywhere, at the ends only, mostly 0, or small."""
        generator = torch.Generator().manual_seed(self.random.getrandbits(31))
        style = self.random.choice(["uniform", "uniform", "uniform", "ends", "sparse", "small"])
        codes = torch.randint(low, high + 1, tuple(shape), generator=generator)
        if style == "ends":
            return torch.where(torch.rand(tuple(shape), generator=generator) < 0.5, low, high)
        if style == "sparse":
            return torch.where(torch.rand(tuple(shape), generator=generator) < 0.7, min(max(0, low), high), codes)
        return codes.clamp(max(low, -3), min(high, 3)) if style == "small" and low <= 0 <= high else codes

    def weight(self, shape: Sequence[int], num_terms: int, largest: int) -> Tensor:
        """Codes of 2 to 16 bits; sums of ``num_terms`` products with numbers up to ``largest`` stay within 31 bits."""
        bits = self.random.choice(WEIGHT_BITS)
        limit = min(1 << (bits - 1), (2**30) // (num_terms * max(1, largest)))
        return self.codes(-limit, max(0, limit - 1), shape)

    def bias(self, size: int) -> Tensor:
        """int32 codes of any length up to 30 bits."""
        reach = 1 << self.random.randrange(1, self.random.choice([5, 10, 28]))
        return self.codes(-reach, reach, (size,))

    def result(self, kind: str, shape: Sequence[int]) -> Value:
        """What a layer with an accumulator writes: now and then the accumulator itself."""
        return self.new(kind, shape, Grid(32, True)) if self.chance(0.1) else self.new(kind, shape, self.grid())

    def finish(self, output: Value, bounds: tuple[int, int], num_channels: int = 1) -> dict[str, Any]:
        """rescale, low and high that fill most of the output's grid from an accumulator within ``bounds``."""
        low, high = self.clamp(output)
        if output.grid.bits == 32 and self.chance(0.8):
            return {"rescale": exact_power(0), "low": low, "high": high}
        return {"rescale": self.rescale(output, bounds, num_channels), "low": low, "high": high}

    def clamp(self, output: Value) -> tuple[int, int]:
        """The grid, or a ReLU or clip inside it."""
        low, high = INT32 if output.grid.bits == 32 else (output.grid.minimum, output.grid.maximum)
        if self.chance(0.2) and output.zero_point < high:
            low = output.zero_point
        if self.chance(0.1):
            high = self.random.randint(low, high)
        return low, high

    def rescale(self, output: Value, bounds: tuple[int, int], num_channels: int = 1) -> Rescale:
        """One for the tensor or one a channel, in the mode of the program; at times far too large or too small."""
        size = num_channels if self.chance(0.6) else 1
        base = self.scale_between(max(1, -bounds[0], bounds[1]), output)
        spread = self.random.choice([0.0, 2.0, 12.0])
        reals = [min(max(base * 2.0 ** self.random.uniform(-spread, spread), _SCALES[0]), _SCALES[1]) for _ in range(size)]
        return rescale(torch.tensor(reals, dtype=torch.float64), self.mode)

    def scale_between(self, reach: int, output: Value) -> float:
        """A scale that brings numbers up to ``reach`` to the output's grid or somewhat beyond."""
        if self.chance(0.03):
            return self.random.choice(_SCALES)
        target = output.grid.num_levels / 2 * 2.0 ** self.random.uniform(-2, 6)
        return min(max(target / reach, _SCALES[0]), _SCALES[1])


class TooLargeError(Exception):
    """A value with too many codes, or none: another operator is tried."""
