"""Crafted ``.pt2`` archives: none of their strings is evaluated, each ends in one error; those that torch writes are read."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
from halfstep.errors import ModelError
from halfstep.workflow.load_model import load_model
from halfstep.workflow.size_expressions import refusal_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.register_buffer("positions", torch.arange(5).expand(1, -1))

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Any]:
        with torch.no_grad():
            hidden = self.first(x) + self.positions.sum()
        return {"logits": hidden.reshape(x.shape[0] * 5, 8) * mask.sum(), "parts": (hidden[:, :1], [hidden.mean(1)])}


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 5, 4), torch.ones(3, 2)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "net.pt2"
    batch = torch.export.Dim("batch", min=2, max=64)
    torch.export.save(torch.export.export(Net().eval(), inputs(), dynamic_shapes={"x": {0: batch}, "mask": {0: batch}}), path)
    return path


def test_what_torch_writes_is_read(written: Path) -> None:
    program = hs.load_model(str(written))
    x = inputs()
    assert program.module()(*x)["logits"].shape == (15, 8)


def craft(written: Path, path: Path, part: str, change: Callable[[Any], None]) -> Path:
    """The archive with one of its JSON files changed."""
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(part):
                described = json.loads(content)
                change(described)
                content = json.dumps(described).encode()
            new.writestr(name, content)
    return path


def first_expression(found: Any) -> dict[str, Any] | None:
    parts = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    if isinstance(found, dict) and "expr_str" in found:
        return found
    return next((place for place in map(first_expression, parts) if place is not None), None)


def setter(*keys: Any, value: Any) -> Callable[[Any], None]:
    def change(described: Any) -> None:
        for key in keys[:-1]:
            described = described[key]
        described[keys[-1]] = value

    return change


GRAPH, CALLS = ("graph_module", "graph"), ("graph_module", "module_call_graph", 0)
CODE = "__import__('pathlib').Path('{trace}').touch()"
SPEC = '[1, {{"type": "{kind}", "context": {context}, "children_spec": []}}]'
ENUM = json.dumps(json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "y"}))
CRAFTED: dict[str, Callable[[str], Callable[[Any], None]]] = {
    "expression": lambda code: lambda found: first_expression(found).__setitem__("expr_str", code),  # type: ignore[union-attr]
    "expression of a number": lambda code: lambda found: first_expression(found).__setitem__("expr_str", 7),  # type: ignore[union-attr]
    "placeholder": lambda code: setter(*GRAPH, "inputs", 0, "as_tensor", "name", value=f"x={code}"),
    "keyword": lambda code: setter(*GRAPH, "inputs", 0, "as_tensor", "name", value="class"),
    "node": lambda code: setter(*GRAPH, "nodes", 0, "name", value=f"a = {code};b"),
    "value": lambda code: setter(*GRAPH, "tensor_values", code, value={}),
    "parameter": lambda code: setter("graph_module", "signature", "input_specs", 0, "parameter", "parameter_name", value=f'a"),{code},("'),
    "operator": lambda code: setter(*GRAPH, "nodes", 0, "target", value="torch.hub.load"),
    "operator of a file": lambda code: setter(*GRAPH, "nodes", 0, "target", value="torch.ops.aten.from_file.default"),
    "python operator": lambda code: setter(*GRAPH, "nodes", 0, "target", value="_operator.attrgetter"),
    "extension": lambda code: setter(*GRAPH, "nodes", 0, "target", value="#os:system"),
    "function looked up": lambda code: setter(*GRAPH, "nodes", 0, "metadata", "source_fn_stack", value=f"a,#{code}"),
    "object": lambda code: setter(*GRAPH, "custom_obj_values", value={"a": {"name": "a", "class_fqn": "b"}}),
    "input structure": lambda code: setter(*CALLS, "signature", "in_spec", value=SPEC.format(kind="antigravity.X", context="null")),
    "enumeration": lambda code: setter(*CALLS, "signature", "out_spec", value=SPEC.format(kind="builtins.dict", context=ENUM)),
    "argument": lambda code: setter(*CALLS, "signature", "forward_arg_names", value=[f"x={code}"]),
    "module": lambda code: setter(*CALLS, "fqn", value=f'"{code}'),
    "named tuple": lambda code: setter("graph_module", "treespec_namedtuple_fields", value={"a.B": {"field_names": ["x"]}}),
    "range": lambda code: setter("range_constraints", "u9999999999", value={"min_val": 0, "max_val": 1}),
    "no program": lambda code: lambda found: found.clear(),
}  # fmt: skip


@pytest.mark.parametrize("what", CRAFTED)
def test_nothing_of_a_crafted_archive_is_run(what: str, written: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = craft(written, tmp_path / "net.pt2", "models/model.json", CRAFTED[what](CODE.format(trace=trace)))
    with pytest.raises(ModelError, match=r"net\.pt2") as caught:
        hs.load_model(str(path))
    assert not trace.exists() and "\n" not in str(caught.value)


def test_guards_are_not_executed(written: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    change = setter("guards_code", value=[CODE.format(trace=trace)])
    program = hs.load_model(str(craft(written, tmp_path / "net.pt2", "models/model.json", change)))
    program.module()(*inputs())
    assert not trace.exists()


def test_deep_or_lying_archives(written: Path, tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    zeros = {"as_int": 1 << 40}
    cases = (
        ("models/model.json", setter("deep", value=deep), "nested"),
        ("weights_config.json", setter("config", "first.weight", "tensor_meta", "sizes", value=[zeros, zeros]), "shape"),
        ("weights_config.json", setter("config", "first.weight", "path_name", value="../../x"), "calls a tensor"),
    )
    for part, change, message in cases:
        with pytest.raises(ModelError, match=message):
            hs.load_model(str(craft(written, tmp_path / "net.pt2", part, change)))


@pytest.mark.parametrize(("name", "message"), [("net/data/aotinductor/model/a.so", "compiled code"), ("net/bomb", "far more")])
def test_members_that_are_refused(name: str, message: str, written: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(written.read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(100 << 20))
    with pytest.raises(ModelError, match=message):
        hs.load_model(str(path))


def test_the_older_layout_is_checked_too(written: Path, tmp_path: Path) -> None:
    path, trace = tmp_path / "net.pt2", tmp_path / "trace"
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(path, "w") as new:
        described = json.loads(old.read(next(name for name in old.namelist() if name.endswith("models/model.json"))))
        first_expression(described)["expr_str"] = CODE.format(trace=trace)  # type: ignore[index]
        new.writestr("version", "8.20")
        new.writestr("serialized_exported_program.json", json.dumps(described))
    with pytest.raises(ModelError, match="computes a size"):
        hs.load_model(str(path))
    assert not trace.exists()


SIZES = (
    "s77", "2*s0//3", "Mul(Integer(2), Symbol('s77', positive=True, integer=True))", "Max(1, u0) + -3", "Pow(Symbol('s1'), Integer(2))",
    "FloorDiv(s0 - 1, 2)", "Ge(s0, 2) & (s1 < 3)", "-oo", "s0 % 8",
)  # fmt: skip
NO_SIZES = (
    "", "s0.real", "__import__('os')", "(lambda: 1)()", "[1 for x in s0]", "s0[0]", "'s0'", "Symbol('a b')", "Symbol(s0)", "9**9**9",
    "((9**64)**64)", "Pow(9, Pow(9, 9))", "Function('f')(s0)", "Max()", "Integer('7')", "a", "s0 if s1 else u0", "f'{s0}'", "1e5!",
    "9" * 30, "(" * 500 + "s0" + ")" * 500, "Symbol('s0', evaluate=print(1))", "Max(*s0)", "s0 := 1", "\uff53\uff10",
)  # fmt: skip


@pytest.mark.parametrize("text", SIZES)
def test_sizes(text: str) -> None:
    assert refusal_of(text) is None


@pytest.mark.parametrize("text", NO_SIZES)
def test_what_is_no_size(text: str) -> None:
    assert refusal_of(text)


class Unpickled:
    """Its pickle names a class that is no tensor."""


def test_pickled_sample_inputs_are_refused_without_the_advice_to_unpickle_them(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.zeros(2, 3),)), tmp_path / "good.pt2")
    hostile = io.BytesIO()
    torch.save({"inputs": Unpickled()}, hostile)
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for member in good.infolist():
            bad.writestr(member, hostile.getvalue() if member.filename.endswith("sample_inputs/model.pt") else good.read(member))
    with pytest.raises(ModelError, match="pickled Python objects") as found:
        load_model(str(tmp_path / "bad.pt2"))
    assert "weights_only" not in str(found.value)
