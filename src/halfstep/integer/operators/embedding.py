"""Rows of a table, one for each code: embeddings of tokens, types, positions.

y[..., :] = table[clamp(q - zero_point, 0, number of rows - 1)]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractOperator, Values


@final
@OPERATORS.register("embedding")
@dataclass(frozen=True, eq=False)
class Embedding(AbstractOperator):
    """table: codes [rows, size]. Input of any shape, output with an axis of ``size`` behind it."""

    table: Tensor

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        rows = codes[0].long() - values[self.inputs[0]].zero_point
        return self.table[rows.clamp_(0, len(self.table) - 1)].int()

    def check(self, values: Values) -> None:
        """Codes on the output's grid."""
        grid = values[self.output].grid
        if self.table.ndim != 2 or not self.table.numel():
            raise self.fail(f"a table of shape {list(self.table.shape)} has no rows of one size.")
        if int(self.table.min()) < grid.minimum or int(self.table.max()) > grid.maximum:
            raise self.fail("its table leaves the grid of its output.")
