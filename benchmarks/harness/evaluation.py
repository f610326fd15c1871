"""Top-1 of an ONNX file executed in ONNX Runtime on the validation images, and the operators it runs. A process of its own.

python -m harness.evaluation --network resnet20 --model model.onnx --out evaluation.json
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.classes import as_text
from harness.data import ALL_NETWORKS, dataset_of, networks_module
from harness.kernels import executed_operators

if TYPE_CHECKING:
    import numpy as np

BATCH_SIZE = 50


def predictions(model: Path, inputs: "np.ndarray[Any, Any]", is_exact: bool = True) -> "np.ndarray[Any, Any]":
    """The class that ``model`` gives to each of ``inputs`` (float32 [N,3,H,W]); one thread. is_exact: as `harness.latency`."""
    import numpy as np

    from harness.latency import open_session

    session = open_session(model, is_exact)
    source = session.get_inputs()[0]
    step = source.shape[0] if isinstance(source.shape[0], int) else BATCH_SIZE
    chunks = [session.run(None, {source.name: inputs[i : i + step]})[0] for i in range(0, len(inputs), step)]
    classes: np.ndarray[Any, Any] = np.concatenate(chunks).reshape(len(inputs), -1).argmax(axis=1)
    return classes


def evaluate(network: str, model: Path, images: int | None) -> dict[str, object]:
    """Top-1 in percent, the predictions themselves (for agreement with float), also of mirrored images, and the executed operators."""
    module = networks_module(dataset_of(network))
    pictures, labels = module.load_split("validation")
    pictures, labels = pictures[:images], labels[:images]
    inputs = module.normalize(pictures, network).numpy()
    found = predictions(model, inputs)
    return {
        "top1": 100.0 * float((found == labels).mean()),
        "images": len(labels),
        "predictions": as_text(found.tolist()),
        "mirrored": as_text(predictions(model, inputs[..., ::-1].copy()).tolist()),
        "operators": executed_operators(model),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=ALL_NETWORKS, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=int, default=None)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.write_text(json.dumps(evaluate(given.network, given.model, given.images)))


if __name__ == "__main__":
    main()
