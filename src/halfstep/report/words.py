"""Numbers and findings in a reader's words, the same on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from halfstep.integer.record import ProgramRecord
from halfstep.report.record import ExportCheck, FloatCheck, GridRecord, LayerRecord

DASH = "–"
NOT_EVALUATED = "not evaluated"
_POOR_DB, _MANY_BITS = 10, 8  # an output on so many bits usually keeps 20 to 50 dB


def present(value: float | None) -> float | None:
    """``value`` when it is a finite number, else None."""
    return value if value is not None and math.isfinite(value) else None


def fixed(value: float | None, digits: int = 1) -> str:
    """``value`` with a fixed number of decimals, never "-0.0"; a dash when it is missing."""
    if present(value) is None or value is None:
        return DASH
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def real(value: float | None) -> str:
    """Three significant digits, for scales and thresholds of any magnitude; a dash when it is missing."""
    if present(value) is None or value is None:
        return DASH
    return f"{value + 0.0:.3g}" if value else "0"


def span(pair: tuple[float, float], join: str = " … ") -> str:
    """ "low … high", or one number where both are the same in print."""
    low, high = real(pair[0]), real(pair[1])
    return low if low == high else f"{low}{join}{high}"


def counted(value: float | None) -> str:
    """A count with a metric suffix: "40.6 M"."""
    return _scaled(value, ("", "k", "M", "G", "T", "P"))


def size(value: float | None) -> str:
    """Bytes with a metric suffix (1 kB = 1000 B): "282 kB"."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"))


def _scaled(value: float | None, suffixes: tuple[str, ...]) -> str:
    if present(value) is None or value is None:
        return DASH
    power = 0
    # 999.5 and above would print as "1000": the next suffix then.
    while abs(value) >= (999.5 if power else 1000) and power < len(suffixes) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if power == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f} {suffixes[power]}".rstrip()


def times(value: float | None) -> str:
    """A ratio: "3.87×"."""
    return DASH if present(value) is None else f"{fixed(value, 2)}×"


def ratio(above: float | None, below: float | None) -> float | None:
    """``above / below`` where both are known and it makes sense, else None."""
    if present(above) is None or present(below) is None or not above or not below:
        return None
    return above / below


def duration(seconds: float | None) -> str:
    """Seconds with enough decimals to tell short phases apart: "0.031 s", "12.4 s", "3 min 20 s"."""
    if present(seconds) is None or seconds is None:
        return DASH
    if seconds >= 119.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    return f"{seconds:.{1 if seconds >= 9.995 else 2 if seconds >= 0.995 else 3}f} s"


def is_percentage(metric: str) -> bool:
    """Whether the metric counts right answers in percent, so that a difference is a number of points lost."""
    return metric.startswith(("top", "acc"))


def metric_name(metric: str) -> str:
    """ "top1" -> "top-1"; other names as they are."""
    return f"top-{metric[3:]}" if metric.startswith("top") and metric[3:].isdigit() else metric


def metric_value(metric: str, value: float | None) -> str:
    """The value of a metric: "91.83 %", "0.0213"; a dash when it is missing."""
    if present(value) is None or value is None:
        return DASH
    return f"{fixed(value, 2)} %" if is_percentage(metric) else f"{value:.5g}"


def difference_name(metric: str) -> str:
    """What the column of `difference` is called."""
    return "loss (points)" if is_percentage(metric) else "change"


def difference(metric: str, reference: float | None, value: float | None) -> str:
    """Points lost against ``reference`` (negative: won) for a percentage; for any other metric the signed change."""
    if present(reference) is None or present(value) is None or reference is None or value is None:
        return DASH
    return fixed(reference - value, 2) if is_percentage(metric) else f"{value - reference:+.4g}"


def change_sentence(metric: str, reference: float | None, value: float | None) -> str:
    """ "0.05 points below float (91.88 %)"."""
    if present(reference) is None or present(value) is None or reference is None or value is None:
        return "no float value to compare with"
    against = f"float ({metric_value(metric, reference)})"
    if not is_percentage(metric):
        return f"{value - reference:+.4g} against {against}"
    points = fixed(abs(reference - value), 2)
    if float(points) == 0:
        return f"the same as {against}"
    return f"{points} points {'below' if value < reference else 'above'} {against}"


def grid_name(record: GridRecord | None) -> str:
    """ "int8 per channel"; a dash when there is no grid of its own."""
    if record is None:
        return DASH
    if record.group_size is not None:
        return f"{record.grid} per {record.group_size}"
    return f"{record.grid} per channel" if record.per_channel else record.grid


