"""What a long step has finished so far, on disk: one file for each layer or unit, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from halfstep import parallel
from halfstep.errors import HalfstepError
from halfstep.files import atomic_path

_KEY_FILE = "run.json"


@dataclass(frozen=True)
class Checkpoint:
    """folder: where the files are. Entries are named by the step and by what it finished ("3-round", "layer1.0.conv1")."""

    folder: Path

    @classmethod
    def start(cls, folder: Path, key: dict[str, object], resume: bool) -> Checkpoint:
        """An empty checkpoint, or the one an interrupted run left in ``folder``.

        key: what the run depends on (network, recipe, data, seed). Raises `HalfstepError` where ``resume`` finds a run with another key.
        """
        file = folder / _KEY_FILE
        if resume and file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            changed = sorted(name for name in key if found.get(name) != key[name])
            if changed:
                raise HalfstepError(
                    f"The interrupted run in '{folder}' had another {' and another '.join(changed)}: repeat its command with --resume, "
                    "or leave --resume out to start anew."
                )
            return cls(folder)
        if parallel.index() == 0:
            shutil.rmtree(folder, ignore_errors=True)
            with atomic_path(_made(folder) / _KEY_FILE) as temporary:
                temporary.write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
        parallel.wait()
        return cls(folder)

    def read(self, step: str, name: str) -> dict[str, Tensor] | None:
        """What was saved under these names; None where nothing was, or where the file is damaged."""
        path = self._path(step, name)
        if not path.is_file():
            return None
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError:
            return None

    def write(self, step: str, name: str, tensors: dict[str, Tensor]) -> None:
        """Save tensors, whole or not at all."""
        if parallel.index() == 0:
            with atomic_path(self._path(step, name)) as temporary:
                safetensors.torch.save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, temporary)

    def clear(self) -> None:
        """The run is complete: nothing is left to resume."""
        if parallel.index() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: str, name: str) -> Path:
        plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
        return self.folder / f"{step}-{plain}.safetensors"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
