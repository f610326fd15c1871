"""A stored tensor that takes part as an activation does: a position embedding, a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractOperator, Values


@final
@OPERATORS.register("constant")
@dataclass(frozen=True, eq=False)
class Constant(AbstractOperator):
    """codes: of the output's shape, the same for every sample."""

    codes: Tensor

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """A batch of one, which broadcasts."""
        return self.codes.to(torch.int32)[None]

    def check(self, values: Values) -> None:
        """Codes on the grid, of the shape that was said."""
        value = values[self.output]
        if tuple(self.codes.shape) != value.shape:
            raise self.fail(f"its codes have the shape {list(self.codes.shape)}, its value {list(value.shape)}.")
        if int(self.codes.min()) < value.grid.minimum or int(self.codes.max()) > value.grid.maximum:
            raise self.fail("its codes leave its grid.")
