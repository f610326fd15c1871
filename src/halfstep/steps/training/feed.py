"""Batches to train on: shuffled anew every epoch, moved and mirrored at random, shared out over the processes.

Everything random is drawn from the seed, the epoch and the number of the batch alone. So a run that was interrupted goes on with the very
batches it would have seen, and several processes see together what one would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from halfstep import parallel
from halfstep.data import Data
from halfstep.data.source import Batch
from halfstep.errors import TrainingError


@dataclass(frozen=True)
class Feed:
    """data: with or without labels. batch_size: samples of one step, over all processes. flip: whether images are mirrored, every other
    one. shift: by how many pixels at most they are moved each way; what comes in is 0.
    """

    data: Data
    batch_size: int
    seed: int
    flip: bool = False
    shift: int = 0

    def num_batches(self) -> int:
        """Of one epoch; what does not fill a batch is left out. Data that can only be passed over are passed over once to count them."""
        if self.batch_size % parallel.num_processes():
            raise TrainingError(
                f"A batch of {self.batch_size} samples cannot be shared out over {parallel.num_processes()} processes: choose a multiple."
            )
        num_samples = self.data.num_samples
        if num_samples is None:
            num_samples = sum(len(batch.inputs[0]) for batch in self.data.batches(self.batch_size))
        if num_samples < self.batch_size:
            raise TrainingError(
                f"{self.data.name} has {num_samples} samples, fewer than a batch of {self.batch_size}: choose a smaller batch size."
            )
        return num_samples // self.batch_size

    def epoch(self, index: int, first: int, num_batches: int) -> Iterator[Batch]:
        """The batches ``first`` to ``num_batches`` of epoch ``index``, this process's share of each."""
        for number, batch in enumerate(self._read(index, first, num_batches), first):
            yield self._augmented(batch, index, number)

    def _read(self, index: int, first: int, num_batches: int) -> Iterator[Batch]:
        share = parallel.share(self.batch_size)
        if not self.data.is_indexed:
            for number, batch in enumerate(self.data.batches(self.batch_size)):
                if first <= number < num_batches:
                    labels = None if batch.labels is None else batch.labels[share.start : share.stop]
                    yield Batch(tuple(x[share.start : share.stop] for x in batch.inputs), labels)
            return
        assert self.data.num_samples is not None
        order = torch.randperm(self.data.num_samples, generator=self._generator(index, -1))
        whole = order[first * self.batch_size : num_batches * self.batch_size].view(-1, self.batch_size)
        yield from self.data.take(whole[:, share.start : share.stop].flatten().tolist(), len(share))

    def _augmented(self, batch: Batch, epoch: int, number: int) -> Batch:
        """Images moved and mirrored; other inputs as they are."""
        if not (self.flip or self.shift) or not any(is_image(x) for x in batch.inputs):
            return batch
        generator, share = self._generator(epoch, number), parallel.share(self.batch_size)
        mirrored = torch.rand(self.batch_size, generator=generator)[share.start : share.stop] < 0.5
        moves = torch.randint(0, 2 * self.shift + 1, (2, self.batch_size), generator=generator)[:, share.start : share.stop]
        chosen = mirrored if self.flip else torch.zeros_like(mirrored)
        return Batch(tuple(moved(x, moves, chosen, self.shift) if is_image(x) else x for x in batch.inputs), batch.labels)

    def _generator(self, epoch: int, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(hash((self.seed, epoch, number)) % 2**63)


def is_image(x: Tensor) -> bool:
    """Whether it is a batch of images [N, C, H, W] of real numbers."""
    return x.ndim == 4 and x.is_floating_point()


def moved(x: Tensor, moves: Tensor, mirrored: Tensor, shift: int) -> Tensor:
    """Images [N, C, H, W], each cut at ``moves`` [2, N] (rows, columns) from itself with ``shift`` zeros around, or from its mirror image.

    Their channels are innermost in memory.
    """
    height, width = x.shape[2:]
    padded = F.pad(x, (shift, shift, shift, shift)).permute(0, 2, 3, 1)
    rows = moves[0][:, None] + torch.arange(height)
    columns = torch.arange(width).expand(len(x), -1)
    columns = moves[1][:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    sample = torch.arange(len(x))[:, None, None]
    return padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
