"""The user's names in an exported file: text, which nothing reads as code.

A file is written under own names: "p_3.scale" is the scale of the parameter ``p_3``, "e_5.codes" are the codes of the fifth edge with a
quantizer. At the end the part in front of the dot becomes the user's name. Where that gives two values one name, the later one in this
order is numbered: outputs of the network, codes, inputs, stored tensors, everything else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx_ir as ir

from halfstep.graph.names import numbered

_OWN = re.compile(r"([xpbme]_[0-9]+)(\..*)?")
_CODES = ".codes"


def codes_name(edge: str) -> str:
    """The name of the tensor that holds an edge's codes in the exported file."""
    return f"{edge}{_CODES}"


def give_names(graph: ir.Graph, names: Mapping[str, str]) -> None:
    """Replace own names by the user's, in place. names: the user's, by own name."""
    made = [value for node in graph for value in node.outputs]
    stored = list(graph.initializers.values())
    codes = [value for value in (*made, *stored) if str(value.name).endswith(_CODES)]
    taken: set[object] = set()
    graph.initializers.clear()
    for value in dict.fromkeys((*graph.outputs, *codes, *graph.inputs, *stored, *made)):
        if value.name:
            value.name = _free(value.name, names, taken)
    for value in stored:
        value.const_value.name = value.name  # type: ignore[union-attr]
        graph.initializers[str(value.name)] = value
    used: set[object] = set()
    for node in graph:
        if node.name:
            node.name = _free(node.name, names, used)


def _free(own: str, names: Mapping[str, str], taken: set[object]) -> str:
    match = _OWN.fullmatch(own)
    wanted = own if match is None or match[1] not in names else f"{names[match[1]]}{match[2] or ''}"
    found = numbered(wanted, taken)
    taken.add(found)
    return found
