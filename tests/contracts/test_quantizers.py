"""Every registered quantizer against one contract: built from its grid and what its constructor's parameters ask for by name."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from typing import Any

import pytest
import torch

from halfstep.grid import Grid
from halfstep.quantizers import QUANTIZERS, AbstractQuantizer, AccumulatorQuantizer, UniformQuantizer, in_float, quantizers

pytestmark = pytest.mark.parametrize("name", list(QUANTIZERS))

NUM_CHANNELS = 5
SHAPE = NUM_CHANNELS, 40
GRIDS = [
    Grid(bits, signed, symmetric, channel_axis)
    for bits in (2, 3, 4, 8)
    for signed in (True, False)
    for symmetric in (True, False)
    for channel_axis in (None, 0)
] + [Grid(4, True, symmetric, 0, group_size=16) for symmetric in (True, False)]  # of 40 entries: the last group is shorter
each_grid = pytest.mark.parametrize(
    "grid", GRIDS, ids=lambda g: f"{g.type_name}-{'sym' if g.symmetric else 'asym'}-{g.channel_axis}-{g.group_size}"
)
PARTS = {"num_channels", "num_groups", "sources", "is_weight"}


def uniform(grid: Grid, scale: float = 0.3) -> UniformQuantizer:
    quantizer = UniformQuantizer(grid, *grid.scale_shape(SHAPE))
    shape = quantizer.scale.shape
    widths = scale * (1 + torch.arange(quantizer.scale.numel()).view(shape) / 10)
    zero_point = 0 if grid.symmetric else (grid.minimum + grid.maximum + 1) // 2
    quantizer.set(widths, torch.full(shape, float(zero_point)))
    return quantizer


def built(name: str, grid: Grid) -> AbstractQuantizer:
    """Calibrated and switched on. A constructor parameter this does not know, without a default, needs an entry here."""
    required = {
        parameter.name
        for parameter in list(inspect.signature(QUANTIZERS[name]).parameters.values())[1:]
        if parameter.kind is not parameter.VAR_KEYWORD and (parameter.default is parameter.empty or parameter.name in PARTS)
    }
    assert required <= PARTS, f"the contract does not know how to build {name}: {required - PARTS}"
    arguments: dict[str, Any] = {"num_channels": None if grid.channel_axis is None else NUM_CHANNELS}
    arguments["num_groups"] = grid.scale_shape(SHAPE)[1] if grid.group_size is not None else None
    arguments["sources"] = uniform(Grid(8, False, False), 0.5), uniform(dataclasses.replace(grid, bits=8, signed=True, symmetric=True))
    arguments["is_weight"] = grid.signed and grid.symmetric
    quantizer = QUANTIZERS[name](grid, **{part: arguments[part] for part in required})
    if not isinstance(quantizer, AccumulatorQuantizer):
        like = uniform(grid)
        quantizer.set(like.scale, like.zero_point)  # type: ignore[attr-defined]
    quantizer.is_enabled = True
    return quantizer.eval()  # as in a simulation: while training, a quantizer may learn from what it sees


def rebuilt(quantizer: AbstractQuantizer) -> AbstractQuantizer:
    """From the configuration as JSON and the state, as a saved run does."""
    configuration = json.loads(json.dumps(quantizer.configuration()))
    grid = Grid(**configuration.pop("grid"))
    sources = getattr(quantizer, "sources", None)
    extra = {} if sources is None else {"sources": sources}
    fresh = QUANTIZERS[quantizer.name](grid, **configuration, **extra)
    fresh.load_state_dict(quantizer.state_dict())
    fresh.is_enabled = True
    return fresh


def values(generator: torch.Generator) -> torch.Tensor:
    """[5, 40], a good part of it beyond the small grids."""
    return torch.randn(SHAPE, generator=generator) * 2


@each_grid
def test_codes_are_integers_on_the_grid(name: str, grid: Grid, generator: torch.Generator) -> None:
    quantized = built(name, grid).quantize(values(generator))
    assert quantized.codes.shape == SHAPE
    assert quantized.codes.is_floating_point()
    assert torch.equal(quantized.codes, quantized.codes.round())
    assert grid.minimum <= quantized.codes.min() and quantized.codes.max() <= grid.maximum
    assert quantized.grid == grid
    assert bool((quantized.scale > 0).all())
    assert bool(((grid.minimum <= quantized.zero_point) & (quantized.zero_point <= grid.maximum)).all())
    assert quantized.integers().tolist() == quantized.codes.tolist()


@each_grid
def test_forward_is_quantize_then_dequantize(name: str, grid: Grid, generator: torch.Generator) -> None:
    quantizer, x = built(name, grid), values(generator)
    before = x.clone()
    y = quantizer(x)
    assert torch.equal(y, quantizer.quantize(x).dequantize().to(x.dtype))
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert torch.equal(x, before)
    if not getattr(quantizer, "is_weight", False) or getattr(quantizer, "is_uniform", True):
        assert torch.equal(quantizer(torch.zeros_like(x)), torch.zeros_like(x))  # 0 is exact: padding relies on it
    assert torch.equal(quantizer(x), y)


@each_grid
def test_gradients_are_finite(name: str, grid: Grid, generator: torch.Generator) -> None:
    quantizer, x = built(name, grid), values(generator)
    x[0, 0], x[0, 1], x[0, 2] = 0.0, 1e6, -1e6
    x.requires_grad_()
    (quantizer(x) * torch.randn(x.shape, generator=generator)).sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())
    assert bool((x.grad != 0).any())
    for parameter in quantizer.parameters():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())


@each_grid
def test_configuration_and_state_make_it_again(name: str, grid: Grid, generator: torch.Generator) -> None:
    quantizer, x = built(name, grid), values(generator)
    fresh = rebuilt(quantizer)
    assert type(fresh) is type(quantizer)
    assert fresh.is_calibrated
    assert fresh.configuration() == quantizer.configuration()
    assert torch.equal(fresh(x), quantizer(x))


@each_grid
def test_a_copy_is_equal_and_its_own(name: str, grid: Grid, generator: torch.Generator) -> None:
    quantizer, x = built(name, grid), values(generator)
    expected = quantizer(x)
    copied = copy.deepcopy(quantizer)
    assert torch.equal(copied(x), expected)
    for tensor in (*copied.parameters(), *copied.buffers()):
        tensor.detach().mul_(3)
    copied.is_enabled = False
    assert torch.equal(quantizer(x), expected)


def test_in_float_switches_it_off_and_on_again(name: str, generator: torch.Generator) -> None:
    network = torch.nn.Sequential(built(name, Grid(2, True)), built(name, Grid(2, True)))
    network[1].is_enabled = False
    x = values(generator)
    expected = network(x)
    assert not torch.equal(expected, x)
    with in_float(network):
        assert network(x) is x
    assert torch.equal(network(x), expected)
    assert [quantizer.is_enabled for _, quantizer in quantizers(network)] == [True, False]
    with pytest.raises(KeyError), in_float(network):
        raise KeyError
    assert network[0].is_enabled


def test_a_batch_is_its_samples(name: str, generator: torch.Generator) -> None:
    quantizer, x = built(name, Grid(4, True, symmetric=False)), values(generator)  # of an activation: a weight is one sample
    assert torch.equal(quantizer(x), torch.stack([quantizer(row) for row in x]))


def test_is_a_quantizer(name: str) -> None:
    assert issubclass(QUANTIZERS[name], AbstractQuantizer)
    assert QUANTIZERS[name].name == name
    assert QUANTIZERS[name].forward is AbstractQuantizer.forward  # one meaning of the simulation
