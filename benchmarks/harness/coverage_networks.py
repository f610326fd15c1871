"""The networks of the coverage benchmark with random weights, and inputs for them: nothing is downloaded.

Fresh weights hide what trained ones show: batch-norm statistics of 0 and 1, scales of 0 or 1e-6 in front of whole branches. So what is
constant gets some spread, and the batch norms see two batches in training mode.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.coverage_models import Model
from harness.torchvision_stub import declare_missing_operators

Inputs = tuple[Tensor, ...]


def build(model: Model, seed: int) -> tuple[nn.Module, Inputs]:
    """The network in eval mode and ``model.num_samples`` inputs for it."""
    torch.manual_seed(seed)
    declare_missing_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if model.suite == "transformers":
            from harness.coverage_transformers import transformer

            network, inputs = transformer(model.source, model.num_samples)
        else:
            network = _timm(model) if model.suite == "timm" else _torchvision(model)
            inputs = (torch.randn(model.num_samples, *model.shape),) * (2 if model.source.startswith("raft") else 1)
        spread_constants(network)
        _see_batches(network, inputs)
    return network.eval(), inputs


def _timm(model: Model) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(model.source, pretrained=False, **model.options)
    return network


class _OneOutput(nn.Module):
    """Without the names of the outputs, and without those for training alone."""

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__()
        self.network, self.options = network, options

    def forward(self, x: Tensor) -> Any:
        return self.network(x, **self.options)["out"]


class _Detector(nn.Module):
    """A detector up to its heads, on every level of its features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.head = network.rpn.head if hasattr(network, "rpn") else network.head

    def forward(self, x: Tensor) -> Any:
        return self.head(list(self.backbone(x).values()))


class _Flow(nn.Module):
    """RAFT, whose last estimate is its result."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, first: Tensor, second: Tensor) -> Any:
        return self.network(first, second, num_flow_updates=2)[-1]


def _torchvision(model: Model) -> nn.Module:
    import torchvision

    options = {"weights": None} | model.options
    if model.source.endswith(("_fpn", "ssd300_vgg16", "fcn_resnet50", "_mobilenet_v3_large")):
        options["weights_backbone"] = None
    if model.source in ("googlenet", "inception_v3"):
        options |= {"init_weights": False}
    network: nn.Module = torchvision.models.get_model(model.source, **options)
    if model.source.startswith("raft"):
        return _Flow(network)
    if type(network).__module__.startswith("torchvision.models.detection"):
        return _Detector(network)
    is_segmentation = type(network).__module__.startswith("torchvision.models.segmentation")
    return _OneOutput(network) if is_segmentation else network


def spread_constants(network: nn.Module) -> None:
    """Parameters that hold one value everywhere: offsets become small, scales lie around 1. A single number is spread if it is 0."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not parameter.is_floating_point() or bool((parameter != parameter.flatten()[0]).any()):
                continue
            if parameter.numel() == 1 and bool(parameter != 0):
                continue
            is_scale = parameter.ndim == 1 and "bias" not in name
            parameter.copy_(torch.rand_like(parameter) + 0.5 if is_scale else 0.1 * torch.randn_like(parameter))


def _see_batches(network: nn.Module, inputs: Inputs) -> None:
    """Two batches in training mode, so that batch norms have statistics; the other layers stay in eval mode."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    network.eval()
    if not norms:
        return
    for norm in norms:
        norm.train()
        norm.momentum = None  # the mean over all batches seen
    with torch.no_grad():
        for _ in range(2):
            network(*(x + 0.1 * torch.randn_like(x) for x in inputs))
    network.eval()
    for norm in norms:
        norm.momentum = 0.1


def leaves(outputs: Any) -> list[Tensor]:
    """All tensors in ``outputs``, in order, as floats."""
    from torch.utils import _pytree as pytree

    return [leaf.detach().float() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def export_float(network: nn.Module, inputs: Inputs, path: Path) -> None:
    """Write ``network`` with PyTorch's exporter; the batch is free where the network allows it."""
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(network, inputs, str(path), dynamo=True, verbose=False, dynamic_shapes=tuple({0: batch} for _ in inputs))
        except Exception:  # it raises many kinds where the batch is fixed
            torch.onnx.export(network, inputs, str(path), dynamo=True, verbose=False)


def run_onnx(path: Path, inputs: Inputs) -> list[Tensor]:
    """The outputs of an ONNX file in ONNX Runtime, operator by operator as it is written: its optimizations may change them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    feeds = {value.name: x.numpy() for value, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(output).float() for output in session.run(None, feeds)]
