"""Pruning: the schedule, the masks of each pattern, and networks that are pruned while they train."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

import halfstep as hs
from halfstep.demo.network import digits_network
from halfstep.errors import RecipeError
from halfstep.graph.edges import quantizer_of
from halfstep.graph.edit import tensor_named
from halfstep.graph.operators import weighted_layers
from halfstep.quantizers import UniformQuantizer
from halfstep.steps.training.pruning import Pruning, PruningOptions

DATA = torch.randn(64, 8, 6, 6, generator=torch.Generator().manual_seed(3))


class Small(nn.Module):
    """A convolution with a batch norm, one without, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm = nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.second, self.last = nn.Conv2d(6, 4, 3), nn.Linear(4, 3)
        with torch.no_grad():
            self.norm.weight.uniform_(0.2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.last(x.mean((2, 3)))


def prepared(options: dict[str, Any]) -> tuple[Any, Pruning]:
    scheme = {"weights": {"type": "int4"}, "activations": {"type": "uint8", "symmetric": False}}
    steps = ["fold_batch_norm", "place_quantizers", "calibrate", "round", {"finetune": {"start_weights": "float"}}]
    trainable = hs.prepare(Small().eval(), DATA, hs.Recipe.parse({"name": "test", "scheme": scheme, "steps": steps})).trainable
    return trainable, Pruning(trainable, PruningOptions(**options))


def test_the_schedule_by_hand() -> None:
    """1 - (1 - t / 40)^3 behind steps 1, 10, 20, 40 of 80."""
    options = PruningOptions()
    shares = [options.share(t - 1, 80) for t in (1, 10, 20, 40, 80)]
    assert shares == pytest.approx([1 - (39 / 40) ** 3, 1 - 0.75**3, 1 - 0.5**3, 1, 1])
    assert PruningOptions(schedule="once").share(0, 80) == 1


@given(st.integers(1, 300), st.floats(0.01, 0.99))
def test_all_zeros_are_there_in_the_end_and_masks_are_found_a_bounded_number_of_times(num_steps: int, until: float) -> None:
    options = PruningOptions(until=until)
    due = [step for step in range(num_steps) if options.is_due(step, num_steps)]
    assert options.share(due[-1], num_steps) == 1
    assert len(due) <= 2 * 32 + 2


def test_unstructured_the_smallest_weights_go_and_stay() -> None:
    trainable, pruning = prepared({"sparsity": 0.75, "exclude": ["last"]})
    before = tensor_named(trainable.network, "second.weight").detach().clone()
    last = tensor_named(trainable.network, "last.weight").detach().clone()
    pruning.update(0, 8)
    num = round(0.75 * (1 - 0.75**3) * before.numel())
    after = tensor_named(trainable.network, "second.weight").detach()
    gone = after == 0
    assert int(gone.sum()) == num
    assert before[gone].abs().max() <= before[~gone].abs().min()
    with torch.no_grad():
        tensor_named(trainable.network, "second.weight").add_(5.0)
    pruning.update(3, 8)
    assert bool((after[gone] == 0).all())
    assert int((after == 0).sum()) == round(0.75 * before.numel())
    assert torch.equal(tensor_named(trainable.network, "last.weight"), last)
    assert "75.0 % of the weights of 2 layers" in pruning.note()


@pytest.mark.parametrize(("pattern", "zeros"), [("2:4", 2), ("1:4", 3), ("3:4", 1)])
def test_of_every_four_neighbours_the_largest_stay(pattern: str, zeros: int) -> None:
    trainable, pruning = prepared({"pattern": pattern})
    weight = tensor_named(trainable.network, "first.weight")
    before = weight.detach().movedim(1, -1).reshape(-1, 4).abs().clone()
    for step in range(8):
        pruning.update(step, 8)
    after = weight.detach().movedim(1, -1).reshape(-1, 4)
    assert ((after == 0).sum(1) == zeros).all()
    kept = before.masked_fill(after == 0, torch.inf).amin(1)
    assert bool((before.masked_fill(after != 0, 0).amax(1) <= kept).all())
    assert pruning.skipped == ["second"]  # six inputs
    assert "The pattern does not fit second." in pruning.note()


def test_channels_with_the_least_gain_times_length_give_nothing_any_more() -> None:
    trainable, pruning = prepared({"pattern": "channel", "schedule": "once", "sparsity": 0.34})
    norm = trainable.live_norms()[0]
    least = norm.affine()[0].argsort()[:2]  # behind a batch norm every channel has length 1
    pruning.update(0, 8)
    output = trainable.train().network
    seen: dict[str, torch.Tensor] = {}
    handle = norm.register_forward_hook(lambda module, inputs, y: seen.update(y=y))
    output(DATA)
    handle.remove()
    zero = (seen["y"] == 0).all(0).flatten(1).all(1)
    assert sorted(torch.nonzero(zero).flatten().tolist()) == sorted(least.tolist())
    bias = tensor_named(trainable.network, "second.bias")
    pruned = tensor_named(trainable.network, "second.weight").flatten(1).eq(0).all(1)
    assert int(pruned.sum()) == 1
    assert bool((bias[pruned] == 0).all()) and bool((bias[~pruned] != 0).all())
    assert pruning.skipped == ["last"]


def test_patterns_that_are_none_are_refused() -> None:
    with pytest.raises(ValidationError, match="such as '2:4'"):
        PruningOptions(pattern="4:2")
    with pytest.raises(ValidationError, match=r"2:4 has a sparsity of 0\.5"):
        PruningOptions(pattern="2:4", sparsity=0.7)
    with pytest.raises(RecipeError, match=r"prune\.sparsity.*less than 1"):
        hs.Recipe.load("lsq-w4a4").with_step("finetune", {"prune": {"sparsity": 1.0}})


@cache
def digits() -> Any:
    return hs.load_data("digits:calibration")


def pruned(weights: Any, pattern: str) -> hs.Result:
    scheme = {"weights": {"type": "int4"}, "activations": {"type": "uint8", "symmetric": False}}
    fine = {"weights": weights, "epochs": 2, "batch_size": 64, "prune": {"pattern": pattern}}
    steps = ["fold_batch_norm", "place_quantizers", "calibrate", "round", {"finetune": fine}]
    return hs.finetune(digits_network(), digits(), hs.Recipe.parse({"name": "test", "scheme": scheme, "steps": steps}))


@pytest.mark.parametrize(("weights", "pattern"), [("qil", "unstructured"), ("lsq", "2:4"), ("lsq", "channel")])
def test_a_pruned_network_lowers_and_its_zeros_are_in_the_report(weights: str, pattern: str, tmp_path: Path) -> None:
    result = pruned(weights, pattern)
    hs.lower(result)
    assert result.record.program is not None
    assert all(operator.num_differing <= 1e-3 * operator.num_codes for operator in result.record.program.operators)  # sums that are ties
    zeros = {layer.name: layer.weight.zeros for layer in result.record.layers if layer.weight is not None}
    assert sum(share is not None and share >= 0.5 for share in zeros.values()) >= 2
    result.report().html(tmp_path / "report.html")
    assert f"; {100 * zeros['fuse.conv']:.1f} % are 0" in (tmp_path / "report.html").read_text()
    for layer in weighted_layers(result.model):
        quantizer = quantizer_of(layer.weight)
        assert isinstance(quantizer, UniformQuantizer)
        scale = quantizer.scale  # of channels of zeros, or behind zeros alone, too: their batch norm sees no variance
        assert float(scale.max() / scale.min()) < 50, layer.name


def test_a_quantizer_without_a_level_at_0_cannot_be_pruned() -> None:
    with pytest.raises(RecipeError, match="has no level at 0"):
        pruned({"dorefa": {"levels": "centred"}}, "unstructured")
