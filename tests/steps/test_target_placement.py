"""Which operands of a concatenation share its grid, which layers keep their accumulator, and which get no grid at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
from halfstep.graph.edges import activation_quantizers, rounded_tensors

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Three convolutions that a function puts together, and one behind them."""

    def __init__(self, function: Callable[..., Tensor], num_channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(3))
        self.function, self.last = function, nn.Conv2d(num_channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.a(x), self.b(x), self.c(x)))


def quantized(function: Callable[..., Tensor], num_channels: int, target: str = "onnxruntime") -> hs.Result:
    return hs.quantize(Network(function, num_channels).eval(), X, hs.Recipe.load("int8").with_target(target))


def owners(result: hs.Result) -> set[str]:
    return {str(node.meta["name"]) for node in activation_quantizers(result.model).values()}


def test_operands_share_the_grid_of_the_whole() -> None:
    result = quantized(lambda a, b, c: torch.cat([a, b, c], 1), 12)
    assert owners(result) == {"x", "cat", "last"}
    range_of_all = result.statistics.histograms["cat"]
    assert range_of_all.minimum == min(result.statistics.histograms[name].minimum for name in "abc")
    assert {str(node.meta["name"]) for node in rounded_tensors(result.model)} == {"x", "a", "b", "c", "cat", "last"}


def test_a_chain_of_concatenations_has_one_grid() -> None:
    assert owners(quantized(lambda a, b, c: torch.cat([torch.cat([a, b], 1), c], 1), 12)) == {"x", "cat#2", "last"}


def test_a_moved_operand_shares_it_too() -> None:
    result = quantized(lambda a, b, c: torch.cat([torch.nn.functional.max_pool2d(a, 2), b[..., ::2, ::2], c[..., ::2, ::2]], 1), 12)
    assert owners(result) == {"x", "cat", "last"}


@pytest.mark.parametrize(("function", "num_channels"), [
    (lambda a, b, c: torch.cat([a, b, c + a], 1), 12),  # something else reads a
    (lambda a, b, c: torch.cat([torch.relu(a), b, c], 1), 12),  # one of them is clipped
    (lambda a, b, c: torch.cat([torch.relu(a), torch.nn.functional.relu6(b), torch.relu(c)], 1), 12),  # clipped otherwise
])  # fmt: skip
def test_operands_that_would_lose_by_it_keep_their_own(function: Callable[..., Tensor], num_channels: int) -> None:
    assert owners(quantized(function, num_channels)) & {"a", "relu"}


def test_an_override_of_one_operand_keeps_its_grid() -> None:
    recipe = hs.Recipe.parse(hs.Recipe.load("int8").model_dump() | {"scheme": {"overrides": [{"pattern": "a", "activations": "uint6"}]}})
    result = hs.quantize(Network(lambda a, b, c: torch.cat([a, b, c], 1), 12).eval(), X, recipe)
    assert {"a", "b", "c", "cat"} <= owners(result)


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_the_later_of_two_layers_is_accumulated(target: str) -> None:
    assert owners(quantized(lambda a, b, c: torch.relu(a + b) * c, 4, target)) == {"x", "a", "relu", "c", "mul"}


def test_onnxruntime_rounds_both_addends() -> None:
    assert {"a", "b"} <= owners(quantized(lambda a, b, c: torch.relu(a + b) * c, 4))


@pytest.mark.parametrize(("target", "has_grid"), [("onnxruntime", True), ("openvino", False), ("tensorrt", False)])
def test_a_layer_that_a_function_in_float_reads(target: str, has_grid: bool) -> None:
    found = owners(quantized(lambda a, b, c: torch.cat([nn.functional.hardswish(a), nn.functional.gelu(b), c], 1), 12, target))
    assert ("a" in found, "b" in found, "last" in found) == (has_grid,) * 3
