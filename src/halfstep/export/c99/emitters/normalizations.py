"""Softmax and the norms: sums along an axis or over a group first, then every entry by one ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from halfstep.export.c99.emitters.abstract import EMITTERS, AbstractEmitter, Pointers, Step
from halfstep.export.c99.emitters.elementwise import nest_over
from halfstep.export.c99.layout import Order, Place, row_major
from halfstep.export.c99.module import Module
from halfstep.export.c99.text import comment, form, literal
from halfstep.integer.operators.softmax import HIDDEN, MOST_DISTANCE, coarse_table, fine_table


@final
@EMITTERS.register("softmax")
class SoftmaxEmitter(AbstractEmitter):
    """Three passes over a row: the largest score, powers of two and their sum, codes. The powers wait in the scratch memory."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """As the scores lie."""
        return tuple(place.order for place in given), given[0].order

    def scratch_bytes(self, step: Step) -> int:
        """A row of powers."""
        return 4 * int(step.inputs[0].value.shape[step.operator.axis])

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        operator, y = step.operator, step.output.value
        x = step.inputs[0]
        shape, length = x.value.shape, x.value.shape[operator.axis]
        strides: dict[str, Sequence[int]] = {"x": x.strides, "y": step.output.strides}
        parameters, arguments = "", ""
        if len(step.inputs) > 1:
            strides["keep"] = step.inputs[1].aligned_strides(shape)
            parameters, arguments = ", const void *restrict keep", f", {at.inputs[1]}"
        if operator.bias is not None:
            bias = np.ascontiguousarray(operator.bias.numpy())
            strides["bias"] = [0 if size == 1 else stride // bias.itemsize for size, stride in zip(bias.shape, bias.strides, strict=True)]
            parameters += ", const int32_t *restrict bias"
            arguments += f", {module.constant('bias', 'int32_t', bias)}"
        rows = nest_over(tuple(1 if axis == operator.axis else n for axis, n in enumerate(shape)), x.order, strides)
        places = {name: f"{rows.index(name)} + at * {own[operator.axis]}" for name, own in strides.items()}
        every = f"for (size_t at = 0; at < {length}; ++at)"
        body = (
            f"int32_t most = {literal(-(2**31))};\n"
            f"int64_t sum = 0;\n"
            f"{every} {{\n    const int32_t score = {_score(step, places)};\n    most = score > most ? score : most;\n}}\n"
            f"{every} {{\n"
            f"    const int64_t distance = (int64_t)most - {_score(step, places)};\n"
            f"    const uint32_t power = hs_power((uint32_t)hs_clamp_64(hs_rescale_64(distance, multiplier, shift), 0, {MOST_DISTANCE}), "
            "coarse, fine);\n"
            "    hs_put_s32(scratch, at, (int32_t)power);\n    sum += power;\n}\n"
            "const int64_t ratio = numerator / sum;\n"
            f"{every}\n"
            f"    hs_put_{step.output.code}(y, {places['y']}, "
            f"hs_clamp_64(hs_shift_64(hs_get_s32(scratch, at) * ratio + half, precision) + offset, {y.grid.minimum}, {y.grid.maximum}));"
        )
        head = (
            f"/* {comment(f'softmax: {list(shape)} along axis {operator.axis}')} */\n"
            f"HS_LAYER void @(void *restrict y, const void *restrict x{parameters}, void *restrict scratch,\n"
            "    const uint32_t *restrict coarse, const uint32_t *restrict fine, int32_t multiplier, unsigned shift,\n"
            "    int64_t numerator, unsigned precision, int32_t offset)\n{\n"
            "    const int64_t half = (int64_t)((UINT64_C(1) << precision) >> 1);"
        )
        function = module.function(step.kind, "\n".join([head, rows.loops(body), "}\n"]))
        tables = ", ".join(module.constant("powers", "uint32_t", table.numpy()) for table in (coarse_table(), fine_table()))
        numbers = f"{int(operator.rescale.multiplier)}, {int(operator.rescale.shift)}, INT64_C({operator.numerator}), {operator.precision}"
        return [f"{function}({at.output}, {at.inputs[0]}{arguments}, {at.scratch}, {tables}, {numbers}, {y.zero_point});"]


def _score(step: Step, places: Mapping[str, str]) -> str:
    """The C expression of t; see `integer.operators.softmax`."""
    operator, x = step.operator, step.inputs[0]
    score = f"(hs_get_{x.code}(x, {places['x']}) - {literal(x.value.zero_point)}) * {1 << operator.guard}"
    if operator.bias is not None:
        bias = f"bias[{places['bias']}]"
        score = f"{score} + {bias}"
        if bool((operator.bias == HIDDEN).any()):
            score = f"({bias} == {HIDDEN} ? {HIDDEN} : {score})"
    if len(step.inputs) > 1:
        keep = step.inputs[1]
        score = f"(hs_get_{keep.code}(keep, {places['keep']}) == {literal(keep.value.zero_point)} ? {HIDDEN} : {score})"
    return f"({score})"


@final
@EMITTERS.register("layer_norm")
class LayerNormEmitter(AbstractEmitter):
    """Two passes over a group: its sums, then its entries."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """As the program counts: a group lies in one piece."""
        return (row_major(len(shape)),), row_major(len(shape))

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        operator, x, y = step.operator, step.inputs[0], step.output
        count = x.value.size // operator.num_groups
        place = "first + i" if operator.inner == 1 else f"(first + i) / {operator.inner}"
        text = form("layer_norm.c").substitute(
            comment=comment(f"layer_norm: {list(x.value.shape)}, {operator.num_groups} groups"), groups=operator.num_groups, count=count,
            x=x.code, y=y.code, twice_guard=2 * operator.guard, rest=45 - operator.guard,
            place="0" if len(operator.weight) == 1 else f"({place}) % {len(operator.weight)}",
            centre="" if operator.is_centred else "sum = 0;",
        )  # fmt: skip
        function = module.function(step.kind, text)
        arrays = [module.constant("norm", "int32_t", part.numpy().astype(np.int32)) for part in (operator.weight, operator.bias)]
        numbers = f"INT64_C({operator.epsilon}), {literal(x.value.zero_point)}, {operator.bias_shift}, {operator.shift}"
        ends = f"{y.value.zero_point}, {literal(operator.low)}, {literal(operator.high)}"
        return [f"{function}({at.output}, {at.inputs[0]}, {', '.join(arrays)}, {numbers}, {ends});"]
