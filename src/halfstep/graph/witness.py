"""What the network as given answers to a few inputs, and whether a graph that was made of it still answers the same.

    difference  =  max over the outputs of   max |y' - y| / max |y|
    allowed     =  10^-4 <= 16 d <= 10^-1

y, y': an output of the network and of the graph. d: what moving every stored and every computed number of the graph by one unit in the
last place of a float32, up or down at random, changes. Sums in another order and weights that are rounded once more do no more than that a
few times over; so a network that loses digits (large means that are subtracted again, roundings inside of it) is not taken for a wrong one,
and a layer that was scaled along the wrong axis is found in any network. An output that is smaller than 16 times that, and than 2^-16 of
the largest tensor on the way, is left out: it holds what was rounded off and nothing else, in the network and in the graph.

Of every tensor a few entries are kept, so that the first one that differs can be named: the first that differs and that leads to none that
agrees. What a step scales on purpose in one layer and takes back in the next is not that.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from halfstep.graph.names import NamedNetwork, as_text
from halfstep.graph.run import observe

_LEAST_ALLOWED, _MOST_ALLOWED = 1e-4, 1e-1
_MARGIN = 16
_UNIT = 2.0**-23
_ROUNDED_OFF = 2.0**-16
_NUM_ENTRIES = 64  # of a tensor, to find where networks part
_PRIME = 2654435761  # strides of a tensor's axes do not divide it: entries of all channels are seen
_NUM_SIGNS = 4099  # a prime too

Values = dict[str, Tensor]


@dataclass
class Witness:
    """inputs: a few, as many as the network takes at once. answers: the network's floating outputs. values: entries of every tensor of the
    graph as it last agreed, by the node's name. allowed: relative to the largest magnitude of an output. difference: the largest found so
    far, steps that change the network on purpose left out; those stand in ``changes``, by the step's name.
    """

    inputs: tuple[Tensor, ...]
    answers: list[Tensor]
    values: Values = field(default_factory=dict)
    allowed: float = _LEAST_ALLOWED
    difference: float = 0.0
    changes: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Witness:
        """What ``network`` answers, which is in eval mode."""
        with torch.no_grad():
            return cls(inputs, _floating(network(*(x.clone(memory_format=torch.contiguous_format) for x in inputs))))

    def confirm(self, graph: GraphModule) -> str | None:
        """Take the recorded ``graph`` for the network: None where it answers the same, else how far it is off."""
        answers, self.values = _seen(graph, self.inputs)
        return self._judged(graph, answers, self.values)

    def hold(self, graph: GraphModule, step: str, is_exact: bool) -> str | None:
        """The same question after a step; one that is not exact is measured, and what follows is compared with what it left."""
        answers, values = _seen(graph, self.inputs)
        if is_exact:
            found = self._judged(graph, answers, values)
            if found is not None:
                found = f"{found}, from '{first_that_differs(graph, self.values, values, self.allowed)}' on"
        else:
            found, self.changes[step], self.answers = None, difference(self.answers, answers), answers
        self.values = values
        return found

    def _judged(self, graph: GraphModule, answers: list[Tensor], values: Values) -> str | None:
        found = difference(self.answers, answers)
        if self.allowed < found < torch.inf:
            disturbed = _disturbed(graph, self.inputs)
            least = _ROUNDED_OFF * max(map(_largest, (*self.inputs, *values.values())))
            kept = _above_noise(self.answers, answers, disturbed, least)
            found = difference([expected for expected, _, _ in kept], [answer for _, answer, _ in kept])
            uncertain = difference([answer for _, answer, _ in kept], [disturbed for _, _, disturbed in kept])
            self.allowed = min(max(self.allowed, _MARGIN * uncertain), _MOST_ALLOWED)
        if found > self.allowed:
            return f"outputs differ by {found:.2g} of the largest one"
        self.difference = max(self.difference, found)
        return None


def _above_noise(expected: list[Tensor], found: list[Tensor], disturbed: list[Tensor], least: float) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The outputs that are more than what was rounded off on the way, here and there."""
    parts = zip(expected, found, disturbed, strict=True)
    return [
        (here, there, moved)
        for here, there, moved in parts
        if max(_largest(here), _largest(there)) > min(least, _MARGIN * _largest(there - moved))
    ]


