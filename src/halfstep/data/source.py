"""`Data`: what the rest of halfstep reads inputs from, and the two kinds of source under it.

An indexed source can read any samples; a stream can only be passed over from its start. Neither checks or preprocesses anything: `Data`
does that, once for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, final

import torch

from halfstep.data.checks import check_finite, check_inputs, check_labels
from halfstep.data.preprocessing import Preprocessing
from halfstep.errors import DataError

DEFAULT = Preprocessing()


class Batch(NamedTuple):
    """Some samples: each input [B, ...] as a network takes it, and labels [B] (int64) where there are any."""

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor | None


class AbstractSource(ABC):
    """Anything samples come from; ``name`` is how messages call it."""

    name: str
    has_labels: bool | None = None
    is_fitted: bool = False
    """True where the source itself resizes and crops its images."""


class AbstractIndexed(AbstractSource):
    """A source of ``num_samples`` samples that can be read in any order."""

    num_samples: int

    @abstractmethod
    def read(self, indices: Sequence[int], batch_size: int, preprocessing: Preprocessing) -> Iterator[Batch]:
        """The samples ``indices`` in that order, ``batch_size`` at a time, unchecked."""


class AbstractStream(AbstractSource):
    """A source that can be passed over again and again from its start."""

    @abstractmethod
    def read(self) -> Iterator[Batch]:
        """All samples, in batches of whatever size they have, unchecked."""


@final
class Data:
    """Inputs for a network: a source, and the preprocessing of its 8-bit images. Made by `as_data` and `load_data`."""

    def __init__(self, source: AbstractIndexed | AbstractStream, preprocessing: Preprocessing | None = None) -> None:
        self.source = source
        self.preprocessing = preprocessing
        """Applied to uint8 images; where None, they are only brought to 0..1."""

    @property
    def name(self) -> str:
        """How messages call this data."""
        return self.source.name

    @property
    def num_samples(self) -> int | None:
        """Number of samples; None where only a whole pass can tell."""
        return self.source.num_samples if isinstance(self.source, AbstractIndexed) else None

    @property
    def has_labels(self) -> bool | None:
        """Whether samples have labels; None where only a batch can tell."""
        return self.source.has_labels

    def __repr__(self) -> str:
        return f"Data({self.name!r}, num_samples={self.num_samples}, has_labels={self.has_labels})"

    def batches(self, batch_size: int = 64, samples: int | None = None, seed: int = 0) -> Iterator[Batch]:
        """Batches of ``batch_size`` samples (the last may be smaller), in the same order at every call.

        With ``samples``, only that many (all, where there are fewer): where the source can read any sample, a random subset drawn with
        ``seed`` and read in ascending order; of a stream, the first ones.

        Raises `DataError` for no samples, values that are NaN or infinite, and types, shapes or labels that do not fit.
        """
        for count, name in ((batch_size, "batch_size"), (samples, "samples")):
            if count is not None and count < 1:
                raise DataError(f"{name} is {count} for {self.name}. Give at least 1.")
        if isinstance(self.source, AbstractIndexed):
            return self._indexed(self.source, batch_size, samples, seed)
        return self._streamed(self.source, batch_size, samples)

    def others(self, count: int, samples: int | None = None, seed: int = 0) -> Iterator[Batch]:
        """At most ``count`` samples that `batches` leaves out with the same ``samples`` and ``seed``; none where it takes them all."""
        if samples is None:
            return
        if isinstance(self.source, AbstractIndexed):
            taken = set(choose(self.source.num_samples, samples, seed))
            left = [index for index in range(self.source.num_samples) if index not in taken]
            yield from self.take([left[place] for place in choose(len(left), count, seed)], count) if left else ()
            return
        done = 0
        for batch in self._streamed(self.source, samples, samples + count):
            start = max(0, samples - done)
            done += len(batch.inputs[0])
            if done > samples:
                yield cut(batch, start, None)

    def _indexed(self, source: AbstractIndexed, batch_size: int, samples: int | None, seed: int) -> Iterator[Batch]:
        if source.num_samples < 1:
            raise no_samples(self.name)
        yield from self.take(choose(source.num_samples, samples, seed), batch_size)

    @property
    def is_indexed(self) -> bool:
        """Whether samples can be read in any order, by `take`."""
        return isinstance(self.source, AbstractIndexed)

    def take(self, indices: Sequence[int], batch_size: int) -> Iterator[Batch]:
        """The samples ``indices`` of indexed data, in that order, ``batch_size`` at a time; errors as for `batches`."""
        source = self.source
        assert isinstance(source, AbstractIndexed)
        done = 0
        for raw in source.read(indices, batch_size, self.preprocessing or DEFAULT):
            size = self._size(raw)
            yield self._finish(raw, indices[done : done + size])
            done += size

    def _streamed(self, source: AbstractStream, batch_size: int, samples: int | None) -> Iterator[Batch]:
        held: list[Batch] = []
        num_held = 0
        for batch in self._pieces(source, batch_size, samples):
            if held and not same_form(held[-1], batch):
                yield join(held)
                held, num_held = [], 0
            held.append(batch)
            num_held += len(batch.inputs[0])
            if num_held >= batch_size:
                whole = join(held)
                yield cut(whole, 0, batch_size)
                num_held -= batch_size
                held = [cut(whole, batch_size, None)] if num_held else []
        if held:
            yield join(held)

    def _pieces(self, source: AbstractStream, batch_size: int, samples: int | None) -> Iterator[Batch]:
        """The first ``samples`` of a stream, checked and preprocessed, in pieces of at most ``batch_size``."""
        done = 0
        for raw in source.read():
            size = self._size(raw)
            keep = size if samples is None else min(size, samples - done)
            for start in range(0, keep, batch_size):
                stop = min(start + batch_size, keep)
                check_labels(raw.labels, size, self.name)
                yield self._finish(cut(raw, start, stop), range(done + start, done + stop))
            done += keep
            if done == samples:
                return
        if not done:
            raise no_samples(self.name)

    def _size(self, raw: Batch) -> int:
        """Number of samples of a raw batch, after checking that its parts agree on it."""
        check_inputs(raw.inputs, self.name)
        return len(raw.inputs[0])

    def _finish(self, raw: Batch, indices: Sequence[int]) -> Batch:
        """A raw batch checked and preprocessed; ``indices`` say which samples of the data these are."""
        inputs = tuple(self._prepare(tensor) for tensor in raw.inputs)
        for position, tensor in enumerate(inputs):
            check_finite(tensor, self.name, indices, position if len(inputs) > 1 else None)
        return Batch(inputs, check_labels(raw.labels, len(inputs[0]), self.name))

    def _prepare(self, tensor: torch.Tensor) -> torch.Tensor:
        """One input as the network takes it; only 8-bit images are changed."""
        preprocessing = self.preprocessing or DEFAULT
        if tensor.dtype == torch.uint8:
            images = channels_first(tensor, self.name)
            if not self.source.is_fitted:
                images = preprocessing.fit(images, self.name)
            return preprocessing.normalize(images, self.name)
        if tensor.is_floating_point():
            if preprocessing != DEFAULT:
                dtype = str(tensor.dtype).removeprefix("torch.")
                raise DataError(
                    f"{self.name} holds {dtype} values, which are taken as already preprocessed, but a preprocessing "
                    f"({describe(preprocessing)}) was given as well. Give uint8 images, or drop the preprocessing."
                )
            return tensor.detach().to(torch.float32, copy=True)  # what is done to a batch must not reach the user's data
        return tensor


def choose(num_samples: int, samples: int | None, seed: int) -> Sequence[int]:
    """Ascending indices of a random subset; all of them where ``samples`` asks for no fewer."""
    if samples is None or samples >= num_samples:
        return range(num_samples)
    generator = torch.Generator().manual_seed(seed)
    chosen: list[int] = torch.randperm(num_samples, generator=generator)[:samples].sort().values.tolist()
    return chosen


def channels_first(images: torch.Tensor, where: str) -> torch.Tensor:
    """uint8 images [N, H, W], [N, H, W, C] or [N, C, H, W] as [N, C, H, W]; the last axis is the channels where both could be."""
    if images.ndim == 3:
        return images.unsqueeze(1)
    if images.ndim == 4 and images.shape[3] in (1, 3, 4):
        return images.permute(0, 3, 1, 2)
    if images.ndim == 4 and images.shape[1] in (1, 3, 4):
        return images
    raise DataError(
        f"{where} holds uint8 values of shape {list(images.shape)}, which are no images [N, H, W], [N, H, W, C] or [N, C, H, W] "
        "with 1, 3 or 4 channels. Convert them to float32 as the network expects them."
    )


def cut(batch: Batch, start: int, stop: int | None) -> Batch:
    """Samples ``start`` to ``stop`` of a batch."""
    labels = None if batch.labels is None else batch.labels[start:stop]
    return Batch(tuple(tensor[start:stop] for tensor in batch.inputs), labels)


def join(batches: Sequence[Batch]) -> Batch:
    """Batches of the same form as one."""
    if len(batches) == 1:
        return batches[0]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    inputs = tuple(torch.cat(tensors) for tensors in zip(*(batch.inputs for batch in batches), strict=True))
    return Batch(inputs, torch.cat(labels) if labels else None)


def same_form(first: Batch, second: Batch) -> bool:
    """Whether two batches can be joined."""

    def form(batch: Batch) -> list[object]:
        labels = None if batch.labels is None else batch.labels.shape[1:]
        return [labels, *((tensor.shape[1:], tensor.dtype) for tensor in batch.inputs)]

    return form(first) == form(second)


def describe(preprocessing: Preprocessing) -> str:
    """The fields that are not at their defaults."""
    return ", ".join(f"{name} {value}" for name, value in preprocessing.model_dump(exclude_defaults=True).items())


def no_samples(where: str) -> DataError:
    """The error for empty data."""
    return DataError(f"{where} has no samples. Give at least one; a few hundred are usual for calibration.")
