"""One function a kind of operator: it appends an operator of that kind to a growing program, or returns None where no value suits it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from program_builder import Builder

from halfstep.grid import Grid
from halfstep.integer import operators as kinds
from halfstep.integer.operators.abstract import sum_bounds
from halfstep.integer.operators.softmax import HIDDEN
from halfstep.integer.requantization import rescale, shared_shift
from halfstep.integer.value import Value

Build = Callable[[Builder], Value | None]
BUILDERS: dict[str, Build] = {}
_MAX_BITS = 16  # wider codes than that take part in few operators


def _builds(kind: str) -> Callable[[Build], Build]:
    def enter(build: Build) -> Build:
        BUILDERS[kind] = build
        return build

    return enter


def _is_map(value: Value) -> bool:
    return 2 <= len(value.shape) <= 4 and value.grid.bits <= _MAX_BITS


def _largest(value: Value) -> int:
    """The largest magnitude of a code or centred code."""
    return max(abs(bound) for bound in (*value.centred_bounds, value.grid.minimum, value.grid.maximum))


def _codes(value: Value) -> tuple[int, int]:
    return value.grid.minimum, value.grid.maximum


def _padding(builder: Builder, size: int, reach: int, most: int) -> tuple[int, int]:
    """(before, after) of one axis, up to ``most`` each and enough for one window."""
    before, after = (builder.random.choice([0, 0, builder.random.randint(0, most)]) for _ in range(2))
    return before, max(after, reach - size - before)


@_builds("conv")
def _conv(builder: Builder) -> Value | None:
    x = builder.pick(_is_map)
    if x is None:
        return None
    r, channels = builder.random, x.shape[0]
    groups = r.choice([group for group in range(1, channels + 1) if channels % group == 0])
    out = groups * r.randint(1, 3)
    kernel, stride, dilation = (tuple(r.choice(sizes) for _ in x.shape[1:]) for sizes in ((1, 2, 3, 3, 4), (1, 1, 2, 3), (1, 1, 1, 2)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(_padding(builder, size, far, 2) for size, far in zip(x.shape[1:], reach, strict=True))
    sizes = [(n + sum(p) - far) // s + 1 for n, p, far, s in zip(x.shape[1:], padding, reach, stride, strict=True)]
    weight = builder.weight((out, channels // groups, *kernel), channels // groups * math.prod(kernel), _largest(x))
    bias, y = builder.bias(out), builder.result("conv", (out, *sizes))
    return builder.add(
        kinds.Conv, y, (x,), **builder.finish(y, sum_bounds(weight.flatten(1), *_codes(x), bias), out),
        weight=weight, bias=bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip


@_builds("conv_transpose")
def _conv_transpose(builder: Builder) -> Value | None:
    x = builder.pick(_is_map)
    if x is None:
        return None
    r, channels = builder.random, x.shape[0]
    groups = r.choice([group for group in range(1, channels + 1) if channels % group == 0])
    out = groups * r.randint(1, 2)
    kernel, stride, dilation = (tuple(r.choice(sizes) for _ in x.shape[1:]) for sizes in ((1, 2, 3, 4), (1, 2, 2, 3), (1, 1, 2)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    added = tuple(r.choice([0, 0, r.randrange(max(s, d))]) for s, d in zip(stride, dilation, strict=True))
    full = [(n - 1) * s + far + a for n, s, far, a in zip(x.shape[1:], stride, reach, added, strict=True)]
    padding = tuple(min(r.choice([0, 0, 1, 2]), far - 1, (n - 1) // 2) for n, far in zip(full, reach, strict=True))
    weight = builder.weight((channels, out // groups, *kernel), channels // groups * math.prod(kernel), _largest(x))
    bias, y = builder.bias(out), builder.result("conv_transpose", (out, *[n - 2 * p for n, p in zip(full, padding, strict=True)]))
    columns = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)
    return builder.add(
        kinds.ConvTranspose, y, (x,), **builder.finish(y, sum_bounds(columns, *x.centred_bounds, bias), out), weight=weight, bias=bias,
        stride=stride, padding=padding, output_padding=added, dilation=dilation, groups=groups,
    )  # fmt: skip


@_builds("linear")
def _linear(builder: Builder) -> Value | None:
    x = builder.pick(lambda value: bool(value.shape) and value.grid.bits <= _MAX_BITS)
    if x is None:
        return None
    out = builder.random.randint(1, 6)
    weight, bias = builder.weight((out, x.shape[-1]), x.shape[-1], _largest(x)), builder.bias(out)
    y = builder.result("linear", (*x.shape[:-1], out))
    return builder.add(kinds.Linear, y, (x,), **builder.finish(y, sum_bounds(weight, *_codes(x), bias), out), weight=weight, bias=bias)


@_builds("matmul")
def _matmul(builder: Builder) -> Value | None:
    one = builder.pick(lambda value: len(value.shape) >= 2 and value.grid.bits <= _MAX_BITS)
    if one is None:
        return None
    most = 30 - one.grid.bits - math.ceil(math.log2(one.shape[-1] + 1)) - 1
    batch = [builder.random.choice([n, n, 1]) for n in one.shape[:-2]][builder.random.choice([0, 0, 1]) :]
    other = builder.partner((*batch, one.shape[-1], builder.random.randint(1, 4)), min(16, most))
    y = builder.result("matmul", (*one.shape[:-1], other.shape[-1]))
    reach = _largest(one) * _largest(other)
    return builder.add(kinds.Matmul, y, (one, other), **builder.finish(y, (-reach, reach)))


@_builds("mul")
def _mul(builder: Builder) -> Value | None:
    one = builder.pick(lambda value: bool(value.shape) and value.grid.bits <= _MAX_BITS)
    if one is None:
        return None
    other = builder.partner(_broadcast(builder, one), min(16, 29 - one.grid.bits))
    shape = torch.broadcast_shapes(one.shape, other.shape)
    y, reach = builder.result("mul", shape), _largest(one) * _largest(other)
    pair = (one, other) if builder.chance(0.5) else (other, one)
    return builder.add(kinds.Mul, y, pair, **builder.finish(y, (-reach, reach)))


def _broadcast(builder: Builder, value: Value) -> tuple[int, ...]:
    """The shape of an operand for it: at times with axes of size 1, or with more where it has 1, or without the first axes."""
    if builder.chance(0.6):
        return value.shape
    first = builder.random.choice([0, 0, builder.random.randrange(len(value.shape))])
    return tuple(builder.random.choice([1, n if n > 1 else builder.random.randint(1, 3)]) for n in value.shape[first:])


@_builds("add")
def _add(builder: Builder) -> Value | None:
    first = builder.pick(lambda value: bool(value.shape))
    if first is None:
        return None
    terms = [first] + [builder.partner(_broadcast(builder, first)) for _ in range(builder.random.choice([1, 1, 1, 2]))]
    builder.random.shuffle(terms)
    try:
        shape = torch.broadcast_shapes(*(value.shape for value in terms))
    except RuntimeError:
        return None
    y = builder.new("add", shape, builder.grid())
    scales = [builder.scale_between(_largest(value), y) for value in terms]
    multipliers, shift = shared_shift(scales, builder.mode, max(value.grid.bits for value in terms) + 1)
    multipliers = tuple(m * builder.random.choice([1, 1, 1, -1]) for m in multipliers)
    low, high = builder.clamp(y)
    return builder.add(kinds.Add, y, tuple(terms), multipliers=multipliers, shift=shift, low=low, high=high)


@_builds("concat")
def _concat(builder: Builder) -> Value | None:
    first = builder.pick(lambda value: bool(value.shape))
    if first is None:
        return None
    axis = builder.random.randrange(len(first.shape))
    shapes = [(*first.shape[:axis], builder.random.randint(1, 3), *first.shape[axis + 1 :]) for _ in range(builder.random.randint(0, 2))]
    parts = [first, *(builder.partner(shape) for shape in shapes)]
    builder.random.shuffle(parts)
    y = builder.new("concat", (*first.shape[:axis], sum(part.shape[axis] for part in parts), *first.shape[axis + 1 :]), builder.grid())
    rescales = tuple(builder.rescale(y, (-_largest(part), _largest(part))) for part in parts)
    low, high = builder.clamp(y)
    return builder.add(kinds.Concat, y, tuple(parts), axis=axis, rescales=rescales, low=low, high=high)


@_builds("requantize")
def _requantize(builder: Builder) -> Value | None:
    x = builder.pick(lambda value: True)
    if x is None:
        return None
    y = builder.result("requantize", x.shape)
    return builder.add(kinds.Requantize, y, (x,), **builder.finish(y, x.centred_bounds, x.shape[0] if x.shape else 1))


@_builds("mean")
def _mean(builder: Builder) -> Value | None:
    x = builder.pick(lambda value: bool(value.shape) and value.grid.bits <= _MAX_BITS)
    if x is None:
        return None
    axes = tuple(axis for axis in range(len(x.shape)) if builder.chance(0.5)) or (len(x.shape) - 1,)
    kept = [1 if axis in axes else n for axis, n in enumerate(x.shape)]
    shape = kept if builder.chance(0.5) else [n for axis, n in enumerate(x.shape) if axis not in axes]
    y = builder.result("mean", shape)
    reach = math.prod(x.shape[axis] for axis in axes) * _largest(x)
    return builder.add(kinds.Mean, y, (x,), **builder.finish(y, (-reach, reach), shape[0] if shape else 1), axes=axes)


def _window(builder: Builder, x: Value) -> tuple[list[int], list[int], list[int], list[int]]:
    """kernel, stride, reach and dilation of a pooling."""
    r = builder.random
    kernel, stride, dilation = ([r.choice(sizes) for _ in x.shape[1:]] for sizes in ((1, 2, 2, 3), (1, 2, 2, 3), (1, 1, 1, 2)))
    kernel = [min(k, n) for k, n in zip(kernel, x.shape[1:], strict=True)]
    dilation = [d if d * (k - 1) < n else 1 for d, k, n in zip(dilation, kernel, x.shape[1:], strict=True)]
    return kernel, stride, [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)], dilation


@_builds("max_pool")
def _max_pool(builder: Builder) -> Value | None:
    x = builder.pick(lambda value: 2 <= len(value.shape) <= 4)
    if x is None:
        return None
    kernel, stride, reach, dilation = _window(builder, x)
    padding = tuple(_window_padding(builder, *window) for window in zip(x.shape[1:], kernel, stride, dilation, strict=True))
    sizes = [(n + sum(p) - far) // s + 1 for n, p, far, s in zip(x.shape[1:], padding, reach, stride, strict=True)]
    y = builder.like("max_pool", (x.shape[0], *sizes), x)
    return builder.add(kinds.MaxPool, y, (x,), kernel=tuple(kernel), stride=tuple(stride), padding=padding, dilation=tuple(dilation))


def _window_padding(builder: Builder, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(before, after) of one axis such that every window holds an entry of the input."""
    before, after = (builder.random.randint(0, dilation * (kernel - 1)) for _ in range(2))
    starts = range(-before, size + after - dilation * (kernel - 1), stride)
    is_held = all(any(0 <= start + tap * dilation < size for tap in range(kernel)) for start in starts)
    return (before, after) if is_held else (0, 0)


