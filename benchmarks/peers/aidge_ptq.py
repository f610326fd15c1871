"""Aidge 0.10.1 (CEA List, the successor of N2D2): its post-training quantization. Run with its own interpreter.

``auto_assign_node_precision`` says the bits of weights and activations, ``quantize_network`` does the rest: batch norms are folded already,
cross-layer equalization (``--no-equalize`` without), weights per tensor or ``--per-channel``, thresholds by ``--clipping``, with
``--single-shift`` powers of two whose error the weights take up. Inputs are rescaled by its own quantizer (``rescale_inputs``).

``--integers``: its integer kernels compute the scores; it has none for 4-bit weights. Without it its simulation in float does
(``fake_quantize``). What its pipeline needs and does not say: dimensions propagated before ``channel_wise`` (a segmentation fault without
them), and no convolution channel of zeros (see ``harness.aidge_network``). Its option ``optimize_signs`` is left off: with it
ResNet-20 falls to chance, at 8 bits too. Weights and activations of different widths fall to chance as well, also with its rounding
switched off (``no_quant``): its scales do not fit each other then.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.peer import Marks, calibration_images
from harness.rounding_peer import IMPORTED, QUANTIZED, READY, evaluation_arguments, store_row

if TYPE_CHECKING:
    import numpy as np

CLIPPINGS = ("MSE", "KL", "AA", "MAX")
BATCH_SIZE = 50


def float_network(path: Path) -> Any:
    """The graph of an ONNX file, ready to run."""
    import aidge_backend_cpu  # noqa: F401 - registers its kernels
    import aidge_core
    import aidge_onnx

    graph = aidge_onnx.load_onnx(str(path))
    graph.set_backend("cpu")
    graph.set_datatype(aidge_core.dtype.float32)
    aidge_core.remove_flatten(graph)
    graph.forward_dims([[1, 3, 32, 32]])
    return graph


def quantize(graph: Any, images: "np.ndarray[Any, Any]", given: argparse.Namespace) -> None:
    """Change ``graph`` in place; one calibration image at a time."""
    import aidge_core
    import aidge_quantization

    types = aidge_core.dtype
    aidge_quantization.auto_assign_node_precision(graph, getattr(types, given.activations), getattr(types, given.weights), types.int32)
    aidge_quantization.quantize_network(
        graph,
        [aidge_core.Tensor(image[None].copy()) for image in images],
        clipping_mode=getattr(aidge_quantization.Clipping, given.clipping),
        rescale_inputs=True,
        equalize=given.equalize,
        channel_wise=given.per_channel,
        single_shift=given.single_shift,
        fake_quantize=not given.integers,
    )


def predictions(graph: Any, inputs: "np.ndarray[Any, Any]") -> list[int]:
    """The class that ``graph`` gives to each of ``inputs``."""
    import aidge_core
    import numpy as np

    scheduler = aidge_core.SequentialScheduler(graph)
    (output,) = graph.get_output_nodes()
    found: list[int] = []
    for start in range(0, len(inputs), BATCH_SIZE):
        batch = inputs[start : start + BATCH_SIZE].copy()
        scheduler.forward(True, [aidge_core.Tensor(batch)])
        scores = np.array(output.get_operator().get_output(0)).reshape(len(batch), -1)
        found += scores.argmax(1).tolist()
    return found


def main() -> None:
    parser = evaluation_arguments(__doc__)
    parser.add_argument("--onnx", type=Path, required=True, help="the float network, from harness.aidge_network")
    parser.add_argument("--validation", type=Path, required=True, help="from harness.data --validation")
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--activations", default="int8")
    parser.add_argument("--clipping", choices=CLIPPINGS, default="MSE")
    parser.add_argument("--per-channel", action="store_true")
    parser.add_argument("--single-shift", action="store_true")
    parser.add_argument("--no-equalize", dest="equalize", action="store_false")
    parser.add_argument("--integers", action="store_true", help="its integer kernels, not its simulation")
    given = parser.parse_args()
    marks = Marks()
    import aidge_core
    import aidge_quantization  # noqa: F401 - imports are measured apart
    import numpy as np

    aidge_core.Log.set_console_level(aidge_core.Level.Error)
    marks.reach(IMPORTED)
    graph = float_network(given.onnx)
    images = calibration_images(given.calibration)
    marks.reach(READY)
    quantize(graph, images, given)
    marks.reach(QUANTIZED)
    validation = np.load(given.validation)
    inputs, labels = validation["inputs"][: given.images], validation["labels"][: given.images]
    found = predictions(graph, inputs)
    store_row(given, marks, 100.0 * float((np.array(found) == labels).mean()), found)


if __name__ == "__main__":
    main()
