"""The integer program beside the simulation it came from.

Operator by operator: each gets the codes that the *simulation* computed for its inputs, and its own output is compared with the
simulation's codes there. What is counted is the operator's own doing: ties that the simulation rounds to even and the program up, the error
of its multipliers, and sums of float32 in the simulation. End to end, both networks run on the same inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.run import cut_to, observe, run
from halfstep.integer import interpreter
from halfstep.integer.lower.lowering import Lowering
from halfstep.integer.program import IntegerProgram
from halfstep.integer.record import OperatorRecord, ProgramRecord

_BATCH = 8  # the codes of every layer are held at once


def compare(program: IntegerProgram, graph: GraphModule, lowering: Lowering, samples: tuple[Tensor, ...]) -> ProgramRecord:
    """``program`` against the quantized ``graph`` it was lowered from, on ``samples`` (inputs, batch first)."""
    nodes = {name: node for node, name in reversed(lowering.names.items()) if quantizer_of(node) is not None}
    tallies: dict[str, list[int]] = {}
    outputs: list[tuple[list[Tensor], list[Tensor]]] = []
    for part, num_real in cut_to(samples, graph.meta["batch_size"] or min(_BATCH, len(samples[0]))):
        given = dict(zip(program.inputs, interpreter.quantize_inputs(program, part), strict=True))
        simulated = given | _simulated_codes(lowering, graph, nodes, part)
        for name, codes in interpreter.run_operators(program, simulated).items():
            if name in simulated:
                _count(tallies, name, codes[:num_real], simulated[name][:num_real])
        outputs.append(_outputs(program, graph, lowering, part, num_real))
    operators = tuple(
        OperatorRecord(operator.name, operator.kind, lowering.errors.get(operator.output, lowering.errors.get(operator.name, 0.0)), *counts)
        for operator in program.operators
        if (counts := tallies.get(operator.output, [0, 0, 0])) and _rounds(operator.kind)
    )
    difference, agreement = _end_to_end(outputs)
    return ProgramRecord(
        program.mode,
        len(program.operators),
        program.num_weight_bytes,
        operators,
        difference,
        agreement,
        len(samples[0]),
        program.notes,
    )


def _rounds(kind: str) -> bool:
    """Whether an operator computes codes, rather than moving them."""
    return kind not in ("reshape", "copy", "gather", "pad", "constant", "max_pool", "argmax")


def _simulated_codes(lowering: Lowering, graph: GraphModule, nodes: dict[str, Node], part: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The codes of every value that has a quantizer in ``graph``, int32."""
    named: dict[Node, list[str]] = {}
    for name, node in nodes.items():
        named.setdefault(behind_quantizer(node), []).append(name)
    found: dict[str, Tensor] = {}

    def see(node: Node, real: Tensor) -> Tensor:
        for name in named[node]:
            quantizer = quantizer_of(nodes[name])
            assert quantizer is not None
            codes = quantizer.quantize(real).codes.to(torch.int32)
            codes = lowering.samples(nodes[name], codes, lowering.values[name].shape)
            found[name] = codes.contiguous()  # row-major, as a program's own
        return real

    observe(graph, part, set(named), see)
    return found


def _count(tallies: dict[str, list[int]], name: str, codes: Tensor, simulated: Tensor) -> None:
    difference = (codes - simulated).abs()
    tally = tallies.setdefault(name, [0, 0, 0])
    tally[0] += difference.numel()
    tally[1] += int(torch.count_nonzero(difference))
    tally[2] = max(tally[2], int(difference.max()) if difference.numel() else 0)


def _outputs(
    program: IntegerProgram, graph: GraphModule, lowering: Lowering, part: tuple[Tensor, ...], num_real: int
) -> tuple[list[Tensor], list[Tensor]]:
    """What the simulation and the program leave the network with; those alone that both of them have."""
    leaves = [leaf for leaf in pytree.tree_leaves(run(graph, part)) if isinstance(leaf, Tensor)]
    reals = interpreter.dequantize_outputs(program, interpreter.run(program, interpreter.quantize_inputs(program, part)))
    pairs = [
        (leaf[:num_real].double(), real.reshape(leaf.shape)[:num_real])
        for leaf, real, is_same in zip(leaves, reals, lowering.keeps_output, strict=True)
        if is_same
    ]
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


def _end_to_end(outputs: list[tuple[list[Tensor], list[Tensor]]]) -> tuple[float, float]:
    """(largest difference relative to the largest output, share of equal top-1 answers of the first output)."""
    pairs = [pair for ours, theirs in outputs for pair in zip(ours, theirs, strict=True)]
    largest = max((float(ours.abs().max()) for ours, _ in pairs), default=0.0)
    difference = max((float((ours - theirs).abs().max()) for ours, theirs in pairs), default=0.0)
    first = [(ours[0], theirs[0]) for ours, theirs in outputs if ours and ours[0].ndim > 1]
    agreements = [(ours.argmax(-1) == theirs.argmax(-1)).double().flatten() for ours, theirs in first]
    return difference / max(largest, 1e-30), float(torch.cat(agreements).mean()) if agreements else 1.0
