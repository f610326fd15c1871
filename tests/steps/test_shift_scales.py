"""Weight scales for which a shift is exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import halfstep as hs
import zoo
from halfstep.graph.edges import quantizer_of
from halfstep.graph.operators import weighted_layers
from halfstep.integer.requantization import SHIFT_MODES, rescale
from halfstep.quantizers import UniformQuantizer
from halfstep.steps.shift_scales import _neighbours, has_shifts, raised

RATIOS = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=8)


def error(ratio: Tensor, mode: str) -> float:
    """How far the mode's own multiplier is from ``ratio``."""
    return float((rescale(ratio, mode).value() / ratio - 1).abs().max())


@pytest.mark.parametrize("mode", SHIFT_MODES)
@given(RATIOS)
def test_the_neighbours_are_exact_and_around_the_scale(mode: str, ratios: list[float]) -> None:
    ratio = torch.tensor(ratios, dtype=torch.float64)
    low, high = _neighbours(ratio, ratio * 0, mode, torch.ones((), dtype=torch.float64))  # type: ignore[arg-type]
    assert bool((low <= ratio * (1 + 1e-12)).all() and (ratio <= high * (1 + 1e-12)).all())
    assert bool((high / low <= (2 if mode == "single_shift" else 1.5)).all())
    assert max(error(low, mode), error(high, mode)) < 1e-12


@pytest.mark.parametrize("mode", SHIFT_MODES)
@given(RATIOS, st.floats(1e-6, 1e3))
def test_the_neighbours_are_not_below_the_least(mode: str, ratios: list[float], least: float) -> None:
    ratio = torch.tensor(ratios, dtype=torch.float64)
    bounds = _neighbours(ratio, torch.full_like(ratio, least), mode, torch.ones((), dtype=torch.float64))  # type: ignore[arg-type]
    assert all(bool((bound >= least * (1 - 1e-12)).all()) and error(bound, mode) < 1e-12 for bound in bounds)


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3))
def test_raised_by_powers_of_two_and_no_more_than_needed(scale: float, least: float) -> None:
    found = float(raised(torch.tensor([scale], dtype=torch.float64), torch.tensor([least], dtype=torch.float64)))
    assert found >= least * (1 - 1e-12) and (found == scale or found / 2 < least)
    assert (found / scale).is_integer() and int(found / scale).bit_count() == 1


def test_only_the_shift_modes_have_shifts() -> None:
    assert [mode for mode in ("fixed_point_32", "fixed_point_16", "single_shift", "double_shift", "float") if has_shifts(mode)] == list(
        SHIFT_MODES
    )


@pytest.mark.parametrize("mode", SHIFT_MODES)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("weight_range", ["mse", "min_max", "output_mse"])
@pytest.mark.parametrize("name", ["conv_bn_relu", "large_bias", "dead_channel"])
def test_every_weight_scale_is_exact(name: str, weight_range: str, per_channel: bool, mode: str) -> None:
    recipe = hs.Recipe.load("int8" if per_channel else "int8-per-tensor").with_requantization(mode)
    steps = ["fold_batch_norm", "place_quantizers", {"calibrate": {"weights": weight_range}}, {"round": {"method": "lattice"}}]
    recipe = hs.Recipe.parse(recipe.model_dump() | {"steps": steps})
    result = hs.quantize(zoo.ZOO[name].model(), zoo.calibration_of(name), recipe)
    for layer in weighted_layers(result.model):
        weight, source = quantizer_of(layer.weight), quantizer_of(layer.input)
        outputs = [quantizer_of(user) for user in (*layer.node.users, *(after for user in layer.node.users for after in user.users))]
        output = next((found for found in outputs if isinstance(found, UniformQuantizer)), None)
        assert isinstance(weight, UniformQuantizer) and isinstance(source, UniformQuantizer)
        unit = weight.scale.max() if output is None else output.scale / source.scale
        assert error((weight.scale.double() / unit.double()).reshape(-1), "single_shift" if output is None else mode) < 1e-6
