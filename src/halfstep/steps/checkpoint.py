"""What a long step has finished so far, on disk: one file for each layer or unit, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from halfstep import parallel
from halfstep.errors import HalfstepError
from halfstep.files import atomic_path, hold
from halfstep.holds import Hold
from halfstep.tensor_file import read_tensors

_KEY_FILE = "run.json"
_REST = "rest"
_LONGEST = 50  # letters of a name in a file's; four bytes each at most


@dataclass(frozen=True)
class Checkpoint:
    """folder: where the files are. key: what the run depends on (network, recipe, data, seed), written beside the first of them. hold: of
    the folder, which no other process may use meanwhile; one process of several has it.

    Entries are named by the step and by what it finished ("3-round", "7-layer1.0.conv1").
    """

    folder: Path
    key: dict[str, object]
    hold: Hold | None = None

    @classmethod
    def start(cls, folder: Path, key: dict[str, object], resume: bool) -> Checkpoint:
        """A checkpoint that continues what an interrupted run left in ``folder``, or an empty one: nothing is written yet.

        Raises `HalfstepError` where ``resume`` finds a run with another key, where ``folder`` holds something else, and where another
        process uses it.
        """
        held = hold(folder) if parallel.index() == 0 else None
        checkpoint = cls(folder, key, held)
        try:
            checkpoint._begin(resume)
        except BaseException:
            checkpoint.release()
            raise
        parallel.wait()
        return checkpoint

    def _begin(self, resume: bool) -> None:
        """Take over what is there, or remove it."""
        folder, file = self.folder, self.folder / _KEY_FILE
        if folder.exists() and not file.is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise HalfstepError(f"'{folder}' is where this run keeps its checkpoint, but holds something else. Move it away.")
        if resume and file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            changed = sorted(name for name in self.key if found.get(name) != self.key[name])
            if changed:
                raise HalfstepError(
                    f"The interrupted run in '{folder}' had another {' and another '.join(changed)}: repeat its command with --resume, "
                    "or leave --resume out to start anew."
                )
        elif parallel.index() == 0:
            shutil.rmtree(folder, ignore_errors=True)

    def read(self, step: str, name: str) -> dict[str, Tensor] | None:
        """What was saved under these names; None where nothing was, or where the file is damaged."""
        path = self._path(step, name)
        if not path.is_file():
            return None
        try:
            return read_tensors(path)
        except safetensors.SafetensorError:
            return None

    def read_rest(self, step: str, name: str) -> dict[str, Any]:
        """What was saved beside those tensors; empty where nothing was."""
        path = self._path(step, name)
        if not path.is_file():
            return {}
        with safetensors.safe_open(path, "pt") as file:
            return dict(json.loads((file.metadata() or {}).get(_REST, "{}")))

    def write(self, step: str, name: str, tensors: dict[str, Tensor], rest: dict[str, Any] | None = None) -> None:
        """Save tensors and, in the head of the same file as JSON, the ``rest``: whole or not at all."""
        if parallel.index() == 0:
            self._open()
            metadata = None if rest is None else {_REST: json.dumps(rest)}
            own = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            with atomic_path(self._path(step, name)) as temporary:
                safetensors.torch.save_file(own, temporary, metadata)

    def clear(self) -> None:
        """What was made is safe elsewhere: nothing is left to resume."""
        if parallel.index() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Let other processes use the folder; what is in it stays."""
        if self.hold is not None:
            self.hold.release()

    def _open(self) -> None:
        """Make the folder at the first entry."""
        if not (self.folder / _KEY_FILE).is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.folder / _KEY_FILE) as temporary:
                temporary.write_text(json.dumps(self.key, indent=2) + "\n", encoding="utf-8")

    def _path(self, step: str, name: str) -> Path:
        plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[:_LONGEST]
        if plain != name:  # of two names that look alike then, each has a file of its own
            plain += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return self.folder / f"{step}-{plain}.safetensors"
