"""Masks in front of a softmax: part of the softmax, not sums of activations.

A mask is added to the scores with -1e9, the least float or -infinity where nothing is to be seen. On a grid of its own its zeros and its
-1e9 would share 256 codes, and the sum's grid would have no room for the scores. The scores have their grid where their product leaves
them; what lies between it and the softmax (a scale, masks, biases of positions) is computed with the softmax.
"""

from __future__ import annotations

from torch.fx import Node

from halfstep.graph.names import operator_name
from halfstep.graph.operators import Role, role_of

SOFTMAX = ("softmax", "_softmax", "_safe_softmax")
_PRODUCT_NAMES = "linear matmul bmm mm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"
_PRODUCTS = frozenset(_PRODUCT_NAMES.split())
_NAMES_ON_THE_WAY = "add mul div where masked_fill view reshape unsqueeze squeeze flatten unflatten contiguous clone alias dropout"
_ON_THE_WAY = frozenset(_NAMES_ON_THE_WAY.split())


def is_mask_sum(node: Node) -> bool:
    """Whether ``node`` adds a mask, or a bias of positions, to scores on their way to a softmax and nowhere else."""
    if operator_name(node) != "add" or not _ends_in_softmax(node):
        return False
    operands = [x for x in node.args[:2] if isinstance(x, Node)]
    return len(operands) == 2 and any(is_mask(operand) for operand in operands)


def is_mask(node: Node) -> bool:
    """Whether ``node`` is the same for every input, or computed from an input by no product: truth values, padding, positions."""
    seen, waiting = {node}, [node]
    has_input = has_product = False
    while waiting:
        current = waiting.pop()
        has_input = has_input or (current.op == "placeholder")
        has_product = has_product or (current.op == "call_function" and operator_name(current) in _PRODUCTS)
        waiting += [x for x in current.all_input_nodes if x not in seen and operator_name(x) not in ("sym_size", "size")]
        seen.update(current.all_input_nodes)
    return not (has_input and has_product)


def is_probability(node: Node) -> bool:
    """Whether ``node`` is a softmax, or one behind a dropout or behind operators that move values."""
    source: object = node
    while isinstance(source, Node) and source.op.startswith("call") and role_of(source) is Role.PASS:
        source = source.args[0]
    return isinstance(source, Node) and _is_softmax(source)


def _ends_in_softmax(node: Node) -> bool:
    users = list(node.users)
    return bool(users) and all(_is_softmax(user) or (_passes(user) and _ends_in_softmax(user)) for user in users)


def _is_softmax(node: Node) -> bool:
    return node.op == "call_function" and operator_name(node) in SOFTMAX


def _passes(node: Node) -> bool:
    return node.op == "call_function" and operator_name(node) in _ON_THE_WAY
