"""What the rounding benchmark must show, as data, and whether the stored rows show it."""

from dataclasses import dataclass
from typing import Any

from harness.rounding_rows import FLOAT_SETTING, FULL_ITERATIONS

Rows = dict[str, dict[str, Any]]
EQUAL_ACCURACY = 0.1  # points; two runs of one method with two seeds differ by as much


@dataclass(frozen=True)
class Drop:
    """``row`` loses at most ``points`` of top-1 against float, in at most ``seconds`` CPU seconds (None: not asked)."""

    network: str
    setting: str
    row: str
    points: float
    seconds: float | None = None


@dataclass(frozen=True)
class Faster:
    """``row`` needs at most 1/``factor`` of the CPU seconds of ``peer`` at full iterations, and is no less accurate."""

    network: str
    setting: str
    row: str
    peer: str
    factor: float


TARGETS: tuple[Drop | Faster, ...] = (
    Drop("resnet20", "w4_tensor", "halfstep_lattice", 0.4, 15.0),
    Drop("resnet20", "w3_channel", "halfstep_lattice", 0.6, 15.0),
    Drop("resnet20", "w2_channel", "halfstep_lattice", 2.0, 15.0),
    Drop("resnet20", "w4a8", "halfstep_lattice", 0.4),
    Drop("resnet20", "w4a4", "halfstep_lattice", 2.2),
    Drop("resnet20", "w4a4", "halfstep_lattice_wide", 2.2),
    Drop("resnet20", "w4_tensor", "halfstep_adaround", 0.4),
    Drop("resnet20", "w3_channel", "halfstep_adaround", 0.6),
    Faster("resnet20", "w4_tensor", "halfstep_adaround", "aimet_adaround", 2.0),
    Faster("resnet20", "w4_tensor", "halfstep_adaround_positions", "aimet_adaround", 5.0),
    Faster("resnet20", "w4_tensor", "halfstep_lattice", "aimet_adaround", 100.0),
    Faster("resnet20", "w3_channel", "halfstep_lattice", "aimet_adaround", 100.0),
    Faster("resnet20", "w2_channel", "halfstep_lattice", "aimet_adaround", 100.0),
)


def full_cost(row: dict[str, Any]) -> float:
    """CPU seconds of the method; of rows with fewer iterations, scaled: their loop takes ten times as long with ten times as many."""
    seconds = float(row["method_cpu_seconds"])
    if "loop_cpu_seconds" not in row:
        return seconds
    return seconds + (max(FULL_ITERATIONS / row["iterations"], 1.0) - 1.0) * float(row["loop_cpu_seconds"])


def stored(rows: Rows, network: str, setting: str, name: str) -> tuple[dict[str, Any] | None, str]:
    """A finished row, or the one of 1,000 iterations in its place; with a remark that says which."""
    for candidate, remark in ((name, ""), (f"{name}_1000", "1,000 iterations, time scaled to 10,000")):
        row = rows.get(f"{network}/{setting}/{candidate}", {})
        if "top1" in row:
            return row, remark
    return None, "no row yet"


def drop(rows: Rows, network: str, row: dict[str, Any]) -> float | None:
    """Points of top-1 lost against float on the same images."""
    exact = rows.get(f"{network}/{FLOAT_SETTING}/float", {}).get("top1")
    return None if exact is None else float(exact - row["top1"])


def judge(target: Drop | Faster, rows: Rows) -> tuple[bool | None, str, str]:
    """(reached, what is asked, the figures); None where a row is missing."""
    return _judge_drop(target, rows) if isinstance(target, Drop) else _judge_faster(target, rows)


def _judge_drop(target: Drop, rows: Rows) -> tuple[bool | None, str, str]:
    limit = "" if target.seconds is None else f" in <= {target.seconds:g} CPU s"
    asked = f"{target.network} {target.setting} {target.row}: loses <= {target.points:g}{limit}"
    row, remark = stored(rows, target.network, target.setting, target.row)
    lost = None if row is None else drop(rows, target.network, row)
    if row is None or lost is None:
        return None, asked, remark or "no float row yet"
    seconds = float(row["method_cpu_seconds"])
    is_reached = lost <= target.points + 1e-9 and (target.seconds is None or seconds <= target.seconds)
    return is_reached, asked, f"loses {lost:.2f}, {seconds:.1f} CPU s {remark}".strip()


def _judge_faster(target: Faster, rows: Rows) -> tuple[bool | None, str, str]:
    asked = f"{target.network} {target.setting} {target.row}: <= 1/{target.factor:g} of {target.peer}'s CPU s, top-1 no lower"
    own, remark = stored(rows, target.network, target.setting, target.row)
    peer, peer_remark = stored(rows, target.network, target.setting, target.peer)
    if own is None or peer is None:
        return None, asked, "no row yet"
    ours, theirs = full_cost(own), full_cost(peer)
    is_reached = ours * target.factor <= theirs and own["top1"] >= peer["top1"] - EQUAL_ACCURACY
    figures = f"{ours:.1f} against {theirs:.1f} CPU s (1/{theirs / ours:.1f}), top-1 {own['top1']:.2f} against {peer['top1']:.2f}"
    remarks = "; ".join(f"{name}: {text}" for name, text in ((target.row, remark), (target.peer, peer_remark)) if text)
    return is_reached, asked, f"{figures} {remarks}".strip()
