"""From a torch module to a float ONNX file with a free batch size, by either of PyTorch's two exporters."""

import warnings
from pathlib import Path

import torch

EXPORTERS = ("dynamo", "torchscript")
OPSET = 18
INPUT_NAME = "input"


def export(model: torch.nn.Module, example: torch.Tensor, path: Path, exporter: str) -> None:
    """Write ``model`` as ONNX. ``dynamo`` is PyTorch's default, ``torchscript`` its deprecated but faster predecessor."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            _export_dynamo(model, example, path)
        else:
            _export_torchscript(model, example, path)


def _export_dynamo(model: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        model,
        (example,),
        str(path),
        dynamo=True,
        verbose=False,
        external_data=False,
        input_names=[INPUT_NAME],
        dynamic_shapes=({0: batch},),
    )


def _export_torchscript(model: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    torch.onnx.export(
        model,
        (example,),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=[INPUT_NAME],
        output_names=["output"],
        dynamic_axes={INPUT_NAME: {0: "batch"}, "output": {0: "batch"}},
    )
