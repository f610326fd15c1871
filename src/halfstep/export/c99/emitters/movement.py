"""Codes that only move: reshape, copy, gather, pad, constant, and the change from one order of axes to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from halfstep.export.c99.emitters.abstract import EMITTERS, AbstractEmitter, Pointers, Step
from halfstep.export.c99.emitters.elementwise import nest_over
from halfstep.export.c99.layout import Order, Place, channels_last, row_major
from halfstep.export.c99.module import Module
from halfstep.export.c99.nest import Nest
from halfstep.export.c99.text import c_type, item_bytes, literal

RELAYOUT = "relayout"


def move(module: Module, kind: str, x: Place, y: Place, nest: Nest, offset: int = 0) -> str:
    """The name of a function ``(y, x)`` that copies codes along a nest with strides "x" and "y"; whole rows where they lie side by side."""
    size = item_bytes(x.code)
    is_row = x.code == y.code and bool(nest.sizes) and nest.strides["x"][-1] == nest.strides["y"][-1] == 1
    if is_row:
        outer = nest.without_innermost()
        to, start = _bytes(outer.index("y"), size), _bytes(outer.index("x", offset), size)
        body = f"memcpy((uint8_t *)y + {to}, (const uint8_t *)x + {start}, {nest.sizes[-1] * size});"
        nest = outer
    else:
        body = f"hs_put_{y.code}(y, {nest.index('y')}, hs_get_{x.code}(x, {nest.index('x', offset)}));"
    head = f"/* {kind}: {list(x.value.shape)} -> {list(y.value.shape)} */\nHS_LAYER void @(void *restrict y, const void *restrict x)\n{{"
    return module.function(kind, "\n".join([head, nest.loops(body), "}\n"]))


def _bytes(index: str, size: int) -> str:
    return f"({index})" if size == 1 else f"{size} * ({index})"


def affine(addresses: NDArray[np.int64]) -> tuple[int, tuple[int, ...]] | None:
    """(offset, strides) where ``addresses`` are a sum over their axes; None where they are not."""
    offset = int(addresses.flat[0])
    strides = tuple(int(addresses[tuple(int(a == axis) for a in range(addresses.ndim))]) - offset if size > 1 else 0
                    for axis, size in enumerate(addresses.shape))  # fmt: skip
    grids = np.ogrid[tuple(slice(size) for size in addresses.shape)]
    expected: Any = offset + sum((grid * stride for grid, stride in zip(grids, strides, strict=True)), np.int64(0))
    return (offset, strides) if np.array_equal(np.broadcast_to(expected, addresses.shape), addresses) else None


def sources(step: Step) -> NDArray[np.int64]:
    """For every code of the output, in its order in memory, where the input's lies in its own; of the shape in memory."""
    x, y = step.inputs[0], step.output
    flat: NDArray[np.int64] = x.addresses().reshape(-1)
    if step.kind == "copy":
        flat = flat[step.operator.indices().numpy().reshape(-1)]
    elif step.kind == "gather":
        flat = flat[step.operator.index.numpy().reshape(-1)]
    moved: NDArray[np.int64] = flat.reshape(y.value.shape).transpose(y.order)
    return moved


