"""Sums of two products in 16 bits: which weights allow them to saturate, and that our sessions never do."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import halfstep as hs
import zoo
from halfstep.export.session import EXACT_PRODUCTS, open_session, run_session
from halfstep.runtimes.saturation import can_saturate


@given(arrays(np.int8, st.tuples(st.integers(1, 3), st.integers(1, 5))))
def test_as_every_pair_of_weights_and_extreme_inputs_says(rows: np.ndarray) -> None:
    sums = [
        x * int(first) + y * int(second)
        for row in rows
        for first, second in itertools.combinations(row, 2)
        for x, y in itertools.product((0, 255), repeat=2)
    ]
    assert can_saturate(rows) == any(not -(2**15) <= total < 2**15 for total in sums)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with weights of 8, 7 and 4 bits."""
    folder = tmp_path_factory.mktemp("files")
    text = (Path(hs.__file__).parent / "recipes" / "int8.yaml").read_text()
    (folder / "int7.yaml").write_text(text.replace("type: int8", "type: int7"))
    network, calibration = zoo.ZOO["residual"].model(), zoo.calibration_of("residual")
    for name, recipe in (("int8", "int8"), ("int7", folder / "int7.yaml"), ("int4", "lattice-w4a8")):
        hs.export.onnx(hs.quantize(network, calibration, recipe), folder / f"{name}.onnx")
    return folder


def test_a_file_with_8_bit_weights_gets_a_note(files: Path) -> None:
    (note,) = hs.check_onnx(files / "int8.onnx", ("onnxruntime",)).notes
    assert EXACT_PRODUCTS in note and "in 4 of 4 layers" in note
    assert not any(EXACT_PRODUCTS in note for note in hs.check_onnx(files / "int8.onnx", ("tensorrt",)).notes)
    for name in ("int7", "int4"):
        assert hs.check_onnx(files / f"{name}.onnx", ("onnxruntime",)).notes == ()


def test_weights_of_7_bits_need_no_option(files: Path) -> None:
    """Whatever the processor: a session with ONNX Runtime's defaults computes what ours does."""
    x = zoo.ZOO["residual"].inputs(16)
    plain = onnxruntime.InferenceSession(str(files / "int7.onnx"), providers=["CPUExecutionProvider"])
    for name, found in run_session(plain, x).items():
        assert np.array_equal(found, run_session(open_session(files / "int7.onnx"), x)[name])


@pytest.mark.parametrize("operator", ["QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"])
def test_our_sessions_do_not_saturate(operator: str) -> None:
    """The largest products there are: 64 times 255 * 127."""
    is_conv, is_scaled = "Conv" in operator, operator.startswith("QLinear")
    weight = np.full((3, 64, 1, 1) if is_conv else (64, 3), 127, np.int8)
    stored = {"w": weight, "one": np.float32(1), "large": np.float32(1 << 14), "zero": np.uint8(0), "none": np.int8(0)}
    names = ["x", "one", "zero", "w", "one", "none", "large", "zero"] if is_scaled else ["x", "w", "zero", "none"]
    x = torch.full((1, 64, 8, 8) if is_conv else (8, 64), 255, dtype=torch.uint8)
    shape = [1, 3, 8, 8] if is_conv else [8, 3]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, names, ["y"])],
        "products",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, list(x.shape))],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8 if is_scaled else onnx.TensorProto.INT32, shape)],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items() if name in names],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)], ir_version=8)
    (found,) = run_session(open_session(model.SerializeToString()), (x,)).values()
    exact = 64 * 255 * 127
    assert np.all(found == (round(exact / (1 << 14)) if is_scaled else exact))
