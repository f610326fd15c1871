"""Names are text: wherever a file holds one, nothing is run, and the way ends in a network that computes the same or in one clear error."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import halfstep as hs
import zoo
from halfstep import integer
from halfstep.errors import HalfstepError, ModelError
from halfstep.export.c99.native import CompiledProgram
from halfstep.graph.capture import capture
from halfstep.graph.edit import named_state
from halfstep.graph.run import run
from halfstep.graph.serialize import from_json, to_json
from hostile_names import CODE, NAMES, OTHERS, nothing_runs

WIDTH = 4


def onnx_file(names: tuple[str, ...], path: Path) -> Path:
    """A chain of products, sums and batch norms in which every part is called by the next of ``names``, all of them several times."""
    values = iter([*dict.fromkeys(f"{name}{end}" for end in (">", ";") for name in names)])
    stored = list(names)
    generator = np.random.default_rng(0)
    tensors, nodes, source = [], [], next(values)
    first = source
    for index, name in enumerate(stored):
        weight = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, name))
        made = next(values)
        nodes.append(helper.make_node("MatMul", [source, name], [made], name=names[-1 - index], doc_string=name))
        source = made
    nodes.append(helper.make_node("Relu", [source], [last := f"{names[0]}?"], name=names[0]))
    axes = [names[0], WIDTH]
    graph = helper.make_graph(
        nodes, names[0], [helper.make_tensor_value_info(first, TensorProto.FLOAT, axes, names[-1])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, axes)], tensors, doc_string=names[0],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name=names[0], domain=names[-1], doc_string=names[0])
    helper.set_model_props(model, {name: name for name in names})
    onnx.save(model, path)
    return path


def chunks(names: tuple[str, ...], count: int) -> list[tuple[str, ...]]:
    """``count`` parts of about equal length, the n-th name in the n-th part."""
    return [names[start::count] for start in range(count)]


@pytest.mark.parametrize("names", chunks(NAMES, 4), ids=range(4))
def test_the_whole_way_of_an_onnx_file(names: tuple[str, ...], tmp_path: Path) -> None:
    x = torch.randn(16, WIDTH)
    with nothing_runs():
        network = hs.load_onnx(onnx_file(names, tmp_path / "net.onnx"))
        result = hs.quantize(network, x)
        assert zoo.relative(run(result.float_model, (x,)), network(x)) <= 1e-5
        hs.export.onnx(result, tmp_path / "int8.onnx")
        hs.export.onnx_integer(hs.lower(result), tmp_path / "integers.onnx")
        result.report().html(tmp_path / "report.html")
        str(result.report())
        result.save(tmp_path / "run")
        again = hs.load(tmp_path / "run")
        assert torch.equal(again.model(x), result.model(x))
        hs.export.onnx(again, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "int8.onnx").read_bytes()
    exported = onnx.load(tmp_path / "int8.onnx").graph
    made = [*(tensor.name for tensor in exported.initializer), *(name for node in exported.node for name in node.output)]
    assert len(set(made)) == len(made)
    shown = (tmp_path / "report.html").read_text(encoding="utf-8") + str(again.report())
    assert not [char for char in shown if (ord(char) < 32 and char != "\n") or char in "\x7f\x9b\u202e"]
    assert "<script>alert" not in shown and "<img src=x" not in shown


def test_an_onnx_file_as_c(tmp_path: Path) -> None:
    """Names stand in comments and in strings of the code."""
    x = torch.randn(16, WIDTH)
    names = tuple(name for name in OTHERS if any(sign in name for sign in ("*", "/", "?", '"', "\\", "%", "\n", "\r", "\0", "#", "x1b")))
    result = hs.quantize(hs.load_onnx(onnx_file(names, tmp_path / "net.onnx")), x)
    program = dataclasses.replace(hs.lower(result), name="*/\n#error [?]??/")
    hs.export.c(program, tmp_path / "c")
    codes = integer.quantize_inputs(program, (x,))
    found, expected = CompiledProgram(program, tmp_path / "c")(codes), integer.run(program, codes)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_names_that_are_no_text_at_all(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 where a file has a name."""
    path = onnx_file(("plain", "other"), tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes().replace(b"plain", b"pl\xff\xfen"))
    with pytest.raises(ModelError, match="is no UTF-8"):
        hs.load_onnx(path)