def _largest(x: Tensor) -> float:
    return float(x.double().abs().max()) if x.numel() else 0.0


def difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference, relative to the largest magnitude of its tensor; infinite where shapes, NaN or infinities are others."""
    if len(expected) != len(found):
        return torch.inf
    return max((_difference(one, other) for one, other in zip(expected, found, strict=True)), default=0.0)


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return torch.inf
    expected, found = expected.double(), found.double()
    is_same = (expected == found) | (expected.isnan() & found.isnan())
    apart = torch.where(is_same, 0.0, (expected - found).abs()).nan_to_num(torch.inf, torch.inf)
    largest = float(expected.nan_to_num(0, 0, 0).abs().max()) if expected.numel() else 0.0
    worst = float(apart.max()) if apart.numel() else 0.0
    return worst / largest if largest else worst


def first_that_differs(graph: GraphModule, before: Values, after: Values, allowed: float) -> str:
    """The name of the first node that has another value and leads to none that has the same; values by the nodes' names."""
    compared: dict[Node, bool] = {}
    for node in graph.graph.nodes:
        name = str(node.meta["name"])
        if node.op.startswith("call") and name in before and name in after:
            compared[node] = difference([before[name]], [after[name]]) <= allowed
    leads_back: dict[Node, bool] = {}
    for node in reversed(graph.graph.nodes):
        leads_back[node] = any(compared.get(user, False) or leads_back[user] for user in node.users)
    wrong = (node for node, agrees in compared.items() if not agrees and not leads_back[node])
    return str(next(wrong, next(iter(reversed(graph.graph.nodes)))).meta["name"])


@contextlib.contextmanager
def module_values(model: nn.Module) -> Iterator[Values]:
    """Entries of what the modules of ``model`` return inside the block, under the names that the nodes of its graph have."""
    found: Values = {}
    calls: Counter[str] = Counter()
    names = model.names if isinstance(model, NamedNetwork) else {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[path] += 1
            if isinstance(output, Tensor) and output.is_floating_point():
                found[path if calls[path] == 1 else f"{path}#{calls[path]}"] = _entries(output)

        return hook

    handles = [module.register_forward_hook(keep(as_text(names.get(path, path)))) for path, module in model.named_modules() if path]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _seen(graph: GraphModule, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], Values]:
    """The graph's answers, and entries of every floating tensor on the way."""
    values: Values = {}

    def see(node: Node, x: Tensor) -> Tensor:
        if isinstance(x, Tensor) and x.is_floating_point():
            values[str(node.meta["name"])] = _entries(x)
        return x

    return _floating(observe(graph, inputs, set(graph.graph.nodes), see)), values


def _disturbed(graph: GraphModule, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The graph's answers where every number is off by a unit in the last place, some up and some down."""
    signs = torch.randint(0, 2, (_NUM_SIGNS,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1

    def disturb(node: Node, x: Tensor) -> Tensor:
        if node.op == "output" or not isinstance(x, Tensor) or x.dtype is not torch.float32 or not x.numel():
            return x
        own = signs.repeat(-(-x.numel() // _NUM_SIGNS))[: x.numel()].view(x.shape)
        return torch.addcmul(x, x, own, value=_UNIT)

    return _floating(observe(graph, inputs, set(graph.graph.nodes), disturb))


def _entries(x: Tensor) -> Tensor:
    """A few entries, the same ones for each tensor of that size."""
    size = x.numel()
    if size <= _NUM_ENTRIES:
        return x.detach().flatten().clone()
    return x.detach()[torch.unravel_index(torch.arange(_NUM_ENTRIES) * _PRIME % size, x.shape)]


def _floating(outputs: Any) -> list[Tensor]:
    leaves: Iterable[Any] = pytree.tree_leaves(outputs)
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]
