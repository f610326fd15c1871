"""From what arrives at a layer to the problem its rounding has to solve.

    gram = E[x̂ x̂ᵀ]     cross = E[x x̂ᵀ] = gram + E[(x - x̂) x̂ᵀ]     mean = E[x̂]     float_mean = E[x]

x, x̂: patches of the layer's input in the float network and behind the quantized layers. The averages run over all calibration inputs and
``num_positions`` output positions of each (more where the input of an output is long, so that there are `PATCHES_PER_ENTRY` for each of its
entries), drawn anew for every part: patches of neighbouring positions say nearly the same. Products are taken group by group in float32 and
added exactly (`parallel.ExactSum`), so that any number of processes finds the same moments.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor
from torch.fx import Node

from halfstep import parallel
from halfstep.errors import CalibrationError
from halfstep.graph.operators import WeightedLayer, clip_behind
from halfstep.rounding import LayerSamples, LinearOperator, Moments, is_many
from halfstep.steps.shelf import Pair
from halfstep.steps.walk import Walk

PATCHES_PER_ENTRY = 24  # with 8, MobileNetV2 at 4 bits loses two points more


def gather_moments(
    walk: Walk, layer: WeightedLayer, operator: LinearOperator, weight: Tensor, num_positions: int, generator: torch.Generator
) -> Moments:
    """The moments at ``layer``; `CalibrationError` where its input is not finite."""
    seed = int(torch.randint(2**62, (), generator=generator))
    wanted = max(num_positions, math.ceil(PATCHES_PER_ENTRY * operator.rows(weight).shape[2] / walk.num_samples))

    def seen() -> Iterator[_Seen]:
        for parts in _groups(walk, layer.input):
            patches: list[tuple[Tensor, Tensor]] = []
            begin, num_samples = -1, 0
            for index, pair in parts:
                drawn = torch.Generator().manual_seed((seed + index) % 2**63)
                positions = _positions(operator.num_positions(pair.float, weight), pair.float, wanted, drawn)
                patches.append(_patches(operator, pair, weight, positions))
                begin, num_samples = index if begin < 0 else begin, num_samples + len(pair.float)
            yield _Seen(patches, num_samples, begin)

    sums: dict[int, _Sums] = {}
    for found in parallel.each(partial(_products, walk.num_samples), seen()):
        for every, products in found.items():
            sums.setdefault(every, _Sums()).add(products)
        if not sums[1].is_finite:
            raise CalibrationError(f"The input of '{layer.name}' is NaN or infinite on the calibration data: the network is broken there.")
    return _nested([part.moments() for part in sums.values()])


def _nested(levels: list[Moments]) -> Moments:
    """The first with the second as its half, and so on; those alone that leave something to hold out."""
    whole, *rest = levels
    if not rest or rest[0].num_patches == whole.num_patches:
        return whole
    return dataclasses.replace(whole, half=_nested(rest))


def _groups(walk: Walk, node: Node) -> Iterator[Iterator[tuple[int, Pair]]]:
    """The values of ``node`` with the indices of their parts, group by group; never more than one part of them is opened."""
    parts = zip(walk.groups, walk.part_indices, walk.pairs(node), strict=True)
    for _, group in groupby(parts, key=lambda part: part[0]):
        yield ((index, pair) for _, index, pair in group)


def _joined(patches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The patches of all parts of a group, each [G, P, d]; one object where they are equal in every part."""
    quantized = torch.cat([part for part, _ in patches], 1)
    if all(part is exact for part, exact in patches):
        return quantized, quantized
    return quantized, torch.cat([exact for _, exact in patches], 1)


def _one_in(every: int, patches: Tensor, num_samples: int, first: int) -> Tensor:
    """Of patches [G, P, d], as many of each sample, those of one sample in ``every`` from ``first`` on."""
    if every == 1:
        return patches
    chosen: Tensor = patches.unflatten(1, (num_samples, -1))[:, first::every]
    return chosen.flatten(1, 2)


