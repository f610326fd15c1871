"""Whether a quantized network is good enough to use, in words, and what to try where it is not.

The answers decide where an output is scores of classes or a distribution, else its signal-to-quantization-noise ratio:

             agreement    SQNR
good         99 %         30 dB
usable       95 %         20 dB
doubtful     85 %         10 dB
not usable   less         less
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from halfstep.report.record import OutputQuality, Quality
from halfstep.report.words import fixed, share

GRADES: Final = ("good", "usable", "doubtful", "not usable")
_AGREEMENTS, _RATIOS = (0.99, 0.95, 0.85), (30, 20, 10)
_NUM_NAMED = 3  # layers
_WORTH = 0.05  # of all costs: less is not worth a name
_NEXT: Final = {
    "int8": "int8-balanced",
    "int8-per-tensor": "int8",
    "int8-balanced": "int8-balanced-split",
    "int8-per-tensor-balanced": "int8-balanced",
    "normalize": "int8-balanced",
    "normalize-kl": "int8-balanced",
    "smooth-w8a8": "transformer-int8",
    "dfq": "int8-balanced",
    "dfq-w4a8": "w4a8",
    "aciq-w4a8": "w4a8",
    "adaround-w4a8": "w4a8",
    "lattice-w4a8": "w4a8",
    "w4a8": "int8-balanced",
    "nearest-w4": "lattice-w4",
    "omse-w4": "lattice-w4",
    "ocs-w4": "lattice-w4",
    "normalize-w4a4": "lattice-w4a4",
    "lattice-w4a4": "lsq-w4a4",
    "lattice-w2": "lattice-w3",
    "lattice-w3": "lattice-w4",
    "lattice-w2a8": "lattice-w3a8",
    "lattice-w3a8": "w4a8",
}
"""A recipe -> the one to try next where the first loses too much."""


def grade(output: OutputQuality) -> int:
    """The place in `GRADES`."""
    if output.agreement is not None:
        return sum(output.agreement < least for least in _AGREEMENTS)
    return 0 if output.sqnr_db is None else sum(output.sqnr_db < least for least in _RATIOS)


def worst(quality: Quality) -> OutputQuality:
    """The output that is graded lowest; the first of several."""
    return max(quality.outputs, key=grade)


def quality_sentence(quality: Quality) -> str:
    """ "On 64 inputs that were not calibrated on: the answer of the float network on 98.44 %, 24.1 dB of signal ... Usable." """
    output = worst(quality)
    inputs = "1 input" if quality.num_samples == 1 else f"{quality.num_samples} inputs"
    which = f"{inputs} that {'was' if quality.num_samples == 1 else 'were'} {'not ' if quality.is_held_out else ''}calibrated on"
    whose = f" of '{output.name}', the worst of {len(quality.outputs)} outputs" if len(quality.outputs) > 1 else ""
    answers = [] if output.agreement is None else [f"the answer of the float network on {share(output.agreement)}"]
    ratio = "no difference" if output.sqnr_db is None else f"{fixed(output.sqnr_db)} dB of signal against quantization noise"
    divergence = [] if output.kl is None else [f"a divergence of {output.kl:.2g}"]
    return f"On {which}: {', '.join((*answers, ratio, *divergence))}{whose}. {GRADES[grade(output)].capitalize()}."


def is_poor(quality: Quality) -> bool:
    """Whether it is less than usable."""
    return grade(worst(quality)) > GRADES.index("usable")


def way_out(quality: Quality, costs: Mapping[str, float], recipe: str) -> str:
    """Which layers cost most, and what to try: a note for a network that `is_poor`. costs: of `report.costs`, by layer, largest first."""
    total, output = sum(costs.values()), worst(quality)
    named = [f"'{name}' ({share(cost / total)})" for name, cost in costs.items() if cost > _WORTH * total][:_NUM_NAMED]
    ways = [f"--recipe {_NEXT[recipe]}"] if recipe in _NEXT else []
    if named:
        override = f"{{pattern: {next(iter(costs))}, weights: float, activations: float}}"
        ways.append(f"leave the first of them in float (scheme: overrides: [{override}])")
    sentences = [
        f"The quantized network is {GRADES[grade(output)]}: '{output.name}' keeps little of what the float network says.",
        f"Most of the noise comes from {', '.join(named)}." if named else "",
        f"Try {', or '.join(ways)}." if ways else "",
    ]
    return " ".join(filter(None, sentences))
