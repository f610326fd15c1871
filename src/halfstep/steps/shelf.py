"""Where a walk keeps its values: counted, bytes instead of reals where they are codes, and in files where they are too many."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from halfstep.grid import Quantized

NARROW_BITS = 8


class Pair(NamedTuple):
    """The same tensor in the float network (x) and behind the quantized layers (x̂); one object while they are equal."""

    float: Any
    quantized: Any


def narrow(quantized: Quantized) -> Quantized:
    """The same with codes of a byte, and a scale that stays as it is while its quantizer learns."""
    return replace(quantized, codes=quantized.integers(), scale=quantized.scale.clone(), zero_point=quantized.zero_point.clone())


def opened(pair: Pair | None) -> Pair:
    """The pair with real values in the place of codes."""
    assert pair is not None  # dropped only after its last use
    if not isinstance(pair.quantized, Quantized):
        return pair
    codes = pair.quantized.codes.to(pair.float.dtype)
    return Pair(pair.float, replace(pair.quantized, codes=codes).dequantize())


class Shelf:
    """Counts the bytes of the tensors held; those beyond the limit are moved to files that have lost their names."""

    def __init__(self, limit: int) -> None:
        self.limit, self.num_bytes, self.peak_bytes = limit, 0, 0

    def keep_pair(self, pair: Pair) -> Pair:
        """The pair, or an equal one in files; one object stays one object."""
        value = self.keep(pair.float)
        if pair.float is pair.quantized:
            return Pair(value, value)
        if isinstance(pair.quantized, Quantized):
            return Pair(value, replace(pair.quantized, codes=self.keep(pair.quantized.codes)))
        return Pair(value, self.keep(pair.quantized))

    def keep(self, value: Any) -> Any:
        """The value, or an equal one in a file."""
        if not isinstance(value, Tensor):
            return value
        if self.num_bytes + value.nbytes > self.limit and value.device.type == "cpu" and value.nbytes:
            return _in_file(value)
        self.num_bytes += value.nbytes
        self.peak_bytes = max(self.peak_bytes, self.num_bytes)
        return value

    def drop(self, pair: Pair | None) -> None:
        """Both values are used no more."""
        if pair is None:
            return
        held = [value.codes if isinstance(value, Quantized) else value for value in pair]
        for value in {id(value): value for value in held if isinstance(value, Tensor)}.values():
            if not hasattr(value, "is_in_file"):
                self.num_bytes -= value.nbytes


def _in_file(value: Tensor) -> Tensor:
    """A copy of ``value``, laid out alike, in a file without a name: gone with the tensor, or with the process."""
    dense = value if value.is_contiguous() or value.is_contiguous(memory_format=torch.channels_last) else value.contiguous()
    with tempfile.NamedTemporaryFile(prefix="halfstep-") as file:
        stored = torch.from_file(str(Path(file.name)), shared=True, size=dense.numel(), dtype=dense.dtype)
    copy = stored.as_strided(dense.shape, dense.stride()).copy_(dense)
    copy.is_in_file = True  # type: ignore[attr-defined]
    return copy
