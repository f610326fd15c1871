"""Everything a user can get wrong: one message with the way out, a status, no traceback, nothing left behind.

The fixture ``refuse`` checks all but the words of the message.
"""

from __future__ import annotations

import os
import pickle
import resource
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner, Result

from halfstep.cli.app import app
from halfstep.errors import HalfstepError

Refuse = Callable[..., str]
NETWORK = ("quantize", "net.py:small")
QUANTIZE = (*NETWORK, "--data", "images.npz", "--out", "run")


def images(path: Path, array: np.ndarray) -> str:
    np.savez(path / "other.npz", images=array)
    return "other.npz"


# ---- data


def test_no_calibration_data(refuse: Refuse, here: Path) -> None:
    empty = images(here, np.zeros((0, 8, 8, 3), np.uint8))
    assert "has no samples. Give at least one" in refuse(*NETWORK, "--data", empty, "--out", "run")


def test_a_missing_data_file_names_the_closest(refuse: Refuse) -> None:
    message = refuse(*NETWORK, "--data", "image.npz", "--out", "run")
    assert "There is no file image.npz. Did you mean 'images.npz'?" in message


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 8, 8, 1), np.uint8),  # one channel, the network has three
        np.zeros((4, 5, 8, 8), np.float32),
        np.zeros((4, 3), np.float32),
    ],
)
def test_data_of_the_wrong_shape(refuse: Refuse, here: Path, array: np.ndarray) -> None:
    message = refuse(*NETWORK, "--data", images(here, array), "--out", "run")
    assert message.startswith("Error: ")
    assert f"{', '.join(map(str, array.shape[1:]))}]" in message or "channels" in message
    assert "control flow" not in message  # the network is not to blame


@pytest.mark.parametrize("kind", [np.int64, np.complex64, "U3"])
def test_data_of_the_wrong_type(refuse: Refuse, here: Path, kind: str | type) -> None:
    message = refuse(*NETWORK, "--data", images(here, np.zeros((4, 8, 8, 3), kind)), "--out", "run")
    assert "are of type" in message
    assert "Give uint8 [N, H, W, C] or float [N, C, H, W]." in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_are_not_finite(refuse: Refuse, here: Path, value: float) -> None:
    array = np.zeros((4, 3, 8, 8), np.float32)
    array[2, 1, 0, 0] = value
    message = refuse(*NETWORK, "--data", images(here, array), "--out", "run")
    assert "NaN" in message or "infinite" in message


def test_pickled_data_are_never_loaded(refuse: Refuse, here: Path) -> None:
    np.save(here / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "never loaded" in refuse(*NETWORK, "--data", "objects.npy", "--out", "run")


def test_accuracy_without_labels(refuse: Refuse, here: Path) -> None:
    unlabelled = images(here, np.zeros((4, 8, 8, 3), np.uint8))
    assert "--data: other.npz has no labels" in refuse("evaluate", "net.py:small", "--data", unlabelled)


# ---- the network


def test_weights_that_are_not_finite(refuse: Refuse) -> None:
    message = refuse("quantize", "net.py:broken", "--data", "images.npz", "--out", "run")
    assert "NaN" in message
    assert "'0" in message  # the layer


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nets.py:small", "no file nets.py. Did you mean 'net.py'?"),
        ("net.py:smal", "Did you mean 'small'?"),
        ("no_such_package.nets:small", "no module 'no_such_package'"),
        ("net.pt2", "net.pt2"),
        ("small", "small"),
    ],
)
def test_a_missing_network(refuse: Refuse, model: str, says: str) -> None:
    assert says in refuse("quantize", model, "--data", "images.npz", "--out", "run")


def test_an_onnx_file_that_is_damaged(refuse: Refuse, here: Path) -> None:
    (here / "net.onnx").write_bytes(b"")
    message = refuse("quantize", "net.onnx", "--data", "images.npz", "--out", "run")
    assert "'net.onnx'" in message
    assert "truncated" in message


def test_stripping_what_is_no_onnx_file(refuse: Refuse) -> None:
    message = refuse("quantize", "net.py:small", "--data", "images.npz", "--out", "run", "--strip-quantization")
    assert "leave --strip-quantization out" in message
    assert "leave --strip-quantization out" in refuse("evaluate", "net.py:small", "--data", "images.npz", "--strip-quantization")


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.bin"])
def test_a_pickle_as_the_network(refuse: Refuse, name: str) -> None:
    message = refuse("quantize", name, "--data", "images.npz", "--out", "run")
    assert "is a pickle" in message
    assert "--state-dict" in message


