"""Any function of one tensor, entry by entry, as a table: sigmoid, tanh, SiLU, GELU, hard swish, a batch norm that stands alone ...

    y = table[channel, q - minimum of the input's grid]

The table is computed from the very function that was simulated, for every code the input can have, and therefore has no error of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractOperator, Values


@final
@OPERATORS.register("lookup")
@dataclass(frozen=True, eq=False)
class Lookup(AbstractOperator):
    """table: codes [1, number of input codes], or one row for each entry of the input's first axis."""

    table: Tensor

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        index = codes[0].long() - values[self.inputs[0]].grid.minimum
        if len(self.table) > 1:
            index = index + (torch.arange(len(self.table)) * self.table.shape[1]).view(-1, *[1] * (codes[0].ndim - 2))
        return self.table.flatten()[index].to(torch.int32)

    def check(self, values: Values) -> None:
        """A row for every code of the input, entries on the output's grid."""
        x, grid = values[self.inputs[0]], values[self.output].grid
        if self.table.shape[1] != x.grid.num_levels or len(self.table) not in (1, x.shape[0] if x.shape else 1):
            raise self.fail(f"a table of shape {list(self.table.shape)} does not fit {x.grid.num_levels} codes.")
        if int(self.table.min()) < grid.minimum or int(self.table.max()) > grid.maximum:
            raise self.fail("its table leaves the grid of its output.")
