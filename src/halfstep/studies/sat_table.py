"""SAT with 8 to 1 bits for the weights and 8 to 2 for the activations.

Jin, Yang and Liao 2019, "Towards efficient training for neural network quantization". The figures beside ours are those of N2D2's
documentation (docs/quant/qat): integers alone, MobileNetV1 of four widths and ResNet-18 on ImageNet, twice 150 epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from halfstep.studies.abstract import STUDIES
from halfstep.studies.trained_table import AbstractTrainedTable

_BITS = ((8, 8), (4, 8), (2, 8), (1, 8), (4, 4), (3, 3), (2, 2))
_PUBLISHED = {
    "mobilenet_v1_1.0": {"8/8": 72.6, "4/8": 71.5, "2/8": 65.0, "1/8": 60.15, "4/4": 70.9, "3/3": 64.6, "2/2": 57.0},
    "mobilenet_v1_0.75": {"8/8": 69.0, "4/8": 69.0, "2/8": 58.7, "1/8": 53.8},
    "mobilenet_v1_0.5": {"8/8": 64.7, "4/8": 63.4, "2/8": 51.7, "1/8": 44.0, "4/4": 63.7, "3/3": 54.8, "2/2": 42.8},
    "mobilenet_v1_0.25": {"8/8": 55.01, "4/8": 50.02, "4/4": 48.8},
}
_RESNET = {"8/8": 70.8, "1/8": 67.6, "4/4": 70.0}


@final
@STUDIES.register("sat-table")
class SatTable(AbstractTrainedTable):
    """Training with scale-adjusted weights, W/A 8/8, 4/8, 2/8, 1/8, 4/4, 3/3 and 2/2, simulated and as integers."""

    title: ClassVar[str] = "SAT: training with scale-adjusted weights"
    finding: ClassVar[str] = (
        "As integers alone, and against 8/8, MobileNetV1 loses a point with 4-bit weights, 8 with 2 bits and 12 with 1; with as few bits "
        "for the activations it loses 2 points at 4 bits and 16 at 2 (N2D2, ImageNet, twice 150 epochs)."
    )
    how: ClassVar[str] = (
        "The recipes sat-w8a8 to sat-w2a2: training starts from the float weights on calibrated grids and learns from the float network's "
        "answers; one scale a channel, levels that hold 0 but for 2-bit weights, whose four are stored in 3 bits, and 1-bit ones, whose -1 "
        "and 1 are stored in 2. CPU seconds of a row that was interrupted are those since it went on."
    )
    networks: ClassVar[tuple[str, ...]] = ("mobilenet_v1_1.0", "mobilenet_v1_0.75")
    recipes: ClassVar[Mapping[str, str]] = {f"{weights}/{activations}": f"sat-w{weights}a{activations}" for weights, activations in _BITS}

    def published(self, network: str) -> Mapping[str, float]:
        """Of MobileNetV1 of the same width; of ResNet-18, for residual networks."""
        return _PUBLISHED.get(network, _RESNET if network.startswith("resnet") else {})
