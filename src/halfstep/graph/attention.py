"""Attention as one operator, written out in the products and the softmax it consists of, so that all of them can be integers.

    Y = softmax(scale Q K^T + mask) V          scale = 1 / sqrt(size of a head), unless given

Q [..., L, E], K [..., S, E], V [..., S, E_v]. mask: added as it is where it holds numbers; where it holds truth values, scores whose
entry is False become the least float32, as do later positions where ``is_causal`` is set. K and V of fewer heads than Q are repeated
(``enable_gqa``). This is the definition in the documentation of ``torch.nn.functional.scaled_dot_product_attention``.

Deviation: where a row's entries are all masked, the row of Y is the mean of V; torch gives zeros, or NaN in older versions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import GraphModule, Node

from halfstep.graph.edit import add_tensor
from halfstep.graph.names import operator_name, stored_name

MASKED = torch.finfo(torch.float32).min  # finite: infinities turn into NaN where a mask is added to a mask
_NAME = "scaled_dot_product_attention"
_aten = torch.ops.aten


def write_out_attention(graph: GraphModule) -> None:
    """Replace every attention of a freshly recorded ``graph`` in place; one with dropout, or causal of free lengths, is left as it is."""
    for node in [node for node in graph.graph.nodes if node.op == "call_function" and operator_name(node) == _NAME]:
        options = _options(node)
        lengths = [options[name].meta["val"].shape[-2] for name in ("query", "key")]
        if options["dropout_p"] == 0 and (not options["is_causal"] or all(isinstance(length, int) for length in lengths)):
            with graph.graph.inserting_before(node):
                result = _written_out(graph, node, options)
            node.replace_all_uses_with(result)
            graph.graph.erase_node(node)


def _options(node: Node) -> dict[str, Any]:
    """Every argument by its name."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in schema), node.args, strict=False)) | dict(node.kwargs)
    return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}


def _written_out(graph: GraphModule, node: Node, options: dict[str, Any]) -> Node:
    def call(target: Any, *args: Any) -> Node:
        made = graph.graph.call_function(target, args)
        values = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in args]
        made.meta = {**node.meta, "val": target(*values)}
        return made

    query, key, value, mask = (options[name] for name in ("query", "key", "value", "attn_mask"))
    length, size = query.meta["val"].shape[-2:]
    width = key.meta["val"].shape[-2]
    if options["enable_gqa"]:
        key, value = (_repeated(call, part, query) for part in (key, value))
    scores = call(_aten.matmul.default, query, call(_aten.transpose.int, key, -2, -1))
    scores = call(_aten.mul.Tensor, scores, 1 / math.sqrt(size) if options["scale"] is None else float(options["scale"]))
    if options["is_causal"]:
        later = _later_positions(graph, node, int(length), int(width))
        scores = call(_aten.masked_fill.Scalar, scores, later, MASKED)
    if mask is not None and mask.meta["val"].dtype is torch.bool:
        scores = call(_aten.masked_fill.Scalar, scores, call(_aten.logical_not.default, mask), MASKED)
    elif mask is not None:
        scores = call(_aten.add.Tensor, scores, mask)
    return call(_aten.matmul.default, call(_aten.softmax.int, scores, -1), value)


def _repeated(call: Any, part: Node, query: Node) -> Node:
    """Each head as often as there are queries for it, side by side."""
    shape = part.meta["val"].shape
    count = query.meta["val"].shape[-3] // shape[-3]
    if count == 1:
        return part
    apart = call(_aten.unsqueeze.default, part, -3)
    wide = call(_aten.expand.default, apart, [-1] * (len(shape) - 2) + [count, -1, -1])
    repeated: Node = call(_aten.flatten.using_ints, wide, -4, -3)
    return repeated


def _later_positions(graph: GraphModule, node: Node, length: int, width: int) -> Node:
    """A stored mask [L, S], True where a query must not see; one for all attentions of these lengths."""
    name = f"later_positions_{length}_{width}"
    later = torch.ones(length, width, dtype=torch.bool).triu(1)
    known = next((path for path, mask in graph.named_buffers() if stored_name(graph, path) == name and torch.equal(mask, later)), None)
    path = known or add_tensor(graph, name, later)
    stored = graph.graph.get_attr(path)
    stored.meta = {**node.meta, "val": node.meta["val"].fake_mode.from_tensor(graph.get_buffer(path))}
    return stored
