"""Mean and argmax over axes, in whatever order the input lies.

Sums are local variables. Two sums that are kept in memory while they grow are more than gcc 12 can vectorise: at -O2 it loses terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from halfstep.export.c99.emitters.abstract import EMITTERS, AbstractEmitter, Pointers, Step
from halfstep.export.c99.emitters.elementwise import nest_over
from halfstep.export.c99.finish import finish
from halfstep.export.c99.layout import Order, Place
from halfstep.export.c99.module import Module
from halfstep.export.c99.nest import Nest
from halfstep.export.c99.text import comment, indented

_LETTERS = "ijklmnopq"
_CHUNK = 32  # sums side by side
_FEWEST_ABREAST = 8  # with fewer, one after the other


def reduced_order(order: Order, axes: Sequence[int], num_axes: int) -> Order:
    """Of an output whose ``axes`` are of size 1, or gone."""
    if num_axes == len(order):
        return order
    kept = sorted(axis for axis in order if axis not in axes)
    return tuple(kept.index(axis) for axis in order if axis in kept)


def output_axes(axes: Sequence[int], num_input_axes: int, num_output_axes: int) -> dict[int, int]:
    """For each axis of the input that is kept, its number in the output."""
    kept = [axis for axis in range(num_input_axes) if axis not in axes]
    return {axis: axis if num_input_axes == num_output_axes else index for index, axis in enumerate(kept)}


@final
@EMITTERS.register("mean")
class MeanEmitter(AbstractEmitter):
    """A sum for each entry of the output; a chunk of them side by side where they lie so in the input."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """As it comes."""
        return (given[0].order,), reduced_order(given[0].order, operator.axes, len(shape))

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        operator, x, y = step.operator, step.inputs[0], step.output
        end = finish(module, operator.rescale, operator.accumulator_bounds(values), y.value.zero_point, operator.low, operator.high)
        nest = self._nest(step)
        kept = [index for index, is_kept in enumerate(nest.strides["is_kept"]) if is_kept]
        summed = [index for index, is_kept in enumerate(nest.strides["is_kept"]) if not is_kept]
        terms = {name: _terms(own) for name, own in nest.strides.items()}
        if kept and kept[-1] == len(nest.sizes) - 1 and nest.sizes[-1] >= _FEWEST_ABREAST:
            along = kept.pop()
            letter = _LETTERS[along]
            lanes = f"for (size_t c = 0; c < some; ++c) {{\n    const size_t {letter} = first + c;\n    %\n}}"
            add = lanes.replace("%", f"sums[c] += hs_get_{x.code}(x, {terms['x']}) - zero;")
            put = lanes.replace("%", f"hs_put_{y.code}(y, {terms['y']}, {end.code('sums[c]', terms['channel'])});")
            size = nest.sizes[along]
            body = "\n".join(["int32_t sums[CHUNK] = {0};", _loops(nest.sizes, summed, add), put])
            some = f"const size_t some = {size} - first < CHUNK ? {size} - first : CHUNK;"
            body = f"for (size_t first = 0; first < {size}; first += CHUNK) {{\n{indented([some, body])}\n}}"
        else:
            add = f"sum += hs_get_{x.code}(x, {terms['x']}) - zero;"
            put = f"hs_put_{y.code}(y, {terms['y']}, {end.code('sum', terms['channel'])});"
            body = "\n".join(["int32_t sum = 0;", _loops(nest.sizes, summed, add), put])
        head = f"/* {comment(f'mean: {list(x.value.shape)} -> {list(y.value.shape)}')} */\nHS_LAYER void @("
        head += f"void *restrict y, const void *restrict x, int32_t zero{end.parameters})\n{{\n    enum {{ CHUNK = {_CHUNK} }};\n"
        function = module.function(step.kind, f"{head}{indented([_loops(nest.sizes, kept, body)])}\n}}\n")
        return [f"{function}({at.output}, {at.inputs[0]}, {x.value.zero_point}{end.arguments});"]

    def _nest(self, step: Step) -> Nest:
        """The loops over the input, with strides in input and output, and whether an axis is kept, so that none that is is joined."""
        x, y = step.inputs[0], step.output
        to = output_axes(step.operator.axes, len(x.order), len(y.order))
        axes = range(len(x.order))
        strides = {
            "x": x.strides,
            "y": [y.strides[to[axis]] if axis in to else 0 for axis in axes],
            "channel": [int(to.get(axis) == 0) for axis in axes],
            "is_kept": [int(axis in to) for axis in axes],
        }
        return nest_over(x.value.shape, x.order, strides)


def _terms(strides: Sequence[int]) -> str:
    """The place of an entry as a sum over the loops."""
    return " + ".join(f"{letter} * {stride}" for letter, stride in zip(_LETTERS, strides, strict=False) if stride) or "0"


def _loops(sizes: Sequence[int], which: Sequence[int], body: str) -> str:
    """Loops number ``which`` around ``body``."""
    for index in reversed(which):
        letter = _LETTERS[index]
        body = f"for (size_t {letter} = 0; {letter} < {sizes[index]}; ++{letter}) {{\n{indented([body])}\n}}"
    return body


@final
@EMITTERS.register("argmax")
class ArgmaxEmitter(AbstractEmitter):
    """The first place of the largest code."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """As it comes."""
        return (given[0].order,), reduced_order(given[0].order, (operator.axis,), len(shape))

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        operator, x, y = step.operator, step.inputs[0], step.output
        to = output_axes((operator.axis,), len(x.order), len(y.order))
        shape = tuple(1 if axis == operator.axis else size for axis, size in enumerate(x.value.shape))
        placed = [y.strides[to[axis]] if axis in to else 0 for axis in range(len(shape))]
        nest = nest_over(shape, x.order, {"x": x.strides, "y": placed})
        along = f"{nest.index('x')} + at * {x.strides[operator.axis]}"
        body = (
            f"int32_t most = hs_get_{x.code}(x, {nest.index('x')});\n"
            "size_t best = 0;\n"
            f"for (size_t at = 1; at < {x.value.shape[operator.axis]}; ++at) {{\n"
            f"    const int32_t code = hs_get_{x.code}(x, {along});\n"
            "    best = code > most ? at : best;\n"
            "    most = code > most ? code : most;\n"
            "}\n"
            f"hs_put_{y.code}(y, {nest.index('y')}, (int32_t)best);"
        )
        head = (
            f"/* argmax: {list(x.value.shape)} along axis {operator.axis} */\nHS_LAYER void @(void *restrict y, const void *restrict x)\n{{"
        )
        function = module.function(step.kind, "\n".join([head, nest.loops(body), "}\n"]))
        return [f"{function}({at.output}, {at.inputs[0]});"]
