"""What `quantize` returns: the quantized graph and everything that is known about it; saved to a directory and loaded again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor
from torch.fx import GraphModule

from halfstep.digests import changed_files, write_digests
from halfstep.errors import ExportError, HalfstepError, ModelError, first_few
from halfstep.files import atomic_directory
from halfstep.graph.edit import named_state
from halfstep.graph.serialize import from_json, to_json
from halfstep.graph.statistics import Statistics
from halfstep.integer.program import IntegerProgram
from halfstep.integer.record import ProgramRecord
from halfstep.recipes import Recipe
from halfstep.report.record import ExportCheck, LayerFigures, RunRecord
from halfstep.report.report import Report
from halfstep.steps.checkpoint import Checkpoint
from halfstep.tensor_file import read_tensors
from halfstep.workflow.evaluate import Metric, evaluate, prepare
from halfstep.workflow.latency import measure_latency
from halfstep.workflow.soundness import check_sound

GRAPH_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"
FLOAT_GRAPH_FILE, FLOAT_FILE = "float.json", "float.safetensors"
STATISTICS_FILE, SAMPLES_FILE, RECIPE_FILE, FIGURES_FILE = "statistics.safetensors", "samples.safetensors", "recipe.yaml", "figures.json"
RECORD_FILE, REPORT_FILE, ONNX_FILE = "result.json", "report.html", "model.onnx"
PROGRAM_FILE = "program.safetensors"
READ = (
    GRAPH_FILE, WEIGHTS_FILE, FLOAT_GRAPH_FILE, FLOAT_FILE, STATISTICS_FILE, SAMPLES_FILE, RECIPE_FILE, FIGURES_FILE, RECORD_FILE,
    ONNX_FILE, PROGRAM_FILE,
)  # fmt: skip
"""What `load` reads, or hands on by its path."""


@dataclass
class Result:
    """model: the quantized graph, an ``nn.Module`` that simulates the integer network. float_model: the same network in float (batch norms
    folded), node by node. samples: the calibration inputs kept to verify exports. record and figures: the content of the report.
    onnx_path: the last verified export. program: the last integer program that was lowered from it. checkpoint: what the run keeps to be
    resumed from, until it is saved.
    """

    model: GraphModule
    float_model: GraphModule
    recipe: Recipe
    statistics: Statistics
    samples: tuple[Tensor, ...]
    record: RunRecord
    figures: dict[str, LayerFigures]
    onnx_path: Path | None = None
    program: IntegerProgram | None = None
    checkpoint: Checkpoint | None = None

    @property
    def target(self) -> str:
        """The runtime whose fusions decided what is on a grid."""
        return self.recipe.scheme.target

    def note_export(self, path: Path, check: ExportCheck) -> None:
        """Remember an export for the report."""
        self.onnx_path = path
        sizes = {**self.record.bytes, "onnx": path.stat().st_size}
        self.record = dataclasses.replace(self.record, export_check=check, bytes=sizes)

    def note_program(self, program: IntegerProgram, found: ProgramRecord) -> None:
        """Remember an integer program, and for the report what was found about it."""
        self.program = program
        self.record = dataclasses.replace(self.record, program=found, bytes={**self.record.bytes, "program": found.weight_bytes})

    def report(self, evaluate: Metric | None = None, data: Any = None) -> Report:
        """The report as it stands; with a metric and labelled ``data``, after measuring the float, simulated and exported network."""
        if evaluate is not None:
            self._measure(evaluate, data)
        return Report(self.record, self.figures)

    def measure_latency(self) -> dict[str, float]:
        """Time the float network and the last export in ONNX Runtime, one sample on one thread; see `workflow.latency`."""
        if self.onnx_path is None:
            raise ExportError("There is no ONNX file to time yet: call halfstep.export.onnx(result, path) first.")
        latency = measure_latency(self.float_model, self.onnx_path, self.samples)
        self.record = dataclasses.replace(self.record, latency_ms=latency)
        return latency

    def _measure(self, metric: Metric, data: Any) -> None:
        prepared = prepare(data, self.recipe.preprocessing)
        onnx = None if self.onnx_path is None else evaluate(self.onnx_path, prepared, metric)
        self.record = dataclasses.replace(
            self.record,
            metric=getattr(metric, "__name__", str(metric)),
            float=evaluate(self.float_model, prepared, metric),
            simulated=evaluate(self.model, prepared, metric),
            onnx=onnx,
            integer=None if self.program is None else evaluate(self.program, prepared, metric),
        )

    def named_state(self) -> dict[str, Tensor]:
        """The tensors of the simulated network by the user's names, "conv1.weight"; keys of its ``state_dict`` are halfstep's own."""
        return named_state(self.model)

    def save(self, directory: str | Path, force: bool = False) -> None:
        """Write everything to ``directory``, whole or not at all; an existing one with content is refused unless ``force``.

        Then nothing is left to resume: the checkpoint is removed.
        """
        with atomic_directory(directory, force) as folder:
            self.write(folder)
        if self.checkpoint is not None:
            self.checkpoint.clear()

    def write(self, folder: Path) -> None:
        """Write the files of `save` into a folder that is there."""
        _write_json(folder / GRAPH_FILE, to_json(self.model))
        safetensors.torch.save_file(_contiguous(self.model.state_dict()), folder / WEIGHTS_FILE)
        _write_json(folder / FLOAT_GRAPH_FILE, to_json(self.float_model))
        safetensors.torch.save_file(_contiguous(self.float_model.state_dict()), folder / FLOAT_FILE)
        safetensors.torch.save_file({str(index): x.contiguous() for index, x in enumerate(self.samples)}, folder / SAMPLES_FILE)
        self.statistics.save(folder / STATISTICS_FILE)
        (folder / RECIPE_FILE).write_text(self.recipe.to_yaml(), encoding="utf-8")
        if self.program is not None:
            self.program.save(folder / PROGRAM_FILE)
        _write_json(folder / FIGURES_FILE, {name: dataclasses.asdict(figures) for name, figures in self.figures.items()})
        self.report().json(folder / RECORD_FILE)
        self.report().html(folder / REPORT_FILE)
        write_digests(folder)


def load(directory: str | Path, allow_changed: bool = False) -> Result:
    """The result that `Result.save` wrote to ``directory``.

    Raises `ModelError` where that is not a run directory, is damaged, or holds a file that is not as it was written; it names the file.
    allow_changed: load it all the same, if what is in it can be a quantized network at all (`workflow.soundness`).
    """
    folder = Path(directory)
    if not (folder / GRAPH_FILE).is_file():
        raise ModelError(
            f"'{directory}' is not a run directory of halfstep: it holds no {GRAPH_FILE}. 'halfstep quantize --out' makes one."
        )
    if not allow_changed:
        refuse_changed(folder)
    try:
        model = _read_graph(folder / GRAPH_FILE, folder / WEIGHTS_FILE)
        float_model = _read_graph(folder / FLOAT_GRAPH_FILE, folder / FLOAT_FILE)
        samples = read_tensors(folder / SAMPLES_FILE)
        record = pydantic.TypeAdapter(RunRecord).validate_python(json.loads((folder / RECORD_FILE).read_text(encoding="utf-8")))
        figures = _read_figures(folder / FIGURES_FILE)
        check_sound(model, float_model)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError, HalfstepError) as error:
        raise ModelError(f"The run directory '{directory}' is damaged: {_first_line(error)}") from error
    onnx_path = folder / ONNX_FILE if (folder / ONNX_FILE).is_file() else None
    program = IntegerProgram.load(folder / PROGRAM_FILE) if (folder / PROGRAM_FILE).is_file() else None
    statistics = Statistics.load(folder / STATISTICS_FILE)
    ordered = tuple(samples[str(index)] for index in range(len(samples)))
    return Result(model, float_model, Recipe.load(folder / RECIPE_FILE), statistics, ordered, record, figures, onnx_path, program)


def refuse_changed(folder: Path) -> None:
    """Raise `ModelError` that names the files of the run directory ``folder`` that are not as they were written."""
    changed = changed_files(folder, READ)
    if changed:
        raise ModelError(
            f"The run directory '{folder}' is not as it was written: {first_few(changed, 3)}. Copy it again, or where you changed it "
            "yourself, load it all the same: --allow-changed (hs.load(directory, allow_changed=True))."
        )


def _read_graph(structure: Path, tensors: Path) -> GraphModule:
    return from_json(json.loads(structure.read_text(encoding="utf-8")), read_tensors(tensors))


def _read_figures(path: Path) -> dict[str, LayerFigures]:
    adapter = pydantic.TypeAdapter(dict[str, LayerFigures])
    return adapter.validate_json(path.read_bytes())


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