@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "weights.safetensors", "weights"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_as_the_weights(refuse: Refuse, here: Path, name: str, is_zip: bool) -> None:
    torch.save({"0.weight": torch.zeros(4, 3, 3, 3)}, here / name, _use_new_zipfile_serialization=is_zip)
    assert zipfile.is_zipfile(here / name) == is_zip
    message = refuse(*QUANTIZE, "--state-dict", name)
    assert f"'{name}' is a pickle" in message
    assert "python -c" in message


def test_the_conversion_that_is_proposed_works(refuse: Refuse, here: Path) -> None:
    torch.save({"0.weight": torch.ones(2)}, here / "weights.pth")
    message = refuse(*QUANTIZE, "--state-dict", "weights.pth")
    python, option, code = shlex.split(message[message.index("python -c") :])[:3]
    subprocess.run([sys.executable, option, code], cwd=here, check=True)
    assert python == "python"
    assert torch.equal(safetensors.torch.load_file("weights.safetensors")["0.weight"], torch.ones(2))


def test_a_plain_pickle_as_the_weights(refuse: Refuse, here: Path) -> None:
    (here / "weights").write_bytes(pickle.dumps({"a": [1.0]}))
    assert "is a pickle" in refuse(*QUANTIZE, "--state-dict", "weights")


def test_missing_weights(refuse: Refuse) -> None:
    assert "no file 'weights.safetensors'" in refuse(*QUANTIZE, "--state-dict", "weights.safetensors")


def test_weights_that_do_not_fit(refuse: Refuse) -> None:
    safetensors.torch.save_file({"0.weight": torch.zeros(4, 3, 3, 3), "extra": torch.zeros(1)}, "weights.safetensors")
    message = refuse(*QUANTIZE, "--state-dict", "weights.safetensors")
    assert "extra" in message or "0.bias" in message


# ---- recipe and options


def test_an_unknown_recipe_names_the_closest(refuse: Refuse) -> None:
    assert "Did you mean 'int8'?" in refuse(*QUANTIZE, "--recipe", "int88")


def test_an_unknown_step_names_the_closest(refuse: Refuse, here: Path) -> None:
    (here / "mine.yaml").write_text("name: mine\nsteps: [fold_batchnorm, place_quantizers, calibrate]\n")
    assert "'fold_batchnorm'. Did you mean 'fold_batch_norm'?" in refuse(*QUANTIZE, "--recipe", "mine.yaml")


def test_an_unknown_option_of_a_step_names_the_closest(refuse: Refuse, here: Path) -> None:
    (here / "mine.yaml").write_text("name: mine\nsteps: [{fold_batch_norm: {exclud: [a]}}, place_quantizers, calibrate]\n")
    assert "has no option 'exclud'. Did you mean 'exclude'?" in refuse(*QUANTIZE, "--recipe", "mine.yaml")


@pytest.mark.parametrize("text", ["name: [", "- a\n- b\n", "", "name: mine\nstep: []\n"])
def test_a_damaged_recipe(refuse: Refuse, here: Path, text: str) -> None:
    (here / "mine.yaml").write_text(text)
    assert "mine" in refuse(*QUANTIZE, "--recipe", "mine.yaml")


@pytest.mark.parametrize("option", ["--weights", "--activations"])
def test_an_unknown_type(refuse: Refuse, option: str) -> None:
    assert "int99" in refuse(*QUANTIZE, option, "int99")


def test_an_unknown_export_format(refuse: Refuse) -> None:
    assert refuse("export", "run", "--format", "onx", "--out", "a") == "Error: Unknown format 'onx'. Did you mean 'onnx'?"


def test_preprocessing_that_is_no_number(refuse: Refuse) -> None:
    assert "--scale has 'half' where a number should be. Give a number: --scale 1/255" in refuse(*QUANTIZE, "--scale", "half")


# ---- places


