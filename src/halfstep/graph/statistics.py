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

from halfstep import parallel
from halfstep.errors import CalibrationError
from halfstep.graph.run import broken_at, cut, observe
from halfstep.graph.serialize import to_json
from halfstep.quantizers import AbstractQuantizer, in_float
from halfstep.ranges import Histogram


@dataclass
class Statistics:
    """histograms: by the name of the node whose output they count. fingerprint: of the captured float network they belong to. values: of
    the parameters that it had when they were gathered, behind steps such as `equalize`; empty before.
    """

    fingerprint: str
    num_samples: int = 0
    histograms: dict[str, Histogram] = field(default_factory=dict)
    values: str = ""

    def take_for(self, reference: GraphModule) -> None:
        """They are of ``reference``, the float network that is calibrated, from here on; `CalibrationError` where they are of another."""
        own = _fingerprint_of_values(reference)
        if self.histograms and self.values != own:
            raise CalibrationError(
                "These statistics were gathered behind other steps, which changed the weights (equalize, balance_channels ...) before the "
                "calibration: leave --statistics out to gather new ones, or take the recipe that they come from."
            )
        self.values = own

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        names = sorted(self.histograms)  # in the header: a key of a safetensors file is not any text
        tensors = {str(index): self.histograms[name].to_tensor() for index, name in enumerate(names)}
        header = {"fingerprint": self.fingerprint, "num_samples": self.num_samples, "values": self.values, "names": names}
        safetensors.torch.save_file(tensors, path, {"halfstep": json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `save` wrote; raises `CalibrationError` on anything else."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                header = json.loads(file.metadata()["halfstep"])
                histograms = {name: Histogram.from_tensor(file.get_tensor(str(index))) for index, name in enumerate(header["names"])}
            return cls(header["fingerprint"], header["num_samples"], histograms, header["values"])
        except (OSError, KeyError, TypeError, ValueError, RecursionError, safetensors.SafetensorError) as error:
            raise CalibrationError(f"'{path}' holds no statistics of halfstep: {error}.") from error


def fingerprint(graph: GraphModule) -> str:
    """A hash of the operators and weights of a captured network."""
    digest = hashlib.sha256()
    for node in graph.graph.nodes:
        digest.update(f"{node.op} {node.target} {node.args}\n".encode())
    digest.update(json.dumps(to_json(graph)["modules"]).encode())
    _update(digest, graph.state_dict())
    return digest.hexdigest()[:16]


def _fingerprint_of_values(graph: GraphModule) -> str:
    """A hash of the float tensors of a network, whatever quantizers it has."""
    own = tuple(f"{name}." for name, module in graph.named_modules() if isinstance(module, AbstractQuantizer))
    digest = hashlib.sha256()
    _update(digest, {name: tensor for name, tensor in graph.state_dict().items() if not name.startswith(own)})
    return digest.hexdigest()[:16]


def _update(digest: hashlib._Hash, tensors: dict[str, Tensor]) -> None:
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())


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
    seen = 0
    with in_float(graph):
        for num_samples, found in parallel.each(partial(_seen, graph, nodes), batches):
            for node, histogram in found.items():
                histograms[node].merge(histogram)
            seen += num_samples
            yield seen
    statistics.num_samples = seen
    statistics.histograms |= {str(node.meta["name"]): histogram for node, histogram in histograms.items()}


def _seen(graph: GraphModule, nodes: set[Node], inputs: tuple[Tensor, ...]) -> tuple[int, dict[Node, Histogram]]:
    """(number of samples, the histograms of ``nodes``) of one batch."""
    histograms = {node: Histogram() for node in nodes}

    def see(num_real: int, num_run: int, node: Node, tensor: Tensor) -> Tensor:
        histograms[node].observe(tensor[: len(tensor) * num_real // num_run] if num_real < num_run else tensor, _stride(tensor))
        if not histograms[node].is_finite:
            raise broken_at(node)
        return tensor

    for part, num_real in cut(graph, inputs):
        observe(graph, part, nodes, partial(see, num_real, len(part[0])))
    return len(inputs[0]), histograms
