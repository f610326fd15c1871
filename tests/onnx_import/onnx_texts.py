"""Networks as ONNX's own text, and what tests of the front end ask of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

import halfstep as hs
from halfstep.errors import ModelError
from halfstep.graph.capture import capture
from halfstep.graph.check import check

Write = Callable[..., Path]
RANDOM = np.random.default_rng(0)


def real(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


CONV = "g (float[N,3,8,8] image) => (float[N,4] scores) "
CONV_BODY = """{
    [___stem___Conv] a = Conv<pads=[1,1,1,1]>(image, stem__weight)
    [___stem___bn] b = BatchNormalization(a, bn_scale, bn_shift, bn_mean, bn_variance)
    [___stem___act] c = Relu(b)
    [pool] d = GlobalAveragePool(c)
    [flat] e = Flatten(d)
    [head] scores = Gemm<transB=1>(e, head__weight, head__bias)
}"""


def weights() -> dict[str, Any]:
    return {
        "stem__weight": real(8, 3, 3, 3),
        "bn_scale": np.abs(real(8)) + 0.5, "bn_shift": real(8), "bn_mean": real(8), "bn_variance": np.abs(real(8)) + 0.5,
        "head__weight": real(4, 8), "head__bias": real(4),
    }  # fmt: skip


SILU = "g (float[N,6] x) => (float[N,6] y) { s = Sigmoid(x) [act] y = Mul(s, x) }"


def captured(path: Path, *inputs: Tensor) -> GraphModule:
    graph = capture(hs.load_onnx(path), inputs)
    check(graph)
    return graph


def names(graph: GraphModule) -> list[str]:
    return [str(node.meta["name"]) for node in graph.graph.nodes if node.op != "output"]


def runtime(path: Path, *inputs: Tensor) -> list[Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # they take what only looks like a layer norm for one
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    feeds = {value.name: x.numpy() for value, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, feeds)]


def refused(path: Path, *parts: str, strip: bool = False) -> str:
    with pytest.raises(ModelError) as error:
        hs.load_onnx(path, strip)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
    return str(error.value)
