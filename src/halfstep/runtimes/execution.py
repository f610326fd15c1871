"""What runtimes really make of a file: it is loaded, and the graph they execute is read back.

Every node is given a name of its own, ``[17]``, which the runtimes carry through their optimizations, so that each operator of the file is
found again in what became of it.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import ModelProto

from halfstep.runtimes.graph import Graph
from halfstep.runtimes.operator import CODE_TYPES, HEAVY, Operator
from halfstep.runtimes.predicates import CONTRIBUTED, INTEGER_LAYERS, PACKED

_MARK = re.compile(r"\[(\d+)\]")
_KERNELS = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")  # OpenVINO's layers that hold arithmetic


def in_onnxruntime(proto: ModelProto, folder: Path) -> dict[int, bool]:
    """By place in the file, whether the operator is executed with integers; operators that vanished are missing.

    Raises `ExportError` where ONNX Runtime does not load the file.
    """
    from halfstep.export.session import optimized_graph

    optimized = Graph(optimized_graph(_marked(proto), folder), folder)
    found: dict[int, bool] = {}
    for node in optimized.nodes:
        marks = _MARK.findall(node.name)
        if not marks or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        reads_codes = any(optimized.types.get(name) in CODE_TYPES and name not in optimized.constants for name in node.input)
        is_layer = node.op_type in (*INTEGER_LAYERS, *CONTRIBUTED) and node.op_type not in PACKED
        found[int(marks[-1])] = is_layer or (reads_codes and node.op_type not in HEAVY)
    return found


def in_openvino(proto: ModelProto, folder: Path, operators: Iterable[Operator]) -> dict[int, bool]:
    """By place in the file, whether a convolution or product is executed with integers; None of the others is judged.

    Raises `RuntimeError` where OpenVINO does not load the file. Needs the package ``openvino``.
    """
    import openvino

    names = {f"[{operator.index}]": operator.index for operator in operators if operator.is_heavy}
    outputs = {proto.graph.node[index].output[0]: index for index in names.values()}  # what a node is called that makes an output
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        onnx.save(_marked(proto), path)
        for location in data_files(proto):
            (path.parent / location).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / location, path.parent / location)
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = openvino.Core().compile_model(path, "CPU", options)
    found: dict[int, bool] = {}
    for layer in compiled.get_runtime_model().get_ordered_ops():
        facts = layer.get_rt_info()
        if "layerType" not in facts or facts["layerType"].astype(str) not in _KERNELS:
            continue
        is_integer = facts["primitiveType"].astype(str).lower().endswith("_i8")
        for name in facts["originalLayersNames"].astype(str).split(","):
            plain = name.split("/")[0].removesuffix("_original")
            place = names.get(plain, outputs.get(plain))
            if place is not None:
                found[place] = is_integer
    return found


def has_openvino() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("openvino") is not None


def _marked(proto: ModelProto) -> ModelProto:
    """The file with its nodes called by their places."""
    marked = ModelProto()
    marked.CopyFrom(proto)
    for index, node in enumerate(marked.graph.node):
        node.name = f"[{index}]"
    return marked


def data_files(proto: ModelProto) -> set[str]:
    """The files, named from the folder of the model, that hold its external data."""
    return {
        entry.value
        for tensor in proto.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
