"""What a network returns keeps its form, through a file and back, and nothing of the user's is imported for it."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from halfstep.errors import GraphError
from halfstep.graph.capture import capture
from halfstep.graph.serialize import from_json, to_json
from halfstep.graph.structure import Named, described, spec_of

Pair = namedtuple("Pair", "low high")


@dataclasses.dataclass
class Scores:
    """As transformers' outputs: a field may be left out."""

    logits: Any
    hidden: Any = None


torch.export.register_dataclass(Scores, serialized_type_name="tests.Scores")


class Returns(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x * 2, x + 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: a,
        lambda a, b: (a, [b, {"k": a, 3: b}]),
        lambda a, b: {"": a, 'x"), y': (b, None)},
        lambda a, b: OrderedDict(last=a, first=b),
        lambda a, b: ((), a, [], {}),
    ],
)
def test_plain_forms_come_back(make: Any) -> None:
    network, x = Returns(make).eval(), torch.randn(3, 4)
    graph = capture(network, (x,))
    again = from_json(json.loads(json.dumps(to_json(graph))), graph.state_dict())
    for found in (graph(x), again(x)):
        expected = network(x)
        assert pytree.tree_structure(found) == spec_of(described(pytree.tree_structure(expected)))
        assert type(found) in (type(expected), dict)
        assert all(a is b or torch.equal(a, b) for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True))


@pytest.mark.parametrize(("make", "names"), [(Pair, ("low", "high")), (lambda a, b: Scores(a), ("logits",))])
def test_named_parts_keep_their_names(make: Any, names: tuple[str, ...]) -> None:
    graph, x = capture(Returns(make).eval(), (torch.randn(3, 4),)), torch.randn(5, 4)
    for found in (graph(x), from_json(json.loads(json.dumps(to_json(graph))), graph.state_dict())(x)):
        assert isinstance(found, Named)
        assert found.keys() == names
        first, *_ = found
        assert torch.equal(first, x * 2)
        assert found[0] is first is found[names[0]] is getattr(found, names[0])
        with pytest.raises(AttributeError, match=f"no 'other'. Their names: {', '.join(names)}"):
            found.other  # noqa: B018


def test_the_users_types_are_in_no_file() -> None:
    graph = capture(Returns(lambda a, b: (Scores(a, b), Pair(a, b))).eval(), (torch.randn(3, 4),))
    text = json.dumps(to_json(graph))
    assert "Scores" not in text and "Pair" not in text
    first, second = json.loads(text)["outputs"]["tuple"]
    assert first == {"named": [["logits", "*"], ["hidden", "*"]]}
    assert second == {"named": [["low", "*"], ["high", "*"]]}


@pytest.mark.parametrize(
    "form",
    [
        "x", 3, None, {}, {"tuple": "*"}, {"set": ["*"]}, {"tuple": ["*"], "list": []}, {"dict": [["a", "*"], ["a", "*"]]},
        {"dict": [[["a"], "*"]]}, {"named": [[1, "*"]]}, {"named": ["ab"]}, {"type": "os.system"},
    ],
)  # fmt: skip
def test_other_forms_are_refused(form: Any) -> None:
    with pytest.raises(GraphError, match="no known way"):
        spec_of(form)


def test_a_form_of_a_thousand_levels_is_refused() -> None:
    form: Any = "*"
    for _ in range(1000):
        form = {"list": [form]}
    with pytest.raises(GraphError, match="no known way"):
        spec_of(form)


def test_another_number_of_outputs_is_refused() -> None:
    graph = capture(Returns(lambda a, b: (a, b)).eval(), (torch.randn(3, 4),))
    with pytest.raises(GraphError, match="describes 3 outputs"):
        from_json({**to_json(graph), "outputs": {"list": ["*"] * 3}}, graph.state_dict())
