"""The sources: arrays in memory or mapped from a file, folders of images, torch datasets and loaders, iterables of batches."""

from __future__ import annotations

import contextlib
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from halfstep.data.checks import check_inputs, check_labels, lengths_differ
from halfstep.data.preprocessing import Preprocessing
from halfstep.data.source import AbstractIndexed, AbstractStream, Batch
from halfstep.errors import DataError, HalfstepError
from halfstep.imports import describe

Array = npt.NDArray[Any] | torch.Tensor


@final
class ArraySource(AbstractIndexed):
    """Inputs [N, ...] and labels [N] in memory, or mapped from a file and read a batch at a time."""

    def __init__(self, inputs: tuple[Array, ...], labels: Array | None, name: str) -> None:
        self.inputs, self.labels, self.name = inputs, labels, name
        first = tuple(rows(array, range(min(len(array), 1)) if array.ndim else ..., name) for array in inputs)
        check_inputs(first, name)
        lengths = [len(array) for array in inputs]
        if len(set(lengths)) > 1:
            raise lengths_differ(lengths, name)
        self.num_samples = lengths[0]
        self.has_labels = labels is not None
        if labels is not None:
            check_labels(rows(labels, ..., name), self.num_samples, name)

    def read(self, indices: Sequence[int], batch_size: int, preprocessing: Preprocessing) -> Iterator[Batch]:
        """See `AbstractIndexed.read`."""
        for chosen in chunks(indices, batch_size):
            labels = None if self.labels is None else rows(self.labels, chosen, self.name)
            yield Batch(tuple(rows(array, chosen, self.name) for array in self.inputs), labels)


@final
class FolderSource(AbstractIndexed):
    """Image files, decoded when they are read; all must have one size once resized and cropped."""

    is_fitted = True

    def __init__(self, paths: Sequence[Path], labels: Sequence[int] | None, name: str) -> None:
        self.paths, self.labels, self.name = paths, labels, name
        self.num_samples = len(paths)
        self.has_labels = labels is not None

    def read(self, indices: Sequence[int], batch_size: int, preprocessing: Preprocessing) -> Iterator[Batch]:
        """See `AbstractIndexed.read`; inputs are uint8 [B, H, W, 3]."""
        size: tuple[int, ...] | None = None
        for chosen in chunks(indices, batch_size):
            images = [decode(self.paths[index], preprocessing) for index in chosen]
            size = size or images[0].shape
            for index, image in zip(chosen, images, strict=True):
                if image.shape != size:
                    raise self._sizes_differ(indices[0], size, index, image.shape, preprocessing)
            labels = None if self.labels is None else torch.tensor([self.labels[index] for index in chosen])
            yield Batch((torch.from_numpy(np.stack(images)),), labels)

    def _sizes_differ(
        self, first: int, size: tuple[int, ...], other: int, found: tuple[int, ...], preprocessing: Preprocessing
    ) -> DataError:
        missing = "a crop (--crop)" if preprocessing.size is not None else "a size and a crop (--size, --crop)"
        return DataError(
            f"The images of {self.name} differ in size: {self.paths[first].name} is {size[0]} x {size[1]} and {self.paths[other].name} "
            f"{found[0]} x {found[1]} pixels. Give {missing} to bring them to one."
        )


@final
class DatasetSource(AbstractIndexed):
    """A torch dataset with a length; read by a `DataLoader` of its own, so that any samples can be had, in any order."""

    def __init__(self, dataset: Dataset[Any], name: str, loader: DataLoader[Any] | None = None) -> None:
        self.dataset, self.name, self.loader = dataset, name, loader
        self.num_samples = len(dataset)  # type: ignore[arg-type]  # is_indexed() asked for it

    def read(self, indices: Sequence[int], batch_size: int, preprocessing: Preprocessing) -> Iterator[Batch]:
        """See `AbstractIndexed.read`; workers and collation are those of the user's loader."""
        options: dict[str, Any] = {}
        if self.loader is not None:
            kept = ("num_workers", "collate_fn", "timeout", "worker_init_fn", "multiprocessing_context")
            options = {option: getattr(self.loader, option) for option in kept}
        loader = DataLoader(
            self.dataset, batch_size=batch_size, sampler=indices, generator=torch.Generator().manual_seed(0), **options
        )  # the generator seeds the workers and leaves the global one alone
        for batch in guarded(loader, self.name):
            yield unpack(batch, self.name)