class Chain(nn.Module):
    """A layer for each name that PyTorch takes for a module."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        for name in names:
            with contextlib.suppress(KeyError):  # it holds a dot, or is that of a method
                self.parts[name] = nn.Linear(WIDTH, WIDTH)
                nn.init.orthogonal_(self.parts[name].weight)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for part in self.parts.values():
            x = part(x)
        return dict.fromkeys(self.parts, x)


@pytest.mark.parametrize("is_exported", [pytest.param(False, id="module"), pytest.param(True, id="pt2", marks=pytest.mark.slow)])
def test_a_module(is_exported: bool, tmp_path: Path) -> None:
    """Also written into in place, which takes another way through torch."""
    network, x = Chain(NAMES).eval(), torch.randn(16, WIDTH)
    assert len(network.parts) > 60
    with nothing_runs():
        result = hs.quantize(torch.export.export(network, (x,)) if is_exported else network, x)
        assert len(result.model(x)) == len(network.parts)
        assert zoo.relative(zoo.leaves(run(result.float_model, (x,)))[0], zoo.leaves(network(x))[0]) <= 1e-5
        hs.export.onnx(result, tmp_path / "int8.onnx")
        result.save(tmp_path / "run")
        assert torch.equal(zoo.leaves(hs.load(tmp_path / "run").model(x))[0], zoo.leaves(result.model(x))[0])


class Keywords(nn.Module):
    """heads.class.weight, of a network whose writing to a slice takes the way through torch's functionalization."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"class": nn.Linear(WIDTH, 3), "lambda": nn.BatchNorm1d(WIDTH)})
        self.register_parameter("import", nn.Parameter(torch.ones(WIDTH)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.heads["lambda"](x) * getattr(self, "import")
        y[:, :2] += 1
        y[:, 1:].relu_()
        scores: Tensor = self.heads["class"](y)
        return scores


def test_keywords() -> None:
    network, x = Keywords().eval(), torch.randn(16, WIDTH)
    graph = capture(network, (x,))
    assert zoo.relative(graph(x), network(x)) <= 1e-6
    assert {"heads.class.weight", "heads.lambda.running_mean", "import"} <= set(named_state(graph))


# Run directories


@functools.cache
def saved() -> tuple[str, dict[str, Tensor]]:
    """The graph of a quantized network with a batch norm, a dictionary of outputs and slices, as JSON, and its tensors."""
    graph = zoo.quantized("dict_output").model
    return json.dumps(to_json(graph)), {name: tensor.clone() for name, tensor in graph.state_dict().items()}


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of nested lists and dictionaries."""
    yield way
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*way, key))


def at(value: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        value = value[key]
    return value


def changed(way: tuple[Any, ...], instead: Any, is_key: bool) -> Any:
    """The graph with another value, or another key, at one place."""
    found = json.loads(saved()[0])
    holder = at(found, way[:-1])
    if is_key:
        holder[instead] = holder.pop(way[-1])
    else:
        holder[way[-1]] = instead
    return found


def nested(value: Any) -> Any:
    for _ in range(200):
        value = [value]
    return value


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_place_of_a_graph_in_a_file(every: int) -> None:
    """Any value, and any key, replaced by code, another name, a large number, nothing, lists in lists: one kind of error, or a graph."""
    whole, x = json.loads(saved()[0]), zoo.ZOO["dict_output"].inputs()
    num_refused = num_read = 0
    for number, way in list(enumerate(way for way in places(whole) if way))[::every]:
        code, name = CODE[number % len(CODE)], NAMES[number % len(NAMES)]
        values = [(instead, False) for instead in (code, name, 2**40, None, nested(code), {code: 1})]
        keys = [(instead, True) for instead in (code, name) if isinstance(way[-1], str)]
        for instead, is_key in (*values, *keys):
            with nothing_runs():
                try:
                    graph = from_json(changed(way, instead, is_key), saved()[1])
                except HalfstepError:
                    num_refused += 1
                    continue
                num_read += 1
                with contextlib.suppress(Exception):  # a graph of other numbers need not fit its tensors
                    graph(*x)
    assert num_refused > 500 / every
    assert num_read > 20 / every


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_file_are_names(name: str) -> None:
    """Where a graph holds the user's names, any text will do."""
    found = json.loads(saved()[0])
    found["names"] = {path: f"{name}{index}" for index, path in enumerate(found["names"])}
    for index, entry in enumerate(found["nodes"]):
        entry["meta"]["name"] = f"{name}{index}"
    x = zoo.ZOO["dict_output"].inputs()
    with nothing_runs():
        outputs = zoo.leaves(from_json(found, saved()[1])(*x))
    assert all(torch.equal(*pair) for pair in zip(outputs, zoo.leaves(zoo.quantized("dict_output").model(*x)), strict=True))
