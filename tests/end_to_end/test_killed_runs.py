"""Killed at any moment, a run that is resumed ends in the bytes of one that was left alone, and leaves nothing else."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from halfstep.cli.app import app

DATA = ("halfstep.demo.network:digits_network", "--data", "digits:calibration", "--samples", "64")
ADAROUND = (
    "name: own\nscheme: {weights: {type: int4, symmetric: true, per_channel: true}, activations: {type: uint8}}\nsteps: [fold_batch_norm, \
place_quantizers, calibrate, {round: {method: {adaround: {num_iterations: 300}}}}]\n"
)
TRAINING = (
    "name: own\nscheme: {weights: {type: int4, symmetric: true, per_channel: true}, activations: {type: uint8}}\nsteps: [fold_batch_norm, \
place_quantizers, calibrate, {finetune: {epochs: 2, batch_size: 64, checkpoint_minutes: 0}}]\n"
)
COMMANDS = {
    "lattice": ("quantize", *DATA, "--recipe", "lattice-w4a8"),
    "adaround": ("quantize", *DATA, "--recipe", "adaround.yaml"),
    "finetune": ("finetune", *DATA, "--recipe", "training.yaml"),
}
NUM_MOMENTS = {"lattice": 17, "adaround": 17, "finetune": 16}
TIMES = ("result.json", "report.html", "digests.json")  # hold the time a run took, or the digest of what does


def start(*arguments: str) -> int:
    """The command in a child of this process, which has everything loaded."""
    process = os.fork()
    if process == 0:
        status = 99
        try:
            sink = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            app(list(arguments))
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        finally:
            os._exit(status)
    return process


def wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in TIMES}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("kind", list(COMMANDS))
def test_killed_at_random_moments(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    Path("adaround.yaml").write_text(ADAROUND)
    Path("training.yaml").write_text(TRAINING)
    assert wait(start(*COMMANDS[kind], "--out", "plain")) == 0, Path("log.txt").read_text()
    begun = time.monotonic()
    assert wait(start(*COMMANDS[kind], "--out", "warm")) == 0
    duration, undisturbed = time.monotonic() - begun, content(Path("plain"))
    assert content(Path("warm")) == undisturbed
    others, moments = sorted(path.name for path in Path().iterdir()), random.Random(0)
    num_killed = 0
    for _ in range(NUM_MOMENTS[kind]):
        process = start(*COMMANDS[kind], "--out", "run")
        time.sleep(moments.uniform(0, duration))
        os.kill(process, signal.SIGKILL)
        num_killed += wait(process) == -signal.SIGKILL
        resume = ("--resume",) if not Path("run/model.onnx").exists() or Path("run.checkpoint").exists() else ("--force",)
        assert wait(start(*COMMANDS[kind], "--out", "run", *resume)) == 0, Path("log.txt").read_text()
        assert content(Path("run")) == undisturbed
        assert sorted(path.name for path in Path().iterdir()) == sorted([*others, "run"])
        shutil.rmtree("run")
    assert num_killed > NUM_MOMENTS[kind] // 2
