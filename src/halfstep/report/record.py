"""What a run leaves behind, as plain values: the content of ``result.json`` and the input of every printed report."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from halfstep.integer.record import ProgramRecord

_Float = float  # RunRecord has a field `float`, which hides the type from the annotations of its class


@dataclass(frozen=True)
class GridRecord:
    """One quantized tensor: its grid, and how much of the tensor survived."""

    grid: str  # "int8", "uint8", "int4" ...
    bits: int
    symmetric: bool
    per_channel: bool
    scale: tuple[float, float]  # smallest and largest over the channels
    zero_point: tuple[int, int]  # smallest and largest over the channels
    range: tuple[float, float]  # the real values the grid covers
    observed: tuple[float, float]  # the smallest and largest value seen (of the weights, or during calibration)
    sqnr_db: float | None  # 10 log10(E x^2 / E (x - quantized(x))^2); None where not measured or exact
    group_size: int | None = None  # inputs of a channel that share a scale; None: all of them
    zeros: float | None = None  # share of a stored tensor's values that are 0; None: not a stored tensor


@dataclass(frozen=True)
class LayerRecord:
    """One row a node of the graph that holds weights or owns a quantized output."""

    name: str  # the user's module name, "layer1.0.conv1"
    operator: str  # "conv2d", "add" ...
    output_shape: tuple[int, ...]  # of one sample, without the batch axis
    num_macs: int | None  # multiply-accumulates a sample; None for operators without weights
    num_parameters: int
    bytes_float: int
    bytes_quantized: int
    weight: GridRecord | None
    output: GridRecord | None  # None: the output stays in float or shares its input's grid
    sqnr_db: float | None  # of the output, whole float network against whole simulated network


@dataclass(frozen=True)
class HistogramRecord:
    """Counts over equal bins from ``minimum`` to ``maximum``; ``threshold`` is the range the grid covers."""

    minimum: float
    maximum: float
    counts: tuple[int, ...]
    threshold: tuple[float, float] | None = None


@dataclass(frozen=True)
class LayerFigures:
    """The pictures of one row of the report; a missing one is None."""

    activation: HistogramRecord | None = None
    weight_before: HistogramRecord | None = None
    weight_after: HistogramRecord | None = None


@dataclass(frozen=True)
class FloatOperator:
    """An operator that stays in float, where it stands, and why."""

    operator: str
    name: str
    reason: str


@dataclass(frozen=True)
class FloatCheck:
    """The float network that was quantized against the network as given, on a few calibration inputs.

    difference: the largest one, relative to the largest magnitude of its output, in front of the first step that changes the network on
    purpose. changes: by the name of such a step, what it changed.
    """

    difference: float
    changes: dict[str, float]
    num_samples: int


@dataclass(frozen=True)
class OutputQuality:
    """One output of the simulated network against the float network's; `report.quality` has the formulas."""

    name: str  # as exported files call it
    sqnr_db: float | None  # None: there is no difference
    cosine: float | None  # None: a number without axes
    agreement: float | None  # 0..1; None: not scores of classes
    kl: float | None  # nats; None: no distribution


@dataclass(frozen=True)
class Quality:
    """All floating outputs, on ``num_samples`` inputs. is_held_out: whether they were not calibrated on."""

    outputs: tuple[OutputQuality, ...]
    num_samples: int
    is_held_out: bool


@dataclass(frozen=True)
class ExportCheck:
    """An exported file against the simulation, on calibration inputs.

    Every quantized tensor is compared with what the simulation computes from the *same* input codes, so that each layer answers for
    itself; ``max_output_difference`` and ``top1_agreement`` compare the whole networks, end to end.
    """

    max_code_difference: int
    bound: int
    worst_edge: str
    num_edges: int
    differing_codes: float  # share of all compared codes that differ at all
    max_output_difference: float  # end to end, relative to the largest absolute output
    top1_agreement: float  # end to end, 0..1
    num_samples: int


@dataclass(frozen=True)
class RunRecord:
    """All of ``result.json``; metric values are None where they were not evaluated."""

    model: str
    recipe: str
    seed: int
    num_calibration_samples: int
    metric: str = "top1"
    float: _Float | None = None
    simulated: _Float | None = None
    onnx: _Float | None = None
    integer: _Float | None = None  # of the integer program
    bytes: dict[str, int | None] = field(default_factory=dict)  # float, quantized, onnx, program
    latency_ms: dict[str, _Float] | None = None  # float, onnx, ratio (float / onnx), medians of one sample on one thread
    seconds: dict[str, Any] = field(default_factory=dict)  # wall, cpu, phases: {name: {wall, cpu}}
    peak_rss_bytes: int = 0
    quality: Quality | None = None  # None: no floating output
    float_check: FloatCheck | None = None  # None: the run began with a quantized network
    export_check: ExportCheck | None = None
    program: ProgramRecord | None = None
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    float_operators: tuple[FloatOperator, ...] = ()
    layers: tuple[LayerRecord, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Nested dictionaries and lists, ready for ``json.dump``."""
        return dataclasses.asdict(self)
