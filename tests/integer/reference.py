"""What each operator of an integer program computes, written again from the formula at the top of its file, one place after another.

`EVALUATE[kind](operator, codes, values)` takes int64 arrays [N, ...] and returns one. Slow, without a trick, to be read beside the formula.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from halfstep.integer import IntegerProgram, Rescale, Value
from halfstep.integer.operators.softmax import HIDDEN

Array = np.ndarray[Any, np.dtype[np.int64]]
Values = dict[str, Value]


def evaluate(program: IntegerProgram, inputs: list[Array]) -> dict[str, Array]:
    """Every value of the program from the codes of its inputs."""
    codes = dict(zip(program.inputs, inputs, strict=True))
    for operator in program.operators:
        given = [codes[name] for name in operator.inputs]
        made = EVALUATE[operator.kind](operator, given, program.values)
        codes[operator.output] = np.broadcast_to(made, (len(inputs[0]), *made.shape[1:]))
    return codes


def multiply_shift(accumulator: Array, multiplier: int, shift: int) -> Array:
    """((a m + half) >> shift)."""
    half = 1 << (shift - 1) if shift > 0 else 0
    return (accumulator * np.int64(multiplier) + np.int64(half)) >> np.int64(shift)


def rescaled(accumulator: Array, rescale: Rescale, channel_axis: int) -> Array:
    """Every channel by its own pair."""
    pairs = list(zip(rescale.multiplier.tolist(), rescale.shift.tolist(), strict=True))
    if len(pairs) == 1:
        return multiply_shift(accumulator, *pairs[0])
    parts = np.moveaxis(accumulator, channel_axis, 0)
    assert len(parts) == len(pairs)
    return np.moveaxis(np.stack([multiply_shift(part, *pair) for part, pair in zip(parts, pairs, strict=True)]), 0, channel_axis)


def _finish(operator: Any, accumulator: Array, values: Values, channel_axis: int = 1) -> Array:
    y = rescaled(accumulator, operator.rescale, channel_axis) + values[operator.output].zero_point
    return np.minimum(np.maximum(y, operator.low), operator.high)


def _centred(operator: Any, codes: list[Array], values: Values) -> list[Array]:
    return [q - values[name].zero_point for q, name in zip(codes, operator.inputs, strict=True)]


def _places(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in shape))


def _aligned(arrays: list[Array]) -> list[Array]:
    """Samples broadcast as NumPy broadcasts them: axes of size 1 before the first, behind the batch."""
    num_axes = max(q.ndim for q in arrays)
    return [q.reshape(len(q), *[1] * (num_axes - q.ndim), *q.shape[1:]) for q in arrays]


def _conv(operator: Any, codes: list[Array], values: Values) -> Array:
    (q,), y, weight = codes, values[operator.output], operator.weight.numpy()
    per_group_in, per_group_out = weight.shape[1], len(weight) // operator.groups
    sums = np.zeros((len(q), *y.shape), np.int64)
    for o, *t in _places(y.shape):
        total = np.full(len(q), int(operator.bias[o]))
        for c, *k in _places(weight.shape[1:]):
            at = [i * s + j * d - p[0] for i, s, j, d, p in zip(t, operator.stride, k, operator.dilation, operator.padding, strict=True)]
            is_inside = all(0 <= i < size for i, size in zip(at, q.shape[2:], strict=True))
            channel = o // per_group_out * per_group_in + c
            read = q[(slice(None), channel, *at)] if is_inside else values[operator.inputs[0]].zero_point
            total = total + read * weight[(o, c, *k)]
        sums[(slice(None), o, *t)] = total
    return _finish(operator, sums, values)


def _conv_transpose(operator: Any, codes: list[Array], values: Values) -> Array:
    (q,), y, weight = _centred(operator, codes, values), values[operator.output], operator.weight.numpy()
    per_group_in, per_group_out = len(weight) // operator.groups, weight.shape[1]
    sums = np.zeros((len(q), *y.shape), np.int64) + operator.bias.numpy().reshape(-1, *[1] * (len(y.shape) - 1))
    for c, *t in _places(q.shape[1:]):
        for o, *k in _places(weight.shape[1:]):
            at = [i * s + j * d - p for i, s, j, d, p in zip(t, operator.stride, k, operator.dilation, operator.padding, strict=True)]
            if all(0 <= i < size for i, size in zip(at, y.shape[1:], strict=True)):
                channel = c // per_group_in * per_group_out + o
                sums[(slice(None), channel, *at)] += q[(slice(None), c, *t)] * weight[(c, o, *k)]
    return _finish(operator, sums, values)


def _linear(operator: Any, codes: list[Array], values: Values) -> Array:
    sums = (codes[0][..., None, :] * operator.weight.numpy()).sum(-1) + operator.bias.numpy()
    return _finish(operator, sums, values, sums.ndim - 1)


def _matmul(operator: Any, codes: list[Array], values: Values) -> Array:
    one, other = _aligned(_centred(operator, codes, values))
    return _finish(operator, (one[..., :, :, None] * other[..., None, :, :]).sum(-2), values)


def _mul(operator: Any, codes: list[Array], values: Values) -> Array:
    one, other = _aligned(_centred(operator, codes, values))
    return _finish(operator, one * other, values)


def _add(operator: Any, codes: list[Array], values: Values) -> Array:
    total = 0
    for q, multiplier in zip(_aligned(_centred(operator, codes, values)), operator.multipliers, strict=True):
        total = total + q * np.int64(multiplier)
    y = multiply_shift(np.asarray(total), 1, operator.shift) + values[operator.output].zero_point
    return np.minimum(np.maximum(y, operator.low), operator.high)


def _concat(operator: Any, codes: list[Array], values: Values) -> Array:
    parts = [rescaled(q, rescale, 0) for q, rescale in zip(_centred(operator, codes, values), operator.rescales, strict=True)]
    y = np.concatenate(parts, operator.axis + 1) + values[operator.output].zero_point
    return np.minimum(np.maximum(y, operator.low), operator.high)


def _requantize(operator: Any, codes: list[Array], values: Values) -> Array:
    return _finish(operator, _centred(operator, codes, values)[0], values)


def _mean(operator: Any, codes: list[Array], values: Values) -> Array:
    sums = _centred(operator, codes, values)[0].sum(tuple(axis + 1 for axis in operator.axes))
    return _finish(operator, sums.reshape(len(sums), *values[operator.output].shape), values)


def _windows(operator: Any, shape: tuple[int, ...], dilation: tuple[int, ...], size: tuple[int, ...]) -> Iterator[Any]:
    """(place of the output, places of the input that lie in its window)."""
    for place in _places(shape):
        steps = zip(place, operator.stride, dilation, operator.padding, operator.kernel, strict=True)
        axes = [[i * s + j * d - p[0] for j in range(k)] for i, s, d, p, k in steps]
        inside = [[at for at in axis if 0 <= at < n] for axis, n in zip(axes, size, strict=True)]
        yield place, list(itertools.product(*inside))


def _max_pool(operator: Any, codes: list[Array], values: Values) -> Array:
    (q,), shape = codes, values[operator.output].shape
    y = np.zeros((len(q), *shape), np.int64)
    for place, window in _windows(operator, shape[1:], operator.dilation, q.shape[2:]):
        y[(..., *place)] = np.max([q[(..., *at)] for at in window], 0)
    return y


def _average_pool(operator: Any, codes: list[Array], values: Values) -> Array:
    (q,), shape = _centred(operator, codes, values), values[operator.output].shape
    y = np.zeros((len(q), *shape), np.int64)
    for place, window in _windows(operator, shape[1:], (1,) * len(operator.kernel), q.shape[2:]):
        divisor = np.prod([counts[i] for counts, i in zip(operator.counts, place, strict=True)])
        index = operator.divisors.index(int(divisor))
        multiplier, shift = int(operator.rescale.multiplier[index]), int(operator.rescale.shift[index])
        y[(..., *place)] = multiply_shift(np.sum([q[(..., *at)] for at in window], 0), multiplier, shift)
    return np.minimum(np.maximum(y + values[operator.output].zero_point, operator.low), operator.high)


def _argmax(operator: Any, codes: list[Array], values: Values) -> Array:
    return np.argmax(codes[0], operator.axis + 1).reshape(len(codes[0]), *values[operator.output].shape)


def _lookup(operator: Any, codes: list[Array], values: Values) -> Array:
    (q,), table, y = codes, operator.table.numpy(), np.zeros_like(codes[0])
    for place in np.ndindex(*q.shape):
        row = place[1] if len(table) > 1 else 0
        y[place] = table[row, q[place] - values[operator.inputs[0]].grid.minimum]
    return y


def _reshape(operator: Any, codes: list[Array], values: Values) -> Array:
    return codes[0].reshape(len(codes[0]), *values[operator.output].shape)


def _copy(operator: Any, codes: list[Array], values: Values) -> Array:
    flat = codes[0].reshape(len(codes[0]), -1)
    loops = _places(operator.sizes)
    places = [operator.offset + sum(i * stride for i, stride in zip(at, operator.strides, strict=True)) for at in loops]
    return np.stack([flat[:, place] for place in places], 1).reshape(len(flat), *values[operator.output].shape)


def _embedding(operator: Any, codes: list[Array], values: Values) -> Array:
    q, table = _centred(operator, codes, values)[0], operator.table.numpy()
    y = np.zeros((*q.shape, table.shape[1]), np.int64)
    for place in np.ndindex(*q.shape):
        y[place] = table[min(max(int(q[place]), 0), len(table) - 1)]
    return y


def _gather(operator: Any, codes: list[Array], values: Values) -> Array:
    flat = codes[0].reshape(len(codes[0]), -1)
    return np.stack([flat[:, int(place)] for place in operator.index], 1).reshape(len(flat), *values[operator.output].shape)


def _pad(operator: Any, codes: list[Array], values: Values) -> Array:
    (q,), zero_point = codes, values[operator.inputs[0]].zero_point
    y = np.full((len(q), *values[operator.output].shape), zero_point)
    y[(slice(None), *(slice(before, before + n) for (before, _), n in zip(operator.padding, q.shape[1:], strict=True)))] = q
    return y


def _constant(operator: Any, codes: list[Array], values: Values) -> Array:
    array: Array = operator.codes.numpy()[None]
    return array


def _softmax(operator: Any, codes: list[Array], values: Values) -> Array:
    value = values[operator.output]
    q = (codes[0] - values[operator.inputs[0]].zero_point) << operator.guard
    if operator.bias is not None:
        bias = np.broadcast_to(operator.bias.numpy(), q.shape[1:])
        q = np.where(bias == HIDDEN, HIDDEN, q + bias)
    if len(codes) > 1:
        keep = _aligned(codes)[1] != values[operator.inputs[1]].zero_point
        q = np.where(np.broadcast_to(keep, q.shape), q, HIDDEN)
    rows, made = np.moveaxis(q, operator.axis + 1, -1), []
    for row in rows.reshape(-1, rows.shape[-1]).tolist():
        powers = [_power(min((max(row) - score) * m + half >> s, 2**21 - 1)) for m, s, half in [_numbers(operator)] for score in row]
        ratio = operator.numerator // sum(powers)
        made.append([(power * ratio + ((1 << operator.precision) >> 1) >> operator.precision) + value.zero_point for power in powers])
    y = np.moveaxis(np.array(made).reshape(rows.shape), -1, operator.axis + 1)
    return np.minimum(np.maximum(y, value.grid.minimum), value.grid.maximum)


def _numbers(operator: Any) -> tuple[int, int, int]:
    multiplier, shift = int(operator.rescale.multiplier), int(operator.rescale.shift)
    return multiplier, shift, (1 << shift) >> 1


def _power(x: int) -> int:
    octaves, fraction = x >> 16, x & 65535
    coarse, fine = round(2 ** (30 - (fraction >> 8) / 256)), round(2 ** (30 - (fraction & 255) / 65536))
    return coarse * fine >> 30 + octaves


def _layer_norm(operator: Any, codes: list[Array], values: Values) -> Array:
    value, made = values[operator.output], []
    count = values[operator.inputs[0]].size // operator.num_groups
    for sample in _centred(operator, codes, values)[0].reshape(len(codes[0]), operator.num_groups, count).tolist():
        for group, entries in enumerate(sample):
            total = sum(entries) * operator.is_centred
            v = (count * sum(entry**2 for entry in entries) - total**2 << 2 * operator.guard) + operator.epsilon
            k = (62 - v.bit_length()) // 2
            root = 2**31
            for _ in range(5):
                root = (root + (v << 2 * k) // root) // 2
            assert abs(root - math.isqrt(v << 2 * k)) <= 1
            rest = 45 - operator.guard - k
            for index, entry in enumerate(entries):
                u = (count * entry - total) * (2**61 // root) + 2 ** (rest - 1) >> rest
                place = (group * count + index) // operator.inner % len(operator.weight)
                y = u * int(operator.weight[place]) + (int(operator.bias[place]) << operator.bias_shift)
                y = (y + ((1 << operator.shift) >> 1) >> operator.shift) + value.zero_point
                made.append(min(max(y, operator.low), operator.high))
    return np.array(made).reshape(codes[0].shape)


EVALUATE: dict[str, Callable[[Any, list[Array], Values], Array]] = {
    "add": _add,
    "argmax": _argmax,
    "average_pool": _average_pool,
    "concat": _concat,
    "constant": _constant,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "copy": _copy,
    "embedding": _embedding,
    "gather": _gather,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "lookup": _lookup,
    "matmul": _matmul,
    "max_pool": _max_pool,
    "mean": _mean,
    "mul": _mul,
    "pad": _pad,
    "requantize": _requantize,
    "reshape": _reshape,
    "softmax": _softmax,
}
