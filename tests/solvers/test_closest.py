"""The searches against enumeration, against themselves on other arrays, threads and row shares, and compiled against batched."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfstep.errors import CalibrationError
from halfstep.solvers import ClosestVector, batched, beam, descend, draw_kicks, kick
from halfstep.solvers.closest import cholesky


def problem(
    seed: int, groups: int = 1, rows: int = 5, size: int = 12, bits: int = 2, stepwise: bool = False, masked: bool = False
) -> ClosestVector:
    """Correlated inputs, targets over and beyond the grid; steps of each row or of each entry; a third of the entries held at 0."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(groups, 4 * size, size, generator=generator, dtype=torch.float64)
    inputs = inputs @ (torch.eye(size, dtype=torch.float64) + torch.randn(groups, size, size, generator=generator, dtype=torch.float64) / 3)
    shape = (groups, rows, size)
    step = (torch.rand(shape if stepwise else (groups, rows, 1), generator=generator) + 0.5).expand(shape)
    target = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 ** (bits - 1) * 0.7
    free = torch.rand(shape, generator=generator) > 0.33 if masked else torch.ones(shape, dtype=torch.bool)
    low, high = torch.where(free, -(2.0 ** (bits - 1)), 0.0), torch.where(free, 2.0 ** (bits - 1) - 1, 0.0)
    return ClosestVector.of(inputs.mT @ inputs / (4 * size), target, step, low, high)


def ladder(task: ClosestVector, num_kicks: int = 40) -> list[torch.Tensor]:
    """nearest, coordinate descent from it, Babai, K-best, coordinate descent from that, kicks."""
    wide = beam(task, 8)
    down = descend(task, wide)
    kicks = draw_kicks(3, torch.arange(len(wide)), wide.shape[1], 0, num_kicks)
    return [task.nearest(), descend(task, task.nearest()), beam(task, 1), wide, down, kick(task, down, kicks)]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    groups=st.integers(1, 3),
    rows=st.integers(1, 10),
    size=st.integers(1, 70),
    bits=st.sampled_from([2, 3, 8]),
    stepwise=st.booleans(),
    masked=st.booleans(),
)
def test_limits_hold_and_no_search_makes_it_worse(
    seed: int, groups: int, rows: int, size: int, bits: int, stepwise: bool, masked: bool
) -> None:
    task = problem(seed, groups, rows, size, bits, stepwise, masked)
    nearest, descended, babai, wide, down, kicked = ladder(task)
    for codes in (nearest, descended, babai, wide, down, kicked):
        assert torch.equal(codes, codes.round())
        assert bool((task.low <= codes).all()) and bool((codes <= task.high).all())
    slack = 1 + 1e-5  # the searches decide in float32: sums of up to 70 products, each off by 2^-24
    assert bool((task.error(descended) <= task.error(nearest) * slack).all())
    assert bool((task.error(down) <= task.error(wide) * slack).all())
    assert bool((task.error(kicked) <= task.error(down) * slack).all())


@pytest.mark.parametrize("stepwise", [False, True])
def test_a_beam_that_holds_every_choice_finds_the_optimum(stepwise: bool) -> None:
    """2 bits, 4 entries: 256 choices, of which the best is among 64 partial ones at every level."""
    task = problem(0, groups=2, rows=6, size=4, stepwise=stepwise)
    every = torch.cartesian_prod(*[torch.arange(-2.0, 2.0)] * 4)
    errors = torch.stack([task.error(codes.expand(12, 4)) for codes in every])
    assert torch.equal(beam(task, 64), every[errors.argmin(0)])


def test_coordinate_descent_ends_where_no_single_entry_gains() -> None:
    task = problem(1, size=20)
    codes = descend(task, task.nearest())
    error = task.error(codes)
    for j in range(20):
        for move in (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0):
            moved = codes.clone()
            moved[:, j] = torch.clamp(moved[:, j] + move, task.low[:, j], task.high[:, j])
            assert bool((task.error(moved) >= error * (1 - 1e-6)).all())  # float32, 20 products


def test_the_error_is_that_of_the_form_in_its_own_units() -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(1, 6, 6, generator=generator, dtype=torch.float64)
    gram, target = factor @ factor.mT * 1e-9, torch.randn(1, 3, 6, generator=generator) * 1e-4
    step = torch.tensor([1e-5, 3e-4, 2.0])[None, :, None].expand(1, 3, 6)
    task = ClosestVector.of(gram, target.double(), step, torch.full_like(step, -2), torch.full_like(step, 1))
    codes = torch.randint(-2, 2, (3, 6), generator=generator).float()
    missed = (codes * step[0]).double() - target[0].double()
    assert torch.allclose(task.error(codes), ((missed @ gram[0]) * missed).sum(1), rtol=1e-6)


