"""Attention in one operator is recorded as products, masks and a softmax that compute the same, under the user's own names."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstep.errors import ModelError
from halfstep.graph.attention import MASKED
from halfstep.graph.capture import capture
from halfstep.graph.masking import is_mask, is_mask_sum
from halfstep.graph.names import operator_name
from halfstep.graph.run import run

TOLERANCE = 1e-5  # float32 sums of some ten terms in another order, 1e-6 each
BATCH, LENGTH, WIDTH, SIZE = 3, 5, 7, 4


class Attention(nn.Module):
    """Queries, keys and values as inputs; further options of the operator."""

    def __init__(self, mask: Tensor | None = None, **options: object) -> None:
        super().__init__()
        self.options = options
        self.mask: Tensor | None
        self.register_buffer("mask", mask)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, self.mask, **self.options)


def inputs(heads: int = 2, other_heads: int = 2, length: int = LENGTH, width: int = WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, length, SIZE), (other_heads, width, SIZE), (other_heads, width, SIZE + 2))
    query, key, value = (torch.randn(BATCH, *shape, generator=generator) for shape in shapes)
    return query, key, value


KEEP = torch.rand(LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)) < 0.7
FORMS = {
    "plain": (Attention(), inputs()),
    "scale": (Attention(scale=0.3), inputs()),
    "causal": (Attention(is_causal=True), inputs()),
    "causal_square": (Attention(is_causal=True), inputs(width=LENGTH)),
    "bool_mask": (Attention(KEEP), inputs()),
    "bool_mask_of_heads": (Attention(torch.stack([KEEP, ~KEEP])[None]), inputs()),
    "float_mask": (Attention(torch.randn(LENGTH, WIDTH)), inputs()),
    "least_float": (Attention((~KEEP).float() * torch.finfo(torch.float32).min), inputs()),
    "grouped_queries": (Attention(enable_gqa=True), inputs(heads=6)),
    "grouped_and_causal": (Attention(enable_gqa=True, is_causal=True, scale=1.0), inputs(heads=4)),
    "one_key_head": (Attention(enable_gqa=True), inputs(heads=3, other_heads=1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_it_computes_what_torch_computes(form: str) -> None:
    network, given = FORMS[form]
    graph = capture(network, given)
    kinds = [operator_name(node) for node in graph.graph.nodes if node.op == "call_function"]
    assert kinds.count("matmul") == 2 and kinds.count("softmax") == 1
    assert "scaled_dot_product_attention" not in kinds
    for size in (1, BATCH):
        part = tuple(x[:size] for x in given)
        assert torch.allclose(run(graph, part), network(*part), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("is_buffer", [False, True])
def test_infinite_masks_become_finite(is_buffer: bool) -> None:
    """Also one that no state dictionary holds: a tensor that forward closes over."""
    mask = torch.zeros(LENGTH, WIDTH).masked_fill(~KEEP, -math.inf)

    class Closed(nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value, mask)

    graph = capture(Attention(mask) if is_buffer else Closed(), inputs())
    assert torch.allclose(run(graph, inputs()), F.scaled_dot_product_attention(*inputs(), mask), rtol=TOLERANCE, atol=TOLERANCE)
    assert all(bool(torch.isfinite(buffer).all()) for buffer in graph.buffers())


def test_a_mask_that_is_no_number_is_refused() -> None:
    with pytest.raises(ModelError, match="'mask'"):
        capture(Attention(torch.full((LENGTH, WIDTH), math.nan)), inputs())


def test_dropout_stays_in_the_operator() -> None:
    """Its outcome is drawn: recorded and model cannot be compared, and capture says so."""
    with pytest.raises(ModelError, match="random"):
        capture(Attention(dropout_p=0.5), inputs())


@pytest.mark.parametrize("is_encoder", [False, True])
def test_the_layers_of_torch(is_encoder: bool) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    network = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval() if is_encoder else Wrapped().eval()
    x = torch.randn(4, LENGTH, 8)
    graph = capture(network, (x,))
    assert torch.allclose(run(graph, (x,)), network(x), rtol=TOLERANCE, atol=TOLERANCE)
    names = [node.meta["name"] for node in graph.graph.nodes]
    prefix = "self_attn" if is_encoder else "attention"
    wanted = [f"{prefix}:{part}" for part in ("linear", "matmul", "softmax", "matmul#2", "linear#2")]
    assert [name for name in names if name in wanted] == wanted
    assert not is_encoder or {"linear1", "linear2", "norm1", "norm2", "add", "add#2"} <= set(names)


class Biased(nn.Module):
    """A bias of positions, a padding mask from an input of truth values, and a sum of activations behind it all."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.positions = nn.Embedding(LENGTH, LENGTH)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        scores = torch.matmul(self.query(x), self.key(x).transpose(-1, -2)) / 8**0.5
        scores = scores + self.positions(torch.arange(LENGTH))
        scores = scores + (1.0 - seen[:, None].float()) * MASKED
        return torch.matmul(scores.softmax(-1), self.value(x)) + x


def test_masks_belong_to_the_softmax() -> None:
    torch.manual_seed(0)
    network, seen = Biased().eval(), torch.rand(4, LENGTH) < 0.8
    seen[:, 0] = True
    x = torch.randn(4, LENGTH, 8)
    graph = capture(network, (x, seen))
    nodes = {node.meta["name"]: node for node in graph.graph.nodes}
    assert [is_mask_sum(nodes[name]) for name in ("add", "add#2", "add#3")] == [True, True, False]
    assert any(is_mask(operand) for operand in nodes["add"].all_input_nodes)
    assert not is_mask(nodes["query"]) and not is_mask(nodes["add"])
    assert torch.allclose(run(graph, (x, seen)), network(x, seen), rtol=TOLERANCE, atol=TOLERANCE)
