"""How an accumulator becomes a code: the arguments and the expression of a layer's requantization.

Bounds decide in how many bits it is computed: 32 where multiplier, half and zero point leave room, else 64 for the product alone or to the
end. All three give the same codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from halfstep.errors import ExportError
from halfstep.export.c99.module import Module
from halfstep.export.c99.text import literal
from halfstep.integer import Rescale
from halfstep.integer.operators import INT32


@dataclass(frozen=True)
class Finish:
    """parameters: of a C function, from a comma on; arguments: of its call, likewise. expression: see `code`."""

    parameters: str
    arguments: str
    expression: str
    is_per_channel: bool

    def code(self, accumulator: str, channel: str) -> str:
        """The C expression of the output's code."""
        return self.expression.replace("%a", accumulator).replace("%c", channel)


def finish(module: Module, rescale: Rescale, bounds: tuple[int, int], zero_point: int, low: int, high: int) -> Finish:
    """bounds: of the accumulator. low, high: codes that are kept."""
    multipliers, shifts = rescale.multiplier.tolist(), rescale.shift.tolist()
    if max(multipliers) > INT32[1] or min(multipliers) < 0:
        raise ExportError("A multiplier of this program is beyond 31 bits. Lower the network again with requantization 'fixed_point_32'.")
    parameters, arguments, names = "", "", []
    for kind, c_type, plain, numbers in (
        ("multiplier", "int32_t", "int32_t", multipliers), ("shift", "uint8_t", "unsigned", shifts)
    ):  # fmt: skip
        if len(set(numbers)) == 1:
            parameters += f", {plain} {kind}"
            arguments += f", {numbers[0]}"
            names.append(kind)
        else:
            parameters += f", const {c_type} *restrict {kind}"
            arguments += f", {module.constant(kind, c_type, np.array(numbers))}"
            names.append(f"{kind}[%c]")
    width = _width(multipliers, shifts, bounds, zero_point)
    parameters += ", int32_t offset, int32_t low, int32_t high"
    arguments += f", {zero_point}, {literal(low)}, {literal(high)}"
    expression = f"hs_finish_{width}(%a, {names[0]}, {names[1]}, offset, low, high)"
    return Finish(parameters, arguments, expression, "[%c]" in expression)


def _width(multipliers: list[int], shifts: list[int], bounds: tuple[int, int], zero_point: int) -> str:
    product = max(multipliers) * max(-bounds[0], bounds[1])
    half = (1 << max(shifts)) >> 1
    rescaled = max(((product + half) >> shift) + 1 for shift in (min(shifts), max(shifts))) + abs(zero_point)
    if max(product + half, rescaled) <= INT32[1] and max(shifts) < 32 and bounds[0] >= INT32[0]:
        return "32"
    is_mixed = 2 * rescaled <= INT32[1] and min(shifts) > 0 and bounds[0] >= INT32[0] and bounds[1] <= INT32[1]
    return "mixed" if is_mixed else "64"