def test_one_group_each_is_the_same_as_all_groups_at_once() -> None:
    """A depthwise layer: 70 groups of one row."""
    task = problem(2, groups=70, rows=1, size=9)
    whole = ladder(task)
    for i in (0, 33, 69):
        alone = ClosestVector(*(getattr(task, name)[i : i + 1] for name in task.__dataclass_fields__))
        for here, there in zip(ladder(alone)[:5], whole[:5], strict=True):
            assert torch.equal(here[0], there[i])


def test_threads_and_shares_of_the_rows_do_not_show() -> None:
    task = problem(3, rows=37, size=150, bits=3)
    first = ladder(task)
    torch.set_num_threads(3)
    try:
        threaded = ladder(task)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(first, threaded, strict=True))
    names = ("target", "step", "low", "high", "size")
    share = replace(task, **{name: getattr(task, name)[20:] for name in names})
    assert torch.equal(beam(share, 8), first[3][20:])
    assert torch.equal(descend(share, first[3][20:]), first[4][20:])
    kicks = draw_kicks(3, torch.arange(20, 37), 150, 0, 40)
    assert torch.equal(kick(share, first[4][20:], kicks), first[5][20:])


def test_kicks_belong_to_their_row_and_number() -> None:
    rows = torch.arange(50)
    kicks = draw_kicks(7, rows, 30, 0, 400)
    assert torch.equal(draw_kicks(7, rows[20:], 30, 100, 50), kicks[20:, 100:150])
    assert int(kicks.min()) >= 0 and int(kicks.max()) < 60
    assert not torch.equal(draw_kicks(8, rows, 30, 0, 400), kicks)
    # 20,000 draws of 60 values: 333 of each, standard deviation 18; six of them
    assert float((torch.bincount(kicks.flatten(), minlength=60) - 20_000 / 60).abs().max()) < 6 * 18.1


@pytest.mark.parametrize("stepwise", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_batched_is_the_same_as_compiled(groups: int, stepwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets are continuous, so ties have probability 0; what float32 rounds differently may turn a kick, not the objective."""
    task = problem(4, groups, rows=6, size=100, bits=3, stepwise=stepwise, masked=True)
    compiled = ladder(task)
    for name in ("decide_block", "sweep_rows", "kick_rows"):
        monkeypatch.setattr(f"halfstep.solvers.compiled.{name}", getattr(batched, name))
    again = ladder(task)
    for here, there in zip(compiled[:3], again[:3], strict=True):
        assert torch.equal(here, there)
    for here, there in zip(compiled[3:], again[3:], strict=True):
        assert float(task.error(there).sum()) == pytest.approx(float(task.error(here).sum()), rel=1e-4)


def test_a_singular_form_and_entries_that_are_always_zero() -> None:
    task = problem(5, size=8)
    gram = task.gram.clone()
    gram[:, 3], gram[:, :, 3], gram[:, 5], gram[:, :, 5] = 0, 0, gram[:, 4], gram[:, :, 4]
    gram[:, 5, 5] = gram[:, 4, 4]
    dead = ClosestVector.of(gram, task.target[None].double(), task.step[None], task.low[None], task.high[None])
    for codes in ladder(dead):
        assert bool(torch.isfinite(codes).all())
    assert torch.equal(ladder(dead)[5][:, 3], dead.nearest()[:, 3])
    nothing = replace(dead, gram=torch.zeros_like(gram), searched=torch.zeros_like(dead.searched))
    assert all(torch.equal(codes, dead.nearest()) for codes in ladder(nothing))


def test_cholesky_of_what_is_barely_not_positive() -> None:
    gram = torch.ones(1, 3, 3, dtype=torch.float64) - 1e-12 * torch.eye(3, dtype=torch.float64)
    factor = cholesky(gram)
    assert torch.allclose(factor @ factor.mT, gram, atol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    gram, rows = torch.eye(3, dtype=torch.float64)[None], torch.ones(1, 2, 3)
    with pytest.raises(CalibrationError, match="not finite"):
        ClosestVector.of(gram * value, rows, rows, rows, rows)
    with pytest.raises(CalibrationError, match="not finite"):
        ClosestVector.of(gram, rows * value, rows, rows, rows)


def test_halfstep_does_not_import_numba() -> None:
    done = subprocess.run([sys.executable, "-c", "import halfstep, sys; sys.exit('numba' in sys.modules)"], check=False)
    assert done.returncode == 0
