"""The scale that is best for given codes, in closed form, whatever shares it.

    one scale a row, or for all rows      s <- (n H Tᵀ) / (n H nᵀ)                                              sums over what shares s
    one a group k of a row's entries      s_k <- (n_k H Tᵀ - sum_{l not k} s_l n_k H n_lᵀ) / (n_k H n_kᵀ)       each in turn

n: codes - z, n_k: those of group k and 0 elsewhere. H, T: as in `halfstep.solvers.closest`. Each line is where the derivative of
(v - T) H (v - T)ᵀ in that scale is 0, so the error never grows. Zhang et al. 2024, "COMQ", have the first line. A scale that would not be
positive and finite, or would change by less than ``NEGLIGIBLE``, stays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from halfstep.rounding.abstract import RoundingProblem
from halfstep.solvers import ClosestVector

NEGLIGIBLE = 1e-6  # relative change of a scale that is not worth making
NUM_ROUNDS = 4  # over the scales of a row's groups, which depend on each other


class AbstractRefit(ABC):
    """For one way in which entries share scales."""

    @abstractmethod
    def refitted(self, problem: RoundingProblem, vector: ClosestVector, codes: Tensor, scale: Tensor) -> tuple[ClosestVector, Tensor]:
        """The problem with the scale that is best for ``codes`` [N, d], and that scale; ``scale`` is where it starts."""

    @abstractmethod
    def undone(self, problem: RoundingProblem, scale: Tensor, is_worse: Tensor) -> Tensor:
        """``scale`` with the problem's own in the rows where ``is_worse`` [N]."""


def refit_for(problem: RoundingProblem) -> AbstractRefit | None:
    """None if the scale is fixed, or steps differ along a row other than by group, or some rows share one that others do not."""
    if problem.is_scale_fixed:
        return None
    if problem.grid.group_size is not None:
        return RefitOfGroups(problem.grid.group_size)
    entry = _entry_of_row(problem)
    return None if entry is None else RefitOfRows(entry)


def _entry_of_row(problem: RoundingProblem) -> Tensor | None:
    """Which entry of the scale each row takes, [N]; None if steps differ along a row, or rows share one that not all of them share."""
    entries = torch.arange(problem.scale.numel(), device=problem.scale.device).view_as(problem.scale)
    found = problem.rows(problem.grid.along(entries, problem.weight.shape)).flatten(0, 1)
    entry = found[:, 0]
    is_one_a_row = torch.equal(found, entry[:, None].expand_as(found))
    return entry if is_one_a_row and (problem.scale.ndim == 0 or len(entry.unique()) == len(entry)) else None


@final
@dataclass(frozen=True)
class RefitOfRows(AbstractRefit):
    """entry: which entry of the scale each row takes, [N]."""

    entry: Tensor

    def refitted(self, problem: RoundingProblem, vector: ClosestVector, codes: Tensor, scale: Tensor) -> tuple[ClosestVector, Tensor]:
        """By the first line."""
        above, below = vector.scale_sums(codes)
        if scale.ndim == 0:
            best = problem.gather(above).sum() / problem.gather(below).sum()
        else:
            best = scale.double().index_copy(0, self.entry, above / below)
        scale = _where_better(best.to(scale.dtype), scale)
        return vector.rescaled(scale.flatten()[self.entry].double()[:, None]), scale

    def undone(self, problem: RoundingProblem, scale: Tensor, is_worse: Tensor) -> Tensor:
        """By entry."""
        worse = self.entry[is_worse]
        return scale.flatten().index_copy(0, worse, problem.scale.flatten()[worse]).view_as(scale)


@final
@dataclass(frozen=True)
class RefitOfGroups(AbstractRefit):
    """A scale [C, num_groups], a row for each row of the problem."""

    group_size: int

    def refitted(self, problem: RoundingProblem, vector: ClosestVector, codes: Tensor, scale: Tensor) -> tuple[ClosestVector, Tensor]:
        """By the second line, a few rounds over the groups."""
        towards, between = vector.group_sums(codes, self.group_size)
        found = scale.double().clone()
        for _ in range(NUM_ROUNDS):
            for group in range(found.shape[1]):
                others = (between[:, group] * found).sum(1) - between[:, group, group] * found[:, group]
                found[:, group] = _where_better((towards[:, group] - others) / between[:, group, group], found[:, group])
        scale = found.to(scale.dtype)
        return vector.rescaled(problem.grid.along(scale.double(), problem.weight.shape)), scale

    def undone(self, problem: RoundingProblem, scale: Tensor, is_worse: Tensor) -> Tensor:
        """By row."""
        return torch.where(is_worse[:, None], problem.scale, scale)


def _where_better(best: Tensor, scale: Tensor) -> Tensor:
    stored = best.float()  # a quotient of next to nothing is infinite, or 0, there
    is_better = torch.isfinite(stored) & (stored > 0) & ((best / scale - 1).abs() > NEGLIGIBLE)
    return torch.where(is_better, best, scale)
