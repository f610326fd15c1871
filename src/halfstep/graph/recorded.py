"""What torch.export recorded, under names of halfstep's own.

Nothing of it reaches generated code: inputs and outputs lie flat, parameters, buffers and inputs get the names of `graph.names`, and
operators are called after themselves. The user's names are kept beside the program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
)
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from halfstep.errors import ModelError
from halfstep.graph.names import as_text, kind_of, numbered, operator_name
from halfstep.graph.structure import described, return_as
from halfstep.graph.tree import at, put

_STORED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """program: with flat inputs and outputs. names: the user's, by own name, of inputs, parameters and buffers. outputs: how the user's
    are put together, see `structure`.
    """

    program: ExportedProgram
    names: dict[str, str]
    outputs: Any


def with_own_names(program: ExportedProgram, given: Mapping[str, str]) -> Recorded:
    """A program on the tensors of ``program``, which stays as it is. given: what tensors and modules are called where not by their path.

    Raises `ModelError` where it takes or writes something else than tensors.
    """
    copy = _Copy(program, given)
    for spec in program.graph_signature.input_specs:
        copy.add_input(spec)
    for node in program.graph.nodes:
        if node.op == "get_attr":
            copy.add_region(node)
        elif node.op != "placeholder":
            copy.add_operator(node)
    return copy.finished()


class _Copy:
    """A program as far as it is copied."""

    def __init__(self, program: ExportedProgram, given: Mapping[str, str]) -> None:
        self._program, self._given, self._graph, self._root = program, given, Graph(), nn.Module()
        self._nodes: dict[Node, Node] = {}
        self._placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        self._inputs: list[InputSpec] = []
        self._state: dict[str, Any] = {}
        self._constants: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._counts = {"x": 0, "p": 0, "b": 0, "m": 0}

    def add_input(self, spec: InputSpec) -> None:
        """An input of the user's, or a stored tensor."""
        node = self._placeholders[spec.arg.name]
        if isinstance(spec.arg, ConstantArgument) and not node.users:
            return  # an argument of forward that is no tensor
        if spec.kind is not InputKind.USER_INPUT and (spec.kind not in _STORED or spec.target is None):
            raise ModelError(f"The network reads '{spec.target}', which is no tensor: export it with tensors alone.")
        name = node.target if spec.kind is InputKind.USER_INPUT else spec.target
        own = self._own("x" if spec.kind is InputKind.USER_INPUT else kind_of(self._stored(spec)))
        taken = {given for other, given in self._names.items() if (other[0] == "x") == (own[0] == "x")}
        self._names[own] = numbered(as_text(self._given.get(str(name), str(name))), taken)
        made = self._graph.placeholder(own)
        made.meta = dict(node.meta)
        self._nodes[node] = made
        target = None if spec.kind is InputKind.USER_INPUT else own
        self._inputs.append(InputSpec(spec.kind, dataclasses.replace(spec.arg, name=made.name), target, spec.persistent))
        if target is not None:
            is_state = spec.kind is InputKind.PARAMETER or (spec.kind is InputKind.BUFFER and spec.persistent)
            (self._state if is_state else self._constants)[own] = self._stored(spec)

    def add_region(self, node: Node) -> None:
        """A part of the graph that an operator of its own runs, such as what stands under ``torch.no_grad()``."""
        own = self._own("m")
        setattr(self._root, own, at(self._program.graph_module, str(node.target)))
        self._nodes[node] = self._graph.get_attr(own)
        self._nodes[node].meta = dict(node.meta)

    def add_operator(self, node: Node) -> None:
        """Anything that computes, and the output."""
        made = copied(self._graph, node, self._nodes)
        stack = node.meta.get("nn_module_stack") or {}
        made.meta["nn_module_stack"] = {key: (self._given.get(path, path), kind) for key, (path, kind) in stack.items()}
        self._nodes[node] = made

    def finished(self) -> Recorded:
        """The copy as a program."""
        signature = self._program.graph_signature
        names = {old.name: new.name for old, new in self._nodes.items()}
        outputs = [_output(spec, names, self._given) for spec in signature.output_specs]
        called = self._program.module_call_graph[0].signature
        assert called is not None
        arguments = [spec.arg for spec in self._inputs if spec.kind is InputKind.USER_INPUT]
        results = [spec.arg for spec in outputs if spec.kind is OutputKind.USER_OUTPUT]
        inputs, returned = pytree.tree_structure(((0,) * len(arguments), {})), pytree.tree_structure((0,) * len(results))
        entry = ModuleCallEntry("", ModuleCallSignature(arguments, results, inputs, returned))
        program = ExportedProgram(
            self._root, self._graph, ExportGraphSignature(self._inputs, outputs), self._state, dict(self._program.range_constraints),
            [entry], None, self._constants, verifiers=self._program.verifiers,
        )  # fmt: skip
        return Recorded(program, self._names, described(called.out_spec))

    def _own(self, kind: str) -> str:
        self._counts[kind] += 1
        return f"{kind}_{self._counts[kind] - 1}"

    def _stored(self, spec: InputSpec) -> Any:
        target = str(spec.target)
        return self._program.state_dict[target] if target in self._program.state_dict else self._program.constants[target]


