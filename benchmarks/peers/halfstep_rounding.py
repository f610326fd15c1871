"""halfstep's roundings of the weights: ``halfstep.quantize`` with a recipe built here.

The recipe: ``fold_batch_norm``, ``place_quantizers``, ``calibrate`` (weights and activations by least squared error), ``round`` with
``--method`` and its ``--options``. Weights symmetric, both ends of the grid used; activations uint8 (or uint4) with a zero point, the
network's input and the output of every operator; with ``--wide`` the network's input and the operands of additions keep 8 bits, as in the
recipe lattice-w4a4 (the peers leave additions in float); with ``--balance`` the step ``balance_channels`` comes second. ``first_layer``
and ``last_layer`` follow the rule of the setting.

A network of two layers goes through the same recipe before the clock starts: what compiled solvers need once in a process (or once on a
machine, where they keep it) is reported as the part ``warm_up``.
"""

import argparse
import json
from typing import TYPE_CHECKING, Any

from harness.peer import Marks, calibration_images, cpu_seconds, trained_network
from harness.rounding_peer import IMPORTED, QUANTIZED, READY, rounding_parser, write_row
from harness.settings import SETTINGS, Setting

if TYPE_CHECKING:
    import torch

    import halfstep as hs

METHODS = ("nearest", "lattice", "adaround", "gptq", "coordinate_descent", "ste")


def recipe(setting: Setting, given: argparse.Namespace, options: dict[str, Any]) -> "hs.Recipe":
    import halfstep as hs

    activations = "float" if setting.activation_bits is None else f"uint{setting.activation_bits}"
    outer = {"weights": f"int{setting.outer_bits}"}
    content = {
        "name": f"{given.method}-{setting.name}",
        "scheme": {
            "weights": {"type": f"int{setting.weight_bits}", "symmetric": True, "per_channel": setting.per_channel, "narrow": False},
            "activations": {"type": activations, "symmetric": False},
            "first_layer": outer,
            "last_layer": outer,
            **({"inputs": "uint8", "addends": "uint8", "shortcuts": "uint8"} if given.wide else {}),
        },
        "steps": [
            "fold_batch_norm",
            *(["balance_channels"] if given.balance else []),
            "place_quantizers",
            {"calibrate": {"weights": "mse", "activations": "mse"}},
            {"round": {"method": {given.method: options}}},
        ],
    }
    return hs.Recipe.parse(content)


def warm_up(chosen: "hs.Recipe", seed: int) -> float:
    """CPU seconds of the recipe on a network of two layers."""
    import torch

    import halfstep as hs

    start = cpu_seconds()
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10)).eval()
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    hs.quantize(network, calibration=images, recipe=chosen)
    return cpu_seconds() - start


def levels(model: "torch.fx.GraphModule", per_channel: bool) -> dict[str, int]:
    from halfstep.graph.edges import behind_quantizer
    from halfstep.graph.edit import attribute
    from halfstep.graph.operators import weighted_layers
    from harness.simulation import num_levels

    return {
        layer.name: num_levels(attribute(model, behind_quantizer(layer.weight)), layer.output_axis if per_channel else None)
        for layer in weighted_layers(model)
    }


def main() -> None:
    parser = rounding_parser(__doc__, METHODS)
    parser.add_argument("--options", type=json.loads, default={}, help="of the method, as JSON")
    parser.add_argument("--wide", action="store_true", help="8 bits for the network's input and the operands of additions")
    parser.add_argument("--balance", action="store_true", help="balance the channels first")
    given = parser.parse_args()
    marks = Marks()
    import torch

    import halfstep as hs

    marks.reach(IMPORTED)
    setting = SETTINGS[given.setting]
    network = trained_network(given.network)
    images = torch.from_numpy(calibration_images(given.calibration))
    chosen = recipe(setting, given, given.options)
    brief = {"num_iterations": 2} if "num_iterations" in given.options else {}
    once = warm_up(recipe(setting, given, given.options | brief), given.seed)
    marks.reach(READY)
    result = hs.quantize(network, calibration=images, recipe=chosen, samples=len(images), seed=given.seed)
    marks.reach(QUANTIZED)
    phases = {name: seconds["cpu"] for name, seconds in result.record.seconds["phases"].items()}
    more = {"iterations": given.options["num_iterations"], "loop_cpu_seconds": phases["round"]} if brief else {}
    found = levels(result.model, setting.per_channel)
    write_row(given, marks, result.model, found, parts=phases | {"warm_up": once}, notes=list(result.record.notes), **more)


if __name__ == "__main__":
    main()
