"""Run an integer program exactly: the meaning that C and ONNX are held to, bit for bit.

Products are taken in floating matrix kernels, which are fast, and only where every partial sum is an integer the type holds exactly (below
2^24 in float32, 2^53 in float64; `accumulator_bounds` proves it from the actual codes). Requantization is done in 64-bit integers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from halfstep.errors import DataError
from halfstep.integer.program import IntegerProgram

BATCH_SIZE = 32  # the codes of a layer stay in the cache
See = Callable[[str, Tensor], None]


def as_tuple(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs of a network, of which a single one may stand for itself."""
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def quantize_inputs(program: IntegerProgram, inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Real inputs [N, ...] as codes, int32: divided by the scale in float32 and rounded half to even, as ONNX QuantizeLinear does."""
    inputs = as_tuple(inputs)
    _check_inputs(program, inputs)
    codes = []
    for name, x in zip(program.inputs, inputs, strict=True):
        value = program.values[name]
        scaled = torch.round(x.float() / torch.tensor(value.scale, dtype=torch.float32)) + value.zero_point
        codes.append(scaled.clamp(value.grid.minimum, value.grid.maximum).to(torch.int32))
    return tuple(codes)


def dequantize_outputs(program: IntegerProgram, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Codes of the outputs as the real numbers they stand for, float64."""
    values = [program.values[name] for name in program.outputs]
    return tuple((codes.double() - value.zero_point) * value.scale for codes, value in zip(outputs, values, strict=True))


def run(program: IntegerProgram, inputs: Tensor | tuple[Tensor, ...], see: See | None = None) -> tuple[Tensor, ...]:
    """The codes of the outputs, int32 [N, ...], from codes of the inputs, integers [N, ...].

    see: called with (name, codes) of every value of every part of the batch. Raises `DataError` where the inputs do not fit.
    """
    inputs = as_tuple(inputs)
    _check_inputs(program, inputs)
    parts = [
        _run_part(program, tuple(x[start : start + BATCH_SIZE] for x in inputs), see) for start in range(0, len(inputs[0]), BATCH_SIZE)
    ]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _run_part(program: IntegerProgram, inputs: tuple[Tensor, ...], see: See | None) -> tuple[Tensor, ...]:
    size = len(inputs[0])
    codes = {name: x.to(torch.int32) for name, x in zip(program.inputs, inputs, strict=True)}
    uses = Counter(name for operator in program.operators for name in operator.inputs) + Counter(program.outputs)
    if see is not None:
        for name, x in codes.items():
            see(name, x)
    with torch.no_grad():
        for operator in program.operators:
            codes[operator.output] = operator.run([codes[name] for name in operator.inputs], program.values)
            if see is not None:
                see(operator.output, codes[operator.output])
            for name in operator.inputs:
                uses[name] -= 1
                if not uses[name]:
                    codes.pop(name, None)
    return tuple(codes[name].expand(size, *codes[name].shape[1:]) for name in program.outputs)


def run_operators(program: IntegerProgram, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The output of every operator, each from the given ``codes`` of its inputs where there are any, else from what was computed here."""
    computed: dict[str, Tensor] = {}
    with torch.no_grad():
        for operator in program.operators:
            given = [codes[name] if name in codes else computed[name] for name in operator.inputs]
            computed[operator.output] = operator.run(given, program.values)
    return computed


def _check_inputs(program: IntegerProgram, inputs: tuple[Tensor, ...]) -> None:
    if len(inputs) != len(program.inputs):
        raise DataError(f"The program takes {len(program.inputs)} input(s), the data gives {len(inputs)}.")
    for name, x in zip(program.inputs, inputs, strict=True):
        wanted = program.values[name].shape
        if tuple(x.shape[1:]) != wanted or len(x) == 0:
            raise DataError(f"Input '{name}' must have the shape [batch, {', '.join(map(str, wanted))}], the data has {list(x.shape)}.")
