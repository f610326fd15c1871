"""halfstep's training with quantization in the loop: ``halfstep.finetune`` with a shipped recipe on all training images.

Images are mirrored at random and moved by up to 4 pixels, as in the training of the float networks. Accuracy: the simulation on the
validation images, and the integer program on the same ones where there is one; also the simulation in float64, whose sums do not round, and
the number of images that the integers put into another class than it. ``--keep`` names a folder for the state of the run: an interrupted
row goes on from there.
"""

import argparse
import copy
import functools
import json
from pathlib import Path
from typing import Any

from harness.peer import Marks, trained_network
from harness.rounding_peer import IMPORTED, QUANTIZED, READY, evaluation_arguments, store_row
from peers.halfstep_integer import interpret


def _as_integers(result: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and size of the integer program, and the simulation's accuracy where it rounds nothing but codes."""
    import halfstep as hs
    from harness.simulation import predictions

    program = hs.lower(result)
    double = copy.deepcopy(result.model).double()
    integer, found = predictions(functools.partial(interpret, program), given.network, given.images)
    top1, expected = predictions(lambda x: double(x.double()), given.network, given.images)
    return {
        "integer": integer,
        "top1_float64": top1,
        "differing_classes": sum(a != b for a, b in zip(found, expected, strict=True)),
        "differing_codes": sum(operator.num_differing for operator in result.record.program.operators),
        "weight_bytes": program.num_weight_bytes,
    }


def main() -> None:
    parser = evaluation_arguments(__doc__)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--options", type=json.loads, default={}, help="of the step finetune, as JSON")
    parser.add_argument("--teachers", default="", help="comma-separated networks whose mean answer is learned; none: the network's own")
    parser.add_argument("--keep", type=Path, required=True)
    given = parser.parse_args()
    marks = Marks()
    import halfstep as hs
    from halfstep.quantizers.learned import has_levels_of_its_own
    from harness.data import data_folder, networks_module
    from harness.peer import calibration_images
    from harness.simulation import predictions

    marks.reach(IMPORTED)
    network, module = trained_network(given.network), networks_module()
    mean, std = module.NORMALIZATION[given.network]
    data = hs.load_data(str(data_folder() / "train.npz"), hs.Preprocessing(mean=mean, std=std))
    chosen = hs.Recipe.load(given.recipe).with_preprocessing(data.preprocessing)
    teachers = [trained_network(name) for name in given.teachers.split(",") if name]
    options: dict[str, Any] = {"flip": True, "shift": 4} | given.options
    samples = len(calibration_images(given.calibration))
    marks.reach(READY)
    result = hs.finetune(
        network, data, chosen, epochs=given.epochs, options=options, seed=given.seed, samples=samples, teacher=teachers or None,
        checkpoint=given.keep, resume=True, tell=lambda line: print(line, flush=True),
    )  # fmt: skip
    marks.reach(QUANTIZED)
    phases = {name: seconds["cpu"] for name, seconds in result.record.seconds["phases"].items()}
    top1, found = predictions(result.model, given.network, given.images)
    store_row(
        given,
        marks,
        top1,
        found,
        **({} if has_levels_of_its_own(result.model) else _as_integers(result, given)),
        parts=phases,
        images_per_second=given.epochs * (data.num_samples or 0) / phases["finetune"],
        notes=list(result.record.notes),
    )
    assert result.checkpoint is not None
    result.checkpoint.clear()


if __name__ == "__main__":
    main()
