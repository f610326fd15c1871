"""Where each tensor of a network stands: what reads it decides which entries of the scheme speak of it."""

from __future__ import annotations

from collections.abc import Iterator

from torch.fx import GraphModule, Node

from halfstep.graph.masking import is_mask_sum, is_probability
from halfstep.graph.names import operator_name
from halfstep.graph.operators import NORMS, Role, clip_behind, num_tensors, role_of, weighted_layers
from halfstep.steps.scheme import Place


def places_of(graph: GraphModule) -> dict[Node, Place]:
    """The place of every node's output: a clip that is fused into an operator stands for that operator."""
    layers = [layer.node for layer in weighted_layers(graph)]
    places: dict[Node, Place] = {}
    for node in graph.graph.nodes:
        clip = clip_behind(node)
        is_first, is_last = node in layers[:1], node in layers[-1:]
        fused = None if clip is None else str(clip.meta["name"])
        end = clip or node  # what others read
        place = Place(
            str(node.meta["name"]), is_first, is_last, fused, node.op == "placeholder", _is_addend(end), _is_shortcut(end),
            _is_norm_input(end), is_probability(node), any(reader in layers[-1:] for reader in _readers(end)),
        )  # fmt: skip
        places.setdefault(node, place)
        if clip is not None:
            places[clip] = place
    return places


def _is_addend(node: Node) -> bool:
    """Whether what leaves ``node``, as it is or moved, goes into additions of tensors and nowhere else.

    A mask's sum is none, and rows of a table are no addends: they are stored, not accumulated.
    """
    readers = list(_readers(node))
    return bool(readers) and all(_adds_tensors(reader) for reader in readers) and operator_name(node) != "embedding"


def _is_shortcut(node: Node) -> bool:
    """Whether an addition of tensors reads what leaves ``node``, as it is or moved, and something that multiplies it does too."""
    readers = list(_readers(node))
    return any(_adds_tensors(reader) for reader in readers) and any(multiplies(reader) for reader in readers)


def _adds_tensors(node: Node) -> bool:
    return operator_name(node) == "add" and num_tensors(node) == 2 and not is_mask_sum(node)


def multiplies(node: Node) -> bool:
    """Whether it is a layer with weights or a product."""
    return node.op == "call_function" and role_of(node) in (Role.WEIGHTED, Role.PRODUCT)


def _is_norm_input(node: Node) -> bool:
    """Whether a norm reads what leaves ``node``, as it is or moved, and no product does: its codes may then be wide."""
    readers = list(_readers(node))
    is_read = any(operator_name(reader) in NORMS for reader in readers)
    return is_read and not any(multiplies(reader) for reader in readers)


def _readers(node: Node) -> Iterator[Node]:
    """The operators that compute with what leaves ``node``, behind whatever moves it."""
    for user in node.users:
        if user.op.startswith("call") and role_of(user) is Role.PASS:
            yield from _readers(user)
        else:
            yield user
