"""Nothing that a run has found is lost when something fails behind it: it is kept, the error says where, and the same command goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir
import pytest
import safetensors.torch
from typer.testing import Result

import halfstep as hs
from halfstep.cli.run import beside
from halfstep.errors import ExportError
from halfstep.steps import round as rounding_step

Command = Callable[..., Result]
QUANTIZE = ("quantize", "net.py:small", "--data", "images.npz", "--samples", "16", "--recipe", "lattice-w4", "--out", "run")
TRAIN = ("--recipe", "lsq-w4a4", "--epochs", "1", "--batch-size", "8", "--samples", "8")
FINETUNE = ("finetune", "net.py:small", "--data", "images.npz", *TRAIN, "--out", "run")
SAME = (
    "model.onnx",
    "model.json",
    "model.safetensors",
    "float.safetensors",
    "statistics.safetensors",
    "samples.safetensors",
    "recipe.yaml",
)
NUM_LAYERS = 2


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SAME}


@pytest.fixture
def undisturbed(here: Path, halfstep: Command) -> dict[str, bytes]:
    """What `QUANTIZE` gives where nothing fails."""
    assert halfstep(*QUANTIZE[:-1], "plain").exit_code == 0
    return content(Path("plain"))


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each layer that was solved since."""
    calls: list[int] = []
    solve = rounding_step._solved
    monkeypatch.setattr(rounding_step, "_solved", lambda *given: (calls.append(1), solve(*given))[1])
    return calls


def says(result: Result) -> str:
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    return " ".join(result.stderr.split())


def everything_but_inputs() -> list[str]:
    own = {"net.py", "images.npz", "plain", "__pycache__"}
    return sorted(path.name for path in Path().iterdir() if path.name not in own)


@contextmanager
def writes(failing: int | None) -> Iterator[list[int]]:
    """Counts what is written; the write number ``failing`` meets a full disk."""
    count: list[int] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def write(*given: Any, **named: Any) -> Any:
            count.append(1)
            if len(count) == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*given, **named)

        return write

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (Path, "write_text"), (Path, "write_bytes"), (safetensors.torch, "save_file"), (onnx_ir, "save"), (os, "replace"),
            (os, "rename"), (os, "fsync"),
        ):  # fmt: skip
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield count


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_a_disk_that_is_full_at_any_write_loses_nothing(
    here: Path, halfstep: Command, undisturbed: dict[str, bytes], solved: list[int], every: int
) -> None:
    with writes(None) as count:
        assert halfstep(*QUANTIZE, "--force").exit_code == 0
    for failing in range(1, len(count) + 1, every):
        for folder in (Path("run"), beside(Path("run"))):
            shutil.rmtree(folder, ignore_errors=True)
        solved.clear()
        with writes(failing):
            result = halfstep(*QUANTIZE)
        if result.exit_code == 0:  # flushing a folder's entry may fail: what is renamed stays renamed
            assert content(Path("run")) == undisturbed and everything_but_inputs() == ["run"], failing
            continue
        text = says(result)
        assert "disk is full" in text, failing
        assert ("--resume" in text) == beside(Path("run")).exists(), failing
        if Path("run").exists():
            assert "The quantized network is saved in 'run'" in text, failing
            assert hs.load("run").model is not None
        assert set(everything_but_inputs()) <= {"run", "run.checkpoint"}, failing
        again = halfstep(*QUANTIZE, "--resume")
        assert again.exit_code == 0, (failing, again.output)
        assert content(Path("run")) == undisturbed and everything_but_inputs() == ["run"], failing
        assert len(solved) <= NUM_LAYERS + 1, failing  # no layer twice but the one whose own codes could not be written


