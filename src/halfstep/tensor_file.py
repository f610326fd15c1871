"""Tensors read from safetensors files."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, each in memory of its own.

    As views into the bytes of the file they would begin anywhere, and where operands begin decides in which order some kernels add: the
    network that is loaded would differ from the one that was saved in the last bit.

    Raises `OSError` and `safetensors.SafetensorError`.
    """
    return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
