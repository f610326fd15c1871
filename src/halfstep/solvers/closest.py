"""The closest vector of a bounded lattice: for each row the codes n that minimize a quadratic form.

    min over integers low <= n <= high of  (v - T) H (v - T)ᵀ,   v_j = s_j n_j

H: Gram matrix [d, d] of the row's group, positive semidefinite. T: target. s: steps, one for each entry, often the same along a row. Rows
do not depend on each other. With H = L Lᵀ the error is a sum of squares in which an entry meets only those of higher index,

    sum_j (e_j L_jj + sum_{i > j} e_i L_ij)^2,   e = v - T

so deciding from the last entry to the first, each to its best code, is the nearest plane algorithm of Babai 1986, which is GPTQ (Frantar et
al. 2023) without an inverse (Chen et al. 2025, "The geometry of LLM quantization"). Keeping the K best partial choices is K-best sphere
decoding (Guo and Nilsson 2006). Coordinate descent and iterated local search go on from there with the slope g = (v - T) H at hand.

The loops of `halfstep.solvers.kernels`, compiled, run on CPU tensors, those of `halfstep.solvers.batched` on any other. Searches are in
float32. Matrix products are summed in float64 and then rounded: the order in which a BLAS adds depends on its threads and on how many rows
there are, and should not show in the codes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfstep.errors import CalibrationError
from halfstep.solvers import batched, compiled

BLOCK = 64  # columns that are decided before one matrix product brings the others up to date
MAX_NUMBERS = 1 << 22  # rows x K x d that `beam` holds at a time
KICKS_AT_ONCE = 256  # after which the slope is computed anew: float32 drifts


@dataclass(frozen=True)
class ClosestVector:
    """gram [G, d, d] float64; target, step, low, high [N, d] float32, N = G R, row i of group i // R; H as the searches take it, float32.

    size: [N], the power of two by which target and step of a row were divided.
    """

    gram: Tensor
    searched: Tensor
    target: Tensor
    step: Tensor
    low: Tensor
    high: Tensor
    size: Tensor

    @classmethod
    def of(cls, gram: Tensor, target: Tensor, step: Tensor, low: Tensor, high: Tensor) -> ClosestVector:
        """From H [G, d, d] and the rest [G, R, d], float64; raises `CalibrationError` where H or T is not finite."""
        if not (bool(torch.isfinite(gram).all()) and bool(torch.isfinite(target).all())):
            raise CalibrationError("The statistics of the inputs are not finite; look for infinite or very large weights and inputs.")
        mean = gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.float64).tiny)
        target, step, low, high = (rows.flatten(0, 1) for rows in (target, step, low, high))
        size = torch.exp2(torch.floor(torch.log2(step.double().amax(1, keepdim=True))))
        target, step, low, high = (part.float().contiguous() for part in (target / size, step / size, low, high))
        return cls(gram, (gram / mean[:, None, None]).float().contiguous(), target, step, low, high, size[:, 0])

    @property
    def num_rows(self) -> int:
        """R: rows of each group."""
        return len(self.target) // len(self.gram)

    def rescaled(self, step: Tensor) -> ClosestVector:
        """The same with other steps, [N, d] or [N, 1]."""
        return replace(self, step=(step / self.size[:, None]).float().expand_as(self.target).contiguous())

    def nearest(self) -> Tensor:
        """The code nearest to each entry of the target, [N, d]."""
        return torch.clamp(torch.round(self.target / self.step), self.low, self.high)

    def slope(self, codes: Tensor) -> Tensor:
        """The slope g of each row as the searches take it, [N, d]."""
        mean = self.gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.float64).tiny)
        return (self._times_gram(self._missed(codes)) / mean.repeat_interleave(self.num_rows)[:, None]).float()

    def error(self, codes: Tensor) -> Tensor:
        """(v - T) H (v - T)ᵀ of each row, float64 [N]."""
        missed = self._missed(codes)
        return (self._times_gram(missed) * missed).sum(1) * self.size.square()

    def scale_sums(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The products n H Tᵀ and n H nᵀ of each row, float64 [N]: the best scale for rows that share one is the ratio of the sums."""
        codes = codes.double()
        product = self._times_gram(codes)
        return (product * self.target).sum(1) * self.size, (product * codes).sum(1)

    def group_sums(self, codes: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
        """As `scale_sums` for rows with K steps, one for each ``group_size`` neighbouring entries: n_k H Tᵀ [N, K], n_k H n_lᵀ [N, K, K].

        n_k: the codes of group k, 0 elsewhere. The error of a row is a quadratic form in its K steps, and these are its coefficients.
        """
        codes = codes.double()
        towards = _group_totals(self._times_gram(self.target.double()) * codes, group_size)
        between = []
        for start in range(0, codes.shape[1], group_size):
            span = slice(start, start + group_size)
            product = codes[:, span].unflatten(0, (len(self.gram), -1)).bmm(self.gram[:, span]).flatten(0, 1)
            between.append(_group_totals(product * codes, group_size))
        return towards * self.size[:, None], torch.stack(between, 1)

    def _missed(self, codes: Tensor) -> Tensor:
        return codes.double() * self.step - self.target

    def _times_gram(self, rows: Tensor) -> Tensor:
        return rows.view(len(self.gram), -1, rows.shape[1]).bmm(self.gram).flatten(0, 1)


def _group_totals(values: Tensor, group_size: int) -> Tensor:
    """The sums of ``values`` [N, d] over each group of neighbouring entries, the last of which may be shorter: [N, K]."""
    missing = -values.shape[1] % group_size
    totals: Tensor = torch.nn.functional.pad(values, (0, missing)).unflatten(1, (-1, group_size)).sum(2)
    return totals


def cholesky(gram: Tensor) -> Tensor:
    """L with L Lᵀ = H, float64 [G, d, d]; where H is singular, of H plus as small a share of its mean diagonal as it takes."""
    mean = gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.float64).tiny)
    for ridge in (0.0, 1e-9, 1e-6, 1e-3, 1.0):
        ridges = (ridge * mean)[:, None].expand(gram.shape[:2])
        factor, failed = torch.linalg.cholesky_ex(gram + torch.diag_embed(ridges))
        if not bool(failed.any()):
            break
    found: Tensor = factor
    return found


