"""The rounding as a QUBO: the cost in three forms, what may be chosen, and both solvers against all 2^n choices."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from halfstep.errors import RecipeError
from halfstep.grid import Grid, Quantized
from halfstep.rounding import ROUNDINGS, LinearOperator, Moments, Nearest, QuboCrossEntropy, QuboDwave, RoundingProblem
from halfstep.rounding.qubo import AbstractQubo, Qubo

SOLVERS: dict[str, AbstractQubo] = {
    "cem": QuboCrossEntropy(),
    "annealing": QuboDwave(solver="annealing", num_reads=100),
    "tabu": QuboDwave(solver="tabu"),
    "tabu_from_nearest": QuboDwave(solver="tabu", start="nearest", num_reads=3),
}


@pytest.fixture(params=list(SOLVERS))
def solver(request: pytest.FixtureRequest) -> AbstractQubo:
    found = SOLVERS[request.param]
    if isinstance(found, QuboDwave):
        pytest.importorskip("dwave.samplers", reason="the extra 'qubo' is not installed")
    return found


def with_options(solver: AbstractQubo, **options: Any) -> AbstractQubo:
    return type(solver).model_validate(solver.model_dump() | options)


def spd(num: int, size: int, generator: torch.Generator) -> Tensor:
    """Matrices with strong correlations, as patches of images have them."""
    x = torch.randn(num, 3 * size, size, generator=generator, dtype=torch.float64) + 1
    return x.transpose(1, 2) @ x / (3 * size)


def layer(generator: torch.Generator, groups: int = 1, rows: int = 3, d: int = 8, grid: Grid | None = None, **more: Any) -> RoundingProblem:
    """A grouped 1 x 1 convolution, some weights beyond the grid, with moments whose float input differs from the quantized one."""
    grid = grid or Grid(3, True)
    weight = torch.randn(groups * rows, d, 1, 1, generator=generator)
    shape = () if grid.channel_axis is None else (groups * rows,)
    gram, mean = spd(groups, d, generator), torch.full((groups, d), 1.0, dtype=torch.float64)
    noise = 0.05 * torch.randn(groups, d, d, generator=generator, dtype=torch.float64)
    moments = Moments(gram, gram + noise, mean, mean + 0.1, 3 * d)
    operator = LinearOperator((1, 1), (0, 0), (1, 1), groups)
    scale = torch.full(shape, 0.5) * (1 + 0.1 * torch.rand(shape, generator=generator))
    return RoundingProblem(weight, scale, torch.full(shape, 0.0 if grid.symmetric else 3.0), grid, operator, moments=moments, **more)


def neighbours(problem: RoundingProblem) -> tuple[Tensor, Tensor]:
    low, high = problem.limits()
    return problem.position().floor().clamp(low, high), problem.position().ceil().clamp(low, high)


def quadratic_cost(problem: RoundingProblem, quantized: Quantized, **options: Any) -> Tensor:
    """(v - t) H (v - t)ᵀ of each row from the codes themselves."""
    options = {"asymmetric": False, "centred": False, "damping": 0.0} | options
    return problem.quadratic(**options).error(problem.rows(quantized.dequantize().double()))


def least(problem: RoundingProblem, **options: Any) -> Tensor:
    """The least cost [G, R] over all choices of each row, by trying them."""
    below, above = (problem.rows(side) for side in neighbours(problem))
    options = {"asymmetric": False, "centred": False, "damping": 0.0} | options
    costs = [
        problem.quadratic(**options).error(problem.rows(problem.step().double()) * torch.where(torch.tensor(up), above, below).double())
        for up in itertools.product((False, True), repeat=below.shape[-1])
    ]
    return torch.stack(costs).amin(0)


def test_three_forms_of_the_cost(generator: torch.Generator) -> None:
    """The error of the codes, (e + u b)ᵀ H (e + u b), and bᵀ Q b + c, at every b of a small problem."""
    problem = layer(generator, groups=2, rows=2, d=4)
    below, above = neighbours(problem)
    qubo = QuboCrossEntropy()._qubo(problem, below, above)
    for up in itertools.product((False, True), repeat=4):
        choices = torch.tensor(up).expand(qubo.offset.shape)
        codes = below + (above - below) * problem.from_rows(choices.float())
        direct = quadratic_cost(problem, problem.codes(codes))
        # float32 codes * scale against float64: 2^-23 of values of about 2, times H d of about 5 * 4
        torch.testing.assert_close(qubo.cost(choices), direct, rtol=1e-5, atol=1e-5)
        for group, row in itertools.product(range(2), range(2)):
            matrix, constant = qubo.matrix(group, row)
            b = torch.tensor(up, dtype=torch.float64)
            assert float(b @ matrix @ b) + constant == pytest.approx(float(qubo.cost(choices)[group, row]), rel=1e-9, abs=1e-9)


def test_nothing_to_choose_where_the_grid_ends(generator: torch.Generator) -> None:
    weight = torch.tensor([[9.7, -9.7, 0.3, 2.0, 0.0]])
    keep = torch.tensor([[False, False, True, False, False]])
    moments = Moments(*(torch.eye(5, dtype=torch.float64)[None],) * 2, *(torch.zeros(1, 5, dtype=torch.float64),) * 2, 1)
    problem = RoundingProblem(weight, torch.tensor(1.0), torch.tensor(0.0), Grid(4, True), moments=moments, keep=keep)
    qubo = QuboCrossEntropy()._qubo(problem, *neighbours(problem))
    assert not qubo.width.any() and not qubo.fraction.any()
    assert QuboCrossEntropy().round(problem, generator).codes.tolist() == [[7, -8, 0, 2, 0]]


@pytest.mark.parametrize("options", [{}, {"asymmetric": True}, {"asymmetric": True, "centred": True, "damping": 0.01}], ids=str)
@pytest.mark.parametrize("grid", [Grid(3, True), Grid(3, False, False, 0)], ids=str)
def test_the_best_of_all_choices(solver: AbstractQubo, grid: Grid, options: dict[str, Any], generator: torch.Generator) -> None:
    """2^8 choices a row: every solver finds the best of them in each of six rows."""
    problem = layer(generator, groups=2, grid=grid)
    found = with_options(solver, **options).round(problem, generator)
    torch.testing.assert_close(quadratic_cost(problem, found, **options), least(problem, **options), rtol=1e-5, atol=1e-5)
    below, above = neighbours(problem)
    integers = found.codes - grid.along(problem.zero_point, found.codes.shape)
    assert bool(((integers == below) | (integers == above)).all())


def test_the_task_loss_couples_the_rows(solver: AbstractQubo, generator: torch.Generator) -> None:
    """3 x 4 weights in one problem: the least of 2^12 values, which rows on their own miss."""
    curvature = spd(1, 12, generator)[0]
    problem = RoundingProblem(
        torch.randn(3, 4, generator=generator), torch.tensor(0.5), torch.tensor(0.0), Grid(4, True), curvature=lambda: curvature
    )
    below, above = (side.flatten().double() for side in neighbours(problem))
    weight, scale = problem.weight.flatten().double(), problem.scale.double()
    choices = torch.tensor(list(itertools.product((0.0, 1.0), repeat=12)), dtype=torch.float64)
    error = scale * (below + (above - below) * choices) - weight
    costs = ((error @ curvature) * error).sum(1)
    found = with_options(solver, objective="task").round(problem, generator)
    difference = found.dequantize().flatten().double() - weight
    assert float(difference @ curvature @ difference) == pytest.approx(float(costs.min()), rel=1e-5)


def test_the_same_seed_gives_the_same_codes(solver: AbstractQubo, generator: torch.Generator) -> None:
    problem = layer(generator, rows=2, d=30)
    first, second = (solver.round(problem, torch.Generator().manual_seed(3)).codes for _ in range(2))
    assert torch.equal(first, second)


def test_rows_do_not_depend_on_how_they_are_shared_out(solver: AbstractQubo, generator: torch.Generator) -> None:
    """The second half of the rows alone, told where it lies, gives the second half of the codes."""
    whole = layer(generator, rows=6, d=20, grid=Grid(3, True, channel_axis=0))
    codes = solver.round(whole, torch.Generator().manual_seed(5)).codes
    half = RoundingProblem(
        whole.weight[3:], whole.scale[3:], whole.zero_point[3:], whole.grid, whole.operator, moments=whole.moments, row_offset=3
    )
    assert torch.equal(solver.round(half, torch.Generator().manual_seed(5)).codes, codes[3:])


def test_what_each_objective_needs() -> None:
    local, task = QuboCrossEntropy(centred=True), QuboCrossEntropy(objective="task", centred=True)
    assert (local.uses_moments, local.uses_curvature, local.has_independent_rows, local.frees_bias) == (True, False, True, True)
    assert (task.uses_moments, task.uses_curvature, task.has_independent_rows, task.frees_bias) == (False, True, False, False)
    assert not QuboCrossEntropy().frees_bias
    bare = RoundingProblem(torch.ones(2, 2), torch.tensor(0.4), torch.tensor(0.0), Grid(4, True))
    for method, word in ((local, "moments"), (task, "curvature")):
        with pytest.raises(ValueError, match=word):
            method.round(bare, torch.Generator())


class TestCrossEntropy:
    def test_starts_at_the_probabilities_of_stochastic_rounding(self, generator: torch.Generator) -> None:
        problem = layer(generator)
        qubo = QuboCrossEntropy()._qubo(problem, *neighbours(problem))
        position = problem.rows(problem.position()).double()
        inside = qubo.width > 0
        assert bool(inside.any())
        torch.testing.assert_close(qubo.fraction[inside], (position - position.floor())[inside], rtol=0, atol=1e-6)

    def test_one_round_is_the_best_of_the_draws_and_of_nearest(self, generator: torch.Generator) -> None:
        """The draws of one round, made again by hand from the same seed."""
        problem = layer(generator, rows=1, d=24)
        method = QuboCrossEntropy(num_rounds=1, num_samples=50)
        qubo = method._qubo(problem, *neighbours(problem))
        seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(1)))
        drawn = torch.rand(50, 24, generator=torch.Generator().manual_seed(seed)) < qubo.fraction[0, 0].float()
        costs = torch.stack([qubo.cost(b[None, None])[0, 0] for b in [*drawn, qubo.nearest()[0, 0]]])
        found = quadratic_cost(problem, method.round(problem, torch.Generator().manual_seed(1)))
        assert float(found) == pytest.approx(float(costs.min()), rel=1e-5)

    @pytest.mark.parametrize("seed", range(5))
    def test_never_worse_than_nearest(self, seed: int, generator: torch.Generator) -> None:
        problem = layer(generator, rows=8, d=40)
        hasty = QuboCrossEntropy(num_samples=2, num_rounds=1)
        nearest = quadratic_cost(problem, Nearest().round(problem, generator))
        found = quadratic_cost(problem, hasty.round(problem, torch.Generator().manual_seed(seed)))
        assert bool((found <= nearest * (1 + 1e-6) + 1e-6).all())  # two float32 roundings of the same codes' values

    def test_memory_is_bounded_without_a_trace(self, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
        """Rows and groups in parts give the codes they give at once."""
        problem, method = layer(generator, groups=3, rows=5, d=10), QuboCrossEntropy(num_samples=64)
        shares: list[float] = []
        whole = method.round(problem, torch.Generator().manual_seed(2)).codes
        for at_once in (2, 7):
            monkeypatch.setattr("halfstep.rounding.qubo_cem._CHUNK", at_once * 64 * 10)
            told = RoundingProblem(**{**vars(problem), "progress": shares.append})
            assert torch.equal(method.round(told, torch.Generator().manual_seed(2)).codes, whole)
        assert len(shares) == 9 + 3 and shares[-1] == 1.0

    def test_a_saddle_has_a_least_choice_too(self, generator: torch.Generator) -> None:
        """The second derivative of a loss may have negative directions."""
        curvature = torch.tensor([[1.0, 3.0], [3.0, 1.0]], dtype=torch.float64)
        problem = RoundingProblem(
            torch.tensor([[0.5, 0.5]]), torch.tensor(1.0), torch.tensor(0.0), Grid(4, True), curvature=lambda: curvature
        )
        codes = QuboCrossEntropy(objective="task").round(problem, generator).codes
        assert sorted(codes.flatten().tolist()) == [0.0, 1.0]  # (-.5, .5): 1/4 (1 + 1 - 6) = -1; equal signs: 1/4 (1 + 1 + 6) = 2


class TestDwave:
    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
        monkeypatch.setitem(__import__("sys").modules, "dimod", None)
        with pytest.raises(RecipeError, match=r"pip install halfstep\[qubo\]"):
            QuboDwave().round(layer(generator), generator)

    def test_more_reads_are_not_worse(self, generator: torch.Generator) -> None:
        pytest.importorskip("dwave.samplers", reason="the extra 'qubo' is not installed")
        problem = layer(generator, rows=2, d=60)
        one, many = (
            quadratic_cost(problem, QuboDwave(num_reads=n, num_sweeps=3).round(problem, torch.Generator().manual_seed(0))) for n in (1, 50)
        )
        assert float(many.sum()) < float(one.sum())


def test_registered() -> None:
    assert {"qubo_cem", "qubo_dwave"} <= set(ROUNDINGS)
    assert Qubo.__doc__