@_builds("average_pool")
def _average_pool(builder: Builder) -> Value | None:
    x = builder.pick(_is_map)
    if x is None:
        return None
    kernel, stride, _, _ = _window(builder, x)
    padding = tuple((builder.random.randint(0, k - 1), builder.random.randint(0, k - 1)) for k in kernel)
    sizes = [(n + sum(p) - k) // s + 1 for n, p, k, s in zip(x.shape[1:], padding, kernel, stride, strict=True)]
    y = builder.result("average_pool", (x.shape[0], *sizes))
    counts = tuple(_counts(builder, n, k, s, p, t) for n, k, s, p, t in zip(x.shape[1:], kernel, stride, padding, sizes, strict=True))
    divisors = tuple(sorted({math.prod(product) for product in itertools.product(*counts)}))
    base = builder.scale_between(math.prod(kernel) * _largest(x), y) * divisors[0]
    ending = builder.finish(y, (-1, 1))
    ending["rescale"] = rescale(base / torch.tensor(divisors), builder.mode)
    return builder.add(
        kinds.AveragePool, y, (x,), **ending,
        kernel=tuple(kernel), stride=tuple(stride), padding=padding, counts=counts, divisors=divisors,
    )  # fmt: skip


def _counts(builder: Builder, size: int, kernel: int, stride: int, padding: tuple[int, int], num_places: int) -> tuple[int, ...]:
    """What each place along an axis divides by: the whole window, or its entries that lie in the input."""
    if builder.chance(0.5):
        return (kernel,) * num_places
    starts = [place * stride - padding[0] for place in range(num_places)]
    return tuple(min(start + kernel, size) - max(start, 0) for start in starts)


@_builds("argmax")
def _argmax(builder: Builder) -> Value | None:
    x = builder.pick(lambda value: bool(value.shape))
    if x is None:
        return None
    axis = builder.random.randrange(len(x.shape))
    shape = (*x.shape[:axis], *builder.random.choice([(1,), ()]), *x.shape[axis + 1 :])
    needed = max(2, (x.shape[axis] - 1).bit_length() + 1)
    y = builder.new("argmax", shape, Grid(builder.random.choice([32, max(needed, 8), needed]), True))
    return builder.add(kinds.Argmax, y, (x,), axis=axis)


@_builds("lookup")
def _lookup(builder: Builder) -> Value | None:
    widest = builder.random.choice([6, 8, 8, 16])
    x = builder.pick(lambda value: value.grid.bits <= widest)
    if x is None:
        return None
    y = builder.new("lookup", x.shape, builder.grid())
    rows = x.shape[0] if x.shape and x.grid.bits <= 8 and builder.chance(0.5) else 1
    return builder.add(kinds.Lookup, y, (x,), table=builder.codes(y.grid.minimum, y.grid.maximum, (rows, x.grid.num_levels)))


@_builds("reshape")
def _reshape(builder: Builder) -> Value | None:
    x = builder.pick(lambda value: True)
    if x is None:
        return None
    first = builder.random.choice([n for n in range(1, x.size + 1) if x.size % n == 0])
    second = builder.random.choice([n for n in range(1, first + 1) if first % n == 0])
    shape = builder.random.choice([(x.size,), (x.size // first, first), (x.size // first, first // second, second)])
    return builder.add(kinds.Reshape, builder.like("reshape", shape, x), (x,))


@_builds("copy")
def _copy(builder: Builder) -> Value | None:
    x = builder.pick(lambda value: bool(value.shape))
    if x is None:
        return None
    loops, offset = [], 0
    for axis, n in enumerate(x.shape):
        far, step = math.prod(x.shape[axis + 1 :]), builder.random.choice([1, 1, 1, 2, -1, -2])
        start = builder.random.choice([0, 0, builder.random.randrange(n)])
        size = builder.random.choice([n, builder.random.randint(1, n)])
        size = min(size, -(-(n - start) // abs(step)))
        loops.append((size, far * step))
        offset += far * (start if step > 0 else start + (size - 1) * -step)
    if builder.chance(0.2):
        loops.append((builder.random.randint(1, 2), 0))
    if builder.chance(0.6):
        builder.random.shuffle(loops)
    sizes, strides = zip(*loops, strict=True)
    shape = sizes if builder.chance(0.7) else (math.prod(sizes),)
    return builder.add(kinds.Copy, builder.like("copy", shape, x), (x,), sizes=sizes, strides=strides, offset=offset)


@_builds("gather")
def _gather(builder: Builder) -> Value | None:
    x = builder.pick(lambda value: True)
    if x is None:
        return None
    shape = [builder.random.randint(1, 4) for _ in range(builder.random.randint(1, 3))]
    y = builder.like("gather", shape, x)
    return builder.add(kinds.Gather, y, (x,), index=builder.codes(0, x.size - 1, (y.size,)))


@_builds("pad")
def _pad(builder: Builder) -> Value | None:
    x = builder.pick(lambda value: bool(value.shape))
    if x is None:
        return None
    padding = tuple((builder.random.choice([0, 0, 1, 2]), builder.random.choice([0, 0, 1])) for _ in x.shape)
    y = builder.like("pad", [n + sum(pair) for n, pair in zip(x.shape, padding, strict=True)], x)
    return builder.add(kinds.Pad, y, (x,), padding=padding)


@_builds("constant")
def _constant(builder: Builder) -> Value | None:
    y = builder.new("constant", [builder.random.randint(1, 4) for _ in range(builder.random.randint(1, 3))], builder.grid())
    return builder.add(kinds.Constant, y, (), codes=builder.codes(y.grid.minimum, y.grid.maximum, y.shape))


@_builds("embedding")
def _embedding(builder: Builder) -> Value | None:
    """Now and then with fewer rows than there are codes."""
    x = builder.pick(lambda value: value.grid.bits <= _MAX_BITS)
    if x is None:
        return None
    shape = (builder.random.randint(1, min(40, x.grid.num_levels)), builder.random.randint(1, 5))
    y = builder.new("embedding", (*x.shape, shape[1]), builder.grid())
    return builder.add(kinds.Embedding, y, (x,), table=builder.codes(y.grid.minimum, y.grid.maximum, shape))


@_builds("softmax")
def _softmax(builder: Builder) -> Value | None:
    x = builder.pick(lambda value: bool(value.shape) and value.grid.bits <= _MAX_BITS)
    if x is None:
        return None
    r, reach = builder.random, max(-x.centred_bounds[0], x.centred_bounds[1])
    guard = r.randint(0, min(10, 28 - reach.bit_length()))
    inputs = (x, builder.partner(_smaller(builder, x.shape), 8)) if builder.chance(0.4) else (x,)
    y = builder.new("softmax", x.shape, builder.grid())
    scale = 2.0 ** r.uniform(-y.grid.bits - 3, 2 - y.grid.bits)
    precision = 61 - math.ceil(1 / scale).bit_length()
    octaves = torch.tensor(2.0 ** r.uniform(14, 24) / (reach << guard))  # of one score, in units of 2^-16
    return builder.add(
        kinds.Softmax, y, inputs, axis=r.randrange(len(x.shape)), rescale=rescale(octaves, builder.mode), guard=guard,
        numerator=round(2**precision / scale), precision=precision, bias=_mask(builder, x, reach << guard),
    )  # fmt: skip


def _smaller(builder: Builder, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what broadcasts to ``shape``: axes of size 1, or without the first ones."""
    first = builder.random.choice([0, 0, builder.random.randrange(len(shape))])
    return tuple(builder.random.choice([1, n, n]) for n in shape[first:])


def _mask(builder: Builder, x: Value, reach: int) -> torch.Tensor | None:
    """A bias of the size of the scores, at times with some of them hidden."""
    if builder.chance(0.5):
        return None
    shape = [builder.random.choice([1, n, n]) for n in x.shape]
    bias = builder.codes(-reach, reach, shape)
    return torch.where(builder.codes(0, 3, shape) > 2, HIDDEN, bias) if builder.chance(0.6) else bias


@_builds("layer_norm")
def _layer_norm(builder: Builder) -> Value | None:
    x = builder.pick(lambda value: bool(value.shape) and value.grid.bits <= _MAX_BITS)
    if x is None:
        return None
    r = builder.random
    groups = r.choice([n for n in range(1, x.size + 1) if x.size % n == 0])
    most = kinds.LayerNorm.most_guard(x.size // groups, x)
    if most < 0:
        return None
    y, bits = builder.new("layer_norm", x.shape, builder.grid()), r.choice([4, 15, 30])
    size, spread = r.choice([1, x.shape[-1], r.randint(1, 5)]), 1 << (bits - r.choice([0, 1, 3]))
    shift = min(62, max(0, bits + 16 - y.grid.bits + r.randint(-1, 3)))
    bias = builder.codes(-spread, spread - 1, (size,))
    low, high = builder.clamp(y)
    return builder.add(
        kinds.LayerNorm, y, (x,), num_groups=groups, is_centred=builder.chance(0.6), guard=r.randint(0, most),
        epsilon=r.randint(1, 1 << r.choice([1, 10, 40])), weight=builder.codes(-spread, spread - 1, (size,)), bias=bias,
        inner=r.choice([1, 1, r.randint(1, x.size)]), bias_shift=r.choice([0, min(16, shift)]), shift=shift, low=low, high=high,
    )  # fmt: skip
