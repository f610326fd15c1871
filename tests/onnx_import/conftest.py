"""Models written as ONNX's own text, saved to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

Write = Callable[..., Path]


def model(text: str, opset: int = 17, **constants: Any) -> onnx.ModelProto:
    """``text``: a graph as in ``onnx.parser``; constants: initializers. In names "__" stands for "." and "___" for "/"."""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\n{text}')
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), spelled(name)))
    for node in proto.graph.node:
        node.name, node.input[:] = spelled(node.name), [spelled(name) for name in node.input]
    return proto


def spelled(name: str) -> str:
    """Characters that ONNX's text form does not have in names."""
    return name.replace("___", "/").replace("__", ".")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Save a model as "net.onnx"."""

    def save(text: str, opset: int = 17, **constants: Any) -> Path:
        onnx.save(model(text, opset, **constants), tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    return save
