"""The rows of the integer benchmark: which script makes them, with which options, on which networks, and what the reader must know."""

import json
from dataclasses import dataclass
from typing import Any

from harness.settings import SETTINGS
from harness.tools import AIDGE, OWN

NETWORKS = ("resnet20", "resnet8_mlperf", "resnet56", "nin")
SMALL, LARGE = NETWORKS[:2], NETWORKS[2:]
SAMPLES = (256, 1024)
MODES = ("fixed_point_32", "fixed_point_16", "single_shift", "double_shift", "float")
WIDTHS = {"w8a8": (8, 8), "w4a8": (4, 8), "w8a4": (8, 4), "w4a4": (4, 4)}
THRESHOLDS: dict[str, dict[str, Any]] = {
    "min_max": {},
    "mse": {},
    "mean_absolute_error": {},
    "kl": {},
    "entropy": {},
    "percentile": {},
    **{f"mean_std_{k}": {"num_deviations": k} for k in (3, 4, 5)},
}
FLOAT = "float"


@dataclass(frozen=True)
class Row:
    """section: which table it belongs to. options: arguments of ``script`` in peers/. runs: (network, number of calibration images) it runs
    at unasked. also: those that run with ``--long`` or when the row is asked for by name.
    """

    name: str
    section: str
    script: str
    environment: str
    options: tuple[str, ...]
    note: str
    runs: tuple[tuple[str, int], ...]
    also: tuple[tuple[str, int], ...] = ()


def _everywhere(networks: tuple[str, ...], samples: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    return tuple((network, count) for count in samples for network in networks)


def mode_row(recipe: str, mode: str) -> str:
    return f"{recipe}_{mode}"


def threshold_row(threshold: str, width: str) -> str:
    return f"{threshold}_{width}"


def types(width: str) -> tuple[str, ...]:
    """Arguments for the types of ``width``."""
    weights, activations = WIDTHS[width]
    return ("--weights", f"int{weights}", "--activations", f"uint{activations}")


def _mode(recipe: str, mode: str) -> Row:
    """Recipe normalize at 256 images in every mode on every network; what costs minutes more waits for ``--long``."""
    is_main = recipe == "normalize"
    simulate = ("--simulate",) if mode in ("fixed_point_32", "single_shift") else ()
    options = ("--recipe", recipe, "--requantization", mode, *simulate)
    runs = _everywhere(NETWORKS if is_main else SMALL, SAMPLES[:1])
    if is_main:
        runs += _everywhere(NETWORKS if mode == "fixed_point_32" else SMALL, SAMPLES[1:])
    also = tuple(place for place in _everywhere(NETWORKS, SAMPLES) if place not in runs)
    return Row(mode_row(recipe, mode), "modes", "halfstep_integer.py", OWN, options, f"recipe {recipe}", runs, also)


def _bits(name: str, recipe: str, note: str, more: tuple[str, ...] = (), large: tuple[int, ...] = ()) -> Row:
    runs = _everywhere(SMALL, SAMPLES) + _everywhere(LARGE, large)
    also = tuple(place for place in _everywhere(NETWORKS, SAMPLES) if place not in runs)
    return Row(name, "bits", "halfstep_integer.py", OWN, ("--recipe", recipe, "--simulate", *more), note, runs, also)


def _threshold(threshold: str, width: str) -> Row:
    name = threshold.rstrip("_0123456789") if threshold.startswith("mean_std") else threshold
    options = ("--recipe", "int8", *types(width), "--range", json.dumps({name: THRESHOLDS[threshold]}))
    runs, also = _everywhere(SMALL, SAMPLES[:1]), _everywhere(LARGE, SAMPLES[:1])
    return Row(threshold_row(threshold, width), "thresholds", "halfstep_integer.py", OWN, options, "", runs, also)


def _aidge(name: str, options: str, note: str, networks: tuple[str, ...] = ("resnet20",)) -> Row:
    runs = _everywhere(networks, SAMPLES[:1])
    also = tuple(place for place in _everywhere(NETWORKS, SAMPLES) if place not in runs)
    return Row(f"aidge_{name}", "aidge", "aidge_ptq.py", AIDGE, tuple(options.split()), note, runs, also)


_INT8 = "--weights int8 --activations int8 --integers"
_MEANS = "nearest, batch norms re-estimated, biases corrected"
ROWS = {
    row.name: row
    for row in (
        Row(
            FLOAT,
            FLOAT,
            "float_rounding.py",
            OWN,
            ("--method", "float", "--setting", next(iter(SETTINGS))),
            "the trained network",
            _everywhere(NETWORKS, SAMPLES[:1]),
        ),
        *(_mode(recipe, mode) for recipe in ("normalize", "int8") for mode in MODES),
        _bits("normalize_kl", "normalize-kl", "W8A8: recipe normalize-kl"),
        _bits("normalize_w4a8", "normalize-w4a4", f"W4A8: recipe normalize-w4a4 at uint8; {_MEANS}", types("w4a8"), SAMPLES[1:]),
        _bits("normalize_w4a4", "normalize-w4a4", f"W4A4: recipe normalize-w4a4; {_MEANS}"),
        _bits("lattice_w4a8", "lattice-w4a8", "W4A8: recipe lattice-w4a8", (), SAMPLES[1:]),
        _bits("lattice_w4a4", "lattice-w4a4", "W4A4: recipe lattice-w4a4; inputs and operands of additions 8 bits"),
        *(_threshold(threshold, width) for width in ("w8a8", "w4a8", "w8a4") for threshold in THRESHOLDS),
        _aidge("w8a8_tensor", _INT8, "W8A8 per tensor, integer kernels", SMALL),
        _aidge("w8a8_channel", f"{_INT8} --per-channel", "W8A8 per channel, integer kernels", SMALL),
        _aidge("w8a8_tensor_shift", f"{_INT8} --single-shift", "W8A8 per tensor, single shift", SMALL),
        _aidge("w8a8_channel_shift", f"{_INT8} --single-shift --per-channel", "W8A8 per channel, single shift"),
        _aidge("w4a8_tensor", "--weights int4 --activations int8", "W4A8 per tensor; mixed widths break its scales"),
        _aidge("w4a8_channel", "--weights int4 --activations int8 --per-channel", "W4A8 per channel; the same"),
        _aidge("w4a4_tensor", "--weights int4 --activations int4", "W4A4 per tensor", SMALL),
        _aidge("w4a4_channel", "--weights int4 --activations int4 --per-channel", "W4A4 per channel", SMALL),
        _aidge("w4a4_channel_kl", "--weights int4 --activations int4 --per-channel --clipping KL", "W4A4 per channel, KL"),
        _aidge("w4a4_channel_plain", "--weights int4 --activations int4 --per-channel --no-equalize", "W4A4 per channel, no equalization"),
    )
}
SECTIONS = ("modes", "bits", "thresholds", "aidge")
QUICK_ROWS = (FLOAT, "normalize_fixed_point_32", "normalize_single_shift", "normalize_w4a4", "mse_w8a4", "aidge_w4a4_channel")