def has_passed(check: ExportCheck) -> bool:
    """Whether every compared tensor agrees within the bound."""
    return check.max_code_difference <= check.bound


def codes(number: int) -> str:
    """ "1 code", "2 codes"."""
    return "1 code" if number == 1 else f"{number} codes"


def share(value: float | None) -> str:
    """A share of one as a percentage that never rounds something to nothing or almost all to all."""
    if present(value) is None or value is None:
        return DASH
    percent = 100 * value
    if 0 < percent < 0.01:
        return "less than 0.01 %"
    if 99.99 < percent < 100:
        return "more than 99.99 %"
    return f"{percent:.2f}".rstrip("0").rstrip(".") + " %"


def float_sentence(check: FloatCheck | None) -> str:
    """ "Float network: equal to yours within 2e-07 of the largest output (2 inputs)." """
    if check is None:
        return "The run began with a quantized network: there was no float network of yours to compare with."
    inputs = "1 input" if check.num_samples == 1 else f"{check.num_samples} inputs"
    within = f" within {check.difference:.0e} of the largest output" if check.difference else ""
    changes = [f"'{step}', by {share(change)}" for step, change in check.changes.items() if change]
    changed = f"; changed on purpose by {' and '.join(changes)}" if changes else ""
    return f"Float network: equal to yours{within} ({inputs}){changed}."


def poor_layers(layers: Sequence[LayerRecord]) -> list[str]:
    """A sentence about outputs on 8 bits and more that keep little of the float network's, if there are any."""
    poor = [x for x in layers if x.sqnr_db is not None and x.sqnr_db < _POOR_DB and x.output is not None and x.output.bits >= _MANY_BITS]
    if not poor:
        return []
    first = poor[0]
    assert first.output is not None
    others = f", as do {len(poor) - 1} others behind it" if len(poor) > 1 else ""
    return [
        f"'{first.name}' keeps little of its output: {fixed(first.sqnr_db)} dB of signal against quantization noise{others}. Its grid "
        f"covers {span(first.output.range)}, its values are {span(first.output.observed)}: compare, and try another range estimator "
        f"of the step 'calibrate' (mse, min_max) where much is cut off, or leave it in float with an override in the recipe's scheme."
    ]


def check_sentences(check: ExportCheck | None) -> list[str]:
    """What the export check found, one finding a sentence."""
    if check is None:
        return ["The model was not exported, so nothing was compared with the simulation."]
    where = f", at '{check.worst_edge}'" if check.worst_edge and check.max_code_difference else ""
    apart = codes(check.max_code_difference) if check.max_code_difference else "nothing"
    tensors = "1 quantized tensor" if check.num_edges == 1 else f"{check.num_edges} quantized tensors"
    samples = "1 calibration sample" if check.num_samples == 1 else f"{check.num_samples} calibration samples"
    return [
        f"The exported file was run in ONNX Runtime on {samples} and compared with the simulation, layer by layer, at {tensors}.",
        f"From the same input codes the two differ by {apart} at most{where}; {codes(check.bound)} "
        f"{'is' if check.bound == 1 else 'are'} allowed. The share of all codes that differ: {share(check.differing_codes)}.",
        f"End to end, the top-1 answer agrees on {share(check.top1_agreement)} of the samples and the outputs differ by at most "
        f"{share(check.max_output_difference)} of the largest output.",
    ]


def program_sentences(program: ProgramRecord) -> list[str]:
    """What became of the network in integers alone, one finding a sentence."""
    apart = codes(program.max_difference) if program.max_difference else "nothing"
    differing = share(program.num_differing / max(1, program.num_codes))
    worst = max(program.operators, key=lambda operator: operator.rescale_error, default=None)
    sentences = [
        f"The integer program has {program.num_operators} operators and {size(program.weight_bytes)} of weights, biases and tables; its "
        f"requantization is {program.mode}.",
        f"From the same input codes its operators and the simulation differ by {apart} at most; the share of all codes that differ: "
        f"{differing}.",
        f"End to end, the top-1 answer agrees on {share(program.top1_agreement)} of the samples and the outputs differ by at most "
        f"{share(program.max_output_difference)} of the largest output.",
    ]
    if worst is not None and worst.rescale_error > 0:
        sentences.append(f"The multiplier farthest from its real scale is off by {share(worst.rescale_error)}, at '{worst.name}'.")
    return [*sentences, *program.notes]
