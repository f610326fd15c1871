"""Where a network comes from: an import path, a file's function, a ``torch.export`` file, or an ONNX file."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from torch.export import ExportedProgram

from halfstep.errors import ModelError
from halfstep.imports import import_object
from halfstep.onnx_import.load import load_onnx
from halfstep.workflow.archive import check_archive

_FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_CONVERT = (
    'Convert it once, where you trust it: python -c "import torch, safetensors.torch as s; '
    "s.save_file(torch.load('{0}', weights_only=True), 'weights.safetensors')\""
)


def load_model(spec: str, state_dict: str | Path | None = None, strip_quantization: bool = False) -> nn.Module | ExportedProgram:
    """ "package.module:factory" or "path/file.py:factory" (called without arguments, must return an ``nn.Module``), "network.pt2", or
    "network.onnx".

    state_dict: a safetensors file with weights for the module a factory returns. strip_quantization: of an ONNX file, see `load_onnx`.
    Raises `ModelError` with the way out.
    """
    is_onnx = spec.lower().endswith(".onnx")
    if strip_quantization and not is_onnx:
        raise ModelError(f"'{spec}' is no ONNX file: leave --strip-quantization out.")
    if state_dict is not None and (is_onnx or spec.endswith(".pt2")):
        raise ModelError(f"'{spec}' holds its own weights: leave --state-dict out, or pass the factory the network comes from.")
    if is_onnx:
        return load_onnx(spec, strip_quantization)
    if spec.endswith(".pt2"):
        return _load_program(Path(spec))
    if spec.endswith(_PICKLES):
        raise ModelError(
            f"'{spec}' is a pickle, which can run code when it is read. Pass 'package.module:factory' and --state-dict. "
            + _CONVERT.format(spec)
        )
    factory = import_object(spec, ModelError)
    model = factory if isinstance(factory, nn.Module) else _call(factory, spec)
    if state_dict is not None:
        _load_weights(model, Path(state_dict))
    return model


def _call(factory: object, spec: str) -> nn.Module:
    if not callable(factory):
        raise ModelError(f"'{spec}' is a {type(factory).__name__}; it must be a function that returns an nn.Module.")
    try:
        model = factory()
    except Exception as error:  # the user's own code
        raise ModelError(f"'{spec}' raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"'{spec}' returned a {type(model).__name__}, not an nn.Module.")
    return model


def _load_program(path: Path) -> ExportedProgram:
    if not path.is_file():
        raise ModelError(f"There is no file '{path}'.")
    if not zipfile.is_zipfile(path):
        raise ModelError(f"'{path}' is not a torch.export file, or it is truncated: write it with torch.export.save.")
    check_archive(path)
    try:
        with _weights_only():
            program = torch.export.load(path)
    except pickle.UnpicklingError as error:  # its message says how to unpickle all the same
        raise ModelError(
            f"'{path}' holds pickled Python objects that are no tensors, which can run code: export plain tensors only."
        ) from error
    except Exception as error:  # torch raises many kinds here
        raise ModelError(
            f"'{path}' cannot be read as a torch.export file: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    program._guards_code = []  # checks of the inputs as Python source, which torch would execute; capture makes its own
    return program


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Inside the block torch unpickles nothing but tensors: torch.export.load would fall back to whole pickles (torch 2.13)."""
    before = os.environ.get(_FORCE_WEIGHTS_ONLY)
    os.environ[_FORCE_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE_WEIGHTS_ONLY]
        else:
            os.environ[_FORCE_WEIGHTS_ONLY] = before


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"There is no file '{path}'.")
    if path.suffix in _PICKLES or _is_pickle(path):
        raise ModelError(
            f"'{path}' is a pickle, which can run code when it is read; weights are read as safetensors only. {_CONVERT.format(path)}"
        )
    try:
        weights = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ModelError(f"'{path}' is not a safetensors file, or it is truncated: {error}.") from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"The weights in '{path}' do not fit the network: {' '.join(str(error).split())}") from error


def _is_pickle(path: Path) -> bool:
    """By its first bytes: a zip archive (torch's format) or a pickle protocol mark."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return False  # safetensors: the length of the header, then the header, which is JSON
    return head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
