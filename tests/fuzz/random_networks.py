"""A random network, its inputs and how to quantize it, all from one seed.

A network is a plan: each line applies an operator to values that stand before it. Operators know for which shapes they are, so that a
network always runs; sizes are small and mostly equal, because an axis that is mistaken for another one of the same size is not noticed
otherwise.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fuzz.operators import DRAWERS, Drawn, Shape

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_TAKEN = nn.ModuleDict()  # names that a module has already
NAMES = ("conv", "class", "lambda", "meta", "training", "forward", "weight", "été", "a b", "0", "x\"y", "fc", "[red]", "p_0", "n_1",
         "input", "layer", "self", "None", "_x", "relu", "add")  # fmt: skip
EIGHT_BITS = ("int8", "int8-per-tensor", "int8-balanced", "int8-balanced-split", "normalize", "normalize-kl", "smooth-w8a8", "dfq",
              "transformer-int8")  # fmt: skip
OTHERS = ("w4a8", "lattice-w4", "lattice-w2a8", "lattice-w4a4", "lattice-w4-g32", "nearest-w4", "gptq-w4-g128", "ocs-w4", "omse-w4",
          "normalize-w4a4", "aciq-w4a8", "dfq-w4a8")  # fmt: skip
INEXACT = ("dfq", "dfq-w4a8", "int8-balanced-split")
_MOST_ENTRIES = 2048  # of a tensor: small networks are quick
MODES = ("fixed_point_32", "fixed_point_16", "single_shift", "double_shift")
# What schemes may say beside their recipe's; a grid for the inputs more often than not, without which few networks have integers alone.
_IN_FLOAT = {"weights": "float", "activations": "float"}
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"outputs": True}, {"addends": "uint16"}, {"norm_inputs": "uint16"}, {"softmax": "uint16"}, {"shortcuts": "uint8"},
    {"last_input": "uint8"}, {"first_layer": {"weights": "int8"}}, {"last_layer": _IN_FLOAT},
    {"overrides": [{"pattern": "*m1*", **_IN_FLOAT}]},
    {"target": "openvino"}, {"target": "tensorrt"}, {"target": "generic"},
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One operator. name: of its module, or of a function. operands: numbers of earlier values."""

    name: str
    operands: tuple[int, ...]
    apply: Callable[..., Tensor] | None
    text: str


class RandomNetwork(nn.Module):
    """Runs a plan. outputs: numbers of the values that are returned; form: as what."""

    def __init__(self, modules: dict[str, nn.Module], plan: list[Line], outputs: tuple[int, ...], form: str) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        for name, module in modules.items():
            self.parts.add_module(name, module)
        self.plan, self.outputs, self.form = plan, outputs, form

    def forward(self, x: Tensor, second: Tensor | None = None) -> Any:
        values = [x] if second is None else [x, second]
        parts = dict(self.parts.named_children())
        for line in self.plan:
            operands = [values[index] for index in line.operands]
            values.append(line.apply(*operands) if line.apply is not None else parts[line.name](*operands))
        found = tuple(values[index] for index in self.outputs)
        if self.form == "dict":
            return {f"out{index}": value for index, value in enumerate(found)}
        return found[0] if self.form == "tensor" else found


@dataclass(frozen=True)
class Case:
    """All that a trial needs. options: of the recipe's scheme."""

    seed: int
    network: RandomNetwork
    inputs: tuple[Tensor, ...]
    recipe: str
    options: dict[str, Any]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.recipe}, {self.options}, inputs {[list(x.shape) for x in self.inputs]}"]
        start = len(self.inputs)
        lines += [f"  v{index + start} = {line.text}({', '.join(f'v{i}' for i in line.operands)})  # {line.name!r}"
                  for index, line in enumerate(self.network.plan)]  # fmt: skip
        return "\n".join([*lines, f"  {self.network.form} of {self.network.outputs}"])


class _Draft:
    """A network while it is drawn. shapes: of all values so far, inputs first."""

    def __init__(self, rng: random.Random, shapes: list[Shape]) -> None:
        self.rng, self.shapes, self.num_inputs = rng, shapes, len(shapes)
        self.modules: dict[str, nn.Module] = {}
        self.drawn: dict[str, Drawn] = {}
        self.plan: list[Line] = []

    def grow(self) -> None:
        """One more operator, mostly on the last value: a module a second time, two values together, or a new one."""
        rng, shapes = self.rng, self.shapes
        at = len(shapes) - 1 if rng.random() < 0.85 else rng.randrange(len(shapes))
        again = [name for name, part in self.drawn.items() if part.reads == shapes[at]]
        partners = [index for index, shape in enumerate(shapes[:-1]) if shape == shapes[at] and index != at]
        if again and rng.random() < 0.08:
            part = self.drawn[name := rng.choice(again)]
            self._append(Line(name, (at,), None, part.text), part.shape)
        elif partners and rng.random() < 0.35:
            text, apply, shape = _merge(rng, shapes[at])
            self._append(Line(text, (at, rng.choice(partners)), apply, text), shape)
        else:
            self._draw_at(at)

    def add(self, found: Drawn, at: int) -> None:
        """A new operator."""
        name = found.text
        if found.module is not None:
            free = [name for name in NAMES if name not in self.modules and not hasattr(_TAKEN, name)]
            name = self.rng.choice(free) if self.rng.random() < 0.3 else f"m{len(self.modules)}"
            self.modules[name], self.drawn[name] = found.module, found
        self._append(Line(name, (at,), found.apply, found.text), found.shape)

    def _draw_at(self, at: int) -> None:
        for _ in range(20):
            found = DRAWERS[self.rng.choice(list(DRAWERS))](self.rng, self.shapes[at])
            if found is not None and 0 < math.prod(found.shape) <= _MOST_ENTRIES:
                self.add(found, at)
                return

    def _append(self, line: Line, shape: Shape) -> None:
        self.plan.append(line)
        self.shapes.append(shape)


