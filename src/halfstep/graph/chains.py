"""From one layer with weights to the layers that read what it writes, and where its channels lie in what they read.

    first layer -> ReLU -> max pooling -> flatten -> second layer

A channel of the first layer can be scaled down and scaled up again in the second one if everything between them keeps channels apart and
commutes with a positive factor. These operators do:

operator                                                what becomes of the axis of the channels
ReLU, leaky ReLU, PReLU, clamp at 0, dropout, copies    it stays
max and average pooling, nearest upsampling, padding    it stays, if it is not among the axes they work on
mean, slice, flip, roll                                 it stays or moves up, if it is not among the axes they work on
permute, transpose, unsqueeze, squeeze                  it moves
flatten, view, reshape                                  it stays, or each channel becomes a block of neighbouring columns

A clip at another bound than 0 (ReLU6) commutes only with its bounds scaled too; such operators are listed apart. Where the tensor reaches
anything else (an add, a concat, the network's output), its channels are bound to those of other tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.fx import GraphModule, Node

from halfstep.graph.channels import has_own_parameters
from halfstep.graph.names import operator_name
from halfstep.graph.operators import Role, WeightedLayer, argument, role_of, weighted_layer, weighted_layers


class Place(NamedTuple):
    """Where the channels are: on ``axis``, each as ``block`` neighbouring entries."""

    axis: int
    block: int


@dataclass(frozen=True)
class Reader:
    """A layer that reads the tensor. block: how many of its inputs belong to one channel. passed: the operators on the way to it."""

    layer: WeightedLayer
    block: int
    passed: tuple[Node, ...]


@dataclass(frozen=True)
class Chain:
    """A layer and all layers that read what it writes. obstacle: what else the tensor reaches; None where it reaches layers alone.

    Every layer has parameters of its own, or the chain has an obstacle.
    """

    first: WeightedLayer
    readers: tuple[Reader, ...]
    obstacle: Node | None

    @property
    def bounded(self) -> tuple[Node, ...]:
        """The clips on the way whose bounds are not 0 or infinite, each once."""
        return tuple(dict.fromkeys(node for reader in self.readers for node in reader.passed if _is_bounded_clip(node)))


def chains(graph: GraphModule) -> list[Chain]:
    """One chain for each layer with weights, in the order of computation."""
    return [_chain(layer) for layer in weighted_layers(graph)]


def output_place(layer: WeightedLayer) -> Place:
    """Where the output channels of a layer are."""
    return Place(layer.channel_axis(layer.node), 1)


def clip_bounds(node: Node) -> tuple[float, float]:
    """(low, high) of a CLIP node; infinite where there is no bound."""
    name = operator_name(node)
    if name in ("relu", "relu6"):
        return 0.0, math.inf if name == "relu" else 6.0
    low, high = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
    defaults = (-1.0, 1.0) if name == "hardtanh" else (None, None)
    bounds = argument(node, low, defaults[0]), None if name == "clamp_min" else argument(node, high, defaults[1])
    return tuple(edge if bound is None else float(bound) for bound, edge in zip(bounds, (-math.inf, math.inf), strict=True))  # type: ignore[return-value]


def _is_bounded_clip(node: Node) -> bool:
    return role_of(node) is Role.CLIP and not set(clip_bounds(node)) <= {0.0, -math.inf, math.inf}


def _chain(first: WeightedLayer) -> Chain:
    if not has_own_parameters(first):
        return Chain(first, (), first.node)
    readers: list[Reader] = []
    obstacle = _follow(first.node, output_place(first), (), readers)
    return Chain(first, tuple(readers), obstacle if readers or obstacle is not None else first.node)


def _follow(node: Node, place: Place, passed: tuple[Node, ...], readers: list[Reader]) -> Node | None:
    """Collect the layers that read ``node``; returns the first user that is in the way."""
    for user in node.users:
        layer = weighted_layer(user)
        if layer is not None:
            if not reads_channels(layer, node, place):
                return user
            readers.append(Reader(layer, place.block, passed))
            continue
        behind = moved(user, node, place)
        obstacle = user if behind is None else _follow(user, behind, (*passed, user), readers)
        if obstacle is not None:
            return obstacle
    return None


def reads_channels(layer: WeightedLayer, node: Node, place: Place) -> bool:
    """Whether the channels of ``node`` are the input channels of ``layer``, whose parameters are its own."""
    if layer.input is not node or not has_own_parameters(layer):
        return False
    return place.axis == layer.channel_axis(node) and (layer.num_axes == 0 or place.block == 1)


def moved(node: Node, source: Node, place: Place) -> Place | None:
    """Where the channels of ``source`` are behind ``node``; None where it mixes them or does not commute with a positive factor."""
    if not node.op.startswith("call") or node.args[0] is not source or "shape" not in node.meta:
        return None
    move = _MOVES.get(operator_name(node))
    if move is None or (role_of(node) is Role.FLOAT and operator_name(node) not in _HOMOGENEOUS):
        return None
    return move(node, len(source.meta["shape"]), place)


def _stays(node: Node, rank: int, place: Place) -> Place:
    return place


def _pooled(node: Node, rank: int, place: Place) -> Place | None:
    num_axes = int(operator_name(node)[-2])
    return place if place.axis < rank - num_axes else None


def _padded(node: Node, rank: int, place: Place) -> Place | None:
    padding: Any = node.args[1]
    return place if place.axis < rank - len(padding) // 2 else None


def _averaged(node: Node, rank: int, place: Place) -> Place | None:
    axes = argument(node, "dim", None)
    if axes is None:
        return None
    axes = {axis % rank for axis in axes}
    if place.axis in axes:
        return None
    return place if argument(node, "keepdim", False) else Place(place.axis - sum(axis < place.axis for axis in axes), place.block)


def _along(option: str) -> Callable[[Node, int, Place], Place | None]:
    """Operators that work on the axes given by ``option`` alone."""

    def move(node: Node, rank: int, place: Place) -> Place | None:
        axes = argument(node, option, 0)
        axes = [axes] if isinstance(axes, int) else list(axes)
        return None if not axes or place.axis in {axis % rank for axis in axes} else place

    return move


def _permuted(node: Node, rank: int, place: Place) -> Place:
    order = [axis % rank for axis in argument(node, "dims", None)]
    return Place(order.index(place.axis), place.block)


def _transposed(node: Node, rank: int, place: Place) -> Place:
    first, second = argument(node, "dim0", 0) % rank, argument(node, "dim1", 1) % rank
    return Place({first: second, second: first}.get(place.axis, place.axis), place.block)


def _unsqueezed(node: Node, rank: int, place: Place) -> Place:
    return Place(place.axis + (argument(node, "dim", 0) % (rank + 1) <= place.axis), place.block)


def _squeezed(node: Node, rank: int, place: Place) -> Place | None:
    axes = argument(node, "dim", None)
    axes = range(rank) if axes is None else [axes] if isinstance(axes, int) else axes
    axes = {axis % rank for axis in axes}
    shape = node.args[0].meta["shape"]  # type: ignore[union-attr]
    if place.axis in axes and shape[place.axis] == 1:
        return None
    return Place(place.axis - sum(axis < place.axis and shape[axis] == 1 for axis in axes), place.block)


def _reshaped(node: Node, rank: int, place: Place) -> Place | None:
    """All axes up to the channels stay as they are, or the channels and all axes behind them become one."""
    old, new = node.args[0].meta["shape"], node.meta["shape"]  # type: ignore[union-attr]
    num_values = [math.prod(size for size in shape if size is not None) for shape in (old, new)]
    if old[: place.axis] != new[: place.axis] or len(new) <= place.axis or num_values[0] != num_values[1]:
        return None
    if new[place.axis] == old[place.axis]:
        return place
    behind = old[place.axis + 1 :]
    if len(new) == place.axis + 1 and None not in behind:
        return Place(place.axis, place.block * math.prod(behind))
    return None


_HOMOGENEOUS = ("leaky_relu", "prelu")
_MOVES: dict[str, Callable[[Node, int, Place], Place | None]] = {
    **dict.fromkeys(("relu", "relu6", "hardtanh", "clamp", "clamp_min", *_HOMOGENEOUS), _stays),
    **dict.fromkeys(("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "dropout", "clone", "contiguous", "alias", "detach"), _stays),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"), _pooled),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _pooled),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"), _pooled),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    "mean": _averaged,
    "slice": _along("dim"),
    "flip": _along("dims"),
    "roll": _along("dims"),
    "permute": _permuted,
    "transpose": _transposed,
    "unsqueeze": _unsqueezed,
    "squeeze": _squeezed,
    **dict.fromkeys(("flatten", "view", "reshape"), _reshaped),
}
