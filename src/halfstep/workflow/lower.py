"""From a result to integers alone."""

from __future__ import annotations

from halfstep.integer.compare import compare
from halfstep.integer.lower import lower as lower_graph
from halfstep.integer.program import IntegerProgram
from halfstep.workflow.finetune import Prepared
from halfstep.workflow.result import Result


def lower(result: Result | Prepared, requantization: str | None = None) -> IntegerProgram:
    """The integer program of ``result``, compared with the simulation; what was found goes into the result's report.

    Of a network that `prepare` made and that was trained since, the program of its `Prepared.result`.

    requantization: how accumulators become codes (`halfstep.integer.MODES`); None: as the recipe's scheme says. For the shift modes say it
    in the scheme, before quantizing: then the weights have scales for which a shift is exact.

    Raises `LoweringError` that names every operator without an integer form, and what to do.
    """
    if isinstance(result, Prepared):
        result = result.result()
    mode = requantization or result.recipe.scheme.requantization
    program, lowering = lower_graph(result.model, result.samples, mode, result.record.model)
    result.note_program(program, compare(program, result.model, lowering, result.samples))
    return program
