"""One random network all the way, and what became of it.

passed      every promise held
refused     one clear error (a `HalfstepError`) in quantization or export that does not lay the blame on halfstep
traceback   any other exception
defect      an error that speaks of a defect of halfstep, or comes where nothing may be refused any more
mismatch    float network, export, integer program, C, integer ONNX or loaded run compute something else
collapse    8 bits leave less than 10 dB where plain fake quantization of the same layers leaves 20
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
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
from halfstep.steps import Scheme

_POOR, _GOOD = 10, 20  # dB
_ON_PURPOSE = 0.3  # what an inexact step may change of random weights, of the largest output
_ROUNDED_OFF = 1e-6  # outputs that are no larger, relative to the inputs, hold nothing else
_COMPILED_SHARE = 8  # every so many networks are compiled
# What `hs.lower` may refuse; an error of `integer.check` means that it made a program that is not sound.
_NO_INTEGER_FORM = ("have no integer form", "between two tensors", "no multiplier of", "beyond 32 bits", "can pass 63 bits")


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
        return Outcome(_blame(error), f"{type(error).__name__}: {error}")
    except _MismatchError as error:
        kind, _, detail = str(error).partition(": ")
        return Outcome(kind, detail)
    except Exception as error:  # what the fuzzer is for
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/halfstep/" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        return Outcome("traceback", f"{type(error).__name__} at {where}: {str(error).strip().splitlines()[:1]}")
    return Outcome("passed", lowered=lowered)


def _blame(error: HalfstepError) -> str:
    """Exports that compute something else say how to go on, yet are never right; so is what asks to be reported."""
    text = str(error)
    if "differs from the simulation" in text or "than the integer program" in text or "outputs differ" in text:
        return "mismatch"
    return "defect" if "defect" in text or "ONNX Runtime cannot" in text else "refused"


@contextmanager
def _nothing_refused(what: str) -> Iterator[None]:
    """What halfstep has made, halfstep writes and reads: an error here is not the user's to mend."""
    try:
        yield
    except HalfstepError as error:
        kind = "mismatch" if _blame(error) == "mismatch" else "defect"
        raise _MismatchError(f"{kind}: {what}, {type(error).__name__}: {error}") from error


def _whole_way(case: Case) -> str:
    """Why it was not lowered, or ""; raises where something is wrong."""
    inputs = case.inputs
    data = inputs[0] if len(inputs) == 1 else [(inputs, None)]
    result = hs.quantize(case.network, data, recipe_of(case))
    with torch.no_grad():
        expected = _leaves(case.network(*(x.clone() for x in inputs)))
        simulated = _leaves(run_graph(result.model, inputs))
        allowed, floating = _ON_PURPOSE if case.recipe in INEXACT else 1e-3, _leaves(run_graph(result.float_model, inputs))
        shown = [float(x.abs().max()) > _ROUNDED_OFF * max(float(part.abs().max()) for part in inputs) for x in expected]
        _same("float network", list(compress(expected, shown)), list(compress(floating, shown)), allowed)
    if case.recipe in EIGHT_BITS and not any("keeps little of" in note for note in result.record.notes):
        _no_collapse(case, expected, simulated)
    with tempfile.TemporaryDirectory() as folder:
        hs.export.onnx(result, Path(folder) / "model.onnx")
        with _nothing_refused("save and load"):
            result.save(Path(folder) / "run")
            loaded = hs.load(Path(folder) / "run")
            _same("loaded run", simulated, _leaves(run_graph(loaded.model, inputs)), 0.0)
        try:
            program = hs.lower(result)
        except LoweringError as error:
            if not any(words in str(error) for words in _NO_INTEGER_FORM):
                raise _MismatchError(f"defect: the program does not hold what it must, {error}") from error
            return str(error)
        record = result.record.program
        assert record is not None
        for operator in record.operators:  # a tie, and on 16 bits the error of its multipliers, or 2^-16 of what a norm makes
            if operator.max_difference > 1 + (operator.kind == "layer_norm") + 2**16 * operator.rescale_error:
                raise _MismatchError(
                    f"mismatch: program, {operator.max_difference} codes at '{operator.name}' ({operator.kind}, {program.mode})"
                )
        with _nothing_refused("ways out of the program"):
            _same_codes(program, inputs, Path(folder), is_compiled=case.seed % _COMPILED_SHARE == 0)
    return ""


def _same_codes(program: IntegerProgram, inputs: tuple[Tensor, ...], folder: Path, is_compiled: bool) -> None:
    """Interpreter, the program saved and loaded, integer ONNX (which verifies itself) and compiled C give the same codes."""
    codes = quantize_inputs(program, inputs)
    expected = run(program, codes)
    hs.export.onnx_integer(program, folder / "integer.onnx", codes)
    program.save(folder / "program.safetensors")
    _equal("loaded program", expected, run(hs.IntegerProgram.load(folder / "program.safetensors"), codes))
    if is_compiled:
        hs.export.c(program, folder / "c", inputs)
        _equal("C", expected, CompiledProgram(program, folder / "c", ("-O1",))(codes))


def _equal(what: str, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    if not all(torch.equal(one.long(), other.long()) for one, other in zip(expected, found, strict=True)):
        raise _MismatchError(f"mismatch: {what} and interpreter")


def recipe_of(case: Case) -> hs.Recipe:
    """The shipped recipe with the options of the case."""
    recipe = hs.Recipe.load(case.recipe)
    scheme = Scheme.model_validate(recipe.scheme.model_dump() | case.options)
    return recipe.model_copy(update={"scheme": scheme})


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
