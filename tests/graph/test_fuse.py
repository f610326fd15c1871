"""Functions written out in parts are one operator, the same result, and lose no more on grids than the operator does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import halfstep as hs
import zoo
from halfstep.graph.capture import capture
from halfstep.graph.edges import activation_quantizers
from halfstep.graph.names import operator_name
from halfstep.graph.run import run

SIZE = 6


class Stored(nn.Module):
    """A function of the input and a stored vector, behind and in front of linear layers."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.before, self.after, self.vector = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, 3), nn.Parameter(torch.rand(SIZE) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.after(self.function(self.before(x), self.vector))
        return found


def _gelu_of_gpt(x: Tensor, w: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def _fast_gelu(x: Tensor, w: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def _llama_norm(x: Tensor, w: Tensor) -> Tensor:
    real = x.to(torch.float32)
    variance = real.pow(2).mean(-1, keepdim=True)
    return w * (real * torch.rsqrt(variance + 1e-6)).to(x.dtype)


def _gemma_norm(x: Tensor, w: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * (1.0 + w)


CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], list[str]]] = {
    "gelu of GPT-2": (_gelu_of_gpt, ["gelu"]),
    "fast gelu": (_fast_gelu, ["gelu"]),
    "gelu of BERT": (lambda x, w: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), ["gelu"]),
    "gelu of BERT, other order": (lambda x, w: (torch.erf(x * math.sqrt(0.5)) + 1) * (x / 2), ["gelu"]),
    "silu": (lambda x, w: torch.sigmoid(x) * x, ["silu"]),
    "quick gelu": (lambda x, w: x * torch.sigmoid(1.702 * x), ["mul", "silu", "mul"]),
    "hard swish": (lambda x, w: x * F.relu6(x + 3) / 6, ["hardswish"]),
    "hard swish, other order": (lambda x, w: x * (F.relu6(x + 3) / 6), ["hardswish"]),
    "mish": (lambda x, w: x * torch.tanh(F.softplus(x)), ["mish"]),
    "rms norm of Llama": (_llama_norm, ["rms_norm"]),
    "rms norm of Gemma": (_gemma_norm, ["rms_norm"]),
    "rms norm without weights": (lambda x, w: x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5), ["rms_norm"]),
}
OTHERS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], list[str]]] = {
    "another slope": (lambda x, w: x * torch.sigmoid(1.5 * x), ["mul", "sigmoid", "mul"]),
    "a gate": (lambda x, w: x * torch.sigmoid(w * x), ["mul", "sigmoid", "mul"]),
    "over another axis": (lambda x, w: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6), ["pow", "mean", "add", "rsqrt", "mul"]),
    "mean of something else": (
        lambda x, w: x * torch.rsqrt((w * x).pow(2).mean(-1, keepdim=True) + 1e-6), ["mul", "pow", "mean", "add", "rsqrt", "mul"]
    ),
    "a sum of squares": (
        lambda x, w: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6), ["pow", "sum", "add", "rsqrt", "mul"]
    ),
    "x times its neighbours": (lambda x, w: x * torch.sigmoid(x.flip(-1)), ["flip", "sigmoid", "mul"]),
    "clipped far out": (lambda x, w: x.clamp(-10, 10) * torch.sigmoid(x), ["clamp", "sigmoid", "mul"]),
    "a square": (lambda x, w: x * x, ["mul"]),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CASES, *OTHERS])
def test_the_parts_are_one_operator_and_the_result_the_same(name: str) -> None:
    function, operators = (CASES | OTHERS)[name]
    torch.manual_seed(0)
    network, x = Stored(function), 3 * torch.randn(3, 5, SIZE)
    graph = capture(network, (x,))
    found = [operator_name(node) for node in graph.graph.nodes if node.op == "call_function" and operator_name(node) != "sym_size"]
    assert found == ["linear", *operators, "linear"]
    assert zoo.relative(run(graph, (x,)), network(x).detach()) <= 1e-6  # a handful of float32 operations


def test_a_part_that_something_else_reads_stays() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            gate = torch.sigmoid(x)
            return x * gate + gate

    x = torch.randn(4, SIZE)
    graph = capture(Both(), (x,))
    assert [operator_name(node) for node in graph.graph.nodes if node.op == "call_function"] == ["sigmoid", "silu", "add"]
    assert zoo.relative(run(graph, (x,)), Both()(x)) <= 1e-6


@pytest.mark.parametrize("name", ["gelu of GPT-2", "quick gelu", "rms norm of Llama"])
def test_no_grid_stands_between_the_parts(name: str) -> None:
    """What the linear layer reads is as near to float as two grids allow, and an integer program has an operator for it."""
    torch.manual_seed(0)
    network, x = Stored(CASES[name][0]), torch.randn(64, 5, SIZE)
    result = hs.quantize(network, x, hs.Recipe.load("int8"))
    assert len(activation_quantizers(result.model)) == 3  # of the input, and before and behind the function
    kinds = [operator.kind for operator in hs.lower(result).operators]
    assert kinds == ["linear", "layer_norm" if "norm" in name else "lookup", "linear"]