def draw(seed: int) -> Case:
    """The case of a seed."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    shape = _input_shape(rng)
    draft = _Draft(rng, [shape, shape] if rng.random() < 0.15 else [shape])
    for _ in range(rng.randint(2, 9)):
        draft.grow()
    if not any(isinstance(part, LAYERS) for module in draft.modules.values() for part in module.modules()):
        linear = DRAWERS["linear"](rng, draft.shapes[-1])
        assert linear is not None
        draft.add(linear, len(draft.shapes) - 1)
    outputs, form = _outputs(rng, len(draft.shapes), draft.num_inputs)
    network = RandomNetwork(draft.modules, draft.plan, outputs, form).eval()
    _disturb(rng, network)
    count = rng.choice((1, 2, 8, 16, 16, 32))
    inputs = tuple(_inputs(rng, count, shape) for shape in draft.shapes[: draft.num_inputs])
    recipe = rng.choice(EIGHT_BITS) if rng.random() < 0.7 else rng.choice(OTHERS)
    return Case(seed, network, inputs, recipe, {"requantization": rng.choice(MODES), **_options(random.Random(f"options {seed}"))})


def _options(rng: random.Random) -> dict[str, Any]:
    given: dict[str, Any] = {"inputs": "uint8"} if rng.random() < 0.6 else {}
    return given | (rng.choice(_OPTIONS) if rng.random() < 0.4 else {})


def _input_shape(rng: random.Random) -> Shape:
    size = rng.choice((4, 8, 8))
    return rng.choice(((size,), (8, size), (size, 8), (size, 8, 8), (3, 8, 8), (size, 5, 8), (2, 4, 4, 4)))


def _outputs(rng: random.Random, count: int, num_inputs: int) -> tuple[tuple[int, ...], str]:
    form = rng.choice(("tensor", "tensor", "tensor", "tensor", "tuple", "dict"))
    if form == "tensor" or count - num_inputs < 2:
        return (count - 1,), "tensor"
    return (rng.randint(num_inputs, count - 2), count - 1), form


def _merge(rng: random.Random, shape: Shape) -> tuple[str, Callable[..., Tensor], Shape]:
    kind = rng.choice(("add", "add", "add", "sub", "mul", "cat", "cat last"))
    if kind == "cat":
        return kind, lambda a, b: torch.cat([a, b], 1), (2 * shape[0], *shape[1:])
    if kind == "cat last":
        return kind, lambda a, b: torch.cat([a, b], -1), (*shape[:-1], 2 * shape[-1])
    functions: dict[str, Callable[..., Tensor]] = {"add": torch.add, "sub": torch.sub, "mul": torch.mul}
    return kind, functions[kind], shape


def _disturb(rng: random.Random, network: nn.Module) -> None:
    """Statistics that batch norms learned, and the oddities of trained weights: zeros, dead and constant channels, uneven scales."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.3, 3)
            if isinstance(module, LAYERS) and rng.random() < 0.3:
                _disturb_layer(rng.choice(("zero", "zero channel", "dead", "uneven", "cancelling")), module)
            if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)) and module.weight is not None:
                module.weight.normal_(1, 0.4)
                module.bias.normal_(0, 0.5)


def _disturb_layer(kind: str, layer: nn.modules.conv._ConvNd | nn.Linear) -> None:
    weight = layer.weight
    if kind == "zero":
        weight.zero_()
    elif kind == "zero channel":
        weight[0] = 0
    elif kind == "dead" and layer.bias is not None:
        layer.bias.sub_(100)
    elif kind == "uneven":
        weight.mul_(10 ** (2 * torch.rand(len(weight)) - 1).view(-1, *[1] * (weight.ndim - 1)))
    elif kind == "cancelling" and weight.ndim > 2:
        weight.sub_(weight.flatten(2).mean(2).view(*weight.shape[:2], *[1] * (weight.ndim - 2)))


def _inputs(rng: random.Random, count: int, shape: Shape) -> Tensor:
    x = torch.randn(count, *shape)
    kind = rng.choice(("normal", "normal", "mean", "positive", "large", "constant channel"))
    if kind == "mean":
        x = 0.1 * x + 5
    elif kind == "positive":
        x = x.abs()
    elif kind == "large":
        x = 100 * x
    elif kind == "constant channel":
        x[:, 0] = 1
    return x
