"""MODEL on the command line: forms that cannot be read are refused here, with the way on; the rest goes to `halfstep.load_model`."""

from __future__ import annotations

from pathlib import Path

import torch

import halfstep as hs
from halfstep.errors import ModelError

PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
CONVERT = "import torch; from safetensors.torch import save_file; save_file(torch.load('{0}', weights_only=True), '{1}')"


def load_model(spec: str, state_dict: Path | None) -> torch.nn.Module | torch.export.ExportedProgram:
    """The network that ``spec`` names, with the weights of ``state_dict`` where given.

    Raises:
        ModelError: an ONNX file, a pickle, or whatever `halfstep.load_model` refuses.
    """
    path = Path(spec)
    if path.suffix.lower() == ".onnx":
        raise ModelError(
            f"'{spec}': ONNX files are not read yet. Start from the PyTorch network instead: 'package.module:factory', "
            f"'path/file.py:factory', or a .pt2 file written by "
            f"torch.export.save(torch.export.export(model, (x,)), '{path.with_suffix('.pt2').name}')."
        )
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"'{spec}' is a pickle: it holds no network that can be read safely. Name the function that builds the network, and give "
            f"its weights as safetensors: 'path/file.py:factory' --state-dict {path.with_suffix('.safetensors').name}. {conversion(path)}"
        )
    if state_dict is not None:
        refuse_pickle(state_dict)
    return hs.load_model(spec, state_dict=state_dict)


def refuse_pickle(path: Path) -> None:
    """Raise `ModelError` where ``path`` is missing, or a pickle by its name or its first bytes."""
    if not path.is_file():
        raise ModelError(f"--state-dict: there is no file '{path}'. Give a .safetensors file with the network's weights.")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # safetensors: eight bytes of length, then JSON
        return
    if path.suffix.lower() in PICKLES or start.startswith((b"PK", b"\x80")):
        raise ModelError(
            f"--state-dict: '{path}' is a pickle, which can run any code when it is read; halfstep reads safetensors only. "
            f"{conversion(path)}"
        )


def conversion(path: Path) -> str:
    """The sentence with the Python that turns a pickled state dict into safetensors."""
    return f"Convert a state dict that you trust with: {CONVERT.format(path, path.with_suffix('.safetensors'))}"
