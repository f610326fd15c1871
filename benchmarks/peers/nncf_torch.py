"""NNCF on the torch module, from there to ONNX. Run with NNCF's own interpreter.

``--backend module``: ``nncf.quantize`` on the ``nn.Module``, ``nncf.strip``, ``torch.onnx.export``. PyTorch's default exporter refuses the
stripped model (data-dependent control flow in its fake quantizers), so this row uses the TorchScript exporter. NNCF does not fold
batch norm in torch; ``--fold`` does it before (``torch.fx``), without which ONNX Runtime runs every convolution in float.
``--backend fx``: ``torch.export`` first, ``nncf.quantize`` on the graph (it folds batch norm itself), PyTorch's default exporter.
"""

import argparse
import copy
from typing import TYPE_CHECKING

from harness.peer import Marks, calibration_images, peer_parser, quiet_environment, trained_network

if TYPE_CHECKING:
    import torch


def folded(model: "torch.nn.Module") -> "torch.nn.Module":
    """A copy with batch norms folded, in a module of its own: given the bare ``GraphModule``, NNCF would take its fx backend."""
    from torch import nn
    from torch.fx.experimental.optimization import fuse

    class Folded(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: "torch.Tensor") -> "torch.Tensor":
            output: torch.Tensor = self.network(images)
            return output

    return Folded(fuse(copy.deepcopy(model))).eval()


def quantize_module(model: "torch.nn.Module", images: "torch.Tensor", given: argparse.Namespace) -> "torch.nn.Module":
    """The stripped module: torch's own fake quantizers, ready for the TorchScript exporter."""
    import nncf

    quantized = run_nncf(folded(model) if given.fold else model, images, given)
    return nncf.strip(quantized, example_input=images[:2])


def quantize_graph(model: "torch.nn.Module", images: "torch.Tensor", given: argparse.Namespace) -> "torch.nn.Module":
    """The quantized ``torch.export`` graph with a free batch size."""
    import torch

    batch = torch.export.Dim("batch", min=1)
    graph = torch.export.export(model, (images[:2],), dynamic_shapes=({0: batch},)).module()
    return run_nncf(graph, images, given)


def run_nncf(model: "torch.nn.Module", images: "torch.Tensor", given: argparse.Namespace) -> "torch.nn.Module":
    import nncf
    from torch.utils.data import DataLoader

    preset = None if given.preset is None else nncf.QuantizationPreset(given.preset)
    loader: DataLoader[torch.Tensor] = DataLoader(images, batch_size=given.batch_size)
    count = given.subset_size // given.batch_size
    slow = given.full_bias_correction
    return nncf.quantize(model, nncf.Dataset(loader), preset=preset, subset_size=count, fast_bias_correction=not slow)


def add_nncf_settings(parser: argparse.ArgumentParser) -> None:
    """The settings that both NNCF peers take; the defaults are NNCF's own but for ``subset_size`` (300 there)."""
    parser.add_argument("--preset", choices=("performance", "mixed"), default=None)
    parser.add_argument("--subset-size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--full-bias-correction", action="store_true", help="fast_bias_correction=False")


def main() -> None:
    parser = peer_parser(__doc__)
    parser.add_argument("--backend", choices=("module", "fx"), required=True)
    parser.add_argument("--fold", action="store_true")
    add_nncf_settings(parser)
    given = parser.parse_args()
    quiet_environment()
    marks = Marks()
    import nncf  # noqa: F401 - its import is part of what is measured
    import torch

    from harness.torch_onnx import export

    marks.reach("imported")
    model = trained_network(given.network)
    images = torch.from_numpy(calibration_images(given.calibration))
    marks.reach("model in memory")
    quantized = (quantize_module if given.backend == "module" else quantize_graph)(model, images, given)
    marks.reach("quantized")
    export(quantized, images[:2], given.out, "torchscript" if given.backend == "module" else "dynamo")
    marks.reach("file on disk")
    marks.write(given.marks)


if __name__ == "__main__":
    main()
