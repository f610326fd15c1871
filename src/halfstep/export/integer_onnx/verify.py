"""An exported file against the interpreter: every code of every output, and where one differs, the first layer that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from halfstep.errors import DataError, ExportError
from halfstep.export.integer_onnx.writer import border_type
from halfstep.export.session import open_session, run_session
from halfstep.integer.interpreter import run
from halfstep.integer.program import IntegerProgram
from halfstep.integer.value import Value

NUM_SAMPLES = 8
_BATCH_SIZE = 32


def verify(program: IntegerProgram, path: Path, tensors: dict[str, str], inputs: tuple[Tensor, ...] | None) -> tuple[int, int]:
    """(samples, codes of the outputs) that were compared. tensors: the file's name of every value.

    Raises `ExportError` that names the first layer with another code; `DataError` where the inputs do not fit the program.
    """
    codes = random_codes(program) if inputs is None else inputs
    for name, x in zip(program.inputs, codes, strict=False):
        _check_range(program.values[name], x)
    session, num_codes = open_session(path), 0
    for start in range(0, len(codes[0]), _BATCH_SIZE):
        part = tuple(x[start : start + _BATCH_SIZE] for x in codes)
        wanted = run(program, part)
        given = run_session(session, in_file(program, part))
        for expected, found in zip(wanted, given.values(), strict=True):
            if not np.array_equal(expected.numpy(), found.astype(np.int64)):
                raise _difference(program, path, tensors, part)
            num_codes += expected.numel()
    return len(codes[0]), num_codes


def random_codes(program: IntegerProgram, seed: int = 0) -> tuple[Tensor, ...]:
    """Inputs, int32 [8, ...]: one sample of the least codes, one of the greatest, one of zeros, then any codes."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for name in program.inputs:
        value = program.values[name]
        low, high = value.grid.minimum, value.grid.maximum
        codes = torch.randint(low, high + 1, (NUM_SAMPLES, *value.shape), generator=generator)
        codes[0], codes[1], codes[2] = low, high, value.zero_point
        found.append(codes.to(torch.int32))
    return tuple(found)


def _check_range(value: Value, x: Tensor) -> None:
    low, high = (int(end) for end in torch.aminmax(x)) if x.numel() else (0, 0)
    if x.is_floating_point() or low < value.grid.minimum or high > value.grid.maximum:
        raise DataError(
            f"Input '{value.name}' takes the codes {value.grid.minimum} .. {value.grid.maximum}, the data holds {x.dtype} from {low} to "
            f"{high}. Quantize it first: integer.quantize_inputs."
        )


def in_file(program: IntegerProgram, codes: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """``codes`` in the integer types of the file's inputs."""
    types = [border_type(program.values[name]).numpy() for name in program.inputs]
    return tuple(torch.from_numpy(x.numpy().astype(kind)) for x, kind in zip(codes, types, strict=True))


def _difference(program: IntegerProgram, path: Path, tensors: dict[str, str], codes: tuple[Tensor, ...]) -> ExportError:
    """Which layer it is, from a second run with the codes of every layer as outputs."""
    model = onnx.load(path)
    present = {output for node in model.graph.node for output in node.output}
    probed = [tensors[operator.output] for operator in program.operators if tensors[operator.output] in present]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in probed if name not in known)
    given = run_session(open_session(model.SerializeToString()), in_file(program, codes))
    wanted: dict[str, Tensor] = {}
    run(program, codes, wanted.__setitem__)
    for operator in program.operators:
        count = _num_differing(wanted[operator.output], given.get(tensors[operator.output]))
        if count:
            return ExportError(
                f"ONNX Runtime computes {count} other code(s) at layer '{operator.name}' ({operator.kind}) than the integer program. "
                "Update ONNX Runtime, or report this as a defect."
            )
    return ExportError(
        "ONNX Runtime computes other codes than the integer program, yet not where every layer is looked at: its optimizations change "
        "the result. Update ONNX Runtime, or report this as a defect."
    )


def _num_differing(wanted: Tensor, found: np.ndarray[Any, Any] | None) -> int:
    if found is None:
        return 0
    return int((np.broadcast_to(wanted.numpy(), found.shape) != found.astype(np.int64)).sum())
