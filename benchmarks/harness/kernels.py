"""What ONNX Runtime really executes: operator counts of the graph after its own optimization."""

import tempfile
from collections import Counter
from pathlib import Path

INTEGER = ("QLinearConv", "QGemm", "QLinearAdd", "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearConcat", "MatMulIntegerToFloat")
FLOAT = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Add")


def executed_operators(model: Path) -> dict[str, int]:
    """Operator type -> number of nodes, after ONNX Runtime's full optimization for this machine's CPU."""
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimized).graph
    return dict(Counter(node.op_type for node in graph.node).most_common())


def summary(operators: dict[str, int]) -> str:
    """One short cell: integer convolutions of all, integer adds of all, quantize and dequantize nodes left."""
    conv, add = operators.get("QLinearConv", 0), operators.get("QLinearAdd", 0)
    float_conv = operators.get("Conv", 0) + operators.get("FusedConv", 0)
    float_add = operators.get("Add", 0)
    borders = operators.get("QuantizeLinear", 0) + operators.get("DequantizeLinear", 0)
    return f"conv {conv}/{conv + float_conv}, add {add}/{add + float_add}, Q+DQ {borders}"
