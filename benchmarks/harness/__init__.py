"""Small pieces that the benchmarks share: data, measured processes, machine facts, execution in ONNX Runtime, tables."""