def _positions(available: int, x: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
    """[N, P] output positions, different ones for each sample."""
    if available <= wanted:
        return torch.arange(available, device=x.device).expand(len(x), -1)
    return torch.rand(len(x), available, generator=generator).topk(wanted).indices.to(x.device)


def _patches(operator: LinearOperator, pair: Pair, weight: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(x̂, x), each [G, P, d]; one object where they are equal."""
    quantized = operator.patches(pair.quantized, weight, positions)
    return quantized, quantized if pair.float is pair.quantized else operator.patches(pair.float, weight, positions)


@dataclass(frozen=True)
class _Seen:
    """patches: (x̂, x) of every part of a group of samples. begin: the number of the first of them."""

    patches: list[tuple[Tensor, Tensor]]
    num_samples: int
    begin: int


@dataclass(frozen=True)
class _Products:
    """Sums over the patches of a group."""

    gram: Tensor
    drift: Tensor
    mean: Tensor
    float_mean: Tensor
    count: int


def _products(num_samples: int, seen: _Seen) -> dict[int, _Products]:
    """Of a group of all ``num_samples``: 1, of all of it; 2, of every second sample; 4, of every fourth, where half of them are few."""
    quantized, exact = _joined(seen.patches)
    has_many = is_many(quantized.shape[1] // seen.num_samples * num_samples, quantized.shape[2])  # nothing is held out from the halves then
    return {
        every: _products_of(*(_one_in(every, part, seen.num_samples, -seen.begin % every) for part in (quantized, exact)))
        for every in ((1, 2) if has_many else (1, 2, 4))
    }


def _products_of(quantized: Tensor, exact: Tensor) -> _Products:
    """Of patches [G, P, d]."""
    gram, drift = quantized.transpose(1, 2) @ quantized, (exact - quantized).transpose(1, 2) @ quantized
    ones = quantized.new_ones(1, quantized.shape[1])
    return _Products(gram, drift, (ones @ quantized)[:, 0], (ones @ exact)[:, 0], quantized.shape[1])


class _Sums:
    """The sums the moments are made of."""

    def __init__(self) -> None:
        self._gram, self._drift, self._mean, self._float_mean = (parallel.ExactSum() for _ in range(4))
        self._largest: float | None = None
        self._count = 0
        self.is_finite = True

    def add(self, products: _Products) -> None:
        """Those of one more group."""
        if self._largest is None:  # of the very first batch, whoever has it
            self._largest = parallel.collect(float(products.gram.abs().max()))[0]
        self.is_finite = bool(torch.isfinite(products.gram).all() and torch.isfinite(products.drift).all())
        if not self.is_finite:
            return  # integers cannot hold it
        self._gram.add(products.gram, self._largest)
        self._drift.add(products.drift, self._largest)
        scale = max(self._largest, self._largest**0.5)
        self._mean.add(products.mean, scale)
        self._float_mean.add(products.float_mean, scale)
        self._count += products.count

    def moments(self) -> Moments:
        """Over all batches of all processes."""
        count = sum(parallel.collect(self._count))
        gram, drift, mean, float_mean = (part.total() / count for part in (self._gram, self._drift, self._mean, self._float_mean))
        gram = (gram + gram.transpose(1, 2)) / 2
        return Moments(gram, gram + drift, mean, float_mean, count)


def gather_samples(walk: Walk, layer: WeightedLayer, operator: LinearOperator, weight: Tensor, bias: Tensor | None) -> LayerSamples:
    """All inputs of ``layer`` and what it returns in the float network."""
    pairs = list(walk.pairs(layer.input))
    with torch.no_grad():
        outputs = torch.cat([operator(pair.float, weight, bias) for pair in pairs])
    exact, quantized = (torch.cat([getattr(pair, side) for pair in pairs]) for side in ("float", "quantized"))
    return LayerSamples(quantized, exact, outputs, activation_behind(layer))


def activation_behind(layer: WeightedLayer) -> Callable[[Tensor], Tensor] | None:
    """The ReLU or clip that alone follows ``layer``, as a function."""
    clip = clip_behind(layer.node)
    if clip is None:
        return None

    def activation(z: Tensor) -> Tensor:
        found: Tensor = clip.target(z, *clip.args[1:], **clip.kwargs)  # type: ignore[operator]
        return found

    return activation
