"""The report's pictures as inline SVG: histograms with their threshold, and signal to noise over depth.

Colours come from the page's style sheet through classes, so that one picture serves light, dark and paper.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

from halfstep.report import words
from halfstep.report.record import HistogramRecord

NUM_BINS = 128  # shown at most; bins are merged beyond that
_WIDTH, _LEFT, _RIGHT = 360.0, 30.0, 352.0  # picture, and the plot area inside it
_TOP, _BOTTOM, _HEIGHT = 30.0, 132.0, 150.0
_LABEL_WIDTH = 78.0  # room for a threshold's label


def has_counts(histogram: HistogramRecord | None) -> bool:
    """Whether there is anything to draw."""
    if histogram is None or not (math.isfinite(histogram.minimum) and math.isfinite(histogram.maximum)):
        return False
    return any(count > 0 for count in histogram.counts)


def share_outside(histogram: HistogramRecord) -> float | None:
    """Share of the counted values beyond ``threshold``, taking values as spread evenly inside each bin; None without threshold."""
    if not has_counts(histogram) or _threshold(histogram) is None:
        return None
    low, high = histogram.threshold or (0.0, 0.0)
    width = (histogram.maximum - histogram.minimum) / len(histogram.counts)
    outside = 0.0
    for index, count in enumerate(histogram.counts):
        left = histogram.minimum + index * width
        covered = min(left + width, high) - max(left, low)
        part = covered / width if width > 0 else float(low <= left <= high)
        outside += count * (1 - min(1.0, max(0.0, part)))
    return outside / sum(histogram.counts)


def histogram(label: str, *shown: tuple[HistogramRecord, str]) -> str:
    """Histograms (each with the class of its path) over one axis of values, counts on a logarithmic scale, thresholds marked.

    The threshold is taken from the first histogram that has one.
    """
    drawn = [(item, kind) for item, kind in shown if has_counts(item)]
    curves = _merged([item for item, _ in drawn])
    threshold = next((limits for item, _ in drawn if (limits := _threshold(item))), None)
    low, high = _value_limits(curves, threshold)
    top = max(count for _, counts in curves for count in counts)
    decades = max(1.0, 1.03 * math.log10(1 + top))
    x_of = _axis(low, high, _LEFT, _RIGHT)
    parts = _count_grid(decades)
    parts += _outside(threshold, x_of)
    for (edges, counts), (_, kind) in zip(curves, drawn, strict=True):
        parts.append(f'<path class="{kind}" d="{_outline(edges, counts, x_of, decades)}"/>')
    parts += _value_labels(low, high, x_of)
    parts += _threshold_marks(threshold, x_of)
    return _svg(_WIDTH, _HEIGHT, label, parts)


def depth(series: Sequence[tuple[str, Sequence[tuple[int, str, float]]]], num_layers: int, level: Callable[[float], str]) -> str:
    """SQNR in dB over the layers: for each class of points, (position from 1, name, dB); ``level`` names the colour of a value.

    The first series is joined by a line.
    """
    width, left, right, top, bottom, height = 960.0, 36.0, 950.0, 12.0, 218.0, 244.0
    values = [value for _, points in series for _, _, value in points]
    low = 10 * math.floor(min(0.0, *values) / 10)
    high = 10 * math.ceil(max(10.0, *values) / 10)
    step = 10 if high - low <= 80 else 20 if high - low <= 160 else 50
    x_of, y_of = _axis(0.5, num_layers + 0.5, left, right), _axis(low, high, bottom, top)
    parts = []
    for tick in range(step * math.ceil(low / step), high + 1, step):
        y = _short(y_of(tick))
        parts.append(f'<path class="grid" d="M{_short(left)} {y}H{_short(right)}"/>')
        parts.append(f'<text x="{_short(left - 6)}" y="{_short(y_of(tick) + 4)}" text-anchor="end">{tick}</text>')
    parts += [
        f'<text x="{_short(x_of(position))}" y="{_short(bottom + 18)}" text-anchor="middle">{position}</text>'
        for position in _ticks(num_layers)
    ]
    for index, (kind, points) in enumerate(series):
        if index == 0 and len(points) > 1:
            line = "L".join(f"{_short(x_of(position))} {_short(y_of(value))}" for position, _, value in points)
            parts.append(f'<path class="line" d="M{line}"/>')
        radius = 3.5 if num_layers <= 80 else 2.5
        for position, name, value in points:
            place = f'cx="{_short(x_of(position))}" cy="{_short(y_of(value))}" r="{radius}"'
            title = f"{html.escape(name)}: {words.fixed(value)} dB"
            parts.append(f'<circle class="{(kind + " " + level(value)).rstrip()}" {place}><title>{title}</title></circle>')
    return _svg(width, height, "Signal to quantization noise over the layers", parts)


def _svg(width: float, height: float, label: str, parts: list[str]) -> str:
    return f'<svg viewBox="0 0 {_short(width)} {_short(height)}" role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'


class _Axis:
    """A linear map from values to places in the picture."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.start = low, start
        self.factor = (end - start) / (high - low)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) * self.factor


def _axis(low: float, high: float, start: float, end: float) -> _Axis:
    return _Axis(low, high, start, end)


def _threshold(item: HistogramRecord) -> tuple[float, float] | None:
    if item.threshold is None or not all(math.isfinite(limit) for limit in item.threshold):
        return None
    return item.threshold


_Curve = tuple[list[float], list[int]]  # bin edges (one more than bins), counts


