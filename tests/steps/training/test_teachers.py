"""Whose answers a training learns, and how often they are asked."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from halfstep.graph.capture import capture
from halfstep.steps.training.teachers import Teachers


class Counted(Teachers):
    """Counts how often the networks are asked."""

    num_asked = 0

    def _asked(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        self.num_asked += 1
        return super()._asked(inputs)


def teachers(num_batches: int) -> tuple[Counted, list[nn.Module], torch.Tensor]:
    x = torch.randn(3, 4)
    networks: list[nn.Module] = [nn.Linear(4, 5), nn.Sequential(nn.Linear(4, 5), nn.ReLU())]
    return Counted([capture(network, (x,)) for network in networks], torch.device("cpu"), num_batches, nullcontext), networks, x


def test_the_mean_of_their_scores() -> None:
    asked, networks, x = teachers(0)
    torch.testing.assert_close(asked((x,), 0), (networks[0](x) + networks[1](x)).detach() / 2)
    asked((x,), 0)
    assert asked.num_asked == 2 and not asked.kept


def test_batches_that_come_again_are_asked_about_once() -> None:
    asked, _, x = teachers(2)
    first, second = asked((x,), 0), asked((2 * x,), 1)
    assert torch.equal(asked((x,), 2), first) and torch.equal(asked((2 * x,), 5), second)
    assert asked.num_asked == 2 and not torch.equal(first, second)
