"""LSQ at 8, 4, 3 and 2 bits for weights and activations.

Esser et al. 2020, "Learned step size quantization", table 1: ResNet-18 (pre-activation) on ImageNet, whose float network has 70.5 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from halfstep.studies.abstract import STUDIES
from halfstep.studies.trained_table import AbstractTrainedTable


@final
@STUDIES.register("lsq-table")
class LsqTable(AbstractTrainedTable):
    """Training with learned steps, W/A 8/8, 4/4, 3/3 and 2/2, simulated and as integers."""

    title: ClassVar[str] = "LSQ: training with learned steps"
    finding: ClassVar[str] = (
        "Learned steps keep the float accuracy with 4 bits for weights and activations and lose little with 3 (ResNet-18 on ImageNet, 90 "
        "epochs)."
    )
    how: ClassVar[str] = (
        "The recipes lsq-w8a8 to lsq-w2a2: training starts from post-training quantization and learns from the float network's answers. "
        "CPU seconds of a row that was interrupted are those since it went on."
    )
    networks: ClassVar[tuple[str, ...]] = ("resnet20", "mobilenet_v1_1.0")
    recipes: ClassVar[Mapping[str, str]] = {f"{bits}/{bits}": f"lsq-w{bits}a{bits}" for bits in (8, 4, 3, 2)}

    def published(self, network: str) -> Mapping[str, float]:
        """Of ResNet-18, for residual networks."""
        return {"4/4": 71.1, "3/3": 70.2, "2/2": 67.6} if network.startswith("resnet") else {}
