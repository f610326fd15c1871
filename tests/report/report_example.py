"""A record with everything in it, and one with nothing."""

from __future__ import annotations

import dataclasses
import math

from halfstep.report.record import ExportCheck, FloatOperator, GridRecord, HistogramRecord, LayerFigures, LayerRecord, RunRecord

EMPTY = RunRecord(model="net", recipe="int8", seed=0, num_calibration_samples=1)


def bell(num_bins: int = 2048, threshold: tuple[float, float] | None = (-2.0, 2.0)) -> HistogramRecord:
    """A normal distribution cut at four standard deviations."""
    counts = tuple(int(1e6 / num_bins * math.exp(-0.5 * (8 * (index + 0.5) / num_bins - 4) ** 2)) for index in range(num_bins))
    return HistogramRecord(-4.0, 4.0, counts, threshold)


def layer(name: str, operator: str = "conv2d", sqnr_db: float | None = 25.0, weight_db: float | None = 30.0) -> LayerRecord:
    weight = GridRecord("int8", 8, True, True, (0.001, 0.01), (0, 0), (-1.27, 1.27), (-1.27, 0.9), weight_db)
    output = GridRecord("uint8", 8, False, False, (0.0157, 0.0157), (128, 128), (-2.0, 2.0), (-4.0, 4.0), 35.0)
    if operator == "add":
        return LayerRecord(name, operator, (16, 8, 8), None, 0, 0, 0, None, output, sqnr_db)
    return LayerRecord(name, operator, (16, 8, 8), 147_456, 2_320, 9_280, 2_384, weight, output, sqnr_db)


def full(num_layers: int = 12) -> tuple[RunRecord, dict[str, LayerFigures]]:
    layers = tuple(layer(f"layer{index}.conv", "add" if index % 5 == 4 else "conv2d", 40.0 - index) for index in range(num_layers))
    record = RunRecord(
        model="models:resnet20",
        recipe="w4a8",
        seed=7,
        num_calibration_samples=512,
        float=92.6,
        simulated=92.58,
        onnx=92.55,
        bytes={"float": 1_000_000, "quantized": 250_000, "onnx": 300_000},
        latency_ms={"float": 0.84, "onnx": 0.4, "ratio": 2.1},
        seconds={"wall": 18.4, "cpu": 31.2, "phases": {"capture": {"wall": 1.3, "cpu": 1.29}}},
        peak_rss_bytes=812_345_344,
        export_check=ExportCheck(1, 1, "layer3.conv", 42, 0.00031, 0.0123, 0.998, 512),
        versions={"torch": "2.13.0"},
        machine={"processor": "a processor", "cores": 2},
        notes=("Batch size 1 was fixed.",),
        float_operators=(FloatOperator("aten.grid_sampler_2d", "stn.sample", "not known to the graph"),),
        layers=layers,
    )
    return record, {item.name: LayerFigures(bell(), bell(256, None), bell(256, None)) for item in layers}


def with_layers(record: RunRecord, *layers: LayerRecord) -> RunRecord:
    return dataclasses.replace(record, layers=layers)