def beam(problem: ClosestVector, width: int, large_first: bool = True) -> Tensor:
    """Codes [N, d] by K-best with K = ``width``; 1 is Babai's nearest plane. Takes R d^2 (K + 1) / 2 + d^3 / 3 multiplications a group.

    large_first: entries with a large diagonal are decided first, while others can still make good for them; else the first entry first.
    """
    diagonal = problem.gram.diagonal(dim1=1, dim2=2)
    if large_first:
        order = diagonal.argsort(dim=1, stable=True)
    else:
        order = torch.arange(diagonal.shape[1] - 1, -1, -1, device=diagonal.device).expand_as(diagonal)
    gram = problem.gram.gather(1, order[:, :, None].expand_as(problem.gram)).gather(2, order[:, None, :].expand_as(problem.gram))
    factor = cholesky(gram)
    by_row = order.repeat_interleave(problem.num_rows, 0)
    columns = [part.gather(1, by_row) for part in (problem.target, problem.step, problem.low, problem.high)]
    at_once = max(1, MAX_NUMBERS // (width * diagonal.shape[1]))
    found = torch.empty_like(problem.target)
    if len(factor) > 1:  # by whole groups
        num_groups, num_rows = max(1, at_once // problem.num_rows), problem.num_rows
        parts = [(factor[g : g + num_groups], g * num_rows, num_groups * num_rows) for g in range(0, len(factor), num_groups)]
    else:
        parts = [(factor, first, at_once) for first in range(0, len(found), at_once)]
    for part_factor, first, count in parts:
        found[first : first + count] = _beam_part(part_factor, [part[first : first + count] for part in columns], width)
    found = torch.empty_like(found).scatter_(1, by_row, found)
    return torch.where(diagonal.repeat_interleave(problem.num_rows, 0) > 0, found, problem.nearest())  # any code does for a dead entry


def _beam_part(factor: Tensor, columns: list[Tensor], width: int) -> Tensor:
    """`beam` in the order of ``factor`` for the rows of ``columns`` (target, step, low, high)."""
    num_rows, num_columns = columns[0].shape
    device = factor.device
    decide = compiled.decide_block if device.type == "cpu" else batched.decide_block
    cost = torch.full((num_rows, width), torch.inf, device=device)
    cost[:, 0] = 0
    known = torch.zeros(num_rows, width, num_columns, device=device)
    history = []
    for last in range(num_columns, 0, -BLOCK):
        first = max(0, last - BLOCK)
        block = [part[:, first:last].contiguous() for part in columns]
        triangle = factor[:, first:last, first:last].float().contiguous()
        codes, missed, parent = decide(triangle, known[:, :, first:last].contiguous(), cost, *block)
        history.append((codes, parent))
        if first:
            added = missed.view(len(factor), -1, last - first).double().bmm(factor[:, first:last, :first])
            kept = known[:, :, :first].gather(1, parent[:, :, None].expand(-1, -1, first))
            known = kept.add_(added.view_as(kept))
    choice = torch.zeros(num_rows, dtype=torch.int64, device=device)  # the cheapest comes first
    found = []
    for codes, parent in reversed(history):
        found.append(codes[torch.arange(num_rows, device=device), choice])
        choice = parent.gather(1, choice[:, None])[:, 0]
    return torch.cat(found, 1)


def descend(problem: ClosestVector, codes: Tensor, num_sweeps: int = 100) -> Tensor:
    """Codes [N, d] by cyclic coordinate descent from ``codes``: until no entry moves, ``num_sweeps`` at most.

    A sweep takes R d operations and d more for each move.
    """
    sweep = compiled.sweep_rows if codes.device.type == "cpu" else batched.sweep_rows
    codes = codes.clone()
    sweep(problem.searched, problem.slope(codes), codes, problem.step, problem.low, problem.high, num_sweeps)
    return codes


def kick(problem: ClosestVector, codes: Tensor, kicks: Tensor, num_replies: int = 6) -> Tensor:
    """Codes [N, d] by iterated local search from ``codes``; see `draw_kicks` and `halfstep.solvers.kernels.kick_rows`.

    A kick takes two to ``num_replies`` + 1 passes over d entries, four or five on average.
    """
    search = compiled.kick_rows if codes.device.type == "cpu" else batched.kick_rows
    codes = codes.clone()
    for some in kicks.split(KICKS_AT_ONCE, 1):
        search(problem.searched, problem.slope(codes), codes, problem.step, problem.low, problem.high, some.contiguous(), num_replies)
    return codes


def draw_kicks(seed: int, rows: Tensor, num_columns: int, first: int, num_kicks: int) -> Tensor:
    """Kicks ``first`` to ``first + num_kicks`` - 1 of the ``rows`` [N] with these indices: [N, num_kicks], 2 j + (1 up, 0 down).

    A kick depends on seed, row and its own number alone, on any device and however rows are shared out.
    """
    number = torch.arange(first, first + num_kicks, device=rows.device)
    of_row = _mixed(_mixed(rows + seed) + 0x9E3779B9)
    return _mixed(of_row[:, None] ^ _mixed(number)) % (2 * num_columns)


def _mixed(x: Tensor) -> Tensor:
    """A hash of 32 bits held in int64 (multiply and shift; the constants are those of Wellons 2018, "Prospecting for hash functions")."""
    x = x & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 16)
