"""Bits that fall: which step has which, and what becomes of grids and scales."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.fx import GraphModule

import halfstep as hs
from halfstep.errors import RecipeError
from halfstep.quantizers import AbstractLearnedQuantizer
from halfstep.ranges import Distribution
from halfstep.ranges.mse import MeanSquaredError
from halfstep.steps.training.edges import learned_activations, learned_weights
from halfstep.steps.training.gradual import Gradual, GradualOptions
from halfstep.steps.training.trainable import learned_in_order

DATA = torch.randn(64, 6, generator=torch.Generator().manual_seed(3))


def prepared() -> GraphModule:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    scheme = {
        "weights": {"type": "int2"},
        "activations": {"type": "uint3", "symmetric": False},
        "inputs": "uint8",
        "last_layer": {"weights": "int8"},
    }
    steps = ["fold_batch_norm", "place_quantizers", "calibrate", "round", {"finetune": {"start_weights": "float"}}]
    return hs.prepare(model, DATA, hs.Recipe.parse({"name": "test", "scheme": scheme, "steps": steps})).trainable.network


def batches() -> list[tuple[torch.Tensor, ...]]:
    return [(DATA,)]


def bits(network: GraphModule) -> list[int]:
    return [quantizer.grid.bits for quantizer in learned_in_order(network)]


def scales(quantizer: AbstractLearnedQuantizer) -> list[float]:
    return quantizer.step.value.flatten().tolist()  # type: ignore[union-attr, operator]


def test_grids_fall_and_scales_are_those_of_least_error() -> None:
    network = prepared()
    own = bits(network)
    assert sorted(own) == [2, 2, 3, 3, 8, 8]
    gradual = Gradual(network, GradualOptions((8, 3), 0.5), 8, batches)
    at_8 = next(quantizer for quantizer in learned_in_order(network) if quantizer.grid.bits == 8)
    untouched = scales(at_8)
    first, quantizer = learned_weights(network)[0]
    parameters = gradual.enter(0)
    assert parameters is not None and len(parameters) == 4  # of the quantizers with fewer than 8 bits, a scale each
    assert bits(network) == [8] * 6
    assert gradual.enter(1) is None
    grid = dataclasses.replace(quantizer.grid, bits=3)
    expected, _ = MeanSquaredError().range(Distribution.of_tensor(first, 0), grid).fit(grid)
    gradual.enter(2)
    assert bits(network) == [max(old, 3) for old in own]
    assert scales(quantizer) == pytest.approx(expected.tolist(), rel=1e-6)
    at_3 = [scales(found) for found in learned_activations(network).values()]
    gradual.enter(4)
    assert bits(network) == own
    assert gradual.bits() is None
    assert scales(at_8) == untouched
    assert [scales(found) for found in learned_activations(network).values()] == at_3  # they have 3 bits of their own
    assert scales(quantizer) != pytest.approx(expected.tolist(), rel=1e-3)


def test_activations_get_the_scale_of_what_they_meet_behind_the_others() -> None:
    network = prepared()
    Gradual(network, GradualOptions((4,), 0.5), 8, batches).enter(0)
    sources = list(learned_activations(network).items())
    seen = torch.fx.Interpreter(network)
    seen.garbage_collect_values = False
    with torch.no_grad():
        seen.run(DATA)
    node, quantizer = sources[2]
    assert quantizer.grid.bits == 4
    x = seen.env[node]
    expected, _ = MeanSquaredError().range(Distribution.of_tensor(x), quantizer.grid).fit(quantizer.grid)
    assert scales(quantizer) == pytest.approx(expected.tolist(), rel=0.01)  # a histogram stands for the values


def test_where_a_checkpoint_stands_grids_come_back_without_new_scales() -> None:
    network = prepared()
    before = [scales(quantizer) for quantizer in learned_in_order(network)]
    gradual = Gradual(network, GradualOptions((8, 3), 0.5), 8, batches)
    gradual.resume(2)
    assert min(bits(network)) == 3
    assert [scales(quantizer) for quantizer in learned_in_order(network)] == before
    assert gradual.enter(3) is None


@given(st.integers(1, 50), st.integers(0, 4), st.floats(0.01, 0.99))
def test_every_training_ends_on_its_own_grids(num_steps: int, num: int, share: float) -> None:
    begins = GradualOptions(tuple(range(9, 9 - num, -1)), share).begins(num_steps)
    assert len(begins) == num
    assert begins == sorted(begins)
    assert all(0 <= begin < num_steps for begin in begins)


def test_bits_that_do_not_fall_are_refused() -> None:
    recipe = hs.Recipe.load("lsq-w2a2")
    recipe.with_step("finetune", {"gradual": [8, 4, 3]})
    with pytest.raises(RecipeError, match="option 'gradual' does not fit: bits fall"):
        recipe.with_step("finetune", {"gradual": [4, 8]})
    with pytest.raises(RecipeError, match="set start_weights to float"):
        recipe.with_step("finetune", {"gradual": [8], "start_weights": "rounded"})
