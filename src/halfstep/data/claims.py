"""What the header of an array file claims, against the bytes that are there: checked before memory is asked for."""

from __future__ import annotations

import math
import zipfile
from typing import IO

import numpy as np

_MAGIC = np.lib.format.MAGIC_PREFIX
READ = ("images", "labels")
_MAX_RATIO, _SPARE = 100, 256 << 20  # of what is unpacked to what is stored, and bytes that may be unpacked in any case


def check_members(archive: zipfile.ZipFile) -> None:
    """Raise `ValueError` where an array that is read from an .npz file is no array, is larger than it says or unpacks to far too much."""
    for member in archive.infolist():
        if member.filename.removesuffix(".npy") in READ:
            if member.file_size > _MAX_RATIO * member.compress_size + _SPARE:
                raise ValueError(f"{member.filename} unpacks to {member.file_size:,} bytes from {member.compress_size:,}")
            with archive.open(member) as file:
                check_claim(file, member.file_size)


def check_claim(file: IO[bytes], size: int) -> None:
    """Raise `ValueError` where ``file``, of ``size`` bytes, is no .npy file, or where it has not as many bytes as its shape needs."""
    magic = file.read(len(_MAGIC) + 2)
    if not magic.startswith(_MAGIC):
        raise ValueError("it does not begin as an array")
    version = tuple(magic[len(_MAGIC) :])
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    needed, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if not dtype.hasobject and (needed > found or any(length < 0 for length in shape)):
        raise ValueError(f"it claims the shape {shape} of type {dtype}, {needed:,} bytes, and holds {found:,}")
