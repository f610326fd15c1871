"""Tensors of a file are as good as those that were saved: kernels add them in the same order."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from halfstep.tensor_file import read_tensors


def test_every_tensor_begins_where_an_own_one_would(tmp_path: Path) -> None:
    """At a multiple of 64 bytes, whatever stands before it in the file."""
    tensors = {f"t{size}": torch.randn(size) for size in (1, 3, 16, 5)}
    safetensors.torch.save_file(tensors, tmp_path / "tensors.safetensors")
    found = read_tensors(tmp_path / "tensors.safetensors")
    assert all(torch.equal(found[name], tensors[name]) and found[name].data_ptr() % 64 == 0 for name in tensors)
