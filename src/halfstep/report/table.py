"""A run's record as tables for a terminal."""

from __future__ import annotations

import io

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from halfstep.report import words
from halfstep.report.console import PlainConsole
from halfstep.report.record import LayerRecord, RunRecord


def summary(record: RunRecord) -> Table:
    """One row each for float, simulated, ONNX Runtime and the integer program, if there is one: metric, what it lost, bytes, latency ratio.

    A dash: not evaluated.
    """
    table = _table(f"{record.model}, {record.recipe}")
    table.add_column("")
    for header in (words.metric_name(record.metric), words.difference_name(record.metric), "size", "smaller", "latency ratio"):
        table.add_column(header, justify="right", no_wrap=True)
    latency = record.latency_ms or {}
    rows = (
        ("float", record.float, "float", 1.0 if latency else None),
        ("simulated", record.simulated, "quantized", None),
        ("ONNX Runtime", record.onnx, "onnx", latency.get("ratio")),
        *((("integer program", record.integer, "program", None),) if record.program is not None else ()),
    )
    for name, value, key, speed in rows:
        bytes_float, num_bytes = record.bytes.get("float"), record.bytes.get(key)
        table.add_row(
            name,
            words.metric_value(record.metric, value),
            words.DASH if key == "float" else words.difference(record.metric, record.float, value),
            words.size(num_bytes),
            words.DASH if key == "float" else words.times(words.ratio(bytes_float, num_bytes)),
            words.times(speed),
        )
    return table


def layers(record: RunRecord) -> Table:
    """One row a layer: operator, grids, signal to quantization noise (SQNR, dB), multiply-accumulates, bytes before and after."""
    table = _table(f"{record.model}, {record.recipe}: layers")
    table.add_column("layer", overflow="fold", min_width=12)
    table.add_column("operator", overflow="fold")
    table.add_column("weights", overflow="fold")
    table.add_column("dB", justify="right", no_wrap=True)
    table.add_column("output", overflow="fold")
    table.add_column("dB", justify="right", no_wrap=True)
    for header in ("MACs", "float", "quantized"):
        table.add_column(header, justify="right", no_wrap=True)
    for layer in record.layers:
        table.add_row(*_layer_row(layer))
    return table


def to_text(renderable: RenderableType, width: int = 120) -> str:
    """``renderable`` as plain text of at most ``width`` columns: no colour codes, no trailing blanks."""
    console = PlainConsole(
        file=io.StringIO(), width=width, color_system=None, force_terminal=False, force_jupyter=False, legacy_windows=False
    )
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n"


def _layer_row(layer: LayerRecord) -> tuple[Text, ...]:
    cells = (
        layer.name,
        layer.operator,
        words.grid_name(layer.weight).replace(" per ", "/"),
        words.fixed(layer.weight.sqnr_db if layer.weight else None),
        words.grid_name(layer.output).replace(" per ", "/"),
        words.fixed(layer.sqnr_db),
        words.counted(layer.num_macs),
        words.size(layer.bytes_float or None),
        words.size(layer.bytes_quantized or None),
    )
    return tuple(Text(cell) for cell in cells)  # Text: square brackets in a name are no markup


def _table(title: str) -> Table:
    return Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
