"""Operators that work entry by entry: requantize, lookup, add, mul, and concat, which requantizes each part into its place.

Operands may lie in different orders and may be repeated along axes: every one has its own strides in one nest of loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from halfstep.export.c99.emitters.abstract import EMITTERS, AbstractEmitter, Pointers, Step, common_order, kept_orders
from halfstep.export.c99.finish import finish
from halfstep.export.c99.layout import Order, Place
from halfstep.export.c99.module import Module
from halfstep.export.c99.nest import Nest
from halfstep.export.c99.text import c_type, code_type, comment, item_bytes, literal
from halfstep.integer.operators import INT32


class AbstractElementwise(AbstractEmitter):
    """What they share."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """As the largest input lies."""
        order = common_order(given, is_free, len(shape))
        return kept_orders(given, is_free, order), order

    def in_place(self, step: Step) -> tuple[int, ...]:
        """Inputs that lie as the output does, code for code."""
        y = step.output
        return tuple(
            index for index, x in enumerate(step.inputs)
            if x.value.shape == y.value.shape and x.order == y.order and item_bytes(x.code) == item_bytes(y.code)
        )  # fmt: skip


def channel_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of an array with one entry for each index of the first axis."""
    return tuple(int(axis == 0) for axis in range(len(shape)))


def nest_over(shape: tuple[int, ...], order: Order, strides: Mapping[str, Sequence[int]]) -> Nest:
    """Loops over a ``shape`` in the ``order`` of memory; strides: along the axes of ``shape``."""
    return Nest.over([shape[axis] for axis in order], {name: [own[axis] for axis in order] for name, own in strides.items()})


def entry_by_entry(step: Step, module: Module, at: Pointers, body: str, parameters: str, uses: Sequence[str] = ()) -> str:
    """The name of a function that runs ``body`` for every entry; called with the output and the inputs that are not in its place.

    body: ``{y}`` is the output's index, ``{x0}``, ``{x1}`` ... those of the inputs, ``{channel}`` that along the first axis (only then it
    is in ``uses``).
    """
    y, shape = step.output, step.output.value.shape
    strides = {f"x{index}": x.aligned_strides(shape) for index, x in enumerate(step.inputs)} | {"y": y.strides}
    if "channel" in uses:
        strides["channel"] = channel_strides(shape)
    nest = nest_over(shape, y.order, strides)
    pointers = [f"const void *restrict x{index}" for index in range(len(step.inputs)) if index != at.in_place]
    lines = [
        f"/* {comment(f'{step.kind}: {list(shape)}')} */",
        f"HS_LAYER void @(void *{'restrict ' if at.in_place is None else ''}y, {', '.join(pointers)}{parameters})".replace("y, ,", "y,"),
        "{",
    ]
    lines += [] if at.in_place is None else [f"    const void *x{at.in_place} = y;"]
    return module.function(step.kind, "\n".join([*lines, nest.loops(body.format(**{n: nest.index(n) for n in strides})), "}\n"]))


def call(function: str, at: Pointers, arguments: str) -> list[str]:
    """The statement that calls what `entry_by_entry` wrote."""
    inputs = [pointer for index, pointer in enumerate(at.inputs) if index != at.in_place]
    return [f"{function}({', '.join([at.output, *inputs])}{arguments});"]


@final
@EMITTERS.register("requantize")
class RequantizeEmitter(AbstractElementwise):
    """Another grid."""

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        operator, x = step.operator, step.inputs[0]
        end = finish(
            module, operator.rescale, operator.accumulator_bounds(values), step.output.value.zero_point, operator.low, operator.high
        )
        value = end.code(f"hs_get_{x.code}(x0, {{x0}}) - zero", "{channel}")
        body = f"hs_put_{step.output.code}(y, {{y}}, {value});"
        uses = ["channel"] if end.is_per_channel else []
        function = entry_by_entry(step, module, at, body, f", int32_t zero{end.parameters}", uses)
        return call(function, at, f", {x.value.zero_point}{end.arguments}")


@final
@EMITTERS.register("lookup")
class LookupEmitter(AbstractElementwise):
    """A table, or one a channel."""

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        x, table = step.inputs[0], step.operator.table.numpy()
        stored = module.constant("table", c_type(code_type(step.output.value.grid)), table)
        index = f"(size_t)(hs_get_{x.code}(x0, {{x0}}) - least)"
        index = index if len(table) == 1 else f"({{channel}}) * {table.shape[1]} + {index}"
        body = f"hs_put_{step.output.code}(y, {{y}}, table[{index}]);"
        parameters = f", const {c_type(step.output.code)} *restrict table, int32_t least"
        function = entry_by_entry(step, module, at, body, parameters, ["channel"] if len(table) > 1 else [])
        return call(function, at, f", {stored}, {x.value.grid.minimum}")


