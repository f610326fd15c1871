"""Layers that are products of columns and rows: convolution, transposed convolution, linear.

A column holds the codes that one place of the output is a sum over, in the order (kernel..., channels) in which the rows of weights lie.
Beyond the border it holds the zero point. 8-bit columns are unsigned: signed codes enter as code + 128, ``bias - 128 sum w`` makes up for
it. A transposed convolution is a convolution over inputs with gaps; its gaps hold the zero point too, so ``- zero_point sum w`` goes into
the bias. All of this modulo 2^32. Codes or weights of more than 8 bits take columns of 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from halfstep.errors import ExportError
from halfstep.export.c99.emitters.abstract import EMITTERS, AbstractEmitter, Pointers, Step
from halfstep.export.c99.finish import finish
from halfstep.export.c99.layout import Order, Place, channels_last, row_major
from halfstep.export.c99.module import Module
from halfstep.export.c99.product import Product, product
from halfstep.export.c99.text import comment, form, indented
from halfstep.export.c99.window import Window
from halfstep.integer.packing import packed

_NUM_UNPACKED_ROWS = 8  # of weights below 8 bits, unpacked together
_MOST_PANEL_TERMS = 4608  # with more, 32 rows no longer fit what the x86 kernels may take of the stack
_FEWEST_PLACES = 4  # fewer do not pay for rearranging the weights


class AbstractProduct(AbstractEmitter):
    """What the three kinds share."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """Channels last."""
        return (channels_last(len(given[0].order)),), channels_last(len(shape))

    def scratch_bytes(self, step: Step) -> int:
        """Columns, and weights while they are unpacked."""
        layer = product(step.operator, step.inputs[0].value, step.output.value)
        if layer.is_depthwise:
            return 0 if layer.bits >= 8 else -(-layer.rows.size // 8) * 8
        unpacked = min(_NUM_UNPACKED_ROWS, len(layer.rows) // layer.groups) if layer.bits < 8 else 0
        return (4 + unpacked) * layer.num_terms

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        operator, x, y = step.operator, step.inputs[0], step.output
        layer = product(operator, x.value, y.value)
        if layer.bits > 16:
            raise ExportError(f"Layer '{operator.name}' has weights of more than 16 bits. Quantize them to 16 bits or fewer.")
        end = finish(module, operator.rescale, operator.accumulator_bounds(values), y.value.zero_point, operator.low, operator.high)
        texts = _Texts(step, layer, module, end.parameters)
        if layer.is_depthwise:
            function, bias, zero = _depthwise(texts, end.code("hs_signed(sums[c])", "first + c"))
        elif x.code in ("u8", "s8") and layer.bits <= 8:
            sums = "(uint32_t)bias[channel + r] + sums[c * stride + r]"
            function, bias, zero = _products(texts, end.code(f"hs_signed({sums})", "channel + r"))
        else:
            function, bias, zero = _wide_products(texts, end.code("hs_signed(sum)", "channel"))
        stored = module.constant("bias", "int32_t", bias.astype(np.uint64).astype(np.uint32).view(np.int32))
        return [f"{function}({at.inputs[0]}, {at.output}, {at.scratch}, {texts.weight_argument()}, {stored}, {zero}{end.arguments});"]


@dataclass
class _Texts:
    """What the forms of a layer have in common."""

    step: Step
    layer: Product
    module: Module
    parameters: str

    @property
    def x(self) -> str:
        return self.step.inputs[0].code

    @property
    def zero(self) -> int:
        return self.step.inputs[0].value.zero_point

    @property
    def names(self) -> str:
        """The parameters as arguments of another call."""
        return "".join(f", {part.split()[-1].lstrip('*')}" for part in self.parameters.split(", ")[1:])

    def describe(self) -> str:
        x, y = self.step.inputs[0].value, self.step.output.value
        grouped = f" in {self.layer.groups} groups" if self.layer.groups > 1 else ""
        return comment(f"{self.step.kind}: {list(x.shape)} -> {list(y.shape)}{grouped}, weights of {self.layer.bits} bits")

    def stored_weight(self) -> NDArray[np.int64]:
        """In the order the kernels read, filled up with zeros."""
        layer = self.layer
        if layer.is_depthwise:
            flat = np.ascontiguousarray(layer.rows.T).reshape(-1)
            return np.pad(flat, (0, -len(flat) % 8)) if layer.bits < 8 else flat
        return np.pad(layer.rows, ((0, 0), (0, layer.num_terms - layer.rows.shape[1])))

    @property
    def weight_type(self) -> str:
        return {8: "int8_t", 16: "int16_t"}.get(self.layer.bits, "uint8_t")

    def weight_argument(self) -> str:
        stored, bits = self.stored_weight(), self.layer.bits
        numbers = packed(stored, bits) if bits < 8 else stored
        is_columns = not self.layer.is_depthwise and self.x in ("u8", "s8") and bits <= 8
        name = self.module.constant("weight", self.weight_type, numbers, " + HS_SLACK" if is_columns and bits == 8 else "")
        return f"(const uint8_t *){name}" if is_columns and bits == 8 else name

    def shared(self) -> dict[str, Any]:
        layer, num_rows = self.layer, len(self.layer.rows) // self.layer.groups
        return {
            "comment": self.describe(), "parameters": self.parameters, "names": self.names, "y": self.step.output.code,
            "channels": len(layer.rows), "groups": layer.groups, "rows": num_rows, "terms": layer.num_terms, "bits": layer.bits,
            "places": layer.window.num_places, "row_bytes": layer.num_terms * layer.bits // 8, "weight_type": self.weight_type,
            "tile": min(_NUM_UNPACKED_ROWS, num_rows) if layer.bits < 8 else num_rows,
            "unpacked": min(_NUM_UNPACKED_ROWS, num_rows) if layer.bits < 8 else 0,
            "is_large": int(layer.window.num_places >= _FEWEST_PLACES and layer.num_terms <= _MOST_PANEL_TERMS),
        }  # fmt: skip


Emitted = tuple[str, NDArray[np.int64], int]  # the function's name, the bias, the code of zero


def _products(texts: _Texts, end: str) -> Emitted:
    layer, shift = texts.layer, 128 if texts.x == "s8" else 0
    text = form("products.c").substitute(texts.shared(), column=indented([_column(texts)]), finish=end)
    return texts.module.function(texts.step.kind, text), layer.bias - shift * layer.rows.sum(1), texts.zero + shift


def _column(texts: _Texts) -> str:
    layer, window = texts.layer, texts.layer.window
    own = layer.num_channels // layer.groups
    missing = layer.num_terms - layer.rows.shape[1]
    start = "group * " + str(own) if layer.groups > 1 else "0"
    copy = f"hs_column_copy_{texts.x}(to, x, from * {layer.num_channels} + {start}, {own});\nto += {own} * HS_COLUMN;"
    fill = f"hs_column_fill(to, zero, {own});\nto += {own} * HS_COLUMN;"
    lines = ["uint8_t *to = column;", window.starts(), "(void)group, (void)place;"]
    if window.is_dense() and layer.groups == 1 and window.kernel[2] > 1:
        lines.append(_whole_rows(window, texts.x, layer.num_channels, copy, fill))
    else:
        lines.append(window.taps(copy, fill))
    lines += [f"hs_column_fill(to, 0, {missing});"] if missing else []
    return "\n".join([*lines, f"hs_column_end(column, {layer.num_terms});"])


def _whole_rows(window: Window, code: str, channels: int, copy: str, fill: str) -> str:
    """Rows of a window inside the input in one piece, the others entry by entry."""
    count = window.kernel[2] * channels
    inside = f"hs_column_copy_{code}(to, x, from * {channels}, {count});\nto += {count} * HS_COLUMN;"
    rows = replace(window, kernel=(*window.kernel[:2], 1))
    is_inside = f"w >= 0 && w + {window.kernel[2]} <= {window.sizes[2]}"
    whole = rows.taps(inside, f"hs_column_fill(to, zero, {count});\nto += {count} * HS_COLUMN;")
    return "\n".join([f"if ({is_inside}) {{", indented([whole]), "} else {", indented([window.taps(copy, fill)]), "}"])


def _wide_products(texts: _Texts, end: str) -> Emitted:
    layer = texts.layer
    own = layer.num_channels // layer.groups
    start = f" + group * {own}" if layer.groups > 1 else ""
    inside = f"hs_get_{texts.x}(x, from * {layer.num_channels}{start} + c)"
    loop = f"for (size_t c = 0; c < {own}; ++c)\n    hs_put_s32(column, n + c, %);\nn += {own};"
    lines = ["size_t n = 0;", layer.window.starts(), "(void)group, (void)place;"]
    lines.append(layer.window.taps(loop.replace("%", inside), loop.replace("%", "zero")))
    missing = layer.num_terms - layer.rows.shape[1]
    lines += [f"for (; n < {layer.num_terms}; ++n)\n    hs_put_s32(column, n, 0);"] if missing else []
    text = form("wide_products.c").substitute(
        texts.shared(), column=indented(lines), finish=end,
        unpack=_unpack(layer.bits, "rows", "weight + (group * ROWS + first) * TERMS", "num_rows * TERMS", "scratch + 4 * TERMS"),
    )  # fmt: skip
    return texts.module.function(texts.step.kind, text), layer.bias, texts.zero


def _depthwise(texts: _Texts, end: str) -> Emitted:
    layer = texts.layer
    tap = f"((kd * {layer.window.kernel[1]} + kh) * {layer.window.kernel[2]} + kw)"
    weight = f"(uint32_t)rows[(size_t){tap} * CHANNELS + first + c]"
    code = f"(uint32_t)(hs_get_{texts.x}(x, from * CHANNELS + first + c) - zero)"
    taps = layer.window.taps_inside(f"for (size_t c = 0; c < some; ++c)\n    sums[c] += {code} * {weight};")
    text = form("depthwise.c").substitute(
        texts.shared(), place=indented([layer.window.starts()], 2), taps=indented([taps], 3), finish=end,
        unpack=_unpack(layer.bits, "rows", "weight", str(-(-layer.rows.size // 8) * 8), "scratch"),
    )  # fmt: skip
    # Centred codes: entries beyond the border are 0 and left out.
    return texts.module.function(texts.step.kind, text), layer.bias + texts.zero * layer.rows.sum(1), texts.zero


def _unpack(bits: int, name: str, weight: str, count: str, scratch: str) -> str:
    """``name``: the weights as int8 or int16."""
    if bits >= 8:
        return f"const int{bits}_t *{name} = {weight};\n    (void)scratch;"
    if bits < 8 and "*" in weight:
        weight = f"weight + (group * ROWS + first) * {bits} * TERMS / 8"
    return f"const int8_t *{name} = hs_unpack_{bits}((int8_t *)({scratch}), {weight}, {count});"


@final
@EMITTERS.register("conv")
class ConvEmitter(AbstractProduct):
    """Convolution in one to three axes."""


@final
@EMITTERS.register("conv_transpose")
class ConvTransposeEmitter(AbstractProduct):
    """Transposed convolution."""


@final
@EMITTERS.register("linear")
class LinearEmitter(AbstractProduct):
    """Linear layer: a convolution over rows."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """The features, the last axis, innermost."""
        return (row_major(len(shape)),), row_major(len(shape))
