"""Batches to train on: shuffled anew every epoch, changed at random (`training/augmentation.py`), shared out over the processes.

Everything random is drawn from the seed, the epoch and the number of the batch alone. So a run that was interrupted goes on with the very
batches it would have seen, and several processes see together what one would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from halfstep import parallel
from halfstep.data import Data
from halfstep.data.source import Batch
from halfstep.errors import TrainingError
from halfstep.steps.training.augmentation import Augmentation, is_image


@dataclass(frozen=True)
class Feed:
    """data: with or without labels. batch_size: samples of one step, over all processes. augmentation: what is done to images.
    views: after so many epochs their batches come again, image for image; 0: never.
    """

    data: Data
    batch_size: int
    seed: int
    augmentation: Augmentation = field(default_factory=Augmentation)
    views: int = 0

    def num_batches(self) -> int:
        """Of one epoch; what does not fill a batch is left out. Data that can only be passed over are passed over once to count them."""
        if self.batch_size % parallel.num_processes():
            raise TrainingError(
                f"A batch of {self.batch_size} samples cannot be shared out over {parallel.num_processes()} processes: choose a multiple."
            )
        if self.views and not self.data.is_indexed:
            raise TrainingError(
                f"{self.data.name} can only be read as it comes, so its batches cannot come again: leave 'views' at 0, or give data that "
                "can be read in any order (an array, a Dataset)."
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
        index = index % self.views if self.views else index
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
        """Images as they might also have been taken; other inputs as they are."""
        if not self.augmentation or not any(is_image(x) for x in batch.inputs):
            return batch
        share = parallel.share(self.batch_size)
        draws = self.augmentation.draw(self.batch_size, self._generator(epoch, number))[share.start : share.stop]
        return Batch(tuple(self.augmentation(x, draws) if is_image(x) else x for x in batch.inputs), batch.labels)

    def _generator(self, epoch: int, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(hash((self.seed, epoch, number)) % 2**63)
