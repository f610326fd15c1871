"""Where a run took place: versions and machine, as ``result.json`` states them."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import torch

_PACKAGES = ("halfstep", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


def versions() -> dict[str, str]:
    """Of Python and every package a result depends on; "not installed" where one is missing."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def machine() -> dict[str, Any]:
    """Processor, cores, and threads in use; nothing that names the computer."""
    return {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "system": platform.system()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
