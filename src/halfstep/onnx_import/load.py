"""From a file to a network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from halfstep.errors import ModelError


def load_onnx(path: str | Path, strip_quantization: bool = False) -> nn.Module:
    """The network in an ONNX file (opset 11 to 28), as an ``nn.Module`` that `quantize`, `evaluate` and torch itself take.

    It takes the inputs of the file in their order and returns a tensor, or a tuple where the file has several outputs. ``names`` of the
    result maps the paths of its parameters and modules to what the file calls its initializers and nodes; its class (the network's name in
    reports) has the name of the file.
    strip_quantization: read a file that holds QuantizeLinear and DequantizeLinear as the float network between them. Raises `ModelError`
    that names the operator or tensor, and the way out.
    """
    from halfstep.onnx_import.model import read  # loads onnx: not before it is needed
    from halfstep.onnx_import.network import network
    from halfstep.onnx_import.simplify import simplify
    from halfstep.onnx_import.strip import strip

    graph = read(Path(path))
    if strip_quantization:
        strip(graph)
    try:
        return network(simplify(graph), Path(path).stem)
    except (MemoryError, RecursionError) as error:
        raise ModelError(f"'{path}' asks for more memory than there is: check the sizes in the file.") from error
