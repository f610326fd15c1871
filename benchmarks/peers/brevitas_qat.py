"""Brevitas' training with quantization in the loop. Run with Brevitas' own interpreter.

Its quantized layers in place of the network's (``layerwise_quantize``: weights per channel, the input of every layer quantized, additions
in float; batch norms stay as they are), calibrated by ``calibration_mode`` on the calibration images, then trained.

``--variant``
    default   ``Int8WeightPerChannelFloat`` (the largest magnitude of each channel, taken anew every step) and ``Uint8ActPerTensorFloat``
              (a learned scale that starts at the 99.999th percentile); learned scales go by the optimizer of the weights
    best      ``Int8WeightPerChannelFloatMSE`` and ``Uint8ActPerTensorFloatMSE`` (learned scales that start at the least squared error),
              trained by an Adam of their own. In Brevitas 0.13.4 logarithms of scales (``LOG_FP``) start at NaN with these, and
              ``BREVITAS_JIT`` does not compile them

Both with the bits that are asked for; weights and inputs of the first and the last layer have 8 (the network's inputs are signed): the
rule of halfstep's recipes. Weights keep Brevitas' ``narrow_range``, so that 4 bits are 15 levels.
"""

import warnings
from typing import TYPE_CHECKING, Any

from harness.peer import Marks, calibration_images, trained_network
from harness.qat_peer import OUTER_BITS, Loop, folded, qat_parser
from harness.rounding_peer import IMPORTED, QUANTIZED, READY, write_row
from peers.brevitas_rounding import is_outer, levels

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 64


def quantized(network: "torch.nn.Module", bits: int, variant: str) -> "torch.nn.Module":
    """The network with Brevitas' layers, every learned scale of an activation still to be calibrated."""
    import brevitas.nn as qnn
    import torch
    from brevitas import quant
    from brevitas.graph.quantize import layerwise_quantize

    if variant == "best":
        weights, inputs, images = quant.Int8WeightPerChannelFloatMSE, quant.Uint8ActPerTensorFloatMSE, quant.Int8ActPerTensorFloatMSE
    else:
        weights, inputs, images = quant.Int8WeightPerChannelFloat, quant.Uint8ActPerTensorFloat, quant.Int8ActPerTensorFloat
    named: dict[str, Any] = {  # Brevitas calls what is a lambda with the layer that it replaces
        "weight_quant": lambda layer: weights.let(bit_width=OUTER_BITS if is_outer(layer) else bits),
        "input_quant": lambda layer: (
            images if getattr(layer, "in_channels", None) == 3 else inputs.let(bit_width=OUTER_BITS if is_outer(layer) else bits)
        ),
        "return_quant_tensor": False,
    }
    layers = {torch.nn.Conv2d: (qnn.QuantConv2d, named), torch.nn.Linear: (qnn.QuantLinear, named)}
    result: torch.nn.Module = layerwise_quantize(network, compute_layer_map=layers)
    return result


def calibrate(model: "torch.nn.Module", images: "torch.Tensor") -> None:
    """Every learned scale of an activation, from what it meets in float."""
    import torch
    from brevitas.graph.calibrate import calibration_mode

    model.eval()
    with torch.no_grad():
        model(images[:BATCH_SIZE])
        with calibration_mode(model):
            for part in images.split(BATCH_SIZE):
                model(part)


def main() -> None:
    parser = qat_parser(__doc__)
    parser.add_argument("--scale-learning-rate", type=float, default=1e-3, help="of the best variant's scales: Adam")
    given = parser.parse_args()
    marks = Marks()
    warnings.simplefilter("ignore")
    import torch
    from brevitas.graph.quantize import layerwise_quantize  # noqa: F401 - imports are measured apart

    marks.reach(IMPORTED)
    torch.manual_seed(given.seed)
    network = trained_network(given.network)
    images = torch.from_numpy(calibration_images(given.calibration))
    marks.reach(READY)
    teacher = folded(network)
    model = quantized(network, given.bits, given.variant)
    calibrate(model, images)
    own_optimizer = given.variant == "best"
    loop = Loop(given, teacher, lambda name: own_optimizer and "scaling" in name, given.scale_learning_rate)
    found = loop.train(model.train())
    marks.reach(QUANTIZED)
    write_row(given, marks, model.eval(), levels(model, per_channel=True), **found)


if __name__ == "__main__":
    main()
