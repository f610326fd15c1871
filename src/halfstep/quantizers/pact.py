"""PACT: activations are clipped at a learned point; only what is clipped moves it.

    x̂ = s round(clip(x, 0, a) / s),   s = a / p        dx̂/dx = 1 inside, 0 beyond        dx̂/da = 0 inside, 1 beyond

a: clipping point, p: highest code counted from the zero point. Choi et al. 2018, "PACT: parameterized clipping activation for quantized
neural networks", equations 1 to 3. Started as in the paper, a = ``clip``.

Deviations: there is no penalty on a. The parameter is ln a (`learned.py`). Where the grid has codes below 0 there is a lower clipping point
too, n s, moved by the same parameter: on a weight's grid it is -a or, with one code more, -a (p + 1) / p.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.calibrated import AbstractCalibratedQuantizer, Ends


@final
@QUANTIZERS.register("pact")
class PactQuantizer(AbstractCalibratedQuantizer):
    """Learned clipping point. clip: where it starts, if not where calibration put it."""

    learned_ends: ClassVar[Ends] = "all"

    clip: Annotated[float, Field(gt=0)] = 8.0

    def start(self, x: Tensor) -> None:
        """A = ``clip``, whatever the values are."""
        assert self.clipping_point is not None
        self.clipping_point.set(torch.full(self.shape(), self.clip))
