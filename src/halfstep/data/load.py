"""From what a user has to `Data`: Python objects by `as_data`, a path or import path by `load_data`."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from halfstep.data.claims import check_claim, check_members
from halfstep.data.preprocessing import Preprocessing
from halfstep.data.source import Data, no_samples
from halfstep.data.sources import Array, ArraySource, DatasetSource, FolderSource, StreamSource, is_indexed, reads_everything
from halfstep.errors import DataError
from halfstep.imports import call_object, describe, near_files

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
ARRAY_SUFFIXES = (".npy", ".npz")
ACCEPTED = "a tensor or array, (inputs, labels), a torch Dataset or DataLoader, or an iterable of batches"
SPECS = "Give an .npz or .npy file, a folder of images, 'module:factory', 'path/file.py:factory' or 'digits:calibration'."


def as_data(value: Any, preprocessing: Preprocessing | None = None) -> Data:
    """Inputs as the rest of halfstep reads them.

    ``value``: a `Data` (with ``preprocessing`` put in place of its own where one is given), a tensor or array [N, ...], a tuple
    ``(inputs, labels)`` of them (inputs may again be a tuple), a torch `Dataset` or `DataLoader`, or an iterable of batches: ``inputs``,
    ``(inputs, labels)`` or ``((input1, input2), labels)``. uint8 values are images, which ``preprocessing`` brings to float32 [N, C, H, W];
    floating-point values are passed on as float32 and otherwise untouched; integers of other types are passed on as they are.

    A loader that gives each sample of a dataset once is read through its dataset, whatever its batch size and shuffling.
    Raises `DataError` for anything else, and for empty data.
    """
    if value is None:
        raise DataError(f"No data was given. Give {ACCEPTED}.")
    if isinstance(value, Data):
        return value if preprocessing is None else Data(value.source, preprocessing)
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return from_arrays((value,), None, f"the array {list(value.shape)}", preprocessing)
    if isinstance(value, tuple):
        return from_tuple(value, preprocessing)
    if isinstance(value, DataLoader):
        name = f"the DataLoader of {type(value.dataset).__name__}"
        source = DatasetSource(value.dataset, name, value) if reads_everything(value) else StreamSource(value, name)
    elif isinstance(value, Dataset):
        name = f"the dataset {type(value).__name__}"
        source = from_dataset(value, name)
    else:
        source = from_iterable(value)
    if isinstance(source, DatasetSource) and source.num_samples == 0:
        raise no_samples(source.name)
    return Data(source, preprocessing)


def load_data(spec: str, preprocessing: Preprocessing | None = None) -> Data:
    """The data that ``spec`` names.

    ``spec`` is one of:

    - an ``.npz`` file with ``images``, uint8 [N, H, W, C] or [N, H, W], or float as the network expects it, and optionally ``labels`` [N];
    - an ``.npy`` file of such images;
    - a folder of images, or one with a sub-folder a class, whose sorted names are the classes 0, 1, ...;
    - ``package.module:factory`` or ``path/file.py:factory``, a callable that returns anything `as_data` takes;
    - ``digits:train``, ``digits:calibration`` or ``digits:test``, the embedded digits.

    Raises `DataError` where it does not exist or cannot be read.
    """
    spec = str(spec)
    if not spec:
        raise DataError(f"No data was given. {SPECS}")
    kind, _, rest = spec.partition(":")
    path = Path(spec)
    if kind == "digits" and rest:
        return load_digits(rest, spec, preprocessing)
    if path.is_dir():
        return load_folder(path, preprocessing)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return load_arrays(path, preprocessing)
    if ":" in spec:
        return load_factory(spec, preprocessing)
    if path.exists():
        raise DataError(f"{path} is no data that can be read. {SPECS}")
    raise DataError(f"There is no file or folder {path}. {near_files(path, ARRAY_SUFFIXES)}")


def from_arrays(inputs: tuple[Array, ...], labels: Array | None, name: str, preprocessing: Preprocessing | None) -> Data:
    """Data in memory, or mapped from a file."""
    source = ArraySource(inputs, labels, name)
    if source.num_samples == 0:
        raise no_samples(name)
    return Data(source, preprocessing)


def from_tuple(value: tuple[Any, ...], preprocessing: Preprocessing | None) -> Data:
    """``(inputs,)``, ``(inputs, labels)``, ``((input1, input2), labels)``; labels may be None."""
    inputs = value[0] if value and isinstance(value[0], (tuple, list)) else value[:1]
    labels = value[1] if len(value) == 2 else None
    is_array = [isinstance(each, (torch.Tensor, np.ndarray)) for each in (*inputs, *(() if labels is None else (labels,)))]
    if len(value) not in (1, 2) or not inputs or not all(is_array):
        kinds = ", ".join(type(each).__name__ for each in value)
        raise DataError(f"A tuple ({kinds}) is no data. Give (inputs, labels) or ((input1, input2), labels), all tensors or arrays.")
    name = "the arrays " + ", ".join(str(list(each.shape)) for each in inputs)
    return from_arrays(tuple(inputs), labels, name if len(inputs) > 1 else name.replace("arrays", "array"), preprocessing)


def from_dataset(dataset: Dataset[Any], name: str) -> DatasetSource | StreamSource:
    """A torch dataset: read by index where it can be, else as a stream of single samples."""
    if is_indexed(dataset):
        return DatasetSource(dataset, name)
    if isinstance(dataset, IterableDataset):
        return StreamSource(DataLoader(dataset, batch_size=64), name)
    raise DataError(f"{name} has neither a length nor an iterator. Give it a __len__, or wrap it in a DataLoader.")


def from_iterable(value: Any) -> StreamSource:
    """An iterable of batches that can be passed over more than once."""
    kind = type(value).__name__
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, dict)):
        way_out = " A path is read by load_data(path)." if isinstance(value, (str, bytes, Path)) else ""
        raise DataError(f"A {kind} is no data. Give {ACCEPTED}.{way_out}")
    if isinstance(value, Iterator):
        raise DataError(f"A {kind} can be passed over only once, and the data is needed more often. Give list(...) of it, or a DataLoader.")
    if isinstance(value, list) and not value:
        raise no_samples("the list of batches")
    return StreamSource(value, f"the {kind} of batches")


def load_digits(split: str, spec: str, preprocessing: Preprocessing | None) -> Data:
    """One part of the embedded digits."""
    from halfstep.demo import digits  # it needs the preprocessing from here, and scikit-learn

    images, labels = digits.load_split(split)
    return from_arrays((images,), labels, spec, preprocessing or digits.PREPROCESSING)


def load_factory(spec: str, preprocessing: Preprocessing | None) -> Data:
    """What the named callable returns."""
    made = call_object(spec, DataError)
    try:
        data = as_data(made, preprocessing)
    except DataError as error:
        raise DataError(f"'{spec}' gave a {type(made).__name__} that cannot be used: {error}") from None
    if not isinstance(made, Data):
        data.source.name = spec
    return data


def load_arrays(path: Path, preprocessing: Preprocessing | None) -> Data:
    """An .npz file, decompressed once, or an .npy file, mapped and read a batch at a time."""
    if not path.is_file():
        raise DataError(f"There is no file {path}. {near_files(path, ARRAY_SUFFIXES)}")
    arrays = read_npz(path) if path.suffix.lower() == ".npz" else {"images": read_npy(path)}
    if "images" not in arrays:
        raise DataError(f"{path} has no array 'images'. It holds: {', '.join(sorted(arrays)) or 'nothing'}. Name the inputs 'images'.")
    images = arrays["images"]
    check_images(images, path)
    return from_arrays((images,), arrays.get("labels"), str(path), preprocessing)


def check_images(images: npt.NDArray[Any], path: Path) -> None:
    """Images in a file are uint8 of rank 3 or 4, or float of rank 2 or more."""
    expected = "Give uint8 [N, H, W, C] or float [N, C, H, W]."
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DataError(f"The images of {path} are of type {images.dtype}. {expected}")
    if images.ndim < 2 or (images.dtype == np.uint8 and images.ndim not in (3, 4)):
        raise DataError(f"The images of {path} have shape {list(images.shape)}. {expected}")


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays ``images`` and ``labels`` of an .npz file, and the names of all others with nothing behind them."""
    try:
        if first_bytes(path) == b"\x93N":
            raise DataError(f"{path} is named .npz but holds a single array. Rename it to .npy.")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            nothing = np.empty(0)
            check_members(archive.zip)
            return {name: archive[name] if name in ("images", "labels") else nothing for name in archive.files}
    except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, zlib.error, NotImplementedError) as raised:
        raise unreadable(path, raised) from None


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array of an .npy file, mapped into memory."""
    try:
        if first_bytes(path) == b"PK":
            raise DataError(f"{path} is named .npy but holds an archive of arrays. Rename it to .npz.")
        if first_bytes(path) == b"\x93N":
            with open(path, "rb") as file:
                check_claim(file, path.stat().st_size)
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except (OSError, EOFError, ValueError) as raised:
        raise unreadable(path, raised) from None


def first_bytes(path: Path) -> bytes:
    """The two bytes that tell an archive from an array from anything else."""
    with open(path, "rb") as file:
        return file.read(2)


def unreadable(path: Path, raised: Exception) -> DataError:
    """The error for an array file that NumPy refuses: pickled, cut short, or something else altogether."""
    suffix = path.suffix.lower()
    text = str(raised)
    if isinstance(raised, PermissionError):
        return DataError(f"{path} cannot be opened: permission denied. Make it readable.")
    write = "numpy.savez" if suffix == ".npz" else "numpy.save"
    if "pickle" in text or "Object arrays" in text or "Python objects" in text:
        if first_bytes(path) in (b"PK", b"\x93N"):
            way_out = "Save numbers alone, as array.astype('float32') or 'uint8'."
            return DataError(f"{path} holds pickled Python objects, which are never loaded. {way_out}")
        return DataError(f"{path} is no {suffix} file, or a pickle, which is never loaded. Write it with {write}.")
    return DataError(f"{path} cannot be read as {suffix}; it is damaged or cut short ({describe(raised)}). Write or download it again.")


def load_folder(path: Path, preprocessing: Preprocessing | None) -> Data:
    """Images directly in a folder, or one sub-folder a class: the sorted names are the classes 0, 1, ..."""
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    direct = [entry for entry in entries if is_image(entry)]
    classes = [entry for entry in entries if entry.is_dir()]
    if direct and classes:
        raise DataError(
            f"{path} holds both images ({direct[0].name}) and folders ({classes[0].name}). "
            "Give a folder with images alone, or one with a sub-folder a class."
        )
    if direct:
        return Data(FolderSource(direct, None, str(path)), preprocessing)
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        found = sorted(entry for entry in folder.rglob("*") if is_image(entry))
        if not found:
            raise DataError(f"The class folder {folder} has no images. Remove it, or put images in: {', '.join(IMAGE_SUFFIXES)}.")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(f"{path} has no images, directly or one folder down. Put images in: {', '.join(IMAGE_SUFFIXES)}.")
    return Data(FolderSource(paths, labels, str(path)), preprocessing)


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
