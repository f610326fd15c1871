"""What an operator of an integer program is: a frozen record of integers, and the exact meaning of what it computes."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from halfstep.errors import LoweringError
from halfstep.integer.requantization import Rescale
from halfstep.integer.value import Value
from halfstep.registry import Registry

INT32 = (-(2**31), 2**31 - 1)
_EXACT_IN_FLOAT32 = 2**24

Values = Mapping[str, Value]


@dataclass(frozen=True, eq=False)
class AbstractOperator(ABC):
    """name: the user's name of the layer. inputs: names of the values it reads, in order. output: of the value it makes."""

    kind: ClassVar[str] = ""

    name: str
    inputs: tuple[str, ...]
    output: str

    @abstractmethod
    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """The codes of ``output``, int32 [N, ...], from those of the inputs. This is the definition every other form is held to."""

    def accumulator_bounds(self, values: Values) -> tuple[int, int]:
        """The least and the largest number any partial sum can reach, in whatever order it is taken, whatever the input codes are."""
        return 0, 0

    def check(self, values: Values) -> None:
        """Raises `LoweringError` where an array, a shape or a number does not fit the values it works on."""
        return

    def arrays(self) -> Iterator[tuple[str, Tensor]]:
        """(name of the field, tensor) of everything that is stored."""
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Tensor):
                    yield entry.name, part
                elif isinstance(part, Rescale):
                    yield from ((f"{entry.name}.{name}", array) for name, array in (("multiplier", part.multiplier), ("shift", part.shift)))

    def fail(self, reason: str) -> LoweringError:
        """The error that names this operator."""
        return LoweringError(f"Operator '{self.name}' ({self.kind}): {reason}")


@dataclass(frozen=True, eq=False)
class AbstractRequantized(AbstractOperator):
    """An operator that ends in ``y = clamp(rescale(accumulator) + zero_point of the output, low, high)``.

    low, high: codes; a ReLU or clip that was fused into the operator is in them.
    """

    rescale: Rescale
    low: int
    high: int

    channel_axis: ClassVar[int] = 1  # of the accumulator [N, ...], along which the rescale may differ

    def finish(self, accumulator: Tensor, values: Values) -> Tensor:
        """``accumulator`` (int64) as codes of the output, int32."""
        axis = self.channel_axis % accumulator.ndim
        rescaled = self.rescale.apply(accumulator, axis).add_(values[self.output].zero_point)
        return rescaled.clamp_(self.low, self.high).to(torch.int32)

    def check(self, values: Values) -> None:
        """The codes lie on the output's grid, the accumulator within 32 bits."""
        grid = values[self.output].grid
        if not grid.minimum <= self.low <= self.high <= grid.maximum:
            raise self.fail(f"its codes {self.low} .. {self.high} do not lie on the grid of '{self.output}'.")
        low, high = self.accumulator_bounds(values)
        if low < INT32[0] or high > INT32[1]:
            raise self.fail(
                f"its accumulator can reach {max(-low, high):.3g}, beyond 32 bits. Give this layer fewer bits for its weights or its "
                "input with an override in the recipe."
            )


@dataclass(frozen=True, eq=False)
class AbstractMovement(AbstractOperator):
    """An operator whose output codes are codes of its one input, on the same grid."""

    def check(self, values: Values) -> None:
        """One grid and one zero point."""
        x, y = values[self.inputs[0]], values[self.output]
        if (x.grid.minimum, x.grid.maximum, x.zero_point) != (y.grid.minimum, y.grid.maximum, y.zero_point):
            raise self.fail(f"it moves codes, and '{self.output}' has another grid or zero point than '{x.name}'.")


def aligned(codes: Sequence[Tensor]) -> list[Tensor]:
    """Codes that broadcast sample by sample: where a sample has fewer axes than another, axes of size 1 behind the batch."""
    num_axes = max(x.ndim for x in codes)
    return [x.view(len(x), *[1] * (num_axes - x.ndim), *x.shape[1:]) for x in codes]


def in_float(codes: Tensor, bounds: tuple[int, int]) -> Tensor:
    """Codes in the narrowest floating type in which sums within ``bounds`` are exact."""
    is_narrow = max(-bounds[0], bounds[1]) < _EXACT_IN_FLOAT32
    return codes.to(torch.float32 if is_narrow else torch.float64)


def sum_bounds(weight: Tensor, low: int, high: int, bias: Tensor | None = None) -> tuple[int, int]:
    """Bounds of every partial sum of ``bias + sum_i q_i w_i`` over rows [C, K] of weights, the q's anywhere in low .. high."""
    rows = weight.long()
    first, second = rows * low, rows * high
    above = torch.maximum(first, second).clamp(min=0).sum(1)
    below = torch.minimum(first, second).clamp(max=0).sum(1)
    if bias is not None:
        above, below = above + bias.long().clamp(min=0), below + bias.long().clamp(max=0)
    return (int(below.min()), int(above.max())) if len(rows) else (0, 0)


def product_bounds(one: tuple[int, int], other: tuple[int, int], count: int = 1) -> tuple[int, int]:
    """Bounds of every partial sum of ``count`` products of two numbers within bounds."""
    products = [a * b for a in one for b in other]
    return count * min(0, *products), count * max(0, *products)


OPERATORS: Registry[AbstractOperator] = Registry("integer operator", attribute="kind")
