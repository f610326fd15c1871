"""ONNX Runtime's ``quantize_static``, from a torch module to an int8 ONNX file.

``--setting default``: every argument of ``quantize_static`` as it stands (QDQ, int8 activations, int8 weights per tensor, MinMax).
``--setting best``: what its documentation advises for x86 with VNNI: ``quant_pre_process``, uint8 activations, int8 weights per
channel (``--per-tensor``: one scale a tensor); ``--method`` chooses the calibrator.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.peer import Marks, calibration_images, one_thread_sessions, peer_parser, trained_network

if TYPE_CHECKING:
    import numpy as np


class ImageReader:
    """Feeds the calibrator ``batch_size`` images at a time; the shape that ``CalibrationDataReader`` asks for."""

    def __init__(self, images: "np.ndarray[Any, Any]", input_name: str, batch_size: int) -> None:
        chunks = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
        self.feeds: Iterator[dict[str, np.ndarray[Any, Any]]] = ({input_name: chunk} for chunk in chunks)

    def get_next(self) -> "dict[str, np.ndarray[Any, Any]] | None":
        return next(self.feeds, None)


def _settings(setting: str, method: str, per_channel: bool) -> dict[str, Any]:
    from onnxruntime.quantization import CalibrationMethod, QuantType

    if setting == "default":
        return {}
    return {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": per_channel,
        "calibrate_method": CalibrationMethod[method],
    }


def main() -> None:
    parser = peer_parser(__doc__)
    parser.add_argument("--setting", choices=("default", "best"), required=True)
    parser.add_argument("--method", choices=("MinMax", "Percentile", "Entropy"), default="MinMax")
    parser.add_argument("--per-tensor", action="store_true")
    parser.add_argument("--exporter", default="dynamo")
    parser.add_argument("--batch-size", type=int, default=64)
    given = parser.parse_args()
    marks = Marks()
    one_thread_sessions()
    import torch
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from harness.torch_onnx import INPUT_NAME, export

    marks.reach("imported")
    model, images = trained_network(given.network), calibration_images(given.calibration)
    marks.reach("model in memory")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        export(model, torch.from_numpy(images[:2]), source, given.exporter)
        marks.reach("float ONNX")
        if given.setting == "best":
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared))
            source = prepared
        reader = ImageReader(images, INPUT_NAME, given.batch_size)
        quantize_static(str(source), str(given.out), reader, **_settings(given.setting, given.method, not given.per_tensor))
    marks.reach("file on disk")
    marks.write(given.marks)


if __name__ == "__main__":
    main()
