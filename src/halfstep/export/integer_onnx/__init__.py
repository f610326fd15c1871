"""An integer program as ONNX with integers alone: ConvInteger, MatMulInteger and integer arithmetic, no float tensor anywhere.

Inputs and outputs are codes, in the smallest integer type that holds them, batch first. Every operator has its own function, found by kind.
The finished file is executed in ONNX Runtime and has to give the interpreter's codes, every one of them, before it gets its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import Tensor

from halfstep.errors import ExportError
from halfstep.export.integer_onnx import elementwise, layers, movement, normalizations
from halfstep.export.integer_onnx.verify import verify
from halfstep.export.integer_onnx.writer import Writer
from halfstep.files import atomic_path
from halfstep.integer.operators import AbstractOperator
from halfstep.integer.program import IntegerProgram
from halfstep.integer.requantization import Rescale

WRITERS: dict[str, Callable[[Writer, Any], ir.Value]] = {
    "add": elementwise.write_add,
    "argmax": elementwise.write_argmax,
    "average_pool": layers.write_average_pool,
    "concat": elementwise.write_concat,
    "constant": movement.write_constant,
    "conv": layers.write_conv,
    "conv_transpose": layers.write_conv_transpose,
    "copy": movement.write_copy,
    "embedding": movement.write_embedding,
    "gather": movement.write_gather,
    "layer_norm": normalizations.write_layer_norm,
    "linear": layers.write_linear,
    "lookup": elementwise.write_lookup,
    "matmul": layers.write_matmul,
    "max_pool": movement.write_max_pool,
    "mean": elementwise.write_mean,
    "mul": elementwise.write_mul,
    "pad": movement.write_pad,
    "requantize": elementwise.write_requantize,
    "reshape": movement.write_reshape,
    "softmax": normalizations.write_softmax,
}
"""By kind of operator: what writes its nodes and returns the stored codes of its output."""


@dataclass(frozen=True)
class OnnxIntegerExport:
    """A written file, equal to the interpreter. num_samples: it was compared on. num_codes: of the outputs, compared. num_nodes: it has.

    num_bytes: of the file.
    """

    path: Path
    num_samples: int
    num_codes: int
    num_nodes: int
    num_bytes: int


def export_onnx_integer(program: IntegerProgram, path: Path, inputs: tuple[Tensor, ...] | None = None) -> OnnxIntegerExport:
    """Write ``program`` to ``path``: opset 21, the user's names of inputs and layers, outputs "output", "output_1" ...

    inputs: codes to compare with the interpreter on, integers [N, ...] each; None: random codes and the ends of every grid. Raises
    `ExportError`, and leaves no file, where the program requantizes in floats or the file gives a single other code, naming the layer.
    """
    for operator in program.operators:
        _refuse_floats(operator)
    writer = Writer(program)
    for operator in program.operators:
        writer.open(operator.name)
        writer.finish_value(operator.output, WRITERS[operator.kind](writer, operator))
    model = writer.model()
    with atomic_path(Path(path)) as temporary:
        ir.save(model, temporary)
        tensors = {name: str(value.name) for name, value in writer.values.items()}
        num_samples, num_codes = verify(program, temporary, tensors, inputs)
        return OnnxIntegerExport(Path(path), num_samples, num_codes, len(list(model.graph)), temporary.stat().st_size)


def _refuse_floats(operator: AbstractOperator) -> None:
    rescales = (getattr(operator, "rescale", None), *getattr(operator, "rescales", ()))
    if any(isinstance(rescale, Rescale) and rescale.real is not None for rescale in rescales):
        raise ExportError(
            f"Layer '{operator.name}' requantizes in floats, which is for comparison alone and has no form in integers. Lower the network "
            "in another mode, such as fixed_point_32."
        )