class AbstractMovement(AbstractEmitter):
    """A copy along strides where the places of the input follow any, else along a table of places."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """As the program counts."""
        return (row_major(len(given[0].order)),), row_major(len(shape))

    def is_alias(self, step: Step) -> bool:
        """Where nothing moves."""
        return (
            step.inputs[0].code == step.output.code
            and step.inputs[0].value.size == step.output.value.size
            and bool(np.array_equal(sources(step).reshape(-1), np.arange(step.output.value.size)))
        )

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        x, y, places = step.inputs[0], step.output, sources(step)
        shapes = [places.shape, *([step.operator.sizes] if step.kind == "copy" and y.is_row_major else [])]
        for shape in shapes:
            found = affine(places.reshape(shape))
            if found is not None:
                own = np.cumprod([1, *reversed(shape[1:])])[::-1].tolist() if shape else []
                nest = Nest.over(shape, {"x": found[1], "y": own})
                return [f"{move(module, step.kind, x, y, nest, found[0])}({at.output}, {at.inputs[0]});"]
        kind = "uint16_t" if places.max() < 2**16 else "uint32_t"
        table = module.constant("places", kind, places)
        head = f"/* {step.kind}: {list(x.value.shape)} -> {list(y.value.shape)} */\n"
        head += f"HS_LAYER void @(void *restrict y, const void *restrict x, const {kind} *restrict places)\n{{"
        body = Nest((places.size,), {}).loops(f"hs_put_{y.code}(y, i, hs_get_{x.code}(x, places[i]));")
        function = module.function(step.kind, f"{head}\n{body}\n}}\n")
        return [f"{function}({at.output}, {at.inputs[0]}, {table});"]


@final
@EMITTERS.register(RELAYOUT)
class RelayoutEmitter(AbstractMovement):
    """The same tensor with its axes in another order."""


@final
@EMITTERS.register("reshape")
class ReshapeEmitter(AbstractMovement):
    """Another shape: no code of its own where the tensor lies as the program counts."""


@final
@EMITTERS.register("copy")
class CopyEmitter(AbstractMovement):
    """Slices, flips, transposes."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """Channels last where the input lies so and strides still say it all."""
        x = given[0]
        places = x.addresses().reshape(-1)[operator.indices().numpy().reshape(-1)].reshape(shape)
        if not x.is_row_major and affine(places) is not None:
            return (x.order,), channels_last(len(shape))
        return super().orders(operator, given, is_free, shape)


@final
@EMITTERS.register("gather")
class GatherEmitter(AbstractMovement):
    """Any places at all."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """The input as it lies: the table is made for it."""
        return (given[0].order,), row_major(len(shape))


@final
@EMITTERS.register("pad")
class PadEmitter(AbstractEmitter):
    """The zero point everywhere, then the input into its place."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """As it comes."""
        return (given[0].order,), given[0].order

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """Two calls."""
        x, y = step.inputs[0], step.output
        zero, size = x.value.zero_point, item_bytes(y.code)
        if size == 1:
            statements = [f"memset({at.output}, {zero % 256}, {y.value.size});"]
        else:
            head = f"HS_LAYER void @(void *restrict y, int32_t zero)\n{{\n    for (size_t i = 0; i < {y.value.size}; ++i)\n"
            fill = module.function("fill", f"{head}        hs_put_{y.code}(y, i, zero);\n}}\n")
            statements = [f"{fill}({at.output}, {zero});"]
        first = sum(pair[0] * stride for pair, stride in zip(step.operator.padding, y.strides, strict=True)) * size
        nest = nest_over(x.value.shape, y.order, {"x": x.strides, "y": y.strides})
        output = f"(uint8_t *){at.output} + {first}" if first else at.output
        return [*statements, f"{move(module, step.kind, x, y, nest)}({output}, {at.inputs[0]});"]


@final
@EMITTERS.register("constant")
class ConstantEmitter(AbstractEmitter):
    """No code: the array is read where it lies."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """As the program counts; whoever reads it may ask for another."""
        return (), row_major(len(shape))

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """Nothing."""
        return []


@final
@EMITTERS.register("embedding")
class EmbeddingEmitter(AbstractEmitter):
    """A row of the table for each code."""

    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """As the program counts."""
        return (row_major(len(given[0].order)),), row_major(len(shape))

    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """One call."""
        x, y, table = step.inputs[0], step.output, step.operator.table.numpy()
        stored, num_bytes = module.constant("rows", c_type(y.code), table), table.shape[1] * item_bytes(y.code)
        body = (
            f"const size_t row = (size_t)hs_clamp_32(hs_get_{x.code}(x, i) - zero, 0, {len(table) - 1});\n"
            f"memcpy((uint8_t *)y + i * {num_bytes}, table + row * {table.shape[1]}, {num_bytes});"
        )
        head = f"/* embedding: {list(x.value.shape)}, {list(table.shape)} */\nHS_LAYER void @(void *restrict y, const void *restrict x, "
        head += f"const {c_type(y.code)} *restrict table, int32_t zero)\n{{\n"
        function = module.function(step.kind, f"{head}{Nest((x.value.size,), {}).loops(body)}\n}}\n")
        return [f"{function}({at.output}, {at.inputs[0]}, {stored}, {literal(x.value.zero_point)});"]
