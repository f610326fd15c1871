"""What long runs promise: killed and resumed, or shared out over processes, they end in the same bytes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = """
name: long
scheme:
  weights: {{type: int4, per_channel: {per_channel}}}
steps: [fold_batch_norm, place_quantizers, calibrate, {{round: {{method: {method}}}}}]
"""
SAME = ("model.safetensors", "model.json", "statistics.safetensors", "samples.safetensors", "recipe.yaml")


def command(folder: Path, method: str, out: str, *more: str, per_channel: bool = True) -> list[str]:
    recipe = folder / f"{out}.yaml"
    recipe.write_text(RECIPE.format(method=method, per_channel=str(per_channel).lower()))
    words = ["halfstep.cli", "quantize", "halfstep.demo.network:digits_network", "--data", "digits:calibration", "--samples", "200"]
    return ["-m", *words, "--recipe", str(recipe), "--out", str(folder / out), *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def assert_same(first: Path, second: Path) -> None:
    for name in SAME:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_killed_and_resumed(tmp_path: Path) -> None:
    method = "{adaround: {num_iterations: 200}}"
    plain = command(tmp_path, method, "plain")
    (tmp_path / "resumed.yaml").write_text((tmp_path / "plain.yaml").read_text())
    interrupted = [*plain[: plain.index("--out")], "--out", str(tmp_path / "resumed")]
    process = subprocess.Popen([sys.executable, *interrupted], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    checkpoint, deadline = tmp_path / "resumed.checkpoint", time.monotonic() + 120
    while len(list(checkpoint.glob("*.safetensors"))) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = sorted(path.name for path in checkpoint.glob("*.safetensors"))
    assert process.returncode == -signal.SIGKILL and len(finished) >= 2
    assert not (tmp_path / "resumed").exists()
    before = {name: (checkpoint / name).stat().st_mtime_ns for name in finished}
    resumed = subprocess.run([sys.executable, *interrupted, "--resume"], env=environment(), capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert before and not checkpoint.exists()
    whole = subprocess.run([sys.executable, *plain], env=environment(), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert_same(tmp_path / "plain", tmp_path / "resumed")


@pytest.mark.parametrize(
    ("method", "per_channel"),
    [
        ("lattice", True),
        pytest.param("lattice", False, marks=pytest.mark.slow),
        pytest.param("{adaround: {num_iterations: 50}}", True, marks=pytest.mark.slow),
    ],
)
def test_two_processes_find_the_codes_of_one(tmp_path: Path, method: str, per_channel: bool) -> None:
    alone = command(tmp_path, method, "one", per_channel=per_channel)
    (tmp_path / "two.yaml").write_text((tmp_path / "one.yaml").read_text())
    together = [*alone[: alone.index("--out")], "--out", str(tmp_path / "two")]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    for arguments in (alone, [*launcher, *together]):
        done = subprocess.run([sys.executable, *arguments], env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert_same(tmp_path / "one", tmp_path / "two")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