def test_an_export_that_fails_leaves_the_saved_network(
    here: Path, halfstep: Command, undisturbed: dict[str, bytes], solved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(*_: object) -> None:
        raise ExportError("The exported file differs from the simulation by 7 codes.")

    with monkeypatch.context() as patch:
        patch.setattr("halfstep.export.onnx_qdq.verify", differ)
        text = says(halfstep(*QUANTIZE))
        assert text.startswith("Error: The exported file differs from the simulation by 7 codes. The quantized network is saved in 'run': ")
        assert "the same command with --resume does what is left" in text and "'halfstep export run --out FILE.onnx'" in text
        assert everything_but_inputs() == ["run", "run.checkpoint"]
        assert not Path("run/model.onnx").exists() and hs.load("run").record.export_check is None
        assert "does what is left" in says(halfstep(*QUANTIZE, "--resume"))  # and again, as often as it fails
    assert halfstep("export", "run", "--out", "alone.onnx").exit_code == 0
    assert Path("alone.onnx").read_bytes() == undisturbed["model.onnx"]
    Path("alone.onnx").unlink()
    assert halfstep(*QUANTIZE, "--resume").exit_code == 0
    assert len(solved) == NUM_LAYERS
    assert content(Path("run")) == undisturbed and everything_but_inputs() == ["run"]
    assert hs.load("run").record.export_check is not None


def test_what_fails_in_measuring_loses_nothing(
    here: Path, halfstep: Command, undisturbed: dict[str, bytes], solved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a defect in the report of the layers, before the network is saved, nor one in the accuracy, behind."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    for place, kept in (
        ("halfstep.workflow.quantize.describe_layers", "What is finished so far is kept in '"),
        ("halfstep.workflow.result.evaluate", "The quantized network is saved in 'run'"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            result = halfstep(*QUANTIZE, "--validation", "images.npz", "--resume")
        assert isinstance(result.exception, ZeroDivisionError)  # a defect shows its traceback
        assert kept in result.stderr and "--resume" in result.stderr
    assert halfstep(*QUANTIZE, "--validation", "images.npz", "--resume").exit_code == 0
    assert len(solved) == NUM_LAYERS
    assert content(Path("run")) == undisturbed and everything_but_inputs() == ["run"]


def test_a_finished_training_is_not_done_again(here: Path, halfstep: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert halfstep(*FINETUNE[:-1], "plain").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr("halfstep.steps.finetune.write_back", lambda *_: (_ for _ in ()).throw(MemoryError()))
        text = says(halfstep(*FINETUNE))
    assert "not enough memory for step 'finetune'" in text and "the same command with --resume goes on from there" in text
    again = halfstep(*FINETUNE, "--resume")
    assert again.exit_code == 0 and "Training goes on at step 2 of 2." in again.stderr
    assert content(Path("run")) == content(Path("plain")) and everything_but_inputs() == ["run"]


def test_ctrl_c_while_exporting(here: Path, halfstep: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("halfstep.export.onnx_qdq.verify", interrupt)
        result = halfstep(*QUANTIZE)
    assert result.exit_code == 130
    assert " ".join(result.stderr.split()).startswith(
        "Interrupted. The quantized network is saved in 'run': the same command with --resume"
    )
    assert hs.load("run") and everything_but_inputs() == ["run", "run.checkpoint"]


def test_a_folder_of_another_run_is_not_replaced_by_resuming(here: Path, halfstep: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("halfstep.export.onnx_qdq.verify", lambda *_: (_ for _ in ()).throw(ExportError("differs")))
        says(halfstep(*QUANTIZE))
    (here / "run" / "model.safetensors").write_bytes(b"mine")
    assert "'run' is not empty: pass --force" in says(halfstep(*QUANTIZE, "--resume"))


def test_with_nothing_to_go_on_from_a_run_says_so(here: Path, halfstep: Command) -> None:
    result = halfstep(*QUANTIZE, "--resume")
    assert result.exit_code == 0 and "There is nothing to go on from in" in result.stderr


def test_a_second_process_is_kept_out(here: Path, refuse: Callable[..., str]) -> None:
    """Of the same --out, and of the same checkpoint where there is another --out beside it."""
    for place in ("run", "run.checkpoint"):
        code = (
            f"import os, filelock; filelock.lock_descriptor(os.open('.{place}.lock', os.O_RDWR | os.O_CREAT)); print(flush=True); input()"
        )
        other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None and other.stdout.readline() == "\n"
        message = refuse(*QUANTIZE)
        other.communicate("\n")
        Path(f".{place}.lock").unlink()
        assert "Another process is at work on '" in message and f"{place}'" in message


def test_in_python_the_checkpoint_goes_when_the_result_is_saved(here: Path, solved: list[int]) -> None:
    sys.path.insert(0, str(here))
    try:
        model = hs.load_model("net.py:small")
    finally:
        sys.path.remove(str(here))
    data = hs.load_data("images.npz")
    for _ in range(2):
        result = hs.quantize(model, data, "lattice-w4", samples=16, checkpoint="kept", resume=True)
        assert Path("kept/run.json").is_file() and result.checkpoint is not None
    assert len(solved) == NUM_LAYERS
    result.save("run")
    assert not Path("kept").exists()
