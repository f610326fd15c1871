"""Minibatches and Adam against PyTorch's."""

from __future__ import annotations

import math

import torch

from halfstep.rounding.descent import Adam, minibatches

CPU = torch.device("cpu")


def test_every_epoch_sees_every_sample_once(generator: torch.Generator) -> None:
    batches = list(minibatches(12, 4, 7, generator, CPU))
    assert [len(batch) for batch in batches] == [4] * 7
    for epoch in (batches[:3], batches[3:6]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(12))
    assert torch.cat(batches[:3]).tolist() != torch.cat(batches[3:6]).tolist()


def test_what_is_left_over_is_left_out(generator: torch.Generator) -> None:
    assert [len(batch) for batch in minibatches(11, 4, 5, generator, CPU)] == [4] * 5
    assert [sorted(batch.tolist()) for batch in minibatches(3, 32, 2, generator, CPU)] == [[0, 1, 2]] * 2


def test_adam_is_pytorchs(generator: torch.Generator) -> None:
    start = torch.randn(50, generator=generator, dtype=torch.float64)
    mine, theirs = start.clone(), start.clone().requires_grad_()
    adam, other = Adam(mine, 0.01), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(30):
        gradient = torch.randn(50, generator=generator, dtype=torch.float64)
        adam.descend(gradient.clone())
        theirs.grad = gradient
        other.step()
    torch.testing.assert_close(mine, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_reach_bounds_what_momentum_still_does(generator: torch.Generator) -> None:
    """From any state, 300 steps without gradient stay within the reach, on its side; 0.9^300 is nothing."""
    for num_steps in (1, 2, 10, 200):
        parameter = torch.zeros(100, dtype=torch.float64)
        adam = Adam(parameter, 0.01)
        for _ in range(num_steps):
            adam.descend(torch.randn(100, generator=generator, dtype=torch.float64) * torch.logspace(-3, 3, 100, dtype=torch.float64))
        before, reach = parameter.clone(), adam.reach()
        for _ in range(300):
            adam.descend(torch.zeros(100, dtype=torch.float64))
        share = (parameter - before) / reach
        assert float(share.min()) > 0 and float(share.max()) <= 1


def test_reach_of_a_parameter_that_never_had_a_gradient() -> None:
    adam = Adam(torch.tensor([-math.inf, 1.0]), 0.1)
    assert adam.reach().tolist() == [0, 0]
    adam.descend(torch.zeros(2))
    assert adam.reach().tolist() == [0, 0]
