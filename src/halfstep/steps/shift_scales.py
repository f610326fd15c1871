"""Weight scales for which a shift is exact, chosen before the weights are rounded.

    S[c] = s_x s_w[c] / s_y = m 2^-p        so        s_w[c] = m 2^-p s_y / s_x,        m in {1} or {1 + 2^-d, d = 0 .. 15}

s_x, s_w, s_y: scales of a layer's input, weight and output; S: what the accumulator is multiplied by in the integer program. With m = 1
that is a single shift, otherwise a sum of two (`integer/requantization.py`). Of the two neighbours of the scale that the range estimator
chose, the one with the smaller squared error of the rounded weight is taken, channel by channel; the rounding is then solved on it, and may
not refit it. Where the layer's result leaves the network without a grid, its channels are made powers of two apart from the largest
instead.

After N2D2's single and double shift ("Post-training quantization", CEA List), where the weights are multiplied by what the shift is off,
which costs up to a bit of their resolution, and a ratio above 1 has no form at all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import WeightedLayer, clip_behind
from halfstep.grid import Grid
from halfstep.quantizers import UniformQuantizer
from halfstep.steps.scheme import Requantization

_MANTISSAS: dict[Requantization, tuple[float, ...]] = {
    "single_shift": (1.0, 2.0),
    "double_shift": (1.0, *(1 + 2.0**-distance for distance in range(15, -1, -1))),
}


def has_shifts(mode: Requantization, grid: Grid | None = None) -> bool:
    """Whether scales (of a weight on ``grid``) must be sums of at most two powers of two apart; those of groups never are."""
    return mode in _MANTISSAS and (grid is None or grid.group_size is None)


def shift_scale(graph: GraphModule, layer: WeightedLayer, scale: Tensor, least: Tensor, mode: Requantization) -> Tensor:
    """``scale`` [C] of the layer's weight, moved to the better neighbour that ``mode`` can stand for and that is at least ``least``."""
    quantizer, source = quantizer_of(layer.weight), quantizer_of(layer.input)
    assert isinstance(quantizer, UniformQuantizer)
    result = _result_quantizer(layer.node)
    if isinstance(source, UniformQuantizer) and result is not None:
        unit = result.scale.double() / source.scale.double()
    else:
        unit, mode = scale.double().max(), "single_shift"
    weight = attribute(graph, behind_quantizer(layer.weight)).double()
    grid = quantizer.grid
    rows = weight.view(1, -1) if grid.channel_axis is None else weight.movedim(grid.channel_axis, 0).flatten(1)
    zero_point = quantizer.zero_point.double().reshape(-1, 1)
    candidates = [candidate.to(scale.dtype) for candidate in _neighbours(scale.double() / unit, least.double() / unit, mode, unit)]
    errors = []
    for candidate in candidates:
        step = candidate.double()[:, None]
        codes = torch.clamp(torch.round(rows / step) + zero_point, grid.minimum, grid.maximum)
        errors.append(((codes - zero_point) * step - rows).square().sum(1))
    return torch.where(errors[0] <= errors[1], candidates[0], candidates[1])


def raised(scale: Tensor, least: Tensor) -> Tensor:
    """``scale`` doubled until it is at least ``least``: what a shift can stand for stays so."""
    times = torch.ceil(torch.log2((least.double() / scale.double()).clamp(min=1.0)))
    return (scale.double() * torch.exp2(times)).to(scale.dtype)


def _neighbours(ratio: Tensor, least: Tensor, mode: Requantization, unit: Tensor) -> tuple[Tensor, Tensor]:
    """The largest scale not above and the smallest one not below ``ratio``, neither below ``least``, in units of ``unit``."""
    mantissas = torch.tensor(_MANTISSAS[mode], dtype=torch.float64)
    mantissa, exponent = torch.frexp(ratio)  # ratio = (2 mantissa) 2^(exponent - 1), 1 <= 2 mantissa < 2
    above = torch.searchsorted(mantissas, 2 * mantissa, right=True).clamp(max=len(mantissas) - 1)
    power = torch.exp2(exponent.double() - 1)
    low, high = mantissas[above - 1] * power, mantissas[above] * power
    return tuple(raised(bound, least) * unit for bound in (low, high))  # type: ignore[return-value]


def _result_quantizer(node: Node) -> UniformQuantizer | None:
    """The quantizer of what leaves a layer, behind a fused clip."""
    last = clip_behind(node) or node
    found = (quantizer_of(user) for user in last.users)
    return next((quantizer for quantizer in found if isinstance(quantizer, UniformQuantizer)), None)
