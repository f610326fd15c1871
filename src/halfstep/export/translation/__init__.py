"""How each ATen operator is written in ONNX: one table a family."""
