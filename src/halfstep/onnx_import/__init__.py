"""ONNX files as input: each operator translated to ATen, under the names of the file."""
