"""What the integer benchmark must show, as data, and whether the stored rows show it."""

from dataclasses import dataclass
from statistics import mean
from typing import Any

from harness.integer_rows import FLOAT, MODES, NETWORKS, SAMPLES, mode_row

Rows = dict[str, dict[str, Any]]
Verdict = tuple[bool | None, str, str]  # reached (None: a row is missing), what is asked, the figures


@dataclass(frozen=True)
class Losses:
    """Over all networks ``row`` loses at most ``mean`` points of top-1 and on none more than ``worst`` (None: not asked)."""

    row: str
    samples: int
    mean: float
    worst: float | None


@dataclass(frozen=True)
class Reaches:
    """``row`` has at least ``top1`` percent."""

    network: str
    samples: int
    row: str
    top1: float


@dataclass(frozen=True)
class Loses:
    """``row`` loses at most ``points`` of top-1."""

    network: str
    samples: int
    row: str
    points: float


@dataclass(frozen=True)
class Within:
    """The process of ``row``, imports and all, needs less than ``seconds`` CPU seconds from its start to the integer program."""

    network: str
    samples: int
    row: str
    seconds: float


@dataclass(frozen=True)
class Beats:
    """``row`` has a higher top-1 than ``peer``."""

    network: str
    samples: int
    row: str
    peer: str


Target = Losses | Reaches | Loses | Within | Beats


def _losses(mode: str, samples: int) -> Losses:
    is_coarse = mode == "single_shift"
    return Losses(mode_row("normalize", mode), samples, 0.4 if is_coarse else 0.15, None if is_coarse else 0.4)


TARGETS: tuple[Target, ...] = (
    *(_losses(mode, SAMPLES[0]) for mode in MODES),
    Losses(mode_row("normalize", "fixed_point_32"), SAMPLES[1], 0.15, 0.4),
    *(Reaches("resnet20", samples, "normalize_w4a8", 90.0) for samples in SAMPLES),
    *(Reaches("resnet20", samples, "normalize_w4a4", 82.0) for samples in SAMPLES),
    Loses("resnet20", SAMPLES[1], "lattice_w4a8", 0.4),
    Loses("resnet20", SAMPLES[1], "lattice_w4a4", 2.2),
    *(Within(network, SAMPLES[0], mode_row("normalize", "fixed_point_32"), 10.0) for network in NETWORKS),
    *(Beats("resnet20", SAMPLES[0], "normalize_w4a4", f"aidge_w4a4_{kind}") for kind in ("tensor", "channel", "channel_plain")),
)


def stored(rows: Rows, network: str, samples: int, name: str) -> dict[str, Any] | None:
    """A finished row, or None."""
    row = rows.get(f"{network}/{samples}/{name}", {})
    return row if "top1" in row else None


def drop(rows: Rows, network: str, row: dict[str, Any] | None) -> float | None:
    """Points of top-1 lost against float on the same images."""
    exact = stored(rows, network, SAMPLES[0], FLOAT)
    return None if row is None or exact is None else float(exact["top1"] - row["top1"])


def process_seconds(row: dict[str, Any]) -> float:
    """CPU seconds of the process, from its start to the integer program."""
    return float(row["marks"]["cpu"]["quantized"])


def losses(rows: Rows, samples: int, name: str) -> list[float] | None:
    """Of every network, in their order; None where one is missing."""
    found = [drop(rows, network, stored(rows, network, samples, name)) for network in NETWORKS]
    return None if None in found else [lost for lost in found if lost is not None]


def judge(target: Target, rows: Rows) -> Verdict:
    """Whether the stored rows show it."""
    if isinstance(target, Losses):
        return _judge_losses(target, rows)
    row = stored(rows, target.network, target.samples, target.row)
    where = f"{target.network}, {target.samples:,} images, {target.row}"
    if isinstance(target, Beats):
        peer = stored(rows, target.network, target.samples, target.peer)
        asked = f"{where}: above {target.peer}"
        if row is None or peer is None:
            return None, asked, "no row yet"
        return row["top1"] > peer["top1"], asked, f"{row['top1']:.2f} against {peer['top1']:.2f}"
    return _judge_alone(target, where, row, drop(rows, target.network, row))


def _judge_alone(target: Reaches | Loses | Within, where: str, row: dict[str, Any] | None, lost: float | None) -> Verdict:
    if isinstance(target, Reaches):
        asked = f"{where}: top-1 >= {target.top1:g} %"
    elif isinstance(target, Loses):
        asked = f"{where}: loses <= {target.points:g}"
    else:
        asked = f"{where}: torch module to integer program in < {target.seconds:g} CPU s"
    if row is None or lost is None:
        return None, asked, "no row yet"
    if isinstance(target, Within):
        seconds = process_seconds(row)
        return seconds < target.seconds, asked, f"{seconds:.1f}, of these the method {row['method_cpu_seconds']:.1f}"
    is_reached = row["top1"] >= target.top1 if isinstance(target, Reaches) else lost <= target.points + 1e-9
    return is_reached, asked, f"{row['top1']:.2f}, loses {lost:.2f}"


def _judge_losses(target: Losses, rows: Rows) -> Verdict:
    limit = "" if target.worst is None else f", none over {target.worst:g}"
    asked = f"{target.row}, {target.samples:,} images, {len(NETWORKS)} networks: loses <= {target.mean:g} on average{limit}"
    found = losses(rows, target.samples, target.row)
    if found is None:
        return None, asked, "no row yet"
    is_reached = mean(found) <= target.mean + 1e-9 and (target.worst is None or max(found) <= target.worst + 1e-9)
    return is_reached, asked, f"{mean(found):.2f} on average, at most {max(found):.2f}"
