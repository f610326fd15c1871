"""The commands run in this process, in an empty folder, on a network of a dozen weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from halfstep.cli.app import app

Command = Callable[..., Result]

NETWORK = '''
import torch
from torch import nn


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()


def broken():
    network = small()
    network[0].weight.data[1, 2, 0, 0] = float("nan")
    return network


def dead():
    """Its ReLU never lets anything through."""
    network = small()
    network[0].weight.data.zero_()
    network[0].bias.data.fill_(-1.0)
    return network
'''


QUANTIZE = (
    "quantize",
    "net.py:small",
    "--data",
    "images.npz",
    "--mean",
    "0.4,0.5,0.6",
    "--std",
    "0.2,0.2,0.2",
    "--samples",
    "8",
    "--seed",
    "3",
)


def prepare(folder: Path) -> Path:
    """``net.py`` (small, broken, dead) and ``images.npz`` (16 labelled images of 8x8 pixels) in ``folder``."""
    (folder / "net.py").write_text(NETWORK)
    random = np.random.default_rng(0)
    np.savez(folder / "images.npz", images=random.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8), labels=np.arange(16) % 2)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files of `prepare`."""
    monkeypatch.chdir(tmp_path)
    return prepare(tmp_path)


@pytest.fixture
def halfstep() -> Command:
    """Runs ``halfstep`` with these arguments; the tests' own warning filter stays in force."""

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="halfstep")

    return run


@pytest.fixture
def refuse(halfstep: Command, here: Path) -> Callable[..., str]:
    """Runs a command that must fail with one message: its text, once nothing but the message is found to be left behind."""

    def run(*arguments: str | Path, status: int = 1) -> str:
        before = sorted(here.rglob("*"))
        result = halfstep(*arguments)
        assert result.exit_code == status, result.output
        assert isinstance(result.exception, SystemExit), f"a traceback: {result.exception!r}"
        assert sorted(path for path in here.rglob("*") if "__pycache__" not in path.parts) == before
        assert result.stdout == ""
        return " ".join(result.stderr.replace("│", " ").split())

    return run


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder and the output of one ``halfstep demo``; copy the folder before changing it."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    result = CliRunner().invoke(app, ["demo", "--out", str(folder)], prog_name="halfstep")
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder and the output of one `QUANTIZE`; copy the folder before changing it."""
    folder = prepare(tmp_path_factory.mktemp("quantize"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, [*QUANTIZE, "--out", "run"], prog_name="halfstep")
    assert result.exit_code == 0, result.output
    return folder / "run", result


@pytest.fixture
def quantized(finished_run: tuple[Path, Result], here: Path) -> Path:
    """A copy of that run as ``run`` in the current folder."""
    return Path(shutil.copytree(finished_run[0], here / "run"))


@pytest.fixture
def quantize(halfstep: Command) -> Command:
    """Runs `QUANTIZE` with further arguments, and must succeed."""

    def run(*arguments: str) -> Result:
        result = halfstep(*QUANTIZE, *arguments)
        assert result.exit_code == 0, result.output
        return result

    return run


@pytest.fixture
def demo_folder(finished_demo: tuple[Path, Result], here: Path) -> Path:
    """A copy of the demo's run directory in the current folder."""
    return Path(shutil.copytree(finished_demo[0], here / "digits-run"))
