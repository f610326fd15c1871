"""Embeddings in the file: a table of codes, a quarter of float's, and the codes that rounding the rows gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import halfstep as hs

NUM_TOKENS, SIZE = 300, 16


class Tokens(nn.Module):
    """Two tables, one of them read twice, in front of a linear layer."""

    def __init__(self, shares: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(NUM_TOKENS, SIZE), nn.Embedding(NUM_TOKENS, SIZE)
        self.shares, self.fc = shares, nn.Linear(SIZE, 4)
        nn.init.normal_(self.second.weight, std=3.0)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.first(tokens) + (self.first if self.shares else self.second)(tokens.flip(1))
        found: Tensor = self.fc(torch.relu(x))
        return found


def tokens() -> Tensor:
    return torch.randint(0, NUM_TOKENS, (64, 5), generator=torch.Generator().manual_seed(0))


def recipe(scheme: dict[str, object]) -> hs.Recipe:
    return hs.Recipe.parse({"name": "rows", "scheme": scheme, "steps": ["place_quantizers", "calibrate", "round"]})


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "int8", "uint4", "uint16"])
def test_the_table_is_stored_in_the_bits_of_its_grid(kind: str, shares: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    scheme = {"overrides": [{"pattern": name, "activations": kind} for name in ("first", "first#2", "second")[: 2 if shares else 3]]}
    result = hs.quantize(Tokens(shares).eval(), (tokens(), None), recipe(scheme))
    check = hs.export.onnx(result, tmp_path / "net.onnx")
    assert check.max_code_difference == 0  # the same table, the same rows
    file = onnx.load(tmp_path / "net.onnx")
    tables = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in file.graph.initializer if len(tensor.dims) == 2}
    stored = [array for name, array in tables.items() if name.endswith(".table")]
    assert stored and {array.dtype.itemsize for array in stored} == {2 if kind == "uint16" else 1}
    assert not [name for name, array in tables.items() if array.dtype == np.float32]


def test_what_the_report_says_a_table_takes() -> None:
    torch.manual_seed(0)
    result = hs.quantize(Tokens(shares=False).eval(), (tokens(), None), "int8")
    weights = 4 * SIZE + 4 * 4 + 4 * 4  # of the linear layer: codes, scales, biases
    tables = 2 * (NUM_TOKENS * SIZE + 1 + 4)  # codes, zero point, scale
    assert result.record.bytes["quantized"] == weights + tables


def test_a_runtime_that_does_not_work_on_codes_rounds_the_rows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = hs.quantize(Tokens(shares=False).eval(), (tokens(), None), recipe({"target": "openvino"}))
    check = hs.export.onnx(result, tmp_path / "net.onnx")
    assert check.max_code_difference <= check.bound
    assert not [tensor.name for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer if tensor.name.endswith(".table")]


@pytest.mark.parametrize("num_axes", [2, 3])
def test_a_table_that_is_a_layer_s_weight_as_well(num_axes: int, tmp_path: Path) -> None:
    """As in language models: rows on the grid of the activation, the weight on one for each output, both from the same floats."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.fc = nn.Embedding(NUM_TOKENS, SIZE), nn.Linear(SIZE, SIZE)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.fc(self.tokens(x)))
            return nn.functional.linear(y[:, -1] if num_axes == 2 else y, self.tokens.weight)

    torch.manual_seed(0)
    network = Tied().eval()
    result = hs.quantize(network, (tokens(), None), recipe({"weights": {"type": "int4"}}))
    check = hs.export.onnx(result, tmp_path / "net.onnx")
    assert check.max_code_difference <= check.bound and check.max_output_difference < 1e-4
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer}
    wanted = np.round(network.tokens.weight.detach().numpy() / stored["tokens.scale"]) + stored["tokens.zero_point"]
    assert np.array_equal(stored["tokens.codes.table"], wanted.clip(0, 255))  # rounded once
