"""The exact distribution of a tensor at hand."""

from __future__ import annotations

import pytest
import torch

from halfstep.ranges import Distribution


def test_a_whole_tensor_is_one_sorted_row(generator: torch.Generator) -> None:
    x = torch.randn(4, 3, 2, generator=generator)
    distribution = Distribution.of_tensor(x)
    assert distribution.values[0].tolist() == sorted(x.flatten().tolist())
    assert distribution.counts.expand_as(distribution.values).sum() == 24
    assert (distribution.minimum.tolist(), distribution.maximum.tolist()) == ([float(x.min())], [float(x.max())])
    assert distribution.minimum.dtype == torch.float64


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_a_channel_axis_gives_a_row_a_channel(axis: int, generator: torch.Generator) -> None:
    x = torch.randn(4, 3, 5, generator=generator, requires_grad=True)
    distribution = Distribution.of_tensor(x, axis)
    assert not distribution.values.requires_grad
    for channel in range(x.shape[axis]):
        alone = Distribution.of_tensor(x.select(axis, channel))
        assert torch.equal(distribution.values[channel], alone.values[0])
        assert distribution.minimum[channel] == alone.minimum[0] and distribution.maximum[channel] == alone.maximum[0]


@pytest.mark.parametrize("num_entries", [12, 13, 15, 3])
def test_a_group_size_gives_a_row_a_group(num_entries: int, generator: torch.Generator) -> None:
    """Of 13 entries in fours, the last group has one; what fills it up occurs 0 times and is not beyond its extremes."""
    x = torch.randn(3, num_entries, generator=generator)
    distribution = Distribution.of_tensor(x, 0, 4)
    parts = [part for row in x for part in row.split(4)]
    assert len(distribution.values) == len(parts)
    counts = distribution.counts.expand_as(distribution.values)
    for index, part in enumerate(parts):
        assert distribution.values[index][counts[index] > 0].tolist() == sorted(part.tolist())
        assert (distribution.minimum[index], distribution.maximum[index]) == (part.min(), part.max())
        assert bool((distribution.values[index].diff() >= 0).all())


def test_extremes_contain_zero() -> None:
    x = torch.tensor([[1.0, 2.0], [-2.0, -1.0], [-1.0, 3.0], [0.0, 0.0]])
    low, high = Distribution.of_tensor(x, 0).extremes()
    assert low.tolist() == [0.0, -2.0, -1.0, 0.0]
    assert high.tolist() == [2.0, 0.0, 3.0, 0.0]


def test_shapes_are_checked() -> None:
    """The annotations hold in the tests: three rows of values do not go with two extremes."""
    values, extremes = torch.zeros(3, 5), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(Exception, match=r"minimum|maximum"):
        Distribution(values, torch.ones(1, 5), extremes, extremes)
