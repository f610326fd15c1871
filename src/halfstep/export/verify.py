"""Prove that an exported file computes what was simulated.

Layer by layer: the file runs in ONNX Runtime, fully optimized, with the codes of every quantized tensor as extra outputs. The
simulation then runs on the same inputs, and at every quantizer its codes are compared with the file's and *replaced* by them, so that
each layer is judged on the very integers the file fed it. Both sides round the same real number (the integer accumulator times its scale); they differ only
in how floats carry it, an error many orders below one code, which can move nothing but a tie. Hence the bound: **one code**.

End to end no such bound exists: a tie that falls the other way in the first layer travels through all others. That difference is
measured and reported (largest output difference relative to the largest output, agreement of the top-1 predictions).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from halfstep.errors import ExportError
from halfstep.export.rewrite import codes_name, storage_offset
from halfstep.export.session import open_session, run_session
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.run import observe, run
from halfstep.quantizers import UniformQuantizer
from halfstep.report.record import ExportCheck

BOUND = 1
OUTPUT_TOLERANCE = 1e-3  # of float outputs computed from equal integers, relative to the largest: float32 sums of some 10^4 terms


@dataclass
class _Tally:
    """What the comparison has seen so far."""

    largest: int = 0
    worst_edge: str = ""
    num_codes: int = 0
    num_differing: int = 0

    def add(self, edge: str, difference: Tensor) -> None:
        largest = int(difference.max()) if difference.numel() else 0
        if largest > self.largest or not self.worst_edge:
            self.largest, self.worst_edge = max(largest, self.largest), edge
        self.num_codes += difference.numel()
        self.num_differing += int(torch.count_nonzero(difference))


def verify(graph: GraphModule, path: Path, samples: tuple[Tensor, ...], batch_size: int = 8) -> ExportCheck:
    """Compare the ONNX file at ``path`` with ``graph`` on ``samples``; raises `ExportError` beyond the bound."""
    edges = _edges(graph)
    probe = open_session(_with_codes_as_outputs(path, edges))
    plain = open_session(path)
    tally, forced, agreements, largest_difference, largest_output = _Tally(), 0.0, [], 0.0, 0.0
    for start in range(0, len(samples[0]), graph.meta["batch_size"] or batch_size):
        part = tuple(x[start : start + (graph.meta["batch_size"] or batch_size)] for x in samples)
        if graph.meta["batch_size"] not in (None, len(part[0])):
            break
        probed, simulated = run_session(probe, part), _first(run(graph, part))
        forced = max(forced, _relative(_first(_forced_run(graph, edges, part, probed, tally)), _output(probed, plain)))
        exported = _output(run_session(plain, part), plain)
        largest_difference = max(largest_difference, float((exported - simulated).abs().max()))
        largest_output = max(largest_output, float(simulated.abs().max()))
        agreements.append((exported.argmax(-1) == simulated.argmax(-1)).float().flatten() if exported.ndim > 1 else torch.ones(1))
    check = ExportCheck(
        tally.largest, BOUND, tally.worst_edge, len(edges), tally.num_differing / max(1, tally.num_codes),
        largest_difference / max(largest_output, 1e-30), float(torch.cat(agreements).mean()), len(samples[0]),
    )  # fmt: skip
    _judge(check, forced, path)
    return check


def _judge(check: ExportCheck, forced: float, path: Path) -> None:
    if check.max_code_difference > check.bound:
        raise ExportError(
            f"The exported file differs from the simulation by {check.max_code_difference} codes at '{check.worst_edge}' (allowed: {check.bound}); "
            f"'{path.name}' was not written. Leave that layer in float with an override in the recipe's scheme, or report this as a defect."
        )
    if not forced <= OUTPUT_TOLERANCE:
        raise ExportError(
            f"From equal integers the exported file's output differs from the simulation's by {forced:.2g} of its range "
            f"(allowed: {OUTPUT_TOLERANCE}); '{path.name}' was not written. Report this as a defect."
        )


def _edges(graph: GraphModule) -> dict[Node, str]:
    """Quantizer nodes of activations -> the name of the tensor they quantize."""
    nodes = [node for node in graph.graph.nodes if (quantizer := quantizer_of(node)) is not None and quantizer.is_enabled]
    return {node: str(source.meta["name"]) for node in nodes if (source := behind_quantizer(node)).op != "get_attr"}


def _with_codes_as_outputs(path: Path, edges: dict[Node, str]) -> bytes:
    """The model with every edge's codes as further outputs."""
    model = ir.load(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    present = {output.name for output in model.graph.outputs}
    for edge in edges.values():
        if codes_name(edge) not in present:
            model.graph.outputs.append(values[codes_name(edge)])
    serialized: bytes = ir.to_proto(model).SerializeToString()
    return serialized


def _forced_run(graph: GraphModule, edges: dict[Node, str], inputs: tuple[Tensor, ...], probed: dict[str, Any], tally: _Tally) -> Any:
    """The simulation on ``inputs`` with every quantized tensor replaced by the file's codes, after comparing them."""
    sources = {behind_quantizer(node): node for node in edges}

    def compare(node: Node, real: Tensor) -> Tensor:
        quantizer = quantizer_of(sources[node])
        assert isinstance(quantizer, UniformQuantizer)
        offset = storage_offset(quantizer.grid, is_constant=False)
        codes = torch.from_numpy(probed[codes_name(edges[sources[node]])].astype(np.int32)) - offset
        tally.add(edges[sources[node]], (codes - quantizer.quantize(real).codes.to(torch.int32)).abs())
        return (codes - quantizer.zero_point) * quantizer.scale

    return observe(graph, inputs, set(sources), compare)


def _first(outputs: Any) -> Tensor:
    """The first tensor a network returns."""
    return next(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor))


def _output(outputs: dict[str, Any], session: Any) -> Tensor:
    """The first output of the model, in its own order."""
    return torch.from_numpy(outputs[session.get_outputs()[0].name])


def _relative(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / first.abs().max().clamp(min=1e-30))
