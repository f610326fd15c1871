"""One random network all the way, and what became of it.

passed      every promise held
refused     one clear error (a `HalfstepError`) in quantization, export or loading
traceback   any other exception
mismatch    float network, export, integer program, C, integer ONNX or loaded run compute something else
collapse    8 bits leave less than 10 dB where plain fake quantization of the same layers leaves 20
"""

from __future__ import annotations

import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import halfstep as hs
from fuzz.random_networks import EIGHT_BITS, INEXACT, LAYERS, Case, draw
from halfstep.errors import HalfstepError, LoweringError
from halfstep.export.c99.native import CompiledProgram
from halfstep.graph.run import run as run_graph
from halfstep.graph.witness import difference
from halfstep.integer import IntegerProgram, quantize_inputs, run

_POOR, _GOOD = 10, 20  # dB
_ON_PURPOSE = 0.3  # what an inexact step may change of random weights, of the largest output
_COMPILED_SHARE = 8  # every so many networks are compiled


@dataclass(frozen=True)
class Outcome:
    """kind: see above. lowered: None where it was not asked for, else "" or why not."""

    kind: str
    detail: str = ""
    lowered: str | None = None


class _MismatchError(Exception):
    """Two things that must be equal are not."""


def attempt(seed: int) -> Outcome:
    """What becomes of the network of a seed."""
    case = draw(seed)
    try:
        lowered = _whole_way(case)
    except HalfstepError as error:
        kind = "mismatch" if "differs from the simulation" in str(error) else "refused"
        return Outcome(kind, f"{type(error).__name__}: {error}")
    except _MismatchError as error:
        kind, _, detail = str(error).partition(": ")
        return Outcome(kind, detail)
    except Exception as error:  # what the fuzzer is for
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/halfstep/" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        return Outcome("traceback", f"{type(error).__name__} at {where}: {str(error).strip().splitlines()[:1]}")
    return Outcome("passed", lowered=lowered)


def _whole_way(case: Case) -> str:
    """Why it was not lowered, or ""; raises where something is wrong."""
    inputs = case.inputs
    data = inputs[0] if len(inputs) == 1 else [(inputs, None)]
    recipe = hs.Recipe.load(case.recipe).with_requantization(case.mode)
    result = hs.quantize(case.network, data, recipe)
    with torch.no_grad():
        expected = _leaves(case.network(*(x.clone() for x in inputs)))
        simulated = _leaves(run_graph(result.model, inputs))
        _same("float network", expected, _leaves(run_graph(result.float_model, inputs)), _ON_PURPOSE if case.recipe in INEXACT else 1e-3)
    if case.recipe in EIGHT_BITS and not any("keeps little of its output" in note for note in result.record.notes):
        _no_collapse(case, expected, simulated)
    with tempfile.TemporaryDirectory() as folder:
        hs.export.onnx(result, Path(folder) / "model.onnx")
        result.save(Path(folder) / "run")
        loaded = hs.load(Path(folder) / "run")
        _same("loaded run", simulated, _leaves(run_graph(loaded.model, inputs)), 0.0)
        try:
            program = hs.lower(result)
        except LoweringError as error:
            return str(error)
        record = result.record.program
        assert record is not None
        for operator in record.operators:  # a tie, and what the error of its multipliers is on 16 bits
            if operator.max_difference > 1 + 2**16 * operator.rescale_error:
                raise _MismatchError(
                    f"mismatch: program, {operator.max_difference} codes at '{operator.name}' ({operator.kind}, {case.mode})"
                )
        if case.seed % _COMPILED_SHARE == 0:
            _same_codes(program, inputs, Path(folder))
    return ""


def _same_codes(program: IntegerProgram, inputs: tuple[Tensor, ...], folder: Path) -> None:
    """Interpreter, compiled C and integer ONNX (which verifies itself) give the same codes."""
    hs.export.c(program, folder / "c", inputs)
    codes = quantize_inputs(program, inputs)
    for one, other in zip(run(program, codes), CompiledProgram(program, folder / "c", ("-O1",))(codes), strict=True):
        if not torch.equal(one.long(), other.long()):
            raise _MismatchError("mismatch: C and interpreter")
    hs.export.onnx_integer(program, folder / "integer.onnx", codes)


def _leaves(outputs: object) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]


def _same(what: str, expected: list[Tensor], found: list[Tensor], allowed: float) -> None:
    apart = difference(expected, found)
    if apart > allowed:
        raise _MismatchError(f"mismatch: {what}, by {apart:.2g} of the largest value")


def _no_collapse(case: Case, expected: list[Tensor], simulated: list[Tensor]) -> None:
    ours = min(_sqnr(one, other) for one, other in zip(expected, simulated, strict=True))
    if ours < _POOR and (plain := min(_sqnr(one, other) for one, other in zip(expected, plainly_quantized(case), strict=True))) >= _GOOD:
        raise _MismatchError(f"collapse: {ours:.1f} dB, plainly {plain:.1f} dB, {case.recipe}")


def _sqnr(expected: Tensor, found: Tensor) -> float:
    signal, noise = expected.double().square().sum(), (expected.double() - found.double()).square().sum()
    return float(10 * torch.log10(signal / noise)) if float(noise) and float(signal) else torch.inf


def plainly_quantized(case: Case) -> list[Tensor]:
    """The network with int8 weights a channel and every value between its operators on 8 bits, ranges from smallest to largest."""
    network = case.network
    layers = [module for module in network.modules() if isinstance(module, LAYERS)]
    kept = [layer.weight.data for layer in layers]
    try:
        for layer in layers:
            layer.weight.data = _rounded_rows(layer.weight.data)
        with torch.no_grad():
            values = [_rounded(x) for x in case.inputs]
            parts = dict(network.parts.named_children())
            for line in network.plan:
                operands = [values[index].clone() for index in line.operands]
                values.append(_rounded(line.apply(*operands) if line.apply is not None else parts[line.name](*operands)))
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.weight.data = weight
    return [values[index] for index in network.outputs]


def _rounded(x: Tensor) -> Tensor:
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    return ((x / scale).round().clamp(round(low / scale), round(low / scale) + 255)) * scale


def _rounded_rows(weight: Tensor) -> Tensor:
    scale = weight.flatten(1).abs().amax(1).clamp(min=1e-30).view(-1, *[1] * (weight.ndim - 1)) / 127
    return (weight / scale).round() * scale
