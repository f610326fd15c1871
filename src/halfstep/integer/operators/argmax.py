"""The place of the largest code along an axis; of several equal ones the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractOperator, Values


@final
@OPERATORS.register("argmax")
@dataclass(frozen=True, eq=False)
class Argmax(AbstractOperator):
    """axis: of a sample, from 0. The output has the input's shape with that axis of size 1, or without it."""

    axis: int

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        x = codes[0].movedim(self.axis + 1, -1)
        is_largest = x == x.amax(-1, keepdim=True)
        places = torch.arange(x.shape[-1]).where(is_largest, x.shape[-1]).amin(-1)  # the first: argmax itself promises none
        return places.view(len(x), *values[self.output].shape).to(torch.int32)
