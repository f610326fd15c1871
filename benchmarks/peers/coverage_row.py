"""One model of the coverage benchmark through every stage, in a process of its own; what became of it goes to ``--out`` stage by stage.

The file is written after every stage, so that a process that is killed leaves what it finished.
"""

import argparse
import json
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.coverage_models import MODELS
from harness.peer import quiet_environment

IMPORT_TOLERANCE = 1e-4  # of an imported network's outputs from ONNX Runtime's, relative to the largest


@dataclass
class Row:
    """stages: seconds, by name, of those that were passed. failure: where and why it ended; None if nowhere."""

    path: Path
    stages: dict[str, float] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)

    def save(self) -> None:
        content = {"stages": self.stages, "failures": self.failures, **self.found}
        self.path.write_text(json.dumps(content))

    @contextmanager
    def stage(self, name: str) -> Iterator["Stage"]:
        """Time a stage; an exception in it is noted under the stage's name, or the one it was renamed to, and ends it."""
        stage = Stage(self, name)
        try:
            yield stage
        except Exception as error:  # every kind is an outcome
            from halfstep.errors import HalfstepError

            kind = "error" if isinstance(error, HalfstepError) else "traceback"
            text = " ".join(str(error).split()) or type(error).__name__
            self.failures[stage.name] = {"kind": kind, "type": type(error).__name__, "message": text[:600]}
            traceback.print_exc()
        else:
            stage.done()
        self.save()


@dataclass
class Stage:
    """A stage under way; ``next`` ends it and begins another within the same block."""

    row: Row
    name: str
    started: float = field(default_factory=time.perf_counter)

    def done(self) -> None:
        self.row.stages[self.name] = round(self.row.stages.get(self.name, 0.0) + time.perf_counter() - self.started, 2)
        self.started = time.perf_counter()

    def next(self, name: str) -> None:
        if name != self.name:
            self.done()
            self.name = name
            self.row.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    quiet_environment()
    import torch

    torch.set_num_threads(1)
    row = Row(given.out)
    with tempfile.TemporaryDirectory() as folder:
        _run(row, given.model, given.seed, Path(folder))


def _run(row: Row, name: str, seed: int, folder: Path) -> None:
    from harness.coverage_networks import build

    network = inputs = None
    with row.stage("build"):
        network, inputs = build(MODELS[name], seed)
        row.found["parameters"] = sum(p.numel() for p in network.parameters())
    if network is None:
        return
    if MODELS[name].through_onnx:
        network = _imported(row, network, inputs, folder)
        if network is None:
            return
    result = _quantized(row, network, inputs, seed)
    if result is None:
        return
    _exported(row, result, folder / "model.onnx")
    _lowered(row, result)


def _imported(row: Row, network: Any, inputs: Any, folder: Path) -> Any:
    """The network as PyTorch's exporter writes it and halfstep reads it, or None; its outputs beside ONNX Runtime's of the same file."""
    import torch

    import halfstep as hs
    from harness.coverage_networks import export_float, leaves, run_onnx

    path = folder / "float.onnx"
    with row.stage("torch.onnx") as stage:
        export_float(network, inputs, path)
        stage.next("import")
        read = hs.load_onnx(path)
        with torch.no_grad():
            ours, theirs = leaves(read(*inputs)), run_onnx(path, inputs)
        difference = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in zip(ours, theirs, strict=True))
        row.found["import_difference"] = difference
        if not difference <= IMPORT_TOLERANCE:
            raise ValueError(f"the imported network differs from ONNX Runtime by {difference:.2g} of its largest output")
        return read
    return None


def _quantized(row: Row, network: Any, inputs: Any, seed: int) -> Any:
    """The result of int8 quantization, simulated, or None."""
    import torch

    import halfstep as hs
    from halfstep.graph.run import run
    from harness.coverage_networks import leaves

    with row.stage("capture") as stage:

        def progress(phase: str, done: float, total: int | None) -> None:
            stage.next("capture" if phase in ("data", "capture") else "quantize")

        quantized = hs.quantize(network, (inputs, None), seed=seed, progress=progress)
        stage.next("simulate")
        exact, simulated = leaves(run(quantized.float_model, inputs)), leaves(run(quantized.model, inputs))
        if not all(bool(torch.isfinite(x).all()) for x in simulated):
            raise ValueError("the simulated network's outputs are not finite")
        noise = sum(float((a - b).double().square().sum()) for a, b in zip(exact, simulated, strict=True))
        signal = sum(float((a - a.mean()).double().square().sum()) for a in exact)
        row.found["noise_to_signal"] = noise / max(signal, 1e-300)
        row.found["float_operators"] = dict(Counter(entry.operator for entry in quantized.record.float_operators))
        row.found["unknown_operators"] = sorted({e.operator for e in quantized.record.float_operators if "unknown" in e.reason})
        row.found["notes"] = list(quantized.record.notes)
        return quantized
    return None


def _exported(row: Row, result: Any, path: Path) -> None:
    import halfstep as hs

    with row.stage("export") as stage:
        import halfstep.export.onnx_qdq as exporter

        verify = exporter.verify

        def timed(*arguments: Any) -> Any:
            stage.next("runtime")
            return verify(*arguments)

        exporter.verify = timed
        check = hs.export.onnx(result, path)
        row.found["onnx_bytes"] = path.stat().st_size
        row.found["differing_codes"] = check.differing_codes
        row.found["output_difference"] = check.max_output_difference


def _lowered(row: Row, result: Any) -> None:
    import halfstep as hs

    with row.stage("lower"):
        program = hs.lower(result)
        row.found["num_integer_operators"] = len(program.operators)


if __name__ == "__main__":
    main()