def _merged(items: list[HistogramRecord]) -> list[_Curve]:
    """Bin edges and counts of each, without empty ends, in at most `NUM_BINS` bins; equal bins stay equal."""
    alike = len({(item.minimum, item.maximum, len(item.counts)) for item in items}) == 1
    groups = [items] if alike else [[item] for item in items]
    return [curve for group in groups for curve in _merged_alike(group)]


def _merged_alike(items: list[HistogramRecord]) -> list[_Curve]:
    filled = [index for index in range(len(items[0].counts)) if any(item.counts[index] > 0 for item in items)]
    first, last = filled[0], filled[-1] + 1
    factor = math.ceil((last - first) / NUM_BINS)
    width = (items[0].maximum - items[0].minimum) / len(items[0].counts)
    starts = list(range(first, last, factor))
    edges = [items[0].minimum + index * width for index in (*starts, last)]
    return [(edges, [sum(item.counts[start : min(start + factor, last)]) for start in starts]) for item in items]


def _value_limits(curves: list[_Curve], threshold: tuple[float, float] | None) -> tuple[float, float]:
    """The ends of the axis of values, with a little air and never of zero length."""
    ends = [end for edges, _ in curves for end in (edges[0], edges[-1])] + list(threshold or ())
    low, high = min(ends), max(ends)
    air = 0.02 * (high - low) or 0.5 * abs(high) or 0.5
    return low - air, high + air


def _outline(edges: list[float], counts: list[int], x_of: _Axis, decades: float) -> str:
    """One closed path around all bars; neighbours of the same height share a line."""
    path, level = f"M{_short(x_of(edges[0]))} {_short(_BOTTOM)}", _short(_BOTTOM)
    for index, count in enumerate(counts):
        y = _short(_BOTTOM - (_BOTTOM - _TOP) * math.log10(1 + max(count, 0)) / decades)
        if y != level:
            path += f"H{_short(x_of(edges[index]))}V{y}"
            level = y
    # A constant tensor has a bin without width: give it one unit so that it can be seen.
    end = max(x_of(edges[-1]), x_of(edges[0]) + 1)
    return f"{path}H{_short(end)}V{_short(_BOTTOM)}Z"


def _count_grid(decades: float) -> list[str]:
    """Lines and labels at powers of ten, at most five."""
    parts = []
    for power in range(0, int(decades) + 1, math.ceil(decades / 4)):
        y = max(_TOP, _BOTTOM - (_BOTTOM - _TOP) * math.log10(1 + 10**power) / decades)
        text = str(10**power) if power < 2 else f'10<tspan class="power" dy="-4">{power}</tspan>'
        parts.append(f'<path class="grid" d="M{_short(_LEFT)} {_short(y)}H{_short(_RIGHT)}"/>')
        parts.append(f'<text x="{_short(_LEFT - 4)}" y="{_short(y + 3.5)}" text-anchor="end">{text}</text>')
    parts.append(f'<path class="axis" d="M{_short(_LEFT)} {_short(_BOTTOM)}H{_short(_RIGHT)}"/>')
    return parts


def _outside(threshold: tuple[float, float] | None, x_of: _Axis) -> list[str]:
    """A tint over the values the grid does not cover."""
    if threshold is None:
        return []
    low, high = (x_of(limit) for limit in threshold)
    height = _short(_BOTTOM - _TOP)
    spans = [(_LEFT, low), (high, _RIGHT)]
    return [
        f'<rect class="outside" x="{_short(start)}" y="{_short(_TOP)}" width="{_short(end - start)}" height="{height}"/>'
        for start, end in spans
        if end - start >= 0.05
    ]


def _value_labels(low: float, high: float, x_of: _Axis) -> list[str]:
    """Round numbers under the axis, about four."""
    step = _round_step((high - low) / 4)
    first, last = math.ceil(low / step), math.floor(high / step)
    parts = []
    for index in range(first, last + 1):
        x = x_of(index * step)
        anchor = "end" if x > _RIGHT - 10 else "middle"
        parts.append(f'<text x="{_short(x)}" y="{_short(_BOTTOM + 14)}" text-anchor="{anchor}">{words.real(index * step)}</text>')
    return parts


def _threshold_marks(threshold: tuple[float, float] | None, x_of: _Axis) -> list[str]:
    """Dashed lines at the ends of the covered range, each with its value above; a second row where the labels would touch."""
    if threshold is None:
        return []
    places = [x_of(limit) for limit in threshold]
    left_is_end, right_is_end = places[0] > _LEFT + _LABEL_WIDTH, places[1] > _RIGHT - _LABEL_WIDTH
    left_reach = places[0] + (0 if left_is_end else _LABEL_WIDTH)
    right_reach = places[1] - (_LABEL_WIDTH if right_is_end else 0)
    rows = (_TOP - 6, _TOP - 6 if left_reach + 4 <= right_reach else _TOP - 18)
    parts = []
    for limit, x, y, is_end in zip(threshold, places, rows, (left_is_end, right_is_end), strict=True):
        anchor, shift = ("end", 3) if is_end else ("start", -3)
        parts.append(f'<path class="mark" d="M{_short(x)} {_short(y + 3)}V{_short(_BOTTOM)}"/>')
        parts.append(f'<text class="mark" x="{_short(x + shift)}" y="{_short(y)}" text-anchor="{anchor}">{words.real(limit)}</text>')
    return parts


def _round_step(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least ``step``."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * (1 - 1e-9))


def _ticks(num_layers: int) -> list[int]:
    """Positions to label under the depth graph: 1, and round numbers that leave room for a dozen."""
    step = max(1, int(_round_step(num_layers / 12)))
    return sorted({1, *range(step, num_layers + 1, step)} - ({step} if 1 < step <= 1 + step // 3 else set()))


def _short(value: float) -> str:
    """One decimal, without the zeros nobody needs."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
