"""What ONNX Runtime really executes: integer kernels for the convolutional networks, from the first to the last layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import halfstep as hs
import zoo
from halfstep.errors import DataError, ExportError
from halfstep.export.session import executed_operators, open_session, run_session

FLOAT_KERNELS = ("Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul", "Add", "Relu", "Clip", "NchwcConv", "Pad", "Slice")


@pytest.mark.parametrize(
    ("name", "integer"),
    [
        ("conv_bn_relu", {"QLinearConv": 2, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
        ("residual", {"QLinearConv": 3, "QLinearAdd": 1, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
        ("depthwise", {"QLinearConv": 3, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
        ("option_a", {"QLinearConv": 2, "QLinearAdd": 1, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
        ("concat", {"QLinearConv": 4, "QLinearConcat": 1, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
        ("shared", {"QLinearConv": 2, "QGemm": 2, "QLinearGlobalAveragePool": 1}),
        ("dead_channel", {"QLinearConv": 2}),
        ("linear_bn", {"QGemm": 3}),
        pytest.param("in_place", {"QLinearConv": 2, "QLinearAdd": 1}, marks=pytest.mark.slow),
        pytest.param("conv1d", {"QLinearConv": 1, "QGemm": 1}, marks=pytest.mark.slow),
        pytest.param("conv3d", {"QLinearConv": 1, "QGemm": 1}, marks=pytest.mark.slow),
        pytest.param("shuffle", {"QLinearConv": 2, "QLinearConcat": 1, "QGemm": 1}, marks=pytest.mark.slow),
        pytest.param("dropout2d", {"QLinearConv": 2}, marks=pytest.mark.slow),
        pytest.param("squeeze_excite", {"QLinearConv": 3, "QLinearMul": 1, "QLinearSigmoid": 1, "QGemm": 1}, marks=pytest.mark.slow),
    ],
)
def test_integer_kernels(name: str, integer: dict[str, int], tmp_path: Path) -> None:
    result = zoo.quantized(name)
    hs.export.onnx(result, tmp_path / "model.onnx")
    found = executed_operators(tmp_path / "model.onnx")
    assert {kind: found[kind] for kind in integer} == integer
    # Slices and pads move codes where their neighbours are integers; they are no float kernels then.
    assert not [kind for kind in FLOAT_KERNELS if found[kind] and kind not in ("Pad", "Slice")], found
    assert found["DequantizeLinear"] <= 1, found  # of the network's output, where a kernel does not return floats itself


def test_four_bit_weights_run_in_the_same_kernels(tmp_path: Path) -> None:
    hs.export.onnx(zoo.quantized("residual", "w4a8"), tmp_path / "model.onnx")
    found = executed_operators(tmp_path / "model.onnx")
    assert (found["QLinearConv"], found["QLinearAdd"], found["QGemm"], found["Conv"], found["Cast"]) == (3, 1, 1, 0, 0)


def test_a_file_onnx_runtime_refuses(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="ONNX Runtime cannot load the model"):
        open_session(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="ONNX Runtime cannot load the model"):
        open_session(tmp_path / "missing.onnx")


def test_a_file_onnx_runtime_cannot_compute(tmp_path: Path) -> None:
    """An output padding as large as the stride, which torch allows where the dilation is larger."""
    network = torch.nn.ConvTranspose2d(4, 4, 3, dilation=2, output_padding=1)
    with pytest.raises(ExportError, match="ONNX Runtime cannot run the model"):
        hs.export.onnx(hs.quantize(network, torch.randn(2, 4, 6, 6)), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_outputs_by_name_and_inputs_by_position(tmp_path: Path) -> None:
    result = zoo.quantized("two_inputs")
    hs.export.onnx(result, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx")
    (x, y) = zoo.ZOO["two_inputs"].inputs(3)
    outputs = run_session(session, (x, y))
    assert [value.shape for value in outputs.values()] == [(3, 4)]
    with pytest.raises(DataError, match="takes 'x'"):
        run_session(session, (x,))
    assert session.get_session_options().intra_op_num_threads == 1
    assert torch.get_num_threads() == 1


def test_weights_alone_in_a_matrix_product_leave_its_inputs_in_float(tmp_path: Path) -> None:
    """ONNX Runtime's default for it rounds the inputs to 8 bits in blocks, which nobody asked for."""
    recipe = hs.Recipe.load("int8").with_types(activations="float")
    result = hs.quantize(zoo.ZOO["attention"].model(), zoo.calibration_of("attention"), recipe)
    check = hs.export.onnx(result, tmp_path / "attention.onnx")
    assert executed_operators(tmp_path / "attention.onnx")["MatMulNBits"] > 0
    assert check.max_output_difference < 1e-5
