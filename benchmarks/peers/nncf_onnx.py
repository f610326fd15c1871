"""NNCF on the float ONNX model that PyTorch exported, result saved as ONNX. Run with NNCF's own interpreter."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.peer import Marks, calibration_images, one_thread_sessions, peer_parser, quiet_environment, trained_network
from peers.nncf_torch import add_nncf_settings

if TYPE_CHECKING:
    import numpy as np
    import onnx


def quantize(model: "onnx.ModelProto", images: "np.ndarray[Any, Any]", given: argparse.Namespace) -> "onnx.ModelProto":
    import nncf
    import torch
    from torch.utils.data import DataLoader

    from harness.torch_onnx import INPUT_NAME

    loader: DataLoader[torch.Tensor] = DataLoader(torch.from_numpy(images), batch_size=given.batch_size)  # type: ignore[arg-type]
    dataset = nncf.Dataset(loader, lambda batch: {INPUT_NAME: batch.numpy()})
    preset = None if given.preset is None else nncf.QuantizationPreset(given.preset)
    count = given.subset_size // given.batch_size
    return nncf.quantize(model, dataset, preset=preset, subset_size=count, fast_bias_correction=not given.full_bias_correction)


def main() -> None:
    parser = peer_parser(__doc__)
    parser.add_argument("--exporter", default="dynamo")
    add_nncf_settings(parser)
    given = parser.parse_args()
    quiet_environment()
    marks = Marks()
    one_thread_sessions()
    import nncf  # noqa: F401 - its import is part of what is measured
    import onnx
    import torch

    from harness.torch_onnx import export

    marks.reach("imported")
    model, images = trained_network(given.network), calibration_images(given.calibration)
    marks.reach("model in memory")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        export(model, torch.from_numpy(images[:2]), source, given.exporter)
        marks.reach("float ONNX")
        quantized = quantize(onnx.load(source), images, given)
    marks.reach("quantized")
    onnx.save(quantized, given.out)
    marks.reach("file on disk")
    marks.write(given.marks)


if __name__ == "__main__":
    main()
