"""Small networks, each with one thing that goes wrong easily, and the graphs and results made of them: each is made once a test run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

import halfstep as hs
from halfstep.graph.capture import capture
from halfstep.graph.serialize import duplicate
from halfstep.graph.statistics import Statistics
from halfstep.quantizers import quantizers
from halfstep.rounding import ROUNDINGS, AbstractRounding
from halfstep.steps import Calibrate, Context, FoldBatchNorm, PlaceQuantizers, Round, Scheme
from halfstep.workflow.result import Result
from zoo import convolutions, interfaces, mutations, norms, operators
from zoo.members import ZOO, Member, unsettle

__all__ = ["ZOO", "Member", "convolutions", "interfaces", "mutations", "norms", "operators", "unsettle"]
NUM_SAMPLES = 32
NAMES = list(ZOO)
CNNS = ("conv_bn_relu", "residual", "shared", "in_place", "depthwise", "concat", "option_a", "dead_channel", "ends_in_conv")
"""Networks that ONNX Runtime runs as integers from the first to the last layer."""
REPRESENTATIVE = (
    "residual", "depthwise", "concat", "option_a", "transposed", "attention", "float_operators", "two_inputs", "dict_output",
    "static_batch", "large_bias", "ends_in_average",
)  # fmt: skip
"""One network for each thing an export can get wrong; the others are exported by the slow tests."""


class Applied(nn.Module):
    """A function of one tensor as a network."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def context(x: Tensor | None = None) -> Context:
    """What a step is given beside the graph; x: calibration inputs, if there are any."""
    parts = [] if x is None else [(part,) for part in x.split(8) if len(part)]
    return Context(Scheme(), Statistics("x"), torch.Generator().manual_seed(0), batches=lambda: parts)


def rounded(graph: GraphModule, inputs: list[tuple[Tensor, ...]], scheme: Scheme) -> tuple[GraphModule, Context]:
    """``graph`` with weights on the nearest codes of the scheme, and what a step behind that is given; inputs: batches to calibrate on."""
    given = dataclasses.replace(context(), scheme=scheme, batches=lambda: inputs)
    for step in (FoldBatchNorm(), PlaceQuantizers()):
        graph = step.apply(graph, given)
    given.reference = duplicate(graph)
    for later in (Calibrate(), Round()):
        graph = later.apply(graph, given)
    return graph, given


def module_named(graph: GraphModule, name: str) -> nn.Module:
    """The module that the user calls ``name``."""
    (path,) = (path for path, given in graph.meta["names"].items() if given == name and path[0] == "m")
    return graph.get_submodule(path)


def quantizers_of(graph: GraphModule) -> dict[str, Any]:
    """By the user's name of the tensor it rounds first, every quantizer."""
    return {graph.meta["names"][path].removesuffix(":quantize"): quantizer for path, quantizer in quantizers(graph)}


def leaves(outputs: Any) -> list[Tensor]:
    """The tensors a network returns."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def eager(name: str, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What the network itself returns."""
    with torch.no_grad():
        return leaves(ZOO[name].model()(*(x.clone() for x in inputs)))


@functools.cache
def once_captured(name: str) -> GraphModule:
    """The network's graph, one for all callers: not to be changed."""
    return capture(ZOO[name].model(), ZOO[name].inputs())


def captured(name: str) -> GraphModule:
    """The network's graph: a copy of its own for each caller."""
    return duplicate(once_captured(name))


@functools.cache
def quantized(name: str, recipe: str = "int8") -> Result:
    """The network quantized with a shipped recipe on `NUM_SAMPLES` samples; not to be changed."""
    return hs.quantize(ZOO[name].model(), calibration_of(name), recipe)


def calibration_of(name: str) -> Any:
    """Calibration data in a form `halfstep.as_data` takes."""
    inputs = ZOO[name].inputs(NUM_SAMPLES)
    return inputs[0] if len(inputs) == 1 else [(inputs, None)]


def relative(first: Tensor, second: Tensor) -> float:
    """The largest difference, relative to the largest value of ``second``."""
    assert first.shape == second.shape
    return float((first - second).detach().abs().max() / second.detach().abs().max().clamp(min=1e-30))


_QUICK = {"num_iterations": 30, "num_rounds": 3, "num_reads": 2, "effort": 1}


def quick_rounding(name: str) -> AbstractRounding:
    """A rounding with the options that make it quick, for tests that do not ask how good its codes are."""
    fields = ROUNDINGS[name].model_fields
    rounding: AbstractRounding = ROUNDINGS.create({name: {option: value for option, value in _QUICK.items() if option in fields}})
    return rounding
