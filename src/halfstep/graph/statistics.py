"""What the calibration data look like inside the network: a histogram for each tensor that asks for one.

One pass over the data fills all of them. They can be saved, and used again with another range estimator or recipe.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.errors import CalibrationError
from halfstep.graph.run import cut, observe
from halfstep.graph.serialize import to_json
from halfstep.quantizers import in_float
from halfstep.ranges import Histogram


@dataclass
class Statistics:
    """histograms: by the name of the node whose output they count. fingerprint: of the captured float network they belong to."""

    fingerprint: str
    num_samples: int = 0
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {name: histogram.to_tensor() for name, histogram in sorted(self.histograms.items())}
        header = {"fingerprint": self.fingerprint, "num_samples": self.num_samples}
        safetensors.torch.save_file(tensors, path, {"halfstep": json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `save` wrote; raises `CalibrationError` on anything else."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                header = json.loads(file.metadata()["halfstep"])
                histograms = {name: Histogram.from_tensor(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise CalibrationError(f"'{path}' holds no statistics of halfstep: {error}.") from error
        return cls(header["fingerprint"], header["num_samples"], histograms)


def fingerprint(graph: GraphModule) -> str:
    """A hash of the operators and weights of a captured network."""
    digest = hashlib.sha256()
    for node in graph.graph.nodes:
        digest.update(f"{node.op} {node.target} {node.args}\n".encode())
    digest.update(json.dumps(to_json(graph)["modules"]).encode())
    for name, tensor in sorted(graph.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


_VALUES_PER_SAMPLE = 4096  # counted of each sample and tensor: 2 million for 512 samples, at a fifth of the cost of all of them


def _stride(x: Tensor) -> int:
    """Count every how manieth value: no divisor in common with the sample's size, so that every channel and place has its turn."""
    size = x[0].numel() if x.ndim else 1
    stride = max(1, size // _VALUES_PER_SAMPLE)
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride


def collect(graph: GraphModule, nodes: set[Node], batches: Iterable[tuple[Tensor, ...]], statistics: Statistics) -> Iterator[int]:
    """Pass ``batches`` through the float network once; adds a histogram for each of ``nodes`` and yields the samples seen so far.

    Raises `CalibrationError` where a tensor turns NaN or infinite, naming the node.
    """
    histograms = {node: Histogram() for node in nodes}

    def see(num_real: int, num_run: int, node: Node, tensor: Tensor) -> Tensor:
        histograms[node].observe(tensor[: len(tensor) * num_real // num_run] if num_real < num_run else tensor, _stride(tensor))
        if not histograms[node].is_finite:
            raise CalibrationError(
                f"The output of '{node.meta['name']}' is NaN or infinite on the calibration data: the float network is broken there."
            )
        return tensor

    seen = 0
    with in_float(graph):
        for inputs in batches:
            for part, num_real in cut(graph, inputs):
                observe(graph, part, nodes, partial(see, num_real, len(part[0])))
            seen += len(inputs[0])
            yield seen
    statistics.num_samples = seen
    statistics.histograms |= {str(node.meta["name"]): histogram for node, histogram in histograms.items()}
