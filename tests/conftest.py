"""What every test stands on: one thread, seeded randomness, and the shared data where it is at hand."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from jaxtyping import install_import_hook

# The shapes that annotations promise are checked at every call, here and nowhere else. Before anything imports these rooms.
install_import_hook(["halfstep.ranges", "halfstep.rounding"], "beartype.beartype")

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "tests"))  # the zoo, which many tests import


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Timings and sums that do not depend on the number of cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that draws from PyTorch's own generator draws the same numbers whichever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator for tests that draw numbers themselves."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with ``cifar10/`` and ``imagenet/``: HALFSTEP_DATA, else ``../shared/data``. Skips where there is none."""
    named = os.environ.get("HALFSTEP_DATA")
    folder = Path(named) if named else PROJECT.parent / "shared" / "data"
    if not (folder / "cifar10").is_dir():
        pytest.skip(f"no shared data at {folder}: set HALFSTEP_DATA to the folder that holds cifar10/")
    return folder


@pytest.fixture(scope="session")
def cifar(data_folder: Path) -> ModuleType:
    """The module that defines and loads the trained CIFAR-10 networks."""
    spec = importlib.util.spec_from_file_location("cifar10_networks", data_folder / "cifar10" / "cifar10_networks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder is not ours
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module
