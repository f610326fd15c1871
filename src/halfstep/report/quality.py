"""How far the quantized network's outputs are from the float network's, on inputs that need no labels.

    SQNR        10 log10( sum y^2 / sum (y - y')^2 )          over all values and inputs, in dB
    cosine      mean over inputs of   <y, y'> / (|y| |y'|)
    agreement   share of rows whose largest entry stands at the same place
    KL          mean over rows of   sum_k y_k log(y_k / y'_k)

y, y': an output of the float and of the quantized network. Rows run along the last axis. Agreement is given for scores, [N, K] with K > 1,
and for distributions (no entry below 0, the sum of a row 1), KL for distributions alone; entries of y' count as 2^-16 at least, half a
code of a distribution on 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from halfstep.graph.run import run
from halfstep.report.measure import sqnr_db
from halfstep.report.record import OutputQuality, Quality

_BATCH = 16
_SUM = 1e-3  # how far a row of a distribution may be from 1
_LEAST = 2.0**-16


def measure_quality(float_graph: GraphModule, graph: GraphModule, inputs: tuple[Tensor, ...], is_held_out: bool) -> Quality | None:
    """Of every floating output; None where the network has none. is_held_out: whether ``inputs`` were not calibrated on."""
    sums: list[_Sums] = []
    for part in zip(*(x.split(_BATCH) for x in inputs), strict=True):
        pairs = zip(_floating(run(float_graph, part)), _floating(run(graph, part)), strict=True)
        for index, (exact, quantized) in enumerate(pairs):
            if index == len(sums):
                sums.append(_Sums())
            sums[index].add(exact.detach(), quantized.detach())
    outputs = tuple(part.figures(_name(index)) for index, part in enumerate(sums))
    return Quality(outputs, len(inputs[0]), is_held_out) if outputs else None


@dataclass
class _Sums:
    """Over the inputs so far."""

    signal: float = 0.0
    noise: float = 0.0
    cosines: float = 0.0
    num_inputs: int = 0
    agreeing: int = 0
    divergence: float = 0.0
    num_rows: int = 0
    has_scores: bool = True
    is_distribution: bool = True

    def add(self, exact: Tensor, quantized: Tensor) -> None:
        """Outputs of the two networks for some inputs."""
        exact, quantized = exact.double(), quantized.double()
        self.signal += float(exact.square().sum())
        self.noise += float((exact - quantized).square().sum())
        if not exact.ndim:
            return
        rows, others = exact.flatten(1) if exact.ndim > 1 else exact[:, None], quantized.reshape(len(exact), -1)
        self.cosines += float(torch.cosine_similarity(rows, others, 1).sum())
        self.num_inputs += len(exact)
        self.has_scores &= exact.ndim == 2 and exact.shape[1] > 1
        self.is_distribution &= exact.ndim > 1 and exact.shape[-1] > 1 and _is_distribution(exact)
        if exact.ndim < 2 or not (self.has_scores or self.is_distribution):
            return
        self.agreeing += int((exact.argmax(-1) == quantized.argmax(-1)).sum())
        self.num_rows += exact[..., 0].numel()
        if self.is_distribution:
            self.divergence += float(torch.special.entr(exact).sum().neg() - torch.xlogy(exact, quantized.clamp(min=_LEAST)).sum())

    def figures(self, name: str) -> OutputQuality:
        """What the sums say."""
        has_rows = self.num_rows > 0 and (self.has_scores or self.is_distribution)
        return OutputQuality(
            name,
            sqnr_db(self.signal, self.noise),
            self.cosines / self.num_inputs if self.num_inputs else None,
            self.agreeing / self.num_rows if has_rows else None,
            max(0.0, self.divergence / self.num_rows) if has_rows and self.is_distribution else None,
        )


def _is_distribution(x: Tensor) -> bool:
    return bool((x >= 0).all()) and bool(((x.sum(-1) - 1).abs() < _SUM).all())


def _floating(outputs: object) -> list[Tensor]:
    leaves: Iterable[object] = pytree.tree_leaves(outputs)
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point() and x.numel()]


def _name(index: int) -> str:
    """As exported files call it."""
    return "output" if index == 0 else f"output_{index}"