@final
class StreamSource(AbstractStream):
    """Anything that gives batches each time it is iterated over."""

    def __init__(self, batches: Iterable[Any], name: str) -> None:
        self.stream, self.name = batches, name

    def read(self) -> Iterator[Batch]:
        """See `AbstractStream.read`."""
        for batch in guarded(self.stream, self.name):
            yield unpack(batch, self.name)


def chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """``indices`` in pieces of ``size``, the last one with what is left."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def rows(array: Array, indices: Sequence[int] | Any, where: str) -> torch.Tensor:
    """A copy of some rows (``...``: all) as a tensor on the CPU."""
    chosen = slice(indices.start, indices.stop) if isinstance(indices, range) else indices
    if isinstance(array, torch.Tensor):
        return array[chosen].detach().cpu()
    return to_tensor(np.array(array[chosen], order="C"), where)


def to_tensor(value: Any, where: str) -> torch.Tensor:
    """A tensor from a tensor or an array; `DataError` for anything else, and for types torch does not have."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind == "u" and array.dtype.itemsize > 1 and array.ndim < 4:
            array = array.astype(np.int64)
        native = array.dtype.newbyteorder("=")
        if native.name in NUMBERS:
            return torch.from_numpy(np.array(array, dtype=native, order="C"))
        raise DataError(f"{where} holds an array of type {array.dtype}. Give uint8 images or float32 values.")
    raise DataError(f"{where} gives a {type(value).__name__} where a tensor is expected. {BATCH_FORMS}")


FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Those of the suffixes that `data.load` lists, whatever a file is called: no others are decoded, and no other program is started."""
MAX_PIXELS = 1 << 26
"""Of one image: 200 MB once it is decoded."""
NUMBERS = ("uint8", "int8", "int16", "int32", "int64", "bool", "float16", "float32", "float64")
BATCH_FORMS = "A batch is inputs, (inputs, labels), or ((input1, input2), labels)."


def unpack(batch: Any, where: str) -> Batch:
    """What a loader or iterable yields, as a `Batch`: inputs, ``(inputs,)``, ``(inputs, labels)``, ``((input1, input2), labels)``."""
    if isinstance(batch, Batch):
        return batch
    if not isinstance(batch, (tuple, list)):
        return Batch((to_tensor(batch, where),), None)
    if len(batch) not in (1, 2):
        raise DataError(f"{where} gives batches of {len(batch)} parts, which may be inputs or labels. {BATCH_FORMS}")
    inputs = batch[0] if isinstance(batch[0], (tuple, list)) else (batch[0],)
    labels = batch[1] if len(batch) == 2 else None
    return Batch(tuple(to_tensor(value, where) for value in inputs), None if labels is None else to_tensor(labels, where))


def guarded(iterable: Iterable[Any], where: str) -> Iterator[Any]:
    """Iterates over the user's code; what it raises becomes a `DataError` that names the data."""
    try:
        yield from iterable
    except HalfstepError:
        raise
    except Exception as raised:
        raise DataError(f"Reading {where} raised {describe(raised)}. Iterate over it once in Python to see where.") from raised


def is_indexed(dataset: Any) -> bool:
    """Whether a dataset has a length and its samples can be asked for one by one."""
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset)


def reads_everything(loader: DataLoader[Any]) -> bool:
    """Whether a loader gives each sample of its dataset once, so that reading the dataset itself gives the same samples."""
    if not is_indexed(loader.dataset) or type(loader.batch_sampler) is not BatchSampler:
        return False
    sampler = loader.sampler
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    return type(sampler) is SequentialSampler


# What Pillow raises of files that are damaged, beside what it is meant to.
_UNDECODABLE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error, MemoryError, Image.DecompressionBombError
)  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: of a file that is cut short it raises an error too, and of large images there is one here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(path: Path, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """One image file as RGB, resized and cropped: uint8 [H, W, 3]."""
    try:
        with _quiet(), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path} is an image of {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}. Make it smaller.")
            image.load()
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path} has more than 8 bits a channel (mode {image.mode}). Convert it to 8 bits first.")
            return preprocessing.fit_image(image, str(path))
    except FileNotFoundError:
        raise DataError(f"{path} was there when its folder was listed, and is gone. Put it back, or start again.") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} is not an image that can be read. Replace or remove it.") from None
    except _UNDECODABLE as raised:
        raise DataError(f"{path} cannot be decoded: {describe(raised)}. Replace or remove it.") from None
