"""Operators of random networks: each draws itself for a shape, or says that it has no place there."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]  # of one sample


@dataclass(frozen=True)
class Drawn:
    """module or apply: what computes it. reads, shape: of a sample before and after."""

    text: str
    reads: Shape
    shape: Shape
    module: nn.Module | None = None
    apply: Callable[..., Tensor] | None = None


Drawer = Callable[[random.Random, Shape], Drawn | None]
DRAWERS: dict[str, Drawer] = {}


def drawer(function: Drawer) -> Drawer:
    """Enter an operator under its function's name."""
    DRAWERS[function.__name__] = function
    return function


def _of_module(module: nn.Module, shape: Shape) -> Drawn:
    """With the shape that comes out."""
    with torch.no_grad():
        found = module.eval()(torch.zeros(2, *shape))
    return Drawn(repr(module), shape, tuple(found.shape[1:]), module)


def _of_function(text: str, function: Callable[[Tensor], Tensor], shape: Shape) -> Drawn:
    return Drawn(text, shape, tuple(function(torch.zeros(2, *shape)).shape[1:]), None, function)


_CONVOLUTIONS = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
_TRANSPOSED = {2: nn.ConvTranspose1d, 3: nn.ConvTranspose2d, 4: nn.ConvTranspose3d}
_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}


@drawer
def convolution(rng: random.Random, shape: Shape) -> Drawn | None:
    if len(shape) not in _CONVOLUTIONS:
        return None
    kernel, dilation, stride = rng.choice((1, 2, 3, 3, 4)), rng.choice((1, 1, 2)), rng.choice((1, 1, 2))
    padding: Any = rng.choice((0, 1, "same")) if stride == 1 else rng.choice((0, 1))
    mode = rng.choice(("zeros", "zeros", "zeros", "reflect", "replicate", "circular")) if len(shape) < 4 else "zeros"
    groups = rng.choice([1, 1, shape[0], 2] if shape[0] % 2 == 0 else [1, shape[0]])
    outputs = groups * rng.choice((1, 2)) if groups == shape[0] else rng.choice((4, 8))
    if padding != "same" and min(shape[1:]) + 2 * padding < dilation * (kernel - 1) + 1:
        return None
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": rng.random() < 0.6}
    options |= {"padding_mode": mode}
    found = _CONVOLUTIONS[len(shape)](shape[0], outputs, kernel, **options)
    return _of_module(found, shape) if _runs(found, shape) else None


@drawer
def transposed_convolution(rng: random.Random, shape: Shape) -> Drawn | None:
    if len(shape) not in _TRANSPOSED:
        return None
    groups = 2 if shape[0] % 2 == 0 and rng.random() < 0.3 else 1
    options = {"stride": rng.choice((1, 2)), "padding": rng.choice((0, 1)), "groups": groups, "bias": rng.random() < 0.6}
    return _of_module(_TRANSPOSED[len(shape)](shape[0], rng.choice((4, 8)), 3, **options), shape)


@drawer
def linear(rng: random.Random, shape: Shape) -> Drawn:
    return _of_module(nn.Linear(shape[-1], rng.choice((4, 8, 8, shape[-1])), bias=rng.random() < 0.7), shape)


@drawer
def batch_norm(rng: random.Random, shape: Shape) -> Drawn:
    return _of_module(_BATCH_NORMS[len(shape)](shape[0], affine=rng.random() < 0.8), shape)


@drawer
def activation(rng: random.Random, shape: Shape) -> Drawn:
    made = rng.choice((
        nn.ReLU, nn.ReLU, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.Hardswish, nn.Hardsigmoid, nn.ELU,
        nn.Softplus, nn.Mish, lambda: nn.PReLU(shape[0]), lambda: nn.Hardtanh(-1, 2), lambda: nn.ReLU(inplace=True), nn.Softsign,
        lambda: nn.Dropout(0.5),
    ))  # fmt: skip
    return _of_module(made(), shape)


@drawer
def pooling(rng: random.Random, shape: Shape) -> Drawn | None:
    axes = len(shape) - 1
    if axes not in (1, 2, 3) or min(shape[1:]) < 3:
        return None
    ceil = rng.random() < 0.3
    kinds: dict[str, tuple[Any, ...]] = {
        "max": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), "average": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        "adaptive": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        "adaptive max": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    }  # fmt: skip
    kind = rng.choice(tuple(kinds))
    made = kinds[kind][axes - 1]
    if kind.startswith("adaptive"):
        return _of_module(made(rng.choice((1, 2, 3))), shape)
    return _of_module(made(rng.choice((2, 3)), stride=rng.choice((1, 2)), padding=rng.choice((0, 1)), ceil_mode=ceil), shape)


@drawer
def mean(rng: random.Random, shape: Shape) -> Drawn | None:
    if len(shape) < 2:
        return None
    axes, keeps = rng.choice((tuple(range(2, len(shape) + 1)), (1,), (-1,))), rng.random() < 0.5
    return _of_function(f"mean{axes}{keeps}", lambda x: x.mean(axes, keepdim=keeps), shape)


@drawer
def norm(rng: random.Random, shape: Shape) -> Drawn | None:
    kinds: list[Callable[[], nn.Module]] = [lambda: nn.LayerNorm(shape[-1]), lambda: nn.RMSNorm(shape[-1])]
    if len(shape) > 1:
        kinds += [lambda: nn.GroupNorm(2 if shape[0] % 2 == 0 else 1, shape[0]), lambda: nn.LayerNorm(shape[-2:])]
    if len(shape) == 3 and shape[1] * shape[2] > 1:
        kinds += [lambda: nn.InstanceNorm2d(shape[0], affine=True)]
    return _of_module(rng.choice(kinds)(), shape)


