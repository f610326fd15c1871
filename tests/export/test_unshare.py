"""A copy of a shared weight for each layer that reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import halfstep as hs
import zoo
from halfstep.export.unshare import unshared


def test_no_stored_weight_is_met_twice_and_nothing_changes(tmp_path: Path) -> None:
    hs.export.onnx(zoo.quantized("shared"), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert max(_readers(model).values()) > 1
    copied = unshared(model)
    assert set(_readers(onnx.load_model_from_string(copied)).values()) == {1}
    (x,) = zoo.ZOO["shared"].inputs(4)
    before, after = (
        onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"]) for given in (str(tmp_path / "model.onnx"), copied)
    )
    feed = {before.get_inputs()[0].name: x.numpy()}
    for one, other in zip(before.run(None, feed), after.run(None, feed), strict=True):
        assert np.array_equal(one, other)


def _readers(model: onnx.ModelProto) -> dict[str, int]:
    """How many layers read each stored int8 tensor, behind its DequantizeLinear nodes."""
    uses: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            uses.setdefault(name, []).append(node)
    int8 = [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims]
    return {name: sum(len(uses[node.output[0]]) for node in uses[name]) for name in int8}
