"""What is refused, and what the error says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx_texts import CONV, CONV_BODY, SILU, Write, real, refused, weights

import halfstep as hs
from halfstep.errors import DataError, HalfstepError, ModelError


def test_an_unknown_operator_is_named_with_its_node_and_opset(write: Write) -> None:
    text = "g (float[N,2,3,3] x, float[N,3,3,2] g) => (float[N,2,3,3] y) { [warp] y = GridSample(x, g) }"
    refused(write(text), "'warp'", "GridSample", "opset 17", "PyTorch network")


def test_operators_of_a_runtime_are_refused(write: Write) -> None:
    path = write(SILU)
    proto = onnx.load(path)
    proto.graph.node[0].domain = "com.microsoft"
    onnx.save(proto, path)
    refused(path, "com.microsoft", "fusions")


@pytest.mark.parametrize(("opset", "is_read"), [(10, False), (11, True), (23, True), (99, False)])
def test_opsets(write: Write, opset: int, is_read: bool) -> None:
    path = write(SILU)
    proto = onnx.load(path)
    proto.opset_import[0].version = opset
    onnx.save(proto, path)
    if is_read:
        hs.load_onnx(path)
    else:
        refused(path, f"opset {opset}", "11 to 28", "convert_version")


def test_weights_that_are_not_finite(write: Write) -> None:
    bad = weights()
    bad["stem__weight"][0] = np.nan
    with pytest.raises(ModelError, match=r"'stem\.weight' hold NaN"):
        hs.quantize(hs.load_onnx(write(CONV + CONV_BODY, **bad)), torch.randn(4, 3, 8, 8))


def test_an_operator_that_cannot_be_computed_is_named(write: Write) -> None:
    path = write(CONV + CONV_BODY, **{**weights(), "head__weight": real(4, 9)})
    with pytest.raises(HalfstepError, match="Node 'head' "):
        hs.quantize(hs.load_onnx(path), torch.randn(4, 3, 8, 8))


def test_data_that_does_not_fit(write: Write) -> None:
    model = hs.load_onnx(write(CONV + CONV_BODY, **weights()))
    with pytest.raises(DataError, match="'image'"):
        hs.quantize(model, torch.randn(4, 3, 9, 9))
    with pytest.raises(DataError, match=r"1 input\(s\)"):
        model(torch.randn(1, 3, 8, 8), torch.randn(1))


def test_a_constant_beyond_all_memory(write: Write) -> None:
    text = "g (float[N,1] x) => (float[N,K] y) { c = ConstantOfShape(size) y = Add(x, c) }"
    refused(write(text, size=np.array([10**12])), "ConstantOfShape", "1,000,000,000,000")


def test_a_result_beyond_all_memory(write: Write) -> None:
    text = "g (float[N,4] x) => (float[N,M] y) { y = Tile(x, times) }"
    with pytest.raises(HalfstepError, match="memory"):
        hs.load_onnx(write(text, times=np.array([1, 10**13])))(torch.randn(2, 4))
