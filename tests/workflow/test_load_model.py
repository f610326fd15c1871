"""Where networks come from: an import path, a file, an exported program; and what is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.export import ExportedProgram

import halfstep as hs
import zoo
from halfstep.errors import ModelError

SOURCE = """
from torch import nn

def network():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU())

made = network()

def number():
    return 3

def failing():
    raise ValueError("no weights here")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


def test_a_function_or_a_module_of_a_file(file: Path) -> None:
    assert isinstance(hs.load_model(f"{file}:network"), nn.Sequential)
    assert isinstance(hs.load_model(f"{file}:made"), nn.Sequential)


def test_a_function_of_a_package() -> None:
    assert isinstance(hs.load_model("halfstep.demo.network:digits_network"), nn.Module)


def test_a_program(tmp_path: Path) -> None:
    inputs = zoo.ZOO["bias_free"].inputs()
    torch.export.save(torch.export.export(zoo.ZOO["bias_free"].model(), inputs), tmp_path / "net.pt2")
    program = hs.load_model(str(tmp_path / "net.pt2"))
    assert isinstance(program, ExportedProgram)
    assert torch.equal(program.module()(*inputs), zoo.eager("bias_free", inputs)[0])


def test_weights_for_it(file: Path, tmp_path: Path) -> None:
    weights = {"0.weight": torch.full((3, 4), 2.0), "0.bias": torch.zeros(3)}
    safetensors.torch.save_file(weights, tmp_path / "weights.safetensors")
    model = hs.load_model(f"{file}:network", tmp_path / "weights.safetensors")
    assert torch.equal(model[0].weight, weights["0.weight"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("net.onnx", "There is no file"),
        ("net.pth", "is a pickle"),
        ("missing.pt2", "There is no file"),
        ("{file}:number", "returned a int, not an nn.Module"),
        ("{file}:failing", "raised ValueError: no weights here"),
        ("{file}:missing", "has no 'missing'"),
    ],
)
def test_what_is_refused(spec: str, message: str, file: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        hs.load_model(spec.format(file=file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a zip archive", b"PK\x03\x04 broken"])
def test_a_program_that_cannot_be_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"net.pt2"):
        hs.load_model(str(tmp_path / "net.pt2"))


def test_a_zip_archive_of_something_else(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "net.pt2")
    with pytest.raises(ModelError, match=r"net.pt2"):
        hs.load_model(str(tmp_path / "net.pt2"))


def test_weights_that_are_refused(file: Path, tmp_path: Path) -> None:
    torch.save({"0.weight": torch.ones(3, 4)}, tmp_path / "weights.safetensors")  # a pickle under another name
    with pytest.raises(ModelError, match=r"is a pickle.*safetensors only"):
        hs.load_model(f"{file}:network", tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match="There is no file"):
        hs.load_model(f"{file}:network", tmp_path / "missing.safetensors")
    (tmp_path / "short.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ModelError, match="truncated"):
        hs.load_model(f"{file}:network", tmp_path / "short.safetensors")
    safetensors.torch.save_file({"0.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="do not fit the network"):
        hs.load_model(f"{file}:network", tmp_path / "other.safetensors")


class _Bomb:
    """Unpickling this writes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["data/sample_inputs/model.pt", "data/constants/opaque_obj_0"])
def test_a_program_that_hides_a_pickle_runs_nothing(tmp_path: Path, name: str) -> None:
    sound, poisoned, trace = tmp_path / "sound.pt2", tmp_path / "poisoned.pt2", tmp_path / "trace"
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.randn(2, 3),)), sound)
    buffer = io.BytesIO()
    torch.save({"x": _Bomb(trace)}, buffer)
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(poisoned, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            is_target = entry.filename.endswith(name)
            new.writestr(entry.filename, buffer.getvalue() if is_target else old.read(entry.filename))
        if not any(entry.filename.endswith(name) for entry in old.infolist()):
            new.writestr(f"{old.namelist()[0].split('/')[0]}/{name}", buffer.getvalue())
    with pytest.raises(ModelError):
        hs.load_model(str(poisoned))
    assert not trace.exists()
