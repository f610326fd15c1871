"""Tell for any quantized ONNX file which operators each runtime executes with integers, which not, and why."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from onnx import ModelProto

from halfstep.errors import ExportError, ModelError, did_you_mean
from halfstep.runtimes import onnxruntime_rules, openvino_rules, tensorrt_rules
from halfstep.runtimes.execution import has_openvino, in_onnxruntime, in_openvino
from halfstep.runtimes.graph import read_graph
from halfstep.runtimes.operator import Operator
from halfstep.runtimes.rule import Verdict, judge
from halfstep.runtimes.saturation import saturation_notes

RULES = {"onnxruntime": onnxruntime_rules.RULES, "openvino": openvino_rules.RULES, "tensorrt": tensorrt_rules.RULES}
RUNTIMES = tuple(RULES)
_LONGEST = 300  # characters of a runtime's own message


@final
@dataclass(frozen=True)
class OperatorCheck:
    """One operator of the file. verdicts: by runtime. is_heavy: a convolution or matrix product."""

    name: str
    op_type: str
    is_heavy: bool
    verdicts: dict[str, Verdict]


@final
@dataclass(frozen=True)
class OnnxCheck:
    """What each runtime makes of a file. notes: layers that saturate on some processors, runtimes that
    could not be asked, or that answered otherwise than their rules.
    """

    path: str
    runtimes: tuple[str, ...]
    operators: tuple[OperatorCheck, ...]
    notes: tuple[str, ...] = ()

    def left_in_float(self, runtime: str) -> tuple[OperatorCheck, ...]:
        """The convolutions and matrix products that ``runtime`` does not compute with integers."""
        return tuple(entry for entry in self.operators if entry.is_heavy and not entry.verdicts[runtime].is_integer)

    @property
    def is_integer(self) -> bool:
        """Whether every runtime that was asked about computes everything heavy with integers."""
        return not any(self.left_in_float(runtime) for runtime in self.runtimes)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self) | {"is_integer": self.is_integer}


def check_onnx(path: str | Path, runtimes: tuple[str, ...] = RUNTIMES) -> OnnxCheck:
    """Judge every operator of the ONNX file at ``path``, ours or not, for ``runtimes``.

    The rules of `onnxruntime_rules`, `openvino_rules` and `tensorrt_rules` decide. ONNX Runtime, and OpenVINO where it is installed, then
    load the file; where what they execute differs from the rule, reality is reported and a note says so. Raises `ModelError` where the
    file cannot be read.
    """
    for name in runtimes:
        if name not in RULES:
            raise ModelError(f"Unknown runtime '{name}'. {did_you_mean(name, RULES)}")
    proto, graph = read_graph(Path(path))
    operators, notes = graph.operators(), saturation_notes(graph) if "onnxruntime" in runtimes else []
    verdicts = {name: _judged(name, proto, Path(path).parent, operators, notes) for name in runtimes}
    checks = tuple(
        OperatorCheck(operator.name, operator.op_type, operator.is_heavy, {name: verdicts[name][place] for name in runtimes})
        for place, operator in enumerate(operators)
    )
    return OnnxCheck(str(path), tuple(runtimes), checks, tuple(notes))


def _judged(runtime: str, proto: ModelProto, folder: Path, operators: list[Operator], notes: list[str]) -> list[Verdict]:
    """The rules' verdicts, corrected by what the runtime shows."""
    verdicts = [judge(operator, RULES[runtime]) for operator in operators]
    executed = _executed(runtime, proto, folder, operators, notes)
    return [_confirmed(runtime, *pair, executed.get(pair[0].index), notes) for pair in zip(operators, verdicts, strict=True)]


def _confirmed(runtime: str, operator: Operator, verdict: Verdict, is_integer: bool | None, notes: list[str]) -> Verdict:
    if is_integer is None:
        return verdict
    if is_integer == verdict.is_integer:
        return dataclasses.replace(verdict, is_confirmed=True)
    shown, expected = ("integers", "float") if is_integer else ("float", "integers")
    because = f" ({verdict.reason})" if verdict.reason else ""
    notes.append(f"{runtime} executes '{operator.name}' ({operator.op_type}) in {shown}; the rules say {expected}{because}.")
    return Verdict(is_integer, f"contrary to the rules, executed in {shown}", is_confirmed=False)


def _executed(runtime: str, proto: ModelProto, folder: Path, operators: list[Operator], notes: list[str]) -> dict[int, bool]:
    """What the runtime itself shows, by place in the file; empty where it cannot be asked."""
    try:
        if runtime == "onnxruntime":
            return in_onnxruntime(proto, folder)
        if runtime == "openvino" and has_openvino():
            return in_openvino(proto, folder, operators)
    except (ExportError, RuntimeError) as error:
        notes.append(f"{runtime} does not load the file, so its column holds the rules alone: {' '.join(str(error).split())[:_LONGEST]}")
        return {}
    if runtime == "openvino":
        notes.append("openvino is not installed: its column holds the rules alone.")
    return {}
