"""Sums and shares over processes, here over one; two of them are in tests/end_to_end."""

from __future__ import annotations

import torch

from halfstep import parallel


def test_one_process_is_the_usual_case() -> None:
    with parallel.processes():
        assert parallel.num_processes() == 1 and parallel.index() == 0
        assert parallel.share(5) == range(5)
        assert parallel.collect("x") == ["x"]
        assert torch.equal(parallel.joined(torch.arange(3)), torch.arange(3))
        parallel.wait()


def test_an_exact_sum_does_not_depend_on_the_order(generator: torch.Generator) -> None:
    addends = [torch.randn(50, 50, generator=generator) for _ in range(40)]
    largest = float(addends[0].abs().max())
    totals = []
    for order in (addends, addends[::-1]):
        total = parallel.ExactSum()
        for addend in order:
            total.add(addend, largest)
        totals.append(total.total())
    assert torch.equal(*totals)
    assert torch.allclose(totals[0], torch.stack(addends).double().sum(0), rtol=0, atol=40 * largest * 2.0**-39)


def test_an_exact_sum_of_zeros() -> None:
    total = parallel.ExactSum()
    total.add(torch.zeros(3), 0.0)
    assert torch.equal(total.total(), torch.zeros(3, dtype=torch.float64))
