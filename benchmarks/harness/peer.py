"""What every script in ``peers/`` shares: its command line, the trained network, the calibration array, time marks.

Kept free of torch at import time, so that a script's own imports are measured as its own.
"""

import argparse
import json
import os
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data import ALL_NETWORKS, dataset_of, networks_module

if TYPE_CHECKING:
    import numpy as np
    import torch


def peer_parser(description: str | None, out: str = "the ONNX file to write") -> argparse.ArgumentParser:
    """The arguments that the driver gives to every peer; a peer adds its own settings. ``out``: what it is to write."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--network", choices=ALL_NETWORKS, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="float32 [samples,3,H,W], as the network expects it")
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--marks", type=Path, help="JSON file for the seconds at each mark")
    return parser


def cpu_seconds() -> float:
    """CPU seconds of this process so far, and of the children it waited for."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@dataclass
class Marks:
    """By name: CPU seconds since the process began (children included), wall seconds since the first mark, peak memory so far."""

    cpu: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def reach(self, name: str) -> None:
        self.cpu[name] = cpu_seconds()
        self.wall[name] = time.perf_counter() - self.started
        self.peak_rss_bytes[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def as_json(self) -> dict[str, dict[str, float] | dict[str, int]]:
        return {"cpu": self.cpu, "wall": self.wall, "peak_rss_bytes": self.peak_rss_bytes}

    def write(self, path: Path | None) -> None:
        if path is not None:
            path.write_text(json.dumps(self.as_json()))


def trained_network(name: str) -> "torch.nn.Module":
    """The float network in memory, in eval mode; every tool starts here."""
    import torch

    torch.set_num_threads(1)
    model: torch.nn.Module = networks_module(dataset_of(name)).load_network(name)
    return model


def calibration_images(path: Path) -> "np.ndarray[Any, np.dtype[np.float32]]":
    import numpy as np

    images: np.ndarray[Any, np.dtype[np.float32]] = np.load(path, allow_pickle=False)
    return images


def one_thread_sessions() -> None:
    """Give every ONNX Runtime session that a tool opens one thread; their own code leaves the number open.

    Call it before the tool is imported. Without it ONNX Runtime's idle threads spin, and the tool would be charged for them.
    """
    import onnxruntime

    original = onnxruntime.InferenceSession

    class OneThreadSession(original):  # type: ignore[misc, valid-type]
        def __init__(self, path_or_bytes: Any, sess_options: Any = None, *rest: Any, **named: Any) -> None:
            options = sess_options or onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.inter_op_num_threads = 1
            super().__init__(path_or_bytes, options, *rest, **named)

    onnxruntime.InferenceSession = OneThreadSession


def quiet_environment() -> None:
    """Nothing is sent anywhere while a figure is taken."""
    os.environ.setdefault("NNCF_CI", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