@final
@EMITTERS.register("add")
class AddEmitter(AbstractElementwise):
    """Sum of two tensors or more: in 32 bits, zero points and half in one constant, where that was proven to fit; else in 64."""

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        operator, y = step.operator, step.output.value
        pairs = list(zip(step.inputs, operator.multipliers, strict=True))
        start = ((1 << operator.shift) >> 1) - sum(x.value.zero_point * m for x, m in pairs)
        is_narrow = self._is_narrow(pairs, start, operator.shift, y.zero_point)
        parameters = (
            "".join(f", int32_t m{index}" for index in range(len(pairs))) + ", unsigned shift, int32_t zero, int32_t low, int32_t high"
        )
        codes = [f"hs_get_{x.code}(x{index}, {{x{index}}})" for index, (x, _) in enumerate(pairs)]
        if is_narrow:
            total = " + ".join(["start", *(f"m{index} * {code}" for index, code in enumerate(codes))])
            value = f"hs_clamp_32(hs_shift_32({total}, shift) + zero, low, high)"
            parameters = ", int32_t start" + parameters
            arguments = f", {literal(start)}"
        else:
            total = " + ".join(["half", *(f"(int64_t)m{index} * ((int64_t){code} - z{index})" for index, code in enumerate(codes))])
            value = f"hs_clamp_64(hs_shift_64({total}, shift) + zero, low, high)"
            parameters = "".join(f", int32_t z{index}" for index in range(len(pairs))) + parameters
            arguments = "".join(f", {literal(x.value.zero_point)}" for x, _ in pairs)
        body = f"hs_put_{step.output.code}(y, {{y}}, {value});"
        if not is_narrow:
            body = "const int64_t half = (int64_t)((UINT64_C(1) << shift) >> 1);\n" + body
        arguments += "".join(f", {literal(m)}" for _, m in pairs)
        arguments += f", {operator.shift}, {y.zero_point}, {literal(operator.low)}, {literal(operator.high)}"
        return call(entry_by_entry(step, module, at, body, parameters), at, arguments)

    def _is_narrow(self, pairs: list[tuple[Place, int]], start: int, shift: int, zero_point: int) -> bool:
        """Whether every partial sum stays within 32 bits."""
        reach = abs(start)
        for x, multiplier in pairs:
            reach += abs(multiplier) * max(abs(x.value.grid.minimum), abs(x.value.grid.maximum))
        return shift < 32 and reach + abs(zero_point) <= INT32[1]


@final
@EMITTERS.register("mul")
class MulEmitter(AbstractElementwise):
    """Product of two tensors."""

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        operator, (one, other) = step.operator, step.inputs
        end = finish(
            module, operator.rescale, operator.accumulator_bounds(values), step.output.value.zero_point, operator.low, operator.high
        )
        factors = f"(hs_get_{one.code}(x0, {{x0}}) - zero0) * (hs_get_{other.code}(x1, {{x1}}) - zero1)"
        body = f"hs_put_{step.output.code}(y, {{y}}, {end.code(factors, '{channel}')});"
        uses = ["channel"] if end.is_per_channel else []
        function = entry_by_entry(step, module, at, body, f", int32_t zero0, int32_t zero1{end.parameters}", uses)
        return call(function, at, f", {one.value.zero_point}, {other.value.zero_point}{end.arguments}")


@final
@EMITTERS.register("concat")
class ConcatEmitter(AbstractElementwise):
    """Every part requantized into its place."""

    def in_place(self, step: Step) -> tuple[int, ...]:
        """None: the parts lie apart."""
        return ()

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call a part."""
        operator, y = step.operator, step.output
        statements, first = [], 0
        for x, rescale, pointer in zip(step.inputs, operator.rescales, at.inputs, strict=True):
            end = finish(module, rescale, x.value.centred_bounds, y.value.zero_point, operator.low, operator.high)
            nest = nest_over(x.value.shape, y.order, {"x": x.strides, "y": y.strides})
            centred = f"(int64_t)hs_get_{x.code}(x, {nest.index('x')}) - zero" if "_64" in end.expression else (
                f"hs_get_{x.code}(x, {nest.index('x')}) - zero")  # fmt: skip
            body = f"hs_put_{y.code}(y, {nest.index('y')}, {end.code(centred, '')});"
            head = f"/* {step.kind}: a part {list(x.value.shape)} of {list(y.value.shape)} */"
            head += f"\nHS_LAYER void @(void *restrict y, const void *restrict x, int32_t zero{end.parameters})\n{{"
            function = module.function(step.kind, "\n".join([head, nest.loops(body), "}\n"]))
            place = first * y.strides[operator.axis] * item_bytes(y.code)
            output = f"(uint8_t *){at.output} + {place}" if place else at.output
            statements.append(f"{function}({output}, {pointer}, {x.value.zero_point}{end.arguments});")
            first += x.value.shape[operator.axis]
        return statements
