"""From the operators of a program to steps over places in memory: in which order the axes of every tensor lie, and what is brought from
one order to another on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from halfstep.errors import ExportError
from halfstep.export.c99.emitters import EMITTERS, AbstractEmitter, Step
from halfstep.export.c99.emitters.movement import RELAYOUT
from halfstep.export.c99.layout import Order, Place, row_major
from halfstep.integer import IntegerProgram, Rescale
from halfstep.integer.operators import AbstractOperator, Constant

_EMITTERS: dict[str, AbstractEmitter] = {kind: EMITTERS[kind]() for kind in EMITTERS}


def emitter(step: Step) -> AbstractEmitter:
    """Who writes this step."""
    return _EMITTERS[step.kind]


@dataclass
class _Walk:
    """places: where each value lies, the order it was made in first. steps: in order."""

    program: IntegerProgram
    places: dict[str, list[Place]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    constants: dict[str, AbstractOperator] = field(default_factory=dict)

    def place(self, name: str, order: Order) -> Place:
        """The value in that order; a step brings it there where no place has it yet."""
        wanted = Place.of(self.program.values[name], order)
        if wanted in self.places[name]:
            return wanted
        if name in self.constants:
            self.steps.append(Step("constant", self.constants[name], (), wanted))
        else:
            self.steps.append(Step(RELAYOUT, None, (self.places[name][0],), wanted))
        self.places[name].append(wanted)
        return wanted

    def visit(self, operator: AbstractOperator) -> None:
        """One operator."""
        value = self.program.values[operator.output]
        if isinstance(operator, Constant):
            self.constants[value.name], self.places[value.name] = operator, []
            return
        given = [
            self.places[name][0]
            if self.places[name]
            else Place.of(self.program.values[name], row_major(len(self.program.values[name].shape)))
            for name in operator.inputs
        ]
        is_free = [name in self.constants for name in operator.inputs]
        wanted, made = _EMITTERS[operator.kind].orders(operator, given, is_free, value.shape)
        inputs = tuple(self.place(name, order) for name, order in zip(operator.inputs, wanted, strict=True))
        output = Place.of(value, made)
        self.steps.append(Step(operator.kind, operator, inputs, output))
        self.places[value.name] = [output]


def plan_steps(program: IntegerProgram) -> list[Step]:
    """The steps in order; whatever the outputs do not need is left out. Raises `ExportError` for the mode ``float``."""
    if program.mode == "float" or any(field.real is not None for operator in program.operators for field in _rescales(operator)):
        raise ExportError(
            f"The program '{program.name}' requantizes in float, which C without floats cannot. Lower the network again with the "
            "requantization 'fixed_point_32' (or 'fixed_point_16', 'single_shift', 'double_shift')."
        )
    walk = _Walk(program)
    for name in program.inputs:
        walk.places[name] = [Place.of(program.values[name], row_major(len(program.values[name].shape)))]
    needed = set(program.outputs)
    for operator in reversed(program.operators):
        needed |= set(operator.inputs) if operator.output in needed else set()
    for operator in program.operators:
        if operator.output in needed:
            walk.visit(operator)
    for name in program.outputs:
        walk.place(name, row_major(len(program.values[name].shape)))
    return _needed(walk.steps, [Place.of(program.values[name], row_major(len(program.values[name].shape))) for name in program.outputs])


def _rescales(operator: AbstractOperator) -> list[Rescale]:
    rescales = (getattr(operator, "rescale", None), *getattr(operator, "rescales", ()))
    return [rescale for rescale in rescales if rescale is not None]


def _needed(steps: Sequence[Step], outputs: Sequence[Place]) -> list[Step]:
    needed, kept = set(outputs), []
    for step in reversed(steps):
        if step.output in needed:
            needed |= set(step.inputs)
            kept.append(step)
    return kept[::-1]
