"""How often each real value occurs: what every range estimator works from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Distribution:
    """One row for each scale: a single row for a whole tensor, or one a channel, or one a group of a channel's entries.

    values: float32, ascending in every row; counts: float32, how often each occurs, one row for all where they are equal.
    minimum, maximum: float64, the exact extremes; ``values`` may miss them by half a bin where they come from a histogram.
    """

    values: Float[Tensor, "C K"]
    counts: Float[Tensor, "#C K"]
    minimum: Float[Tensor, " C"]
    maximum: Float[Tensor, " C"]

    @classmethod
    def of_tensor(cls, x: Tensor, channel_axis: int | None = None, group_size: int | None = None) -> Distribution:
        """The exact distribution of a tensor that is at hand, such as a weight: one row, or one for each entry of the axis.

        group_size: of a matrix, one row for so many neighbouring entries of each channel. A shorter last group is filled up with values
        that occur 0 times.
        """
        rows = x.detach().float().reshape(1, -1) if channel_axis is None else x.detach().float().movedim(channel_axis, 0).flatten(1)
        if group_size is not None and rows.shape[1] % group_size:
            return cls._of_uneven_groups(rows, group_size)
        values = torch.sort(rows if group_size is None else rows.reshape(-1, group_size), dim=1).values
        return cls(values, torch.ones_like(values[:1]), values[:, 0].double(), values[:, -1].double())

    @classmethod
    def _of_uneven_groups(cls, rows: Float[Tensor, "C I"], group_size: int) -> Distribution:
        missing = -rows.shape[1] % group_size
        filled = torch.nn.functional.pad(rows[None], (0, missing), mode="replicate").view(-1, group_size)
        counts = torch.nn.functional.pad(torch.ones_like(rows), (0, missing)).view(-1, group_size)
        values, order = torch.sort(filled, dim=1)
        return cls(values, counts.gather(1, order), values[:, 0].double(), values[:, -1].double())

    def extremes(self) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """(minimum, maximum) of shape [C], widened to contain 0, which every grid represents exactly."""
        return self.minimum.clamp(max=0), self.maximum.clamp(min=0)
