"""The rules of `place_quantizers` that depend on the target (`halfstep.targets`).

**Joined.** Operands that nothing but one concatenation reads take its quantizer: then it only moves codes, and their values are rounded
once instead of twice. All of them or none, and only where the same clip, or none, is fused into each: a ReLU whose grid also holds negative
values would have to be computed.

**Accumulated.** In x + layer(y) a runtime can add x to the accumulator of the layer, before it is rounded. The layer then has no grid of
its own; the other addend does.

**Unread.** A layer that only functions in float read can leave its accumulator as floats where the runtime's kernels can.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch.fx import GraphModule, Node

from halfstep.graph.names import operator_name
from halfstep.graph.operators import CONCATENATIONS, Role, num_tensors, role_of
from halfstep.grid import Grid


def join_concatenations(graph: GraphModule, owners: dict[Node, Node], grids: Mapping[Node, Grid | None]) -> dict[Node, Node]:
    """``owners`` with the concatenation in place of every operand it can share its quantizer with; from the last one back, for chains."""
    joined = dict(owners)
    for node in reversed(graph.graph.nodes):
        if operator_name(node) not in CONCATENATIONS or node not in joined:
            continue
        operands = [x for x in node.all_input_nodes if x.op != "get_attr"]
        if _can_join(node, operands, owners, grids):
            joined |= {moved: joined[node] for operand in operands for moved in _moved(operand, owners)}
    return joined


def _can_join(node: Node, operands: list[Node], owners: Mapping[Node, Node], grids: Mapping[Node, Grid | None]) -> bool:
    """Whether every operand belongs to this concatenation alone, has a grid like it, and is clipped like the others."""
    if owners[node] is not node or len(operands) != num_tensors(node) or any(operand not in owners for operand in operands):
        return False
    sources = [_moved(operand, owners)[-1] for operand in operands]
    is_alone = all(set(x.users) <= {node, *_moved(operand, owners)} for operand in operands for x in _moved(operand, owners))
    is_computed = all(source.op != "placeholder" and owners[source] is source for source in sources)
    return is_alone and is_computed and all(grids[s] == grids[node] for s in sources) and len({_clip(s) for s in sources}) == 1


def _moved(operand: Node, owners: Mapping[Node, Node]) -> list[Node]:
    """``operand`` and what it was before it was moved about, back to the owner of its grid."""
    chain = [operand]
    while owners.get(operand) is not operand and role_of(operand) is Role.PASS:
        operand = operand.all_input_nodes[0]
        chain.append(operand)
    return chain


def _clip(source: Node) -> tuple[object, ...]:
    """What clip ``source`` is, and its bounds; empty for any other operator."""
    if role_of(source) is not Role.CLIP:
        return ()
    name = operator_name(source)
    return (name, *(source.args[1:] or source.kwargs.values()))


def accumulated_addend(node: Node) -> Node | None:
    """The operand of an addition that a layer computes for it alone; the later of two."""
    if operator_name(node) != "add" or num_tensors(node) != 2:
        return None
    own = [x for x in node.all_input_nodes if role_of(x) is Role.WEIGHTED and len(x.users) == 1 and x.op == "call_function"]
    return own[-1] if own and len(node.all_input_nodes) == 2 else None


def is_read_as_integers(node: Node, asking: Collection[Node]) -> bool:
    """Whether an integer operator reads ``node``, possibly behind operators that clip, move or average it."""
    return any(
        user in asking or (user.op.startswith("call") and role_of(user) in _TRANSPARENT and is_read_as_integers(user, asking))
        for user in node.users
    )


_TRANSPARENT = (Role.CLIP, Role.PASS, Role.AVERAGE)
