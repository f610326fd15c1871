"""The text of the files: ``model.h``, ``model.c``, ``selftest.c`` and what builds them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from halfstep.export.c99.emitters import Pointers, Step
from halfstep.export.c99.layout import Place, row_major
from halfstep.export.c99.module import Module
from halfstep.export.c99.plan import MemoryPlan, plan_memory
from halfstep.export.c99.steps import emitter, plan_steps
from halfstep.export.c99.text import array, c_type, comment, form, identifier, indented, kernels, literal, string, type_bounds
from halfstep.integer import IntegerProgram, Value, run

_MOST_AXES = 8  # of an input or output that `struct ..._tensor` describes


@dataclass(frozen=True)
class Layer:
    """One step of the network as it runs. function: in ``model.c``; empty where nothing has to be done. flash_bytes: first stored here."""

    name: str
    kind: str
    function: str
    flash_bytes: int
    scratch_bytes: int
    live_bytes: int


@dataclass(frozen=True)
class Written:
    """files: name and text. flash_bytes: of all constant arrays. plan: of the memory."""

    files: dict[str, str]
    flash_bytes: int
    plan: MemoryPlan
    layers: tuple[Layer, ...]


def write(program: IntegerProgram, vectors: tuple[Tensor, ...]) -> Written:
    """vectors: codes of the inputs [N, ...] for the self test."""
    steps = plan_steps(program)
    places = {name: Place.of(value, row_major(len(value.shape))) for name, value in program.values.items()}
    inputs, outputs = [places[name] for name in program.inputs], [places[name] for name in program.outputs]
    plan = plan_memory(steps, inputs, outputs)
    module = Module(identifier(program.name))
    text = _Text(program, module, plan, inputs, outputs)
    statements, layers = [], []
    for index, step in enumerate(steps):
        before = module.num_array_bytes
        lines = text.step(index, step)
        statements += [f"/* {comment(step.name)} */", *lines] if lines else []
        function = lines[0].split("(")[0] if lines else ""
        layers.append(
            Layer(step.name, step.kind, function, module.num_array_bytes - before, plan.scratch_bytes[index], plan.live_bytes[index])
        )
    body = indented([*text.checks(), *statements, *text.copies()])
    names = {"name": module.prefix, "NAME": module.prefix.upper(), "program": comment(program.name), "arguments": text.arguments()}
    source = form("model.c").substitute(
        names, arrays="\n\n".join(module.arrays), functions="\n".join(module.functions), body=body, tensors=text.tensors(),
        unused=text.unused(body),
    )  # fmt: skip
    header = form("model.h").substitute(
        names, arena=plan.arena_bytes, flash=module.num_array_bytes, live=plan.largest_live_set, values=text.described(),
        num_inputs=len(inputs), num_outputs=len(outputs),
    )  # fmt: skip
    files = {
        "model.h": header, "model.c": source, "kernels.h": kernels(), "selftest.c": text.selftest(vectors, names),
        "Makefile": form("Makefile").template, "CMakeLists.txt": form("CMakeLists.txt").substitute(names),
    }  # fmt: skip
    return Written(files, module.num_array_bytes, plan, tuple(layers))


class _Text:
    """What the pieces of the text share."""

    def __init__(
        self, program: IntegerProgram, module: Module, plan: MemoryPlan, inputs: Sequence[Place], outputs: Sequence[Place]
    ) -> None:
        self.program, self.module, self.plan = program, module, plan
        self.inputs, self.outputs = inputs, outputs
        self._constants: dict[Place, str] = {}

    def step(self, index: int, step: Step) -> list[str]:
        """The statements of one step; none for those that need no code."""
        if self.plan.is_alias[index]:
            if step.inputs[0] in self._constants:
                self._constants[step.output] = self._constants[step.inputs[0]]
            return []
        if step.kind == "constant":
            codes = step.operator.codes.numpy().transpose(step.output.order)
            self._constants[step.output] = self.module.constant("constant", c_type(step.output.code), np.ascontiguousarray(codes))
            return []
        inputs = tuple(self._pointer(place) for place in step.inputs)
        scratch = _arena(self.plan.scratch[index]) if self.plan.scratch_bytes[index] else "NULL"
        at = Pointers(inputs, self._pointer(step.output), scratch, self.plan.in_place[index])
        return emitter(step).emit(step, self.program.values, self.module, at)

    def _pointer(self, place: Place) -> str:
        """The address of a tensor."""
        where = self.plan.where[place]
        if isinstance(where, tuple):
            return f"{where[0]}_{where[1]}"
        return _arena(self.plan.offsets[place]) if where == "arena" else self._constants[place]

    def checks(self) -> list[str]:
        """Refuse input codes that lie off their grid: tables have no entry for them."""
        lines = []
        for index, place in enumerate(self.inputs):
            grid = place.value.grid
            if type_bounds(place.code) != (grid.minimum, grid.maximum):
                function = self.module.function("is_on_grid", form("is_on_grid.c").substitute(x=place.code))
                bounds = f"{literal(grid.minimum)}, {literal(grid.maximum)}"
                lines += [f"if (!{function}(input_{index}, {place.value.size}, {bounds}))", "    return 1;"]
        return lines

    def unused(self, body: str) -> str:
        """Statements that mention what ``body`` does not."""
        names = ["memory", *(f"input_{index}" for index in range(len(self.inputs)))]
        return "".join(f"\n    (void){name};" for name in names if not re.search(rf"\b{name}\b", body))

    def copies(self) -> list[str]:
        """Outputs that are inputs or constants, and those listed twice."""
        lines = []
        for index, place in enumerate(self.outputs):
            if self.plan.where[place] != ("output", index):
                lines.append(f"memcpy(output_{index}, {self._pointer(place)}, {place.num_bytes});")
        return lines

    def arguments(self) -> str:
        """Of the function that runs the network."""
        inputs = [f"const {c_type(place.code)} *input_{index}" for index, place in enumerate(self.inputs)]
        outputs = [f"{c_type(place.code)} *output_{index}" for index, place in enumerate(self.outputs)]
        return ", ".join(["void *arena", *inputs, *outputs])

    def _roles(self) -> list[tuple[str, Value]]:
        inputs = [(f"input_{index}", place.value) for index, place in enumerate(self.inputs)]
        return [*inputs, *((f"output_{index}", place.value) for index, place in enumerate(self.outputs))]

    def described(self) -> str:
        """The inputs and outputs as macros."""
        lines = []
        for role, value in self._roles():
            start = f"#define {self.module.prefix.upper()}_{role.upper()}_"
            codes = f"{value.grid.type_name}, {value.grid.minimum} .. {value.grid.maximum}"
            lines += [
                f"/* {role}: {comment(value.name)}, shape {list(value.shape)}, {codes}. code q stands for (q - zero point) * scale. */",
                f"{start}SIZE {value.size}", f"{start}ZERO_POINT {literal(value.zero_point)}", f"{start}SCALE {value.scale!r}",
            ]  # fmt: skip
        return "\n".join(lines)

    def tensors(self) -> str:
        """The entries of the table of inputs and outputs."""
        lines = []
        for _, value in self._roles():
            mantissa, exponent = math.frexp(value.scale)
            shape = ", ".join(str(size) for size in (*value.shape, 0)[:_MOST_AXES])
            bounds = f"{literal(value.grid.minimum)}, {literal(value.grid.maximum)}, {literal(value.zero_point)}"
            scale = f"INT64_C({int(mantissa * 2**53)}), {exponent - 53}"
            lines.append(f"{{{string(value.name)}, {value.size}, {len(value.shape)}, {{{shape}}}, {bounds}, {scale}}},")
        return indented(lines)

    def selftest(self, vectors: tuple[Tensor, ...], names: dict[str, str]) -> str:
        """Inputs, the interpreter's outputs for them, and a main that compares."""
        expected = run(self.program, vectors)
        arrays, given, made, compared = [], [], [], []
        for index, (place, codes) in enumerate(zip(self.inputs, vectors, strict=True)):
            arrays.append(array(f"static const {c_type(place.code)} input_{index}[{codes.numel()}]", codes.numpy()))
            given.append(f"input_{index} + i * {place.value.size}")
        for index, (place, codes) in enumerate(zip(self.outputs, expected, strict=True)):
            kind, size = c_type(place.code), place.value.size
            arrays.append(array(f"static const {kind} expected_{index}[{codes.numel()}]", codes.numpy()))
            arrays.append(f"static {kind} output_{index}[{size}];")
            made.append(f"output_{index}")
            compared += [f"for (size_t j = 0; j < {size}; ++j)", f"    wrong += output_{index}[j] != expected_{index}[i * {size} + j];"]
        call = f"{names['name']}_run(arena.bytes, {', '.join([*given, *made])})"
        return form("selftest.c").substitute(
            names, arrays="\n\n".join(arrays), call=call, count=len(vectors[0]), compared=indented(compared, 2)
        )


def _arena(offset: int) -> str:
    return f"memory + {offset}" if offset else "memory"
