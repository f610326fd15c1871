"""The quick way to ONNX computes what PyTorch's exporter computes, and is taken where it should be."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import zoo
from halfstep.export.mark import mark
from halfstep.export.rewrite import rewrite
from halfstep.export.session import open_session, run_session
from halfstep.export.torch_exporter import translate_with_torch
from halfstep.export.translate import TRANSLATIONS, output_name, translate
from halfstep.export.translation.writer import Untranslatable
from halfstep.graph.capture import capture

DIRECT = [
    "conv_bn_relu", "residual", "shared", "in_place", "depthwise", "transposed", "linear_bn", "concat", "option_a", "squeeze_excite",
    "dropout", "two_inputs", "dict_output", "tuple_output", "view_flatten", "bn_first", "bn_twice", "conv1d", "conv3d", "scalars",
    "ends_in_conv", "ends_in_average", "bias_free", "dead_channel", "large_bias", "float_operators", "paddings",
]  # fmt: skip
COMPARED = ["residual", "transposed", "concat", "option_a", "squeeze_excite", "dict_output", "conv1d"]


def outputs_of(model: ir.Model, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    session = open_session(ir.to_proto(model).SerializeToString())
    return [torch.from_numpy(value) for value in run_session(session, inputs).values()]


def float_model(graph: GraphModule, *, is_direct: bool, samples: tuple[torch.Tensor, ...]) -> ir.Model:
    marked = mark(graph)
    return rewrite(translate(marked.graph) if is_direct else translate_with_torch(marked.graph, samples), marked)


@pytest.mark.parametrize("name", DIRECT)
def test_it_is_taken_and_right(name: str) -> None:
    """Float against float: sums in another order, 1e-5 of the largest value."""
    graph, inputs = zoo.captured(name), zoo.ZOO[name].inputs(5)
    exported = outputs_of(float_model(graph, is_direct=True, samples=inputs), inputs)
    for output, expected in zip(exported, zoo.eager(name, inputs), strict=True):
        assert zoo.relative(output, expected) <= 1e-5


@pytest.mark.parametrize("name", COMPARED)
def test_both_ways_are_equal(name: str) -> None:
    graph, inputs = zoo.captured(name), zoo.ZOO[name].inputs(3)
    direct, by_torch = (outputs_of(float_model(graph, is_direct=way, samples=inputs), inputs) for way in (True, False))
    for first, second in zip(direct, by_torch, strict=True):
        assert zoo.relative(first, second) <= 1e-5


def test_anything_else_is_left_to_pytorchs_exporter() -> None:
    class Windows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.unfold(2, 3, 2).amax(-1)

    with pytest.raises(Untranslatable, match="unfold"):
        translate(mark(capture(Windows(), (torch.ones(2, 3, 9),))).graph)


class _Pools(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        y = torch.nn.functional.avg_pool2d(y, 2, 1, 1, count_include_pad=False)
        y = torch.nn.functional.pad(y, (1, 2, 0, 3), value=0.5)
        y = y[:, 1:, ::2].permute(0, 2, 3, 1).unsqueeze(1).squeeze(1)
        y = torch.nn.functional.hardswish(y) + torch.nn.functional.hardsigmoid(y) * torch.tanh(y) / 3 - torch.nn.functional.silu(y)
        return torch.clamp(y.mean((1, 2, 3), keepdim=True), -0.1, 2.0) if y.ndim == 5 else y.reshape(y.size(0), -1).clamp_min(-0.2)


def test_operators_that_no_network_of_the_zoo_has() -> None:
    inputs = (torch.randn(3, 4, 9, 11, generator=torch.Generator().manual_seed(0)),)
    network = _Pools()
    (output,) = outputs_of(float_model(capture(network, inputs), is_direct=True, samples=inputs), inputs)
    assert zoo.relative(output, network(*inputs)) <= 1e-5


def test_every_row_names_an_operator_of_torch() -> None:
    for name in TRANSLATIONS:
        packet, overload = name.split(".")
        assert isinstance(getattr(getattr(torch.ops.aten, packet), overload), torch._ops.OpOverload)


def test_outputs_are_numbered() -> None:
    assert [output_name(index) for index in range(3)] == ["output", "output_1", "output_2"]
