"""Matrix product of two activations: the second's rows are added up, so that every inner loop runs along memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from halfstep.export.c99.emitters.abstract import EMITTERS, AbstractEmitter, Pointers, Step
from halfstep.export.c99.finish import finish
from halfstep.export.c99.layout import Order, Place, row_major
from halfstep.export.c99.module import Module
from halfstep.export.c99.nest import Nest
from halfstep.export.c99.text import comment

_CHUNK = 32  # sums at a time


@final
@EMITTERS.register("matmul")
class MatmulEmitter(AbstractEmitter):
    """Batched; the batch axes broadcast."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """As the program counts."""
        return tuple(row_major(len(place.order)) for place in given), row_major(len(shape))

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        operator, (one, other), y = step.operator, step.inputs, step.output
        end = finish(module, operator.rescale, operator.accumulator_bounds(values), y.value.zero_point, operator.low, operator.high)
        shape, width = y.value.shape, y.value.shape[-1]
        # Loops over all axes of the result but the last: the rows of the first operand, the matrices of the second.
        rows = one.aligned_strides((*shape[:-1], one.value.shape[-1]))[:-1]
        matrices = (*other.aligned_strides((*shape[:-2], *other.value.shape[-2:]))[:-2], 0)
        strides = {"one": rows, "other": matrices, "y": y.strides[:-1], "channel": tuple(int(axis == 0) for axis in range(len(shape) - 1))}
        nest = Nest.over(shape[:-1], {name: own for name, own in strides.items() if name != "channel" or end.is_per_channel})
        channel = nest.index("channel") if end.is_per_channel else "0"
        value = f"hs_get_{other.code}(other, {nest.index('other')} + t * {width} + first + c) - zero_other"
        body = (
            f"for (size_t first = 0; first < {width}; first += CHUNK) {{\n"
            f"    const size_t some = {width} - first < CHUNK ? {width} - first : CHUNK;\n"
            "    int32_t sums[CHUNK] = {0};\n"
            f"    for (size_t t = 0; t < {one.value.shape[-1]}; ++t) {{\n"
            f"        const int32_t factor = hs_get_{one.code}(one, {nest.index('one')} + t) - zero_one;\n"
            "        for (size_t c = 0; c < some; ++c)\n"
            f"            sums[c] += factor * ({value});\n"
            "    }\n"
            "    for (size_t c = 0; c < some; ++c)\n"
            f"        hs_put_{y.code}(y, {nest.index('y')} + first + c, {end.code('sums[c]', channel)});\n"
            "}"
        )
        described = comment(f"matmul: {list(one.value.shape)} by {list(other.value.shape)}")
        head = f"/* {described} */\nHS_LAYER void @(void *restrict y, const void *restrict one, const void *restrict other"
        head += f", int32_t zero_one, int32_t zero_other{end.parameters})\n{{\n    enum {{ CHUNK = {_CHUNK} }};"
        function = module.function(step.kind, "\n".join([head, nest.loops(body), "}\n"]))
        pointers = f"{at.output}, {at.inputs[0]}, {at.inputs[1]}"
        return [f"{function}({pointers}, {one.value.zero_point}, {other.value.zero_point}{end.arguments});"]
