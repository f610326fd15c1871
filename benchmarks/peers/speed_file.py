"""One tool, one network, one int8 ONNX file to be timed. Run with the tool's own interpreter.

    python -m peers.speed_file --tool halfstep --network resnet18 --source float.onnx --out model.onnx

``--source`` is the float network as PyTorch exported it. ``ort`` and ``nncf`` start from it, ``halfstep`` and ``aimet`` from the torch
module; of a network that is an ONNX file alone (``--network`` is none of the known ones), halfstep starts from that.
Every tool has its settings for the fastest file its documentation names: ``ort`` uint8 activations and int8 weights per channel behind
``quant_pre_process``; ``nncf`` its default preset, ``nncf_mixed`` asymmetric activations; ``aimet`` 8 bits, scales per channel, ReLU fused,
batch norms folded, int8 initializers.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.peer import one_thread_sessions, quiet_environment

NUM_IMAGES = 32


def feeds(source: Path) -> Iterator[dict[str, Any]]:
    """Random inputs, one sample at a time, for any ONNX file."""
    import onnxruntime

    from harness.latency import named_inputs, random_inputs

    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    yield from (named_inputs(session, random_inputs(session, seed)) for seed in range(NUM_IMAGES))


def halfstep(given: argparse.Namespace) -> None:
    import torch

    import halfstep as hs
    from harness.speed_networks import NETWORKS, network, random_images

    recipe = hs.Recipe.load("int8").with_target(given.target)
    if given.network in NETWORKS:
        result = hs.quantize(network(given.network), random_images(NUM_IMAGES), recipe)
    else:
        samples = list(feeds(given.source))
        inputs = tuple(torch.cat([torch.from_numpy(feed[name]) for feed in samples]) for name in samples[0])
        result = hs.quantize(hs.load_onnx(given.source), [(inputs, None)], recipe)
    hs.export.onnx(result, given.out)


def ort(given: argparse.Namespace) -> None:
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    samples = feeds(given.source)

    class Reader:
        def get_next(self) -> dict[str, Any] | None:
            return next(samples, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(given.source), str(prepared))
        options = {} if given.default else {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
        quantize_static(str(prepared), str(given.out), Reader(), **options)


def nncf(given: argparse.Namespace) -> None:
    quiet_environment()
    import nncf as tool
    import onnx

    preset = tool.QuantizationPreset.MIXED if given.mixed else None
    made = tool.quantize(onnx.load(given.source), tool.Dataset(list(feeds(given.source))), preset=preset, subset_size=NUM_IMAGES)
    onnx.save(made, given.out)


def aimet(given: argparse.Namespace) -> None:
    from harness.torchvision_stub import declare_missing_operators

    declare_missing_operators()
    import aimet_torch.onnx
    import torch
    from aimet_torch.common import quantsim_config
    from aimet_torch.common.defs import QuantScheme
    from aimet_torch.quantsim import QuantizationSimModel

    from harness.speed_networks import network, random_images
    from peers.aimet_rounding import CONFIGS, prepared

    images = random_images(NUM_IMAGES)
    model = prepared(network(given.network), images, equalize=False)
    config = str(Path(str(quantsim_config.__file__)).parent / CONFIGS[True])
    sim = QuantizationSimModel(
        model, images[:1], quant_scheme=QuantScheme.post_training_tf, default_output_bw=8, default_param_bw=8, config_file=config
    )
    with torch.no_grad():
        sim.compute_encodings(lambda simulated, _: [simulated(part) for part in images.split(8)], None)
    aimet_torch.onnx.export(
        sim.model, images[:1], str(given.out), input_names=["input"], output_names=["output"], opset_version=21, dynamo=False,
        prequantize_constants=True, dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
    )  # fmt: skip


def exported(given: argparse.Namespace) -> None:
    """The float network."""
    from harness.speed_networks import network, random_images
    from harness.torch_onnx import export

    export(network(given.network), random_images(2), given.out, "dynamo")


TOOLS: dict[str, Callable[[argparse.Namespace], None]] = {
    "float": exported,
    "halfstep": halfstep,
    "ort": ort,
    "nncf": nncf,
    "aimet": aimet,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", choices=TOOLS, required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--target", default="onnxruntime", help="of halfstep")
    parser.add_argument("--mixed", action="store_true", help="of nncf: asymmetric activations")
    parser.add_argument("--default", action="store_true", help="of ort: every argument as it stands")
    given = parser.parse_args()
    if given.tool != "aimet":  # its environment has no ONNX Runtime
        one_thread_sessions()
    TOOLS[given.tool](given)


if __name__ == "__main__":
    main()
