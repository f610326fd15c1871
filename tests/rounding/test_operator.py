"""A layer as a linear map: patches times rows is what PyTorch computes."""

from __future__ import annotations

import pytest
import torch

from halfstep.rounding import LinearOperator

CASES = {
    "linear": (LinearOperator(), (3, 8), (5, 8)),
    "linear on sequences": (LinearOperator(), (3, 4, 2, 8), (5, 8)),
    "grouped, dilated, strided": (LinearOperator((2, 1), (1, 2), (1, 2), 2), (3, 8, 9, 11), (6, 4, 3, 3)),
    "depthwise conv1d": (LinearOperator((2,), (1,), (1,), 8), (3, 8, 9), (8, 1, 3)),
    "conv3d": (LinearOperator((2,) * 3, (1,) * 3, (1,) * 3), (3, 4, 5, 6, 7), (8, 4, 3, 2, 1)),
    "same padding of an even kernel": (LinearOperator((1, 1), (1, 0), (1, 1), end_padding=(0, 1)), (3, 8, 9, 11), (6, 8, 3, 2)),
    "transposed": (LinearOperator((2, 3), (1, 0), (1, 2), 1, True, (1, 0)), (3, 8, 5, 6), (8, 6, 3, 2)),
    "transposed, grouped": (LinearOperator((2, 3), (1, 0), (1, 2), 2, True, (1, 0)), (3, 8, 5, 6), (8, 3, 3, 2)),
}


@pytest.mark.parametrize("case", list(CASES))
def test_patches_times_rows_is_the_output(case: str, generator: torch.Generator) -> None:
    operator, input_shape, weight_shape = CASES[case]
    x, weight = torch.randn(input_shape, generator=generator), torch.randn(weight_shape, generator=generator)
    output = operator(x, weight)
    num_positions = operator.num_positions(x, weight)
    positions = torch.arange(num_positions).expand(len(x), -1)
    found = torch.einsum("grd,gnd->ngr", operator.rows(weight), operator.patches(x, weight, positions))
    want = output.reshape(-1, output.shape[-1]) if operator.num_axes == 0 else output.flatten(2).transpose(1, 2).flatten(0, 1)
    assert torch.allclose(found.flatten(1), want, atol=1e-5)


@pytest.mark.parametrize("case", list(CASES))
def test_rows_and_back(case: str, generator: torch.Generator) -> None:
    operator, _, weight_shape = CASES[case]
    weight = torch.randn(weight_shape, generator=generator)
    assert torch.equal(operator.weight(operator.rows(weight), weight.shape), weight)


def test_chosen_positions_are_those_of_all(generator: torch.Generator) -> None:
    operator, input_shape, weight_shape = CASES["grouped, dilated, strided"]
    x, weight = torch.randn(input_shape, generator=generator), torch.randn(weight_shape, generator=generator)
    num_positions = operator.num_positions(x, weight)
    everything = operator.patches(x, weight, torch.arange(num_positions).expand(3, -1)).unflatten(1, (3, num_positions))
    positions = torch.randint(num_positions, (3, 4), generator=generator)
    chosen = operator.patches(x, weight, positions).unflatten(1, (3, 4))
    for sample in range(3):
        assert torch.equal(chosen[:, sample], everything[:, sample, positions[sample]])