def test_a_filled_output_directory_needs_force(refuse: Refuse, here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / "mine.txt").write_text("mine")
    assert "Output directory 'run' is not empty: pass --force" in refuse(*QUANTIZE)
    assert (here / "run" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("command", [("evaluate", "nowhere", "--data", "images.npz"), ("export", "nowhere", "--out", "a.onnx")])
def test_a_missing_run_directory(refuse: Refuse, command: tuple[str, ...]) -> None:
    assert "nowhere" in refuse(*command)


def test_a_folder_that_is_no_run(refuse: Refuse, here: Path) -> None:
    (here / "other").mkdir()
    assert "other" in refuse("export", "other", "--out", "a.onnx")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
def test_a_full_disk_for_the_json(refuse: Refuse) -> None:
    assert "Cannot write '/dev/full'. The disk is full: free some space" in refuse("list", "ranges", "--json", "/dev/full")


def start(arguments: tuple[str, ...], folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "halfstep.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload]


def test_a_disk_that_fills_up_during_the_run(here: Path) -> None:
    """A limit on the size of files makes every larger write fail, as a full disk does, after its first bytes."""
    before = sorted(here.iterdir())
    limit = (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    done = start(
        QUANTIZE,
        here,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Error: Cannot write" in done.stderr
    assert sorted(path for path in here.iterdir() if path.name != "__pycache__") == before


INTERRUPTED_DATA = """
import os, signal
import torch


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return torch.zeros(3, 8, 8) + index, index % 2


def images():
    return Images()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing(here: Path, number: signal.Signals) -> None:
    (here / "data.py").write_text(INTERRUPTED_DATA.replace("SIGINT", number.name))
    before = sorted(here.iterdir())
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores it
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = start((*NETWORK, "--data", "data.py:images", "--out", "deep/run"), here, preexec_fn=heard, env=environment)
    assert done.stderr.splitlines()[-1] == "Interrupted: nothing was written."
    assert "Traceback" not in done.stderr
    assert done.returncode == 128 + number
    assert sorted(here.iterdir()) == before


# ---- the boundary itself


def run_with(monkeypatch: pytest.MonkeyPatch, error: BaseException, *options: str) -> Result:
    """``halfstep list`` where listing raises ``error``."""

    def raise_error(_: str) -> dict[str, str]:
        raise error

    monkeypatch.setattr("halfstep.cli.listing.entries", raise_error)
    return CliRunner().invoke(app, [*options, "list"])


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device", "a/b"), "Error: The disk is full: 'a/b'. Free some space or choose another place.\n"),
        (OSError(28, "No space left on device"), "Error: The disk is full. Free some space or choose another place.\n"),
        (FileNotFoundError(2, "No such file or directory", "a/b"), "Error: No such file or directory: 'a/b'.\n"),
        (PermissionError("not yours"), "Error: not yours.\n"),
        (HalfstepError("Layer [0] is wrong."), "Error: Layer [0] is wrong.\n"),
    ],
)
def test_what_a_user_can_mend_is_one_message(monkeypatch: pytest.MonkeyPatch, error: Exception, says: str) -> None:
    result = run_with(monkeypatch, error)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", says)


class _ArrayMemoryError(MemoryError):
    """As numpy's."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        _ArrayMemoryError("Unable to allocate 745. GiB for an array with shape (100000000000,) and data type float64"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        RuntimeError("unable to mmap 96 bytes from file <filename not specified>: Cannot allocate memory (12)"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_out_of_memory_is_one_message(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Wherever it comes from, and where another error was made of it."""
    for wrapped in (error, HalfstepError("The network cannot take inputs of shape [32].")):
        wrapped.__cause__ = None if wrapped is error else error
        result = run_with(monkeypatch, wrapped)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: There is not enough memory. Take fewer samples (--samples)")


STARVED = """
import resource, sys
import torch
from halfstep.cli import main
import halfstep.workflow.quantize

import onnxruntime, torch._dynamo  # what is loaded on the way needs no memory later

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20), used + (400 << 20)))
sys.argv = ["halfstep", "quantize", "wide.py:wide", "--data", "wide.py:inputs", "--recipe", "int8", "--out", "run"]
main()
"""
WIDE = """
import torch
from torch import nn


def wide():
    return nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3)).eval()


def inputs():
    return torch.randn(32, 3, 256, 256)  # 537 MB in the second layer
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell how much memory a process has")
def test_a_process_that_runs_out_of_memory_says_so(here: Path) -> None:
    (here / "wide.py").write_text(WIDE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", STARVED], cwd=here, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stderr
    assert "Error: There is not enough memory" in done.stderr and "fewer samples" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not (here / "run").exists()


def test_interrupts_have_their_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_with(monkeypatch, KeyboardInterrupt())
    assert (result.exit_code, result.stderr) == (130, "Interrupted: nothing was written.\n")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_with(monkeypatch, HalfstepError("Something is wrong."), "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "raise_error" in result.stderr
    assert result.stderr.endswith("Error: Something is wrong.\n")


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(run_with(monkeypatch, ZeroDivisionError("a defect")).exception, ZeroDivisionError)
