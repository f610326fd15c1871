"""halfstep from a torch module to an integer program, judged by what the integer interpreter computes.

The method: capture, quantize with ``--recipe`` and lower (the comparison of simulation and program is part of it). The simulation is
evaluated too with ``--simulate``.
"""

import argparse
import functools
import json
from typing import TYPE_CHECKING, Any

from harness.peer import Marks, calibration_images, trained_network
from harness.rounding_peer import IMPORTED, QUANTIZED, READY, evaluation_arguments, write_row

if TYPE_CHECKING:
    import torch

    import halfstep as hs


def recipe(given: argparse.Namespace) -> "hs.Recipe":
    """The shipped recipe with the types, the requantization and the range of the activations that were asked for."""
    import halfstep as hs

    chosen = hs.Recipe.load(given.recipe).with_types(given.weights, given.activations)
    if given.requantization is not None:
        chosen = chosen.with_requantization(given.requantization)
    if given.range is not None:
        steps = [_with_range(step, given.range) for step in chosen.steps]
        chosen = hs.Recipe.parse(chosen.model_dump(mode="json") | {"steps": steps})
    return chosen


def _with_range(step: Any, found: Any) -> Any:
    """``calibrate`` with another range of the activations; every other step as it is."""
    if not isinstance(step, dict) or "calibrate" not in step:
        return step
    return {"calibrate": step["calibrate"] | {"activations": found}}


def interpret(program: "hs.IntegerProgram", images: "torch.Tensor") -> "torch.Tensor":
    """The scores of float ``images``, by integers alone between the first rounding and the last multiplication."""
    from halfstep.integer import dequantize_outputs, quantize_inputs, run

    return dequantize_outputs(program, run(program, quantize_inputs(program, (images,))))[0]


def main() -> None:
    parser = evaluation_arguments(__doc__)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--requantization", default=None)
    parser.add_argument("--weights", default=None, help="type, such as int4")
    parser.add_argument("--activations", default=None, help="type, such as uint4")
    parser.add_argument("--range", type=json.loads, default=None, help="of the activations: name or {name: {option: value}}, as JSON")
    parser.add_argument("--simulate", action="store_true", help="evaluate the simulation too")
    given = parser.parse_args()
    marks = Marks()
    import torch

    import halfstep as hs
    from harness.simulation import predictions

    marks.reach(IMPORTED)
    network = trained_network(given.network)
    images = torch.from_numpy(calibration_images(given.calibration))
    chosen = recipe(given)
    marks.reach(READY)
    result = hs.quantize(network, calibration=images, recipe=chosen, samples=len(images), seed=given.seed)
    program = hs.lower(result)
    marks.reach(QUANTIZED)
    found = result.record.program
    assert found is not None
    phases = {name: seconds["cpu"] for name, seconds in result.record.seconds["phases"].items()}
    write_row(
        given,
        marks,
        functools.partial(interpret, program),
        {},
        simulated=predictions(result.model, given.network, given.images)[0] if given.simulate else None,
        weight_bytes=program.num_weight_bytes,
        codes={"compared": found.num_codes, "differing": found.num_differing, "largest_difference": found.max_difference},
        rescale_error=max(operator.rescale_error for operator in found.operators),
        parts=phases,
        notes=list(result.record.notes),
    )


if __name__ == "__main__":
    main()
