"""Prove that an exported file computes what was simulated.

Layer by layer: the file runs in ONNX Runtime, fully optimized, with the codes of every quantized tensor as extra outputs. The
simulation then runs on the same inputs, and at every quantizer its codes are compared with the file's and *replaced* by them, so that
each layer is judged on the very integers the file fed it. Both sides round the same real number (the integer accumulator times its
scale); they differ only in how floats carry it, an error many orders below one code, which can move nothing but a tie. Hence the
bound: **one code**. What leaves the network as floats is compared in the same way, on equal integers, relative to its largest value.

Where a MatMulNBits of the file rounds its own input to 8 bits (`groups`), these comparisons leave that input in float, as the simulation
does.

End to end no such bound exists: a tie that falls the other way in the first layer travels through all others. That difference is
measured and reported (largest difference relative to the largest output, agreement of the top-1 predictions of the first output).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from halfstep.errors import ExportError
from halfstep.export.groups import in_float
from halfstep.export.names import codes_name
from halfstep.export.rewrite import storage_offset
from halfstep.export.session import open_session, run_session
from halfstep.graph.edges import activation_quantizers, behind_quantizer, quantizer_of
from halfstep.graph.run import cut_to, observe, run
from halfstep.quantizers import UniformQuantizer
from halfstep.report.record import ExportCheck
from halfstep.targets import ONNXRUNTIME, Target

BOUND = 1
OUTPUT_TOLERANCE = 1e-3  # of float outputs computed from equal integers, relative to the largest: float32 sums of some 10^4 terms
_BATCH = 8  # small: the codes of every layer are held at once


@dataclass
class _Tally:
    """What the comparison has seen so far."""

    largest: int = 0
    worst_edge: str = ""
    num_codes: int = 0
    num_differing: int = 0
    forced: float = 0.0  # largest relative difference of an output computed from equal integers
    difference: float = 0.0
    magnitude: float = 0.0
    agreements: list[Tensor] = field(default_factory=list)

    def add_codes(self, edge: str, difference: Tensor) -> None:
        largest = int(difference.max()) if difference.numel() else 0
        if largest > self.largest or not self.worst_edge:
            self.largest, self.worst_edge = max(largest, self.largest), edge
        self.num_codes += difference.numel()
        self.num_differing += int(torch.count_nonzero(difference))

    def add_forced(self, simulated: list[Tensor], exported: list[Tensor]) -> None:
        for ours, theirs in zip(simulated, exported, strict=True):
            relative = _largest(ours - theirs) / max(_largest(ours), 1e-30)
            self.forced = max(self.forced, relative if torch.isfinite(theirs).all() else torch.inf)

    def add_outputs(self, simulated: list[Tensor], exported: list[Tensor]) -> None:
        for ours, theirs in zip(simulated, exported, strict=True):
            self.difference, self.magnitude = max(self.difference, _largest(ours - theirs)), max(self.magnitude, _largest(ours))
        first, second = simulated[0], exported[0]
        self.agreements.append((first.argmax(-1) == second.argmax(-1)).float().flatten() if first.ndim > 1 else torch.ones(1))


def verify(
    graph: GraphModule, path: Path, samples: tuple[Tensor, ...], name: str | None = None, target: Target = ONNXRUNTIME
) -> ExportCheck:
    """Compare the ONNX file at ``path``, called ``name`` in messages and written for ``target``, with ``graph`` on ``samples``.

    Raises `ExportError` beyond the bound.
    """
    model = ir.load(path)
    edges = _edges(graph, {str(value.name) for node in model.graph for value in node.outputs})
    plain, probe = open_session(path), open_session(_with_outputs(model, [codes_name(edge) for edge in edges.values()]))
    tally = _Tally()
    for part, _ in cut_to(samples, graph.meta["batch_size"] or min(_BATCH, len(samples[0]))):
        probed = run_session(probe, part)
        tally.add_forced(_tensors(_forced_run(graph, edges, part, probed, tally, target)), _outputs(probed, plain))
        tally.add_outputs(_tensors(run(graph, part)), _outputs(run_session(plain, part), plain))
    _judge(tally, name or path.name)
    return ExportCheck(
        max_code_difference=tally.largest,
        bound=BOUND,
        worst_edge=tally.worst_edge,
        num_edges=len(edges),
        differing_codes=tally.num_differing / max(1, tally.num_codes),
        max_output_difference=tally.difference / max(tally.magnitude, 1e-30),
        top1_agreement=float(torch.cat(tally.agreements).mean()),
        num_samples=len(samples[0]),
    )


def _judge(tally: _Tally, name: str) -> None:
    if tally.largest > BOUND:
        raise ExportError(
            f"The exported file differs from the simulation by {tally.largest} codes at '{tally.worst_edge}' (allowed: {BOUND}); '{name}' "
            "was not written. Leave that layer in float, weights and activations, with an override in the recipe, or report a defect."
        )
    if not tally.forced <= OUTPUT_TOLERANCE:
        raise ExportError(
            f"From equal integers the exported file's outputs differ from the simulation's by {tally.forced:.2g} of their range "
            f"(allowed: {OUTPUT_TOLERANCE}); '{name}' was not written. Report this as a defect."
        )


def _edges(graph: GraphModule, stored: Collection[str]) -> dict[Node, str]:
    """Quantizer nodes of activations -> the name of the tensor they quantize.

    A tensor that only moves values of another one's grid may be gone from the file (a padding that its convolution does itself): nothing is
    rounded there; so may one of which nothing but its size is read. Any other must be ``stored``.
    """
    owners = set(activation_quantizers(graph).values())
    edges = {}
    for node in graph.graph.nodes:
        quantizer = quantizer_of(node)
        source = behind_quantizer(node) if quantizer is not None and quantizer.is_enabled else node
        if source is node or source.op == "get_attr":
            continue
        name = str(source.meta["name"])
        if codes_name(name) in stored:
            edges[node] = name
        elif source in owners and any(user.op == "output" or user.meta.get("dtype") is not None for user in node.users):
            raise ExportError(f"The exported file lost the quantized tensor '{name}'. Report this as a defect.")
    return edges


def _with_outputs(model: ir.Model, names: list[str]) -> bytes:
    """The model with further outputs, and without the rounding of activations that the simulation does not have."""
    in_float(model)
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(values[name] for name in names)
    serialized: bytes = ir.to_proto(model).SerializeToString()
    return serialized


def _forced_run(
    graph: GraphModule, edges: dict[Node, str], inputs: tuple[Tensor, ...], probed: dict[str, Any], tally: _Tally, target: Target
) -> Any:
    """The simulation on ``inputs`` with every quantized tensor replaced by the file's codes, after comparing them."""

    def compare(node: Node, real: Tensor) -> Tensor:
        edge, quantizer = edges[node], quantizer_of(node)
        assert isinstance(quantizer, UniformQuantizer)
        codes = torch.from_numpy(probed[codes_name(edge)].astype(np.int32)) - storage_offset(quantizer.grid, False, target)
        tally.add_codes(edge, (codes - quantizer.quantize(real).codes.to(torch.int32)).abs())
        return (codes - quantizer.zero_point) * quantizer.scale

    return observe(graph, inputs, set(edges), compare)


def _tensors(outputs: Any) -> list[Tensor]:
    """All tensors a network returns, in order."""
    return [leaf.float() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _outputs(outputs: dict[str, Any], session: Any) -> list[Tensor]:
    """The model's own outputs, in its order."""
    return [torch.from_numpy(outputs[value.name]).float() for value in session.get_outputs()]


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0
