"""A layer's problem in parts: the parts' codes, one behind the other, are the codes of the whole."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from halfstep import parallel
from halfstep.grid import Grid, Quantized
from halfstep.rounding import AbstractRounding, LayerSamples, LinearOperator, Moments, RoundingProblem
from halfstep.steps import part

CASES = {
    "linear": (LinearOperator(), (7, 5), 0),
    "linear, in groups": (LinearOperator(), (7, 5), 0),
    "conv": (LinearOperator((1, 1), (1, 1), (1, 1)), (6, 4, 3, 3), 0),
    "grouped": (LinearOperator((1, 1), (1, 1), (1, 1), 2), (6, 4, 3, 3), 0),
    "depthwise": (LinearOperator((1,), (1,), (1,), 5), (5, 1, 3), 0),
    "transposed": (LinearOperator((2, 2), (1, 1), (1, 1), 1, True, (0, 0)), (4, 6, 3, 3), 1),
    "transposed, grouped": (LinearOperator((2, 2), (1, 1), (1, 1), 2, True, (0, 0)), (4, 3, 3, 3), None),
}


def problem(case: str, generator: torch.Generator) -> RoundingProblem:
    operator, shape, axis = CASES[case]
    weight = torch.randn(shape, generator=generator)
    grid = Grid(4, True, channel_axis=axis, group_size=2 if case.endswith("groups") else None)
    scale = torch.tensor(0.3) if axis is None else torch.rand(grid.scale_shape(shape), generator=generator) + 0.1
    num_inputs = shape[0] if operator.is_transposed else shape[1] * operator.groups
    x = torch.randn(20, num_inputs, *(5,) * operator.num_axes, generator=generator)
    positions = torch.arange(operator.num_positions(x, weight)).expand(20, -1)
    patches = operator.patches(x, weight, positions).double()
    gram = patches.transpose(1, 2) @ patches / patches.shape[1]
    num_outputs = operator.rows(weight).shape[0] * operator.rows(weight).shape[1]
    bias = torch.randn(num_outputs, generator=generator)
    samples = LayerSamples(x, x, operator(x, weight, bias))
    keep = torch.rand(shape, generator=generator) < 0.3
    moments = Moments(gram, gram, patches.mean(1), patches.mean(1), patches.shape[1])
    return RoundingProblem(weight, scale, torch.zeros_like(scale), grid, operator, bias, moments, lambda: samples, keep=keep)


class Checking(AbstractRounding):
    """Rounds by what every piece of the problem says together, so that a piece cut wrongly shows in the codes."""

    has_independent_rows: ClassVar[bool] = True

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        assert problem.samples is not None and problem.bias is not None
        samples = problem.samples()
        again = problem.operator(samples.inputs, problem.weight, problem.bias)
        assert torch.allclose(again, samples.outputs, atol=1e-5)
        quadratic = problem.quadratic()
        gradient = problem.rows(problem.weight).double() @ quadratic.gram
        return problem.codes(torch.round(problem.position() + 0.1 * problem.from_rows(gradient)))


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("count", [2, 3])
def test_the_parts_make_up_the_whole(case: str, count: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = problem(case, generator)
    want = Checking().round(whole, generator)
    found: list[tuple[Tensor, Tensor]] = []
    for index in range(count):
        monkeypatch.setattr(parallel, "index", lambda index=index: index)
        monkeypatch.setattr(parallel, "num_processes", lambda: count)
        if part.num_parts(whole) < count:
            pytest.skip("fewer parts than processes: every process solves all")
        mine = Checking().round(part.part_of(whole, parallel.share(part.num_parts(whole))), generator)
        found.append((mine.codes, mine.scale))
    monkeypatch.setattr(parallel, "collect", lambda value: found)
    joined = part.solve(Checking(), whole, generator)
    assert torch.equal(joined.codes, want.codes) and torch.equal(joined.scale, want.scale)


def test_row_offsets_count_output_channels(generator: torch.Generator) -> None:
    assert part.part_of(problem("conv", generator), range(2, 5)).row_offset == 2
    assert part.part_of(problem("grouped", generator), range(1, 2)).row_offset == 3
