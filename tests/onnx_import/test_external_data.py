"""Weights that lie in other files."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx_texts import Write, real, refused

import halfstep as hs


def external(write: Write, location: str, offset: int | None = None, length: int | None = None) -> Path:
    """A network whose weight lies in another file."""
    path = write("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }")
    proto = onnx.load(path)
    tensor = proto.graph.initializer.add()
    tensor.name, tensor.data_type, tensor.data_location = "w", onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL
    tensor.dims.extend([4, 4])
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data(write: Write, tmp_path: Path) -> None:
    matrix = real(4, 4)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"12345678" + matrix.tobytes() + b"end")
    x = torch.randn(3, 4)
    found = hs.load_onnx(external(write, "data/w.bin", 8, 64))(x)
    torch.testing.assert_close(found, x @ torch.from_numpy(matrix))


def test_external_data_outside_the_folder(write: Write, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-secret.bin"
    outside.write_bytes(bytes(64))
    (tmp_path / "link.bin").symlink_to(outside)
    refused(external(write, f"../{outside.name}"), "leads out")
    refused(external(write, f"a/../../{outside.name}"), "leads out")
    refused(external(write, str(outside)), "absolute")
    refused(external(write, "link.bin"), "link")
    refused(external(write, ""), "absolute path or none")
    outside.unlink()


def test_external_data_that_is_missing_or_too_short(write: Write, tmp_path: Path) -> None:
    refused(external(write, "w.bin"), "There is no file", "w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(63))
    refused(external(write, "w.bin"), "truncated")
    refused(external(write, "w.bin", -4), "truncated")
    refused(external(write, "w.bin", 0, 60), "takes 64 bytes")
    refused(external(write, "w.bin", "x"), "not a number")  # type: ignore[arg-type]
    (tmp_path / "folder").mkdir()
    refused(external(write, "folder"), "no plain file")
