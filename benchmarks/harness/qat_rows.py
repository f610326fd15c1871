"""The rows of the benchmark of quantization-aware training, and what it must show."""

import json
from dataclasses import dataclass
from typing import Any

from harness.tools import BREVITAS, TORCHAO

NETWORKS = ("resnet20", "resnet8_mlperf", "nin", "resnet56")
MAIN = NETWORKS[:1]
FLOAT = "float"
MOST_EPOCHS = 10.0
COMPARED = ("lsq", "lsq_plus", "sat", "pact", "dorefa", "qil", "lq_nets")
COMPARED_START = {"start_weights": "float", "batch_norm": "live", "learning_rate": 0.01, "scale_learning_rate": 0.005}
FOUR_LEVELS = {"sat": {"levels": "centred"}, "dorefa": {"levels": "centred"}}  # at 2 bits, where `symmetric` has three
EQUAL = 0.1  # points between the simulation, in float64 if it was computed so, and the integer program


@dataclass(frozen=True)
class Row:
    """recipe, options: of ``halfstep.finetune``. loss: points of top-1 that it may lose against float; None: not asked. epochs: as few as
    will do. teachers: networks whose mean answer is learned; none: the float network's own.
    """

    name: str
    recipe: str
    note: str
    loss: float | None = None
    epochs: float = MOST_EPOCHS
    options: str = "{}"
    is_asked_for: bool = True
    teachers: tuple[str, ...] = ()


def _compared_method(method: str, bits: int) -> Row:
    """A method on the grids of LSQ's recipe, from the float weights, for one epoch: what is left is the difference of the quantizers."""
    weights = {method: FOUR_LEVELS[method]} if bits == 2 and method in FOUR_LEVELS else method
    options = json.dumps({"weights": weights, "activations": method} | COMPARED_START)
    note = f"{method} on LSQ's grids, one epoch"
    return Row(f"{method}_w{bits}a{bits}_short", f"lsq-w{bits}a{bits}", note, epochs=1, options=options, is_asked_for=False)


def _taught(bits: int, loss: float, epochs: float, **options: Any) -> Row:
    """By three networks together, on images of which the float network knows as little as of new ones."""
    chosen = json.dumps({"warp": 0.75, "views": 3, "batch_norm": "live", "start_weights": "float"} | options)
    name, recipe, note = f"lsq_w{bits}a{bits}_taught", f"lsq-w{bits}a{bits}", "taught by three networks, on warped images"
    return Row(name, recipe, note, loss, epochs, chosen, teachers=("resnet20", "resnet32", "resnet56"))


ROWS = {
    row.name: row
    for row in (
        Row("lsq_w8a8", "lsq-w8a8", "", 0.1, epochs=2),
        Row("lsq_w4a4", "lsq-w4a4", "", 0.0, epochs=1),
        Row("lsq_w3a3", "lsq-w3a3", "", 0.7),
        Row("lsq_w2a2", "lsq-w2a2", "", 3.0),
        _taught(4, 0.0, 10, views=5, learning_rate=0.005, scale_learning_rate=0.002),
        _taught(3, 0.7, 10, views=5, learning_rate=0.01, scale_learning_rate=0.005),
        _taught(2, 3.0, 10, warp=0.5),
        Row("sat_w4a4", "sat-w4a4", "", is_asked_for=False),
        Row("sat_w4a8", "sat-w4a8", "", is_asked_for=False),
        Row("sat_w2a8", "sat-w2a8", "", is_asked_for=False),
        *(_compared_method(method, bits) for method in COMPARED for bits in (4, 2)),
    )
}


@dataclass(frozen=True)
class Peer:
    """A row of another tool, made by ``script`` in its ``environment``. beside: the row of ours that it is compared with."""

    name: str
    script: str
    environment: str
    options: tuple[str, ...]
    note: str
    beside: str
    is_asked_for: bool = True


def _peers(tool: str, best: str, default: str) -> list[Peer]:
    """At 8 and 4 bits, with the rates of our rows: its best settings and the float network's answers, then its defaults and the labels."""
    rows = []
    for bits, rate in ((8, 0.001), (4, 0.003)):
        name, beside = f"{tool}_w{bits}a{bits}", f"lsq_w{bits}a{bits}"
        shared = f"--bits {bits} --learning-rate {rate}"
        taught, labelled = f"{shared} --variant best --distillation 1", f"{shared} --variant default --distillation 0"
        rows.append(Peer(name, f"{tool}_qat.py", tool, tuple(taught.split()), f"{best}; float network's answers", beside))
        rows.append(Peer(f"{name}_default", f"{tool}_qat.py", tool, tuple(labelled.split()), f"{default}; labels", beside, False))
    return rows


PEERS = {
    row.name: row
    for row in (
        *_peers(BREVITAS, "learned scales from least squared error", "its default quantizers"),
        *_peers(TORCHAO, "PT2E, LearnableFakeQuantize", "PT2E, x86 quantizer's default"),
    )
}


def percent(row: dict[str, Any], key: str) -> str:
    """A stored accuracy, or nothing where there is none."""
    return f"{row[key]:.2f}" if key in row else ""


def judged(rows: dict[str, Any], network: str) -> list[tuple[str, bool | None, str]]:
    """(what is asked, whether the stored rows show it, the figures)."""
    found = []
    exact = rows.get(f"{network}/{FLOAT}", {}).get("top1")
    for row in ROWS.values():
        stored = rows.get(f"{network}/{row.name}", {})
        if "top1" not in stored or exact is None:
            if row.loss is not None:
                found.append((f"{row.name}: loses at most {row.loss:.1f}", None, ""))
            continue
        lost = exact - stored["top1"]
        if row.loss is not None:
            found.append((f"{row.name}: loses at most {row.loss:.1f}", lost <= row.loss + 1e-9, f"{lost:+.2f}"))
        if "integer" in stored:
            apart, apart_exactly = (abs(stored["integer"] - stored.get(key, stored["top1"])) for key in ("top1", "top1_float64"))
            figures = f"{apart_exactly:.2f} in float64, {apart:.2f} in float32" if "top1_float64" in stored else f"{apart:.2f}"
            found.append((f"{row.name}: integers as the simulation, within {EQUAL}", apart_exactly <= EQUAL + 1e-9, figures))
    return found + [line for peer in PEERS.values() for line in _compared(rows, network, peer)]


def _compared(rows: dict[str, Any], network: str, peer: Peer) -> list[tuple[str, bool | None, str]]:
    """Accuracy and speed of our row at least those of the peer's."""
    ours, theirs = (rows.get(f"{network}/{name}", {}) for name in (peer.beside, peer.name))
    if "top1" not in ours or "top1" not in theirs:
        return [(f"{peer.beside}: at least as accurate and fast as {peer.name}", None, "")] if peer.is_asked_for else []
    found: list[tuple[str, bool | None, str]] = []
    for what, unit, key in (("accurate", "%", "top1"), ("fast", "images/s", "images_per_second")):
        text = f"{ours[key]:.2f} {unit}, {theirs[key]:.2f} {unit}"
        found.append((f"{peer.beside}: at least as {what} as {peer.name}", ours[key] >= theirs[key] - 1e-9, text))
    return found