def copied(graph: Graph, node: Node, nodes: Mapping[Node, Any]) -> Node:
    """An operator in ``graph``, called after itself, that reads what stands for its operands in ``nodes``."""
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), nodes.__getitem__)
    made = graph.create_node(node.op, node.target, args, kwargs, name=operator_name(node))
    made.meta = dict(node.meta)
    return made


def _output(spec: OutputSpec, names: Mapping[str, str], given: Mapping[str, str]) -> OutputSpec:
    if spec.kind is not OutputKind.USER_OUTPUT:
        raise writes_into(given.get(str(spec.target), str(spec.target)))
    is_node = not isinstance(spec.arg, ConstantArgument)
    return OutputSpec(spec.kind, dataclasses.replace(spec.arg, name=names[spec.arg.name]) if is_node else spec.arg, None)


def writes_into(name: str) -> ModelError:
    """What to raise where the network changes what it is given."""
    return ModelError(
        f"The model writes into '{name}' in a way that cannot be made functional. "
        "Keep state out of forward: a buffer or input that is changed in place has no place in an integer network."
    )


def functionalized(recorded: Recorded) -> Recorded:
    """The program as torch rewrites it without operators that change their arguments; `ModelError` where stored tensors are changed."""
    program = recorded.program.run_decompositions({})
    inputs = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]  # in the same order
    given = recorded.names | {name: recorded.names[f"x_{index}"] for index, name in enumerate(inputs)}
    return dataclasses.replace(with_own_names(program, given), outputs=recorded.outputs)


def as_module(recorded: Recorded) -> GraphModule:
    """The program as a module that holds its tensors; it returns what the user's returns."""
    program, graph, root = recorded.program, Graph(), nn.Module()
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    nodes: dict[Node, Node] = {}
    for node in program.graph.nodes:
        spec = specs.get(node.name) if node.op == "placeholder" else None
        if spec is not None and spec.target is not None:
            put(root, spec.target, program.state_dict[spec.target] if spec.target in program.state_dict else program.constants[spec.target])
            nodes[node] = graph.get_attr(spec.target)
        elif node.op == "get_attr":
            setattr(root, str(node.target), at(program.graph_module, str(node.target)))
            nodes[node] = graph.get_attr(str(node.target))
        else:
            nodes[node] = graph.placeholder(str(node.target)) if node.op == "placeholder" else copied(graph, node, nodes)
        nodes[node].meta = dict(node.meta)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    return_as(graph, recorded.outputs)
    module = GraphModule(root, graph)
    module.meta["names"] = {path: name for path, name in recorded.names.items() if path[0] != "x"}
    for node in inputs:
        node.meta["name"] = recorded.names[str(node.target)]
    return module
