"""A streaming histogram of bounded memory that depends on the values alone, not on how they were batched.

Bins are half open, ``[i * width, (i + 1) * width)`` for ``-HALF <= i < HALF``, and ``width = 2^exponent`` is the smallest power of two with
which every value so far has a bin. When a larger value comes the exponent grows and pairs of neighbours merge, exactly, because bins
are aligned at 0. So the histogram of a set of values is the same in whatever order and batches they come, and two histograms merge
exactly (over processes). That holds where every value is counted; which ones `observe` picks with ``every`` depends on the batches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halfstep.ranges.distribution import Distribution

HALF = 4096  # bins on each side of 0; between 2048 and 4096 of them are in use on the longer side
_CHUNK = 1 << 16  # values binned at once: small enough to stay in the cache, twice as fast as whole tensors


class Histogram:
    """Counts of one tensor's values, int64 of shape [2 * HALF]; the bin ``counts[HALF]`` begins at 0."""

    def __init__(self) -> None:
        self.exponent: int | None = None  # None until a value other than 0 was seen
        self.counts = torch.zeros(2 * HALF, dtype=torch.int64)
        self.minimum = math.inf
        self.maximum = -math.inf
        self.is_finite = True  # False once a tensor with NaN or infinite values was seen; the counts leave such a tensor out

    @property
    def num_values(self) -> int:
        """How many values were observed."""
        return int(self.counts.sum())

    def observe(self, x: Tensor, every: int = 1) -> None:
        """Count every ``every``-th value of a tensor of any shape; the extremes are those of all its values."""
        x = flat(x.detach()).float()
        if x.numel() == 0:
            return
        low, high = (bound.item() for bound in torch.aminmax(x))
        if not (math.isfinite(low) and math.isfinite(high)):
            self.is_finite = False
            return
        self._widen(low, high)
        for part in x[::every].split(_CHUNK):
            bins = torch.floor(_in_bins(part, self.exponent or 0)).to(torch.int32).add_(HALF)
            self.counts += torch.bincount(bins, minlength=2 * HALF).to(self.counts.device)

    def merge(self, other: Histogram) -> None:
        """Add the counts of ``other``, which is left unchanged."""
        self.is_finite = self.is_finite and other.is_finite
        self._widen(other.minimum, other.maximum)
        times = 0 if self.exponent is None or other.exponent is None else self.exponent - other.exponent
        self.counts = self.counts + _coarsen(other.counts, times)

    def distribution(self) -> Distribution:
        """A single row: the centres of the occupied bins with their counts.

        The first bin above 0 is represented by 0 itself: after a ReLU nearly all of its values are zeros.
        """
        is_fine = int(torch.count_nonzero(self.counts)) > HALF  # both sides in use: more than any estimator needs
        counts, exponent = (_coarsen(self.counts, 1), (self.exponent or 0) + 1) if is_fine else (self.counts, self.exponent or 0)
        occupied = torch.nonzero(counts).flatten()
        indices = (occupied - HALF).double()
        values = torch.where(indices == 0, 0.0, indices + 0.5) * 2.0**exponent
        extremes = torch.tensor([[self.minimum], [self.maximum]], dtype=torch.float64)
        return Distribution(values[None].float(), counts[occupied][None].float(), extremes[0], extremes[1])

    def to_tensor(self) -> Tensor:
        """Everything in one float64 tensor of shape [2 * HALF + 4], for saving (counts are exact up to 2^53)."""
        exponent = math.nan if self.exponent is None else self.exponent
        head = torch.tensor([exponent, self.minimum, self.maximum, self.is_finite], dtype=torch.float64)
        return torch.cat([head, self.counts.double()])

    @classmethod
    def from_tensor(cls, saved: Tensor) -> Histogram:
        """The inverse of `to_tensor`."""
        histogram = cls()
        exponent, histogram.minimum, histogram.maximum, is_finite = saved[:4].tolist()
        histogram.exponent = None if math.isnan(exponent) else int(exponent)
        histogram.is_finite, histogram.counts = bool(is_finite), saved[4:].long()
        return histogram

    def _widen(self, low: float, high: float) -> None:
        """Let every value of low..high have a bin."""
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        exponent = _smallest_exponent(self.minimum, self.maximum)
        if self.exponent is not None and exponent is not None:
            self.counts = _coarsen(self.counts, exponent - self.exponent)
        self.exponent = exponent


def _in_bins(x: Tensor, exponent: int) -> Tensor:
    """``x / 2^exponent``, exactly: in float64 where float32 could overflow or lose the sign of a tiny value."""
    exact = x if -126 <= exponent <= 0 else x.double()
    return exact * 2.0**-exponent


def flat(x: Tensor) -> Tensor:
    """All values of ``x`` in the order in which they lie in memory where that is known, so that nothing is copied."""
    is_channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return (x.movedim(1, -1) if is_channels_last else x).reshape(-1)


def _smallest_exponent(low: float, high: float) -> int | None:
    """The smallest e with ``-HALF <= floor(x / 2^e) < HALF`` for all x in low..high; None if there is no value but 0."""
    exponents = []
    if high > 0:
        exponents.append(math.frexp(high / HALF)[1])  # high < HALF * 2^e, strictly
    if low < 0:
        mantissa, exponent = math.frexp(-low / HALF)  # -low <= HALF * 2^e
        exponents.append(exponent - (mantissa == 0.5))
    return max(exponents, default=None)


def _coarsen(counts: Tensor, times: int) -> Tensor:
    """Double the width of the bins ``times`` times, about 0."""
    if times == 0:
        return counts
    bins = torch.arange(-HALF, HALF) >> min(times, 62)
    return torch.zeros_like(counts).index_add_(0, bins + HALF, counts)
