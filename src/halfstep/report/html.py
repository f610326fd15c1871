"""The report page: one HTML file that needs nothing but itself, for a screen, a phone and paper, in light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources

from halfstep.report import figures as drawing
from halfstep.report import markup, words
from halfstep.report.program import program_section
from halfstep.report.record import GridRecord, HistogramRecord, LayerFigures, LayerRecord, RunRecord
from halfstep.report.verdict import quality_sentence

# What a level of signal to quantization noise means: noise power is 10^(-dB/10) of the signal's, 1 % at 20 dB and 10 % at 10 dB.
LOW_DB, POOR_DB = 20.0, 10.0
_NUM_WORST = 3
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # the browser itself refuses any request


def render(record: RunRecord, figures: Mapping[str, LayerFigures]) -> str:
    """The page as text; ``figures`` by layer name, layers without figures are said to have none. Same input, same text."""
    sections = (
        _header(record),
        "<main>",
        _cards(record),
        _summary(record),
        program_section(record.program),
        _notes(record),
        _float_operators(record),
        _layers(record),
        _depth(record),
        _details(record, figures),
        "</main>",
        _footer(record),
    )
    title = markup.text(f"{record.model} · {record.recipe} · halfstep")
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_resource('style.css')}</style>\n</head>\n<body>\n"
    )
    body = "\n".join(section for section in sections if section)
    return f"{head}{body}\n<script>\n{_resource('page.js')}</script>\n</body>\n</html>\n"


def _resource(name: str) -> str:
    return resources.files("halfstep.report").joinpath(name).read_text(encoding="utf-8")


def _header(record: RunRecord) -> str:
    samples = f"{record.num_calibration_samples:,} calibration sample{'' if record.num_calibration_samples == 1 else 's'}"
    return (
        '<header>\n<div class="brand">halfstep quantization report</div>\n'
        f"<h1>{markup.name(record.model)}</h1>\n"
        f'<div class="soft">Recipe <b class="name">{markup.name(record.recipe)}</b> · {samples} · seed {markup.text(record.seed)}</div>\n'
        "</header>"
    )


def _card(label: str, value: str, note: str, kind: str = "") -> str:
    return f'<li><span>{markup.text(label)}</span><b class="{kind}">{markup.text(value)}</b><span>{markup.prose(note)}</span></li>'


def _cards(record: RunRecord) -> str:
    cards = (_accuracy_card(record), _size_card(record), _latency_card(record), _check_card(record))
    return f'<ul class="cards">\n{chr(10).join(cards)}\n</ul>'


def _accuracy_card(record: RunRecord) -> str:
    metric = words.metric_name(record.metric)
    for place, value in (("ONNX Runtime", record.onnx), ("simulated", record.simulated)):
        if words.present(value) is not None:
            note = words.change_sentence(record.metric, record.float, value)
            return _card(f"{metric}, {place}", words.metric_value(record.metric, value), note)
    note = "give labelled data to measure it"
    if words.present(record.float) is not None:
        note = f"float alone: {words.metric_value(record.metric, record.float)}"
    return _card(f"{metric}, quantized", words.NOT_EVALUATED, note, "absent")


def _size_card(record: RunRecord) -> str:
    before, after = record.bytes.get("float"), record.bytes.get("quantized")
    if words.present(after) is None:
        return _card("Size", words.NOT_EVALUATED, "no quantized size recorded", "absent")
    smaller = words.ratio(before, after)
    note = f"{words.times(smaller)} smaller than float ({words.size(before)})" if smaller else "no float size to compare with"
    return _card("Size of the parameters", words.size(after), note)


def _latency_card(record: RunRecord) -> str:
    latency = record.latency_ms or {}
    speed, before, after = (words.present(latency.get(key)) for key in ("ratio", "float", "onnx"))
    if not speed:
        return _card("Latency", words.NOT_EVALUATED, "not timed in this run", "absent")
    value, word = (speed, "faster") if speed >= 1 else (1 / speed, "slower")
    note = f"{_milliseconds(after)} against {_milliseconds(before)} in float; one sample, one thread"
    return _card("Latency, ONNX Runtime", f"{words.times(value)} {word}", note)


def _milliseconds(value: float | None) -> str:
    return words.DASH if value is None else f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def _check_card(record: RunRecord) -> str:
    check = record.export_check
    if check is None:
        return _card("Export check", "not exported", "nothing to compare with the simulation", "absent")
    note = f"at most {words.codes(check.max_code_difference)} apart; top-1 agreement {words.share(check.top1_agreement)}"
    if words.has_passed(check):
        return _card("Export check", "Verified", note, "good")
    return _card("Export check", "Beyond the bound", note, "poor")


def _summary(record: RunRecord) -> str:
    latency = record.latency_ms or {}
    rows = (
        ("Float", record.float, "float", latency.get("float"), 1.0),
        ("Simulated", record.simulated, "quantized", None, None),
        ("ONNX Runtime", record.onnx, "onnx", latency.get("onnx"), latency.get("ratio")),
        *((("Integer program", record.integer, "program", None, None),) if record.program is not None else ()),
    )
    heads = ("", words.metric_name(record.metric), words.difference_name(record.metric), "size", "smaller", "latency", "ratio")
    lines = []
    for index, (label, value, key, milliseconds, speed) in enumerate(rows):
        num_bytes = record.bytes.get(key)
        cells = (
            words.metric_value(record.metric, value),
            words.difference(record.metric, record.float, value) if index else words.DASH,
            words.size(num_bytes),
            words.times(words.ratio(record.bytes.get("float"), num_bytes)) if index else words.DASH,
            _milliseconds(words.present(milliseconds)),
            words.times(speed if latency else None),
        )
        lines.append(markup.row([f'<th scope="row">{label}</th>', *(f'<td class="n">{markup.text(cell)}</td>' for cell in cells)]))
    table = markup.table([f'<th scope="col" class="n">{markup.text(head)}</th>' for head in heads], lines, "summary", "Summary")
    quality = [] if record.quality is None else [quality_sentence(record.quality)]
    check = " ".join([words.float_sentence(record.float_check), *quality, *words.check_sentences(record.export_check)])
    return (
        f'<h2>Summary</h2>\n{table}\n<p class="soft key-to">{words.DASH} not evaluated. Sizes: parameters in float and quantized; '
        f"the whole file for ONNX Runtime. Latency ratio: float / quantized, medians.</p>\n<p>{markup.prose(check)}</p>"
    )


def _notes(record: RunRecord) -> str:
    if not record.notes:
        return ""
    items = "\n".join(f"<li>{markup.text(note)}</li>" for note in record.notes)
    return f"<h2>Notes</h2>\n<ul>\n{items}\n</ul>"


def _float_operators(record: RunRecord) -> str:
    if not record.float_operators:
        return ""
    rows = (
        markup.row(
            [
                f'<td class="name">{markup.name(item.operator)}</td>',
                f'<td class="name">{markup.name(item.name)}</td>',
                f"<td>{markup.text(item.reason)}</td>",
            ]
        )
        for item in record.float_operators
    )
    heads = [f'<th scope="col">{head}</th>' for head in ("Operator", "Where", "Why")]
    return f"<h2>What stays in float</h2>\n{markup.table(heads, rows, 'kept', 'Operators that stay in float')}"


def level(value: float) -> str:
    """The class that colours a figure in dB: "" from `LOW_DB` up, "low" below it, "poor" below `POOR_DB`."""
    return "poor" if value < POOR_DB else "low" if value < LOW_DB else ""


def _weight_db(layer: LayerRecord) -> float | None:
    return words.present(layer.weight.sqnr_db if layer.weight else None)


def _worst(values: Iterable[float | None]) -> float:
    """The largest value that still counts as one of the worst of its column."""
    known = sorted(value for value in values if value is not None)
    return known[min(_NUM_WORST, len(known)) - 1] if len(known) > 2 * _NUM_WORST else float("-inf")


_HEADS = (
    ("#", "n"),
    ("Layer", "key"),
    ("Operator", ""),
    ("Output SQNR", "n"),
    ("Output grid", ""),
    ("Weight SQNR", "n"),
    ("Weight grid", ""),
    ("MACs", "n"),
    ("Parameters", "n"),
    ("Bytes in float", "n"),
    ("Bytes quantized", "n"),
)


def _layers(record: RunRecord) -> str:
    if not record.layers:
        return '<h2>Layers</h2>\n<p class="soft">No layer was recorded.</p>'
    weights = [_weight_db(layer) for layer in record.layers]
    outputs = [words.present(layer.sqnr_db) for layer in record.layers]
    scales = [max((value for value in column if value is not None), default=0.0) for column in (weights, outputs)]
    worst = [_worst(column) for column in (weights, outputs)]
    rows = []
    for index, layer in enumerate(record.layers):
        cells = (
            f'<td class="n" data-v="{index + 1}">{index + 1}</td>',
            f'<td class="key name"><a href="#layer-{index + 1}">{markup.name(layer.name)}</a></td>',
            f'<td class="name">{markup.name(layer.operator)}</td>',
            _db_cell(outputs[index], scales[1], worst[1]),
            _grid_cell(layer.output),
            _db_cell(weights[index], scales[0], worst[0]),
            _grid_cell(layer.weight),
            _number_cell(layer.num_macs, words.counted(layer.num_macs)),
            _number_cell(layer.num_parameters or None, words.counted(layer.num_parameters or None)),
            _number_cell(layer.bytes_float or None, words.size(layer.bytes_float or None)),
            _number_cell(layer.bytes_quantized or None, words.size(layer.bytes_quantized or None)),
        )
        rows.append(markup.row(cells))
    heads = (f'<th scope="col" class="{kind}">{head}</th>' for head, kind in _HEADS)
    return (
        '<h2>Layers</h2>\n<p class="soft key-to">SQNR: signal to quantization noise in dB, higher is better. Weights: against the real '
        "weights. Output: whole simulated network against whole float network, so the noise of every layer before it counts. "
        "Under a grid: its scale, smallest … largest over the channels.</p>\n"
        f'<p class="soft key-to"><span><i class="swatch"></i>{LOW_DB:.0f} dB and above (noise at most 1 % of the power)</span> '
        f'<span><i class="swatch low"></i>below {LOW_DB:.0f} dB</span> '
        f'<span><i class="swatch poor"></i>below {POOR_DB:.0f} dB (noise above 10 %)</span> '
        f"<span><b>bold</b>: the {_NUM_WORST} lowest of a column</span></p>\n"
        f"{markup.table(heads, rows, 'layers', 'Layers')}"
    )


def _number_cell(value: float | None, shown: str) -> str:
    return f'<td class="n" data-v="{"" if words.present(value) is None else value}">{markup.text(shown)}</td>'


def _grid_cell(grid: GridRecord | None) -> str:
    if grid is None:
        return f'<td class="soft">{words.DASH}</td>'
    return f"<td>{markup.text(words.grid_name(grid))}<small>{markup.text(words.span(grid.scale))}</small></td>"


def _db_cell(value: float | None, scale: float, worst: float) -> str:
    if value is None:
        return f'<td class="n db soft" data-v="">{words.DASH}</td>'
    width = 100 * min(1.0, max(0.0, value / scale)) if scale > 0 else 0.0
    kind = f"n db{' worst' if value <= worst else ''}"
    bar = f'<span class="bar"><i class="{level(value)}" style="width:{width:.0f}%"></i></span>'
    return f'<td class="{kind}" data-v="{value:.4f}">{words.fixed(value)}{bar}</td>'


def _depth(record: RunRecord) -> str:
    outputs, weights = [], []
    for position, layer in enumerate(record.layers, start=1):
        output, weight = words.present(layer.sqnr_db), _weight_db(layer)
        if output is not None:
            outputs.append((position, layer.name, output))
        if weight is not None:
            weights.append((position, layer.name, weight))
    title = "<h2>Signal to noise over depth</h2>"
    if not outputs and not weights:
        return f'{title}\n<p class="soft">SQNR was not evaluated.</p>'
    picture = drawing.depth((("output", outputs), ("weights", weights)), len(record.layers), level)
    lowest = sorted(outputs, key=lambda point: point[2])[:_NUM_WORST]
    listed = ", ".join(
        f'<a class="name" href="#layer-{at}">{markup.name(name)}</a> ({words.fixed(value)}&nbsp;dB)' for at, name, value in lowest
    )
    return (
        f'{title}\n<p class="soft key-to"><span><i class="swatch dot"></i>output, with all noise from before</span> '
        '<span><i class="swatch ring"></i>weights</span> <span>dB over the number of the layer</span></p>\n'
        f'<div class="scroll depth" tabindex="0" role="region" aria-label="Signal to noise over depth">{picture}</div>'
        + (f"\n<p>Lowest output SQNR: {listed}.</p>" if lowest else "")
    )


def _details(record: RunRecord, figures: Mapping[str, LayerFigures]) -> str:
    if not record.layers:
        return ""
    items = "\n".join(_detail(index, layer, figures.get(layer.name)) for index, layer in enumerate(record.layers, start=1))
    return (
        '<h2>Each layer</h2>\n<div class="fold"></div>\n'
        f'<p class="print-only soft">Only layers that are unfolded on screen are printed.</p>\n{items}'
    )


def _detail(index: int, layer: LayerRecord, shown: LayerFigures | None) -> str:
    shown = shown or LayerFigures()
    output = words.present(layer.sqnr_db)
    note = "" if output is None else f'<span class="soft">{words.fixed(output)} dB</span>'
    return (
        f'<details><summary><span class="name">{markup.name(layer.name)}</span>'
        f'<span class="soft">{markup.text(layer.operator)}</span>{note}</summary>\n'
        f'<div class="layer" id="layer-{index}">\n{_facts(layer)}\n<div class="figures">'
        f"{_activation_figure(shown.activation)}{_weight_figure(layer, shown)}</div></div></details>"
    )


def _facts(layer: LayerRecord) -> str:
    shape = " × ".join(str(length) for length in layer.output_shape) or "a single number"
    facts = [("Output of one sample", shape)]
    for label, grid in (("Weights", layer.weight), ("Output", layer.output)):
        if grid is not None:
            facts.append((f"{label}: grid", _grid_sentence(grid)))
            facts.append((f"{label}: values", f"covers {words.span(grid.range)}; seen {words.span(grid.observed)}"))
    if layer.output is not None and words.present(layer.output.sqnr_db) is not None:
        facts.append(("Output: SQNR of its grid alone", f"{words.fixed(layer.output.sqnr_db)} dB"))
    items = "".join(f"<dt>{markup.text(label)}</dt><dd>{markup.text(value)}</dd>" for label, value in facts)
    return f'<dl class="facts">{items}</dl>'


def _grid_sentence(grid: GridRecord) -> str:
    low, high = grid.zero_point
    zero_point = str(low) if low == high else f"{low} … {high}"
    kind = "symmetric" if grid.symmetric else "asymmetric"
    return f"{words.grid_name(grid)}, {kind}, scale {words.span(grid.scale)}, zero point {zero_point}"


def _activation_figure(item: HistogramRecord | None) -> str:
    if item is None or not drawing.has_counts(item):
        return "<figure><figcaption><b>Activations</b><br>not recorded</figcaption></figure>"
    outside = drawing.share_outside(item)
    note = "no range was set"
    if item.threshold is not None and outside is not None:
        note = f"{words.share(outside)} outside {words.span(item.threshold)}"
    picture = drawing.histogram("Activations", (item, "activation"))
    return f"<figure><figcaption><b>Activations</b>, log count: {markup.text(note)}</figcaption>{picture}</figure>"


def _weight_figure(layer: LayerRecord, shown: LayerFigures) -> str:
    curves = [
        (item, kind)
        for item, kind in ((shown.weight_before, "before"), (shown.weight_after, "after"))
        if item is not None and drawing.has_counts(item)
    ]
    if not curves:
        reason = "not recorded" if layer.num_parameters else "none in this layer"
        return f"<figure><figcaption><b>Weights</b><br>{reason}</figcaption></figure>"
    swatches = ", ".join(f'<i class="swatch {kind}"></i>{kind}' for _, kind in curves)
    picture = drawing.histogram("Weights before and after quantization", *curves)
    zeros = None if layer.weight is None else layer.weight.zeros
    shown_zeros = "" if zeros is None else f"; {100 * zeros:.1f} % are 0"
    return f"<figure><figcaption><b>Weights</b>, log count: {swatches}{shown_zeros}</figcaption>{picture}</figure>"


def _footer(record: RunRecord) -> str:
    phases = record.seconds.get("phases")
    rows = []
    if isinstance(phases, Mapping):
        rows = [(str(name), spent) for name, spent in phases.items() if isinstance(spent, Mapping)]
    rows.append(("total", record.seconds))
    heads = [f'<th scope="col" class="{kind}">{head}</th>' for head, kind in (("Phase", ""), ("wall", "n"), ("CPU", "n"))]
    lines = (
        markup.row([f"<td>{markup.text(name)}</td>", *(f'<td class="n">{words.duration(spent.get(key))}</td>' for key in ("wall", "cpu"))])
        for name, spent in rows
    )
    memory = words.size(record.peak_rss_bytes) if record.peak_rss_bytes else "not measured"
    times = markup.table(heads, lines, "times", "Time")
    return (
        f'<footer><div class="columns">\n<div><h2>Time</h2>{times}<p>Peak memory: {memory}</p></div>\n'
        f"<div><h2>Versions</h2>{_pairs(record.versions)}</div>\n<div><h2>Machine</h2>{_pairs(record.machine)}</div>\n</div></footer>"
    )


def _pairs(values: Mapping[str, object]) -> str:
    if not values:
        return '<p class="soft">not recorded</p>'
    rows = (markup.row([f'<td class="soft">{markup.text(key)}</td>', f"<td>{markup.text(value)}</td>"]) for key, value in values.items())
    return f"<table><tbody>{''.join(rows)}</tbody></table>"
