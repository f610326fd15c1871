"""Poolings over windows, channels last: a vector of channels at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from halfstep.export.c99.emitters.abstract import EMITTERS, AbstractEmitter, Pointers, Step
from halfstep.export.c99.finish import finish
from halfstep.export.c99.layout import Order, Place, channels_last
from halfstep.export.c99.module import Module
from halfstep.export.c99.text import c_type, comment, form, indented, literal, type_bounds
from halfstep.export.c99.window import Window


class AbstractPool(AbstractEmitter):
    """What the two kinds share."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """Channels last."""
        return (channels_last(len(shape)),), channels_last(len(shape))

    def texts(self, step: Step, dilation: tuple[int, ...]) -> tuple[Window, dict[str, Any]]:
        """The windows, and the parts of the text that do not differ."""
        operator, x, y = step.operator, step.inputs[0].value, step.output.value
        before = tuple(pair[0] for pair in operator.padding)
        window = Window.of(x.shape[1:], y.shape[1:], operator.kernel, operator.stride, before, dilation)
        described = comment(f"{step.kind}: {list(x.shape)} -> {list(y.shape)}")
        return window, {
            "comment": described, "channels": x.shape[0], "places": window.num_places, "y": step.output.code,
            "place": indented([window.starts()], 2),
        }  # fmt: skip


@final
@EMITTERS.register("max_pool")
class MaxPoolEmitter(AbstractPool):
    """Largest code of a window; entries beyond the border are left out."""

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        code = step.inputs[0].code
        window, texts = self.texts(step, step.operator.dilation)
        cast = c_type(code)
        inside = (
            "for (size_t c = 0; c < some; ++c) {\n"
            f"    const {cast} code = ({cast})hs_get_{code}(x, from * CHANNELS + first + c);\n"
            "    best[c] = code > best[c] ? code : best[c];\n}"
        )
        text = form("max_pool.c").substitute(
            texts, type=cast, least=literal(type_bounds(code)[0]), taps=indented([window.taps_inside(inside)], 3)
        )
        return [f"{module.function(step.kind, text)}({at.inputs[0]}, {at.output});"]


@final
@EMITTERS.register("average_pool")
class AveragePoolEmitter(AbstractPool):
    """Mean of a window; what it is divided by is looked up where it differs from place to place."""

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        operator, code, y = step.operator, step.inputs[0].code, step.output.value
        window, texts = self.texts(step, (1,) * len(operator.kernel))
        end = finish(module, operator.rescale, operator.accumulator_bounds(values), y.zero_point, operator.low, operator.high)
        parameters, arguments, divisor = end.parameters, end.arguments, "0"
        if end.is_per_channel:
            index = operator.divisor_index().numpy().reshape(-1)
            kind = "uint8_t" if index.max() < 256 else "uint16_t"
            parameters, divisor = f"{parameters}, const {kind} *restrict divisors", "divisors[place]"
            arguments = f"{arguments}, {module.constant('divisors', kind, index)}"
        inside = f"for (size_t c = 0; c < some; ++c)\n    sums[c] += hs_get_{code}(x, from * CHANNELS + first + c) - zero;"
        text = form("average_pool.c").substitute(
            texts,
            parameters=parameters,
            divisor=divisor,
            taps=indented([window.taps_inside(inside)], 3),
            finish=end.code("sums[c]", "divisor"),
        )
        return [f"{module.function(step.kind, text)}({at.inputs[0]}, {at.output}, {step.inputs[0].value.zero_point}{arguments});"]
