"""ONNX tensors as arrays and torch tensors, with every size checked before memory is asked for.

External data is refused unless it lies in a plain file inside the folder of the model: a file from elsewhere may be anything.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from halfstep.errors import ModelError

Array: TypeAlias = np.ndarray[Any, Any]

TORCH_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
}
"""ONNX's number of an element type -> the torch type; strings, complex numbers and types of less than 8 bits have none."""

_PACKED = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}  # element type -> values in a byte


def type_name(number: int) -> str:
    """ "FLOAT", "INT64" ... of an element type; its number where it has no name."""
    return str(TensorProto.DataType.Name(number)) if number in TensorProto.DataType.values() else f"number {number}"


def read_tensor(proto: TensorProto, folder: Path | None) -> Array:
    """The array in ``proto``; data outside the file is looked for below ``folder``. Raises `ModelError`."""
    name, shape = proto.name, tuple(proto.dims)
    kind = type_name(proto.data_type)
    if proto.data_type not in TensorProto.DataType.values() or kind in ("UNDEFINED", "STRING") or kind.startswith("COMPLEX"):
        raise ModelError(f"The tensor '{name}' has the element type {kind}, which no network can compute with. Export the network again.")
    if any(size < 0 for size in shape):
        raise ModelError(f"The tensor '{name}' has the shape {list(shape)}. {DAMAGED}")
    if proto.data_location == TensorProto.EXTERNAL:
        return _read_external(proto, folder, shape)
    if proto.HasField("raw_data"):
        _check_size(proto, len(proto.raw_data))
    try:
        return onnx.numpy_helper.to_array(proto)
    except Exception as error:  # too few values for the shape, or values that are none of the type
        raise ModelError(f"The tensor '{name}' of shape {list(shape)} cannot be read: {first_line(error)} {DAMAGED}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."


def num_bytes(proto: TensorProto) -> int:
    """How many bytes the values take, by type and shape."""
    kind, count = type_name(proto.data_type), int(math.prod(proto.dims))
    if kind in _PACKED:
        return -(-count // _PACKED[kind])
    return int(count * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)).itemsize)


def _check_size(proto: TensorProto, found: int) -> None:
    if found != num_bytes(proto):
        raise ModelError(
            f"The tensor '{proto.name}' of shape {list(proto.dims)} ({type_name(proto.data_type)}) takes {num_bytes(proto):,} bytes, "
            f"the file holds {found:,}. {DAMAGED}"
        )


def _read_external(proto: TensorProto, folder: Path | None, shape: tuple[int, ...]) -> Array:
    """The values in another file, read from where ``proto`` says."""
    if folder is None:
        raise ModelError(f"The tensor '{proto.name}' lies in another file, but inside a node. Export the network again.")
    entries = {entry.key: entry.value for entry in proto.external_data}
    path = _inside(folder, entries.get("location", ""), proto.name)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", num_bytes(proto)))
    except ValueError:
        raise ModelError(f"The place of tensor '{proto.name}' in '{path.name}' is not a number. {DAMAGED}") from None
    _check_size(proto, length)
    if offset < 0 or offset + length > path.stat().st_size:
        raise ModelError(
            f"The tensor '{proto.name}' ends at byte {offset + length:,} of '{path.name}', which has {path.stat().st_size:,}. "
            "The data file is truncated, or belongs to another model: copy it again."
        )
    if type_name(proto.data_type) in _PACKED:
        with path.open("rb") as file:
            file.seek(offset)
            inline = TensorProto(data_type=proto.data_type, dims=shape, name=proto.name, raw_data=file.read(length))
        return onnx.numpy_helper.to_array(inline)
    kind = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
    return np.fromfile(path, kind, math.prod(shape), offset=offset).reshape(shape)  # any size: a message ends at 2 GB


def _inside(folder: Path, location: str, name: str) -> Path:
    """The data file ``location`` below ``folder``; `ModelError` for anything that leads out of it."""
    path = folder / location
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or location[0] in "/\\" or ":" in location[:2]:
        raise ModelError(f"The data of tensor '{name}' is said to lie in '{location}', an absolute path or none. {_SAFE}")
    if ".." in parts:
        raise ModelError(f"The data of tensor '{name}' is said to lie in '{location}', which leads out of the model's folder. {_SAFE}")
    if not path.exists():
        raise ModelError(f"There is no file '{path}', in which the data of tensor '{name}' should be: copy it beside the model.")
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise ModelError(f"'{path}', the data of tensor '{name}', is a link out of the folder, or no plain file. {_SAFE}")
    return path


DAMAGED = "The file is damaged: export it again."
_SAFE = "Data is read only from plain files in the folder of the model: copy the file there and name it so (onnx.save_model does)."


def to_torch(array: Array, is_copied: bool = True) -> Tensor:
    """A tensor with a copy of the values, or where ``is_copied`` is False, and NumPy lets anyone write into it, on the same memory."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    is_usable = array.flags.writeable and array.flags.c_contiguous
    return torch.from_numpy(np.array(array, order="C") if is_copied or not is_usable else array)


def to_numpy(tensor: Tensor) -> Array:
    """The values as an array."""
    if tensor.dtype is torch.bfloat16:
        viewed: Array = tensor.detach().contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return viewed
    return tensor.detach().numpy()
