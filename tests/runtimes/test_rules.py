"""Every rule against reality: small graphs are loaded in ONNX Runtime, and in OpenVINO where it is installed."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from quantized_patterns import PATTERNS

from halfstep.runtimes.check import RULES
from halfstep.runtimes.execution import has_openvino, in_onnxruntime, in_openvino
from halfstep.runtimes.graph import read_graph
from halfstep.runtimes.operator import Operator
from halfstep.runtimes.rule import judge

FLOAT_IN_ONNXRUNTIME = {
    "conv_no_output_grid", "conv_float_input", "conv_nibbles", "conv_16_bit", "conv_16_bit_output", "conv_int8_branch",
    "conv_int8_branch_out_branch", "conv_relu_symmetric", "conv_relu_zero_10", "conv_relu_int8", "conv_clip6_wide", "conv_sigmoid",
    "conv_hardswish", "conv_add", "conv_batch_norm", "conv_two_readers", "conv_behind_relu", "conv_transpose", "conv_transpose_int8",
    "conv_transpose_zero", "add_float_shortcut", "add_no_output_grid", "sub", "div", "add_number", "average_pool_no_output_grid",
    "reduce_mean", "resize_linear", "relu", "tanh", "hard_swish", "gelu", "pad", "where_like", "gemm_no_output_grid", "gemm_nibbles",
    "gemm_cast_nibbles", "gemm_asymmetric", "gemm_uint8", "gemm_float_input", "matmul_nibbles", "matmul_float_input",
    "matmul_float_input_nibbles", "max_pool_int8_branch", "conv_bias_of_another_scale",
}  # fmt: skip
FLOAT_IN_OPENVINO = {
    "conv_float_input", "conv_float_weight", "conv_nibbles", "conv_uint8_weight", "conv_asymmetric_weight", "conv_16_bit",
    "conv_16_bit_output", "conv_behind_relu", "conv_transpose", "gemm_nibbles", "gemm_asymmetric", "gemm_uint8", "gemm_float_input",
    "matmul_nibbles", "matmul_float_input", "matmul_float_input_nibbles", "matmul_two_activations", "matmul_two_activations_zero",
    "conv_unpacked", "conv_unpacked_quarters", "conv_integer", "dynamic_matmul",
}  # fmt: skip


LAYERS = [name for name in PATTERNS if name.startswith(("conv", "gemm", "matmul", "qlinear_conv", "dynamic"))]


def judged(name: str, folder: Path) -> tuple[onnx.ModelProto, Operator]:
    onnx.save(PATTERNS[name](), folder / "pattern.onnx")
    proto, graph = read_graph(folder / "pattern.onnx")
    operators = graph.operators()
    return proto, next(operator for operator in operators if operator.name == "judged")


@pytest.mark.parametrize("name", PATTERNS)
def test_onnxruntime_does_what_its_rules_say(name: str, tmp_path: Path) -> None:
    proto, operator = judged(name, tmp_path)
    expected = name not in FLOAT_IN_ONNXRUNTIME
    assert judge(operator, RULES["onnxruntime"]).is_integer is expected
    assert in_onnxruntime(proto, tmp_path).get(operator.index, expected) is expected  # missing: vanished or split up


@pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")
@pytest.mark.parametrize("name", LAYERS)
def test_openvino_does_what_its_rules_say(name: str, tmp_path: Path) -> None:
    proto, operator = judged(name, tmp_path)
    expected = name not in FLOAT_IN_OPENVINO
    assert judge(operator, RULES["openvino"]).is_integer is expected
    assert in_openvino(proto, tmp_path, [operator]).get(operator.index, expected) is expected


@pytest.mark.parametrize(("name", "is_integer"), [("conv_int8_symmetric", True), ("conv", False), ("matmul_int8_no_output_grid", True)])
def test_tensorrt_reads_symmetric_int8_alone(name: str, is_integer: bool, tmp_path: Path) -> None:
    _, operator = judged(name.removesuffix("_symmetric"), tmp_path)
    verdict = judge(operator, RULES["tensorrt"])
    assert (verdict.is_integer, verdict.is_refused) == (is_integer, not is_integer)


def test_most_answers_are_seen_in_what_is_executed(tmp_path: Path) -> None:
    """A file whose operators are not found again would make every comparison above pass."""
    seen = 0
    for name in PATTERNS:
        proto, operator = judged(name, tmp_path)
        seen += operator.index in in_onnxruntime(proto, tmp_path)
    assert seen >= len(PATTERNS) - 2  # ONNX Runtime writes hard swish in two operators of its own
