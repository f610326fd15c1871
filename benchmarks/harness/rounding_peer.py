"""What the scripts of the rounding and the integer benchmark share: command line, marks around the method, evaluation, the row.

Kept free of torch at import time, as ``harness.peer``.
"""

import argparse
import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.classes import as_text
from harness.peer import Marks, cpu_seconds, peer_parser
from harness.settings import SETTINGS

if TYPE_CHECKING:
    import torch

IMPORTED, READY, QUANTIZED = "imported", "model in memory", "quantized"


def evaluation_arguments(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every script that writes a row; a script adds its own options."""
    parser = peer_parser(description, out="the JSON file with the row")
    parser.add_argument("--images", type=int, default=None, help="validation images to evaluate; all without it")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def rounding_parser(description: str | None, methods: tuple[str, ...]) -> argparse.ArgumentParser:
    """Those, and the ones that the driver of the rounding benchmark gives to every script."""
    parser = evaluation_arguments(description)
    parser.add_argument("--setting", choices=tuple(SETTINGS), required=True)
    parser.add_argument("--method", choices=methods, required=True)
    return parser


class Parts:
    """CPU seconds inside functions of a tool, by name; inner ones count in the outer ones too."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Count the seconds of ``owner.function`` (a plain, static or class method) from now on."""
        original = getattr(owner, function)
        plain = vars(owner).get(function) if isinstance(owner, type) else None

        @functools.wraps(original)
        def timed(*arguments: Any, **named: Any) -> Any:
            start = cpu_seconds()
            try:
                return original(*arguments, **named)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + cpu_seconds() - start

        setattr(owner, function, staticmethod(timed) if isinstance(plain, (classmethod, staticmethod)) else timed)


def write_row(
    given: argparse.Namespace,
    marks: Marks,
    model: "Callable[[torch.Tensor], torch.Tensor]",
    levels: dict[str, int],
    **more: Any,
) -> None:
    """Evaluate ``model`` and write the row. ``more``: what else the driver shall keep (options, parts, notes)."""
    from harness.simulation import describe_levels, predictions

    top1, found = predictions(model, given.network, given.images)
    store_row(given, marks, top1, found, levels=describe_levels(levels) if levels else {}, **more)


def store_row(given: argparse.Namespace, marks: Marks, top1: float, found: list[int], **more: Any) -> None:
    """Write the row of a network that was evaluated: ``top1`` in percent, the class ``found`` for each image, and ``more``."""
    marks.reach("evaluated")
    row = {
        "top1": top1,
        "images": len(found),
        "predictions": as_text(found),
        "marks": marks.as_json(),
        "method_cpu_seconds": marks.cpu[QUANTIZED] - marks.cpu[READY],
        "method_wall_seconds": marks.wall[QUANTIZED] - marks.wall[READY],
        "peak_rss_bytes": marks.peak_rss_bytes[QUANTIZED],
    }
    given.out.write_text(json.dumps(row | more))