class SelfAttention(nn.Module):
    """torch's own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return found


class WrittenAttention(nn.Module):
    """Queries, keys and values by hand, with torch's product or one by hand."""

    def __init__(self, size: int, by_hand: bool) -> None:
        super().__init__()
        self.query, self.key, self.value, self.by_hand = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size), by_hand

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        if not self.by_hand:
            return F.scaled_dot_product_attention(q, k, v)
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


@drawer
def attention(rng: random.Random, shape: Shape) -> Drawn | None:
    if len(shape) != 2 or shape[1] % 2:
        return None
    return _of_module(SelfAttention(shape[1]) if rng.random() < 0.4 else WrittenAttention(shape[1], rng.random() < 0.5), shape)


class WithConstant(nn.Module):
    """Adds a stored tensor, or multiplies by it: one number a channel, a position or an entry."""

    def __init__(self, shape: Shape, is_product: bool, is_trained: bool) -> None:
        super().__init__()
        value = torch.randn(shape)
        if is_trained:
            self.constant = nn.Parameter(value)
        else:
            self.register_buffer("constant", value)
        self.is_product = is_product

    def forward(self, x: Tensor) -> Tensor:
        return x * self.constant if self.is_product else x + self.constant


@drawer
def constant(rng: random.Random, shape: Shape) -> Drawn:
    of_channels = (shape[0], *[1] * (len(shape) - 1))
    chosen = rng.choice((of_channels, (shape[-1],), shape, (1,)))
    return _of_module(WithConstant(chosen, rng.random() < 0.5, rng.random() < 0.5), shape)


class SqueezeExcite(nn.Module):
    """A gate for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.second(self.first(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


@drawer
def gate(rng: random.Random, shape: Shape) -> Drawn | None:
    return _of_module(SqueezeExcite(shape[0]), shape) if len(shape) == 3 else None


@drawer
def product(rng: random.Random, shape: Shape) -> Drawn | None:
    """Of the value with itself, turned, or with a stored matrix."""
    if len(shape) < 2:
        return None
    matrix = torch.randn(shape[-1], rng.choice((4, 8)))
    functions: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("x @ xT", lambda x: x @ x.mT), ("xT @ x", lambda x: x.mT @ x), ("x @ matrix", lambda x: x @ matrix),
        ("outer", lambda x: x[..., :1] * x[..., :1].mT),
    ]  # fmt: skip
    if len(shape) == 2:
        functions.append(("einsum", lambda x: torch.einsum("bij,bkj->bik", x, x)))
    return _of_function(*rng.choice(functions), shape)


@drawer
def broadcast(rng: random.Random, shape: Shape) -> Drawn | None:
    """The value with a part or a statistic of itself."""
    if len(shape) < 2:
        return None
    functions: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("x - mean", lambda x: x - x.mean(-1, keepdim=True)), ("x * first", lambda x: x * x[:, :1]),
        ("x + last", lambda x: x + x[..., -1:]), ("sum", lambda x: x.sum(1)),
        ("x + mean 1", lambda x: x + x.mean(1, keepdim=True)), ("x / rms", lambda x: x * (x * x).mean(-1, keepdim=True).add(1e-3).rsqrt()),
        ("x - amax", lambda x: x - x.amax(-1, keepdim=True)), ("stack", lambda x: torch.stack([x, x.relu()], 1)),
        ("minimum", lambda x: torch.minimum(x, x.flip(-1))), ("where", lambda x: torch.where(x > 0, x, 0.1 * x)),
    ]  # fmt: skip
    text, function = rng.choice(functions)
    return _of_function(text, function, shape) if text != "stack" or len(shape) < 4 else None


@drawer
def number(rng: random.Random, shape: Shape) -> Drawn:
    functions: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("x * 0.5", lambda x: x * 0.5), ("x + 3", lambda x: x + 3), ("-x", lambda x: -x), ("x / 4", lambda x: x / 4),
        ("1 - x", lambda x: 1 - x),
        ("clamp", lambda x: x.clamp(-1, 1.5)), ("abs", torch.abs), ("square", lambda x: x * x), ("softmax", lambda x: x.softmax(-1)),
        ("softmax 1", lambda x: x.softmax(1)), ("x + x", lambda x: x + x),
    ]  # fmt: skip
    return _of_function(*rng.choice(functions), shape)


@drawer
def movement(rng: random.Random, shape: Shape) -> Drawn:
    last, functions = len(shape), list[tuple[str, Callable[[Tensor], Tensor]]]()
    functions += [("flatten", lambda x: x.flatten(1)), ("slice", lambda x: x[:, 1:]), ("flip", lambda x: x.flip(-1))]
    if shape[0] % 2 == 0:
        functions += [("halves", lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)), ("half", lambda x: x.chunk(2, 1)[0])]
    if last > 1:
        functions += [
            ("transpose 1 2", lambda x: x.transpose(1, 2)), ("transpose", lambda x: x.transpose(1, -1)),
            ("pad", lambda x: F.pad(x, (1, 2))),
            ("pad 1", lambda x: F.pad(x, (0, 1), value=1.0)), ("every second", lambda x: x[..., ::2]),
        ]  # fmt: skip
    if last == 3:
        functions += [
            ("nearest", lambda x: F.interpolate(x, scale_factor=2.0)), ("reflect", lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")),
            ("tokens", lambda x: x.flatten(2).transpose(1, 2)),
        ]  # fmt: skip
    text, function = rng.choice(functions)
    return _of_function(text, function, shape) if _runs(function, shape) else _of_function("flatten", lambda x: x.flatten(1), shape)


def _runs(function: Callable[[Tensor], Tensor], shape: Shape) -> bool:
    try:
        function(torch.zeros(2, *shape))
    except RuntimeError:
        return False
    return True
