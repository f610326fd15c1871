"""From a user's model to the graph every step works on.

``torch.export`` records the operators (ATen vocabulary); what comes out is made functional, gets its batch norms and dropouts back as
modules, its attention is written out, and every node learns the user's module name. The user's model is left as it was: all tensors are
copied.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from halfstep.errors import DataError, ModelError
from halfstep.graph.attention import MASKED, write_out_attention
from halfstep.graph.check import check
from halfstep.graph.fold import fold_constants
from halfstep.graph.functionalize import functional_module
from halfstep.graph.fuse import fuse
from halfstep.graph.lift import lift_modules
from halfstep.graph.names import NamedNetwork, name_nodes
from halfstep.graph.normal_form import normalize
from halfstep.graph.recorded import Recorded, as_module, with_own_names
from halfstep.graph.run import cut
from halfstep.graph.tree import is_sound, put, without_subnormals
from halfstep.graph.witness import Witness, first_that_differs, module_values

_NUM_COMPARED = 2  # inputs that model and graph are compared on


def capture(model: nn.Module | ExportedProgram, inputs: tuple[Tensor, ...]) -> GraphModule:
    """The graph of ``model``, recorded on one batch of ``inputs``, as an ``nn.Module`` of its own.

    ``graph.meta["batch_size"]`` is None where any batch size will do, else the only one the graph accepts; ``graph.meta["notes"]`` lists
    what a user should know; ``graph.meta["normalized"]`` names the layers whose batch norm was folded, none so far;
    ``graph.meta["witness"]`` is what the model answers to a few of the inputs. Raises `ModelError` where the model cannot be recorded or
    holds NaN or infinite weights, and where the graph answers otherwise.
    """
    notes: list[str] = []
    names, input_names = (model.names, model.input_names) if isinstance(model, NamedNetwork) else ({}, ())
    if isinstance(model, ExportedProgram):
        _refuse_non_finite(model.state_dict, {})
        program, batch_size = model, _batch_size_of(model)
    else:
        _refuse_non_finite(model.state_dict(keep_vars=True), names)
        program, batch_size = _export(model, inputs, notes)
    graph = _own_copy(with_own_names(program, names))
    lift_modules(graph)
    write_out_attention(graph)
    fold_constants(graph)
    normalize(graph)
    fold_constants(graph)  # what it turned
    fuse(graph)
    name_nodes(graph, input_names)
    _describe(graph)
    graph.meta.update(batch_size=batch_size, notes=notes, normalized=[])
    check(graph)
    graph.eval()
    graph.meta["witness"] = _compare(model, graph, inputs)
    return graph


def _compare(model: nn.Module | ExportedProgram, graph: GraphModule, inputs: tuple[Tensor, ...]) -> Witness:
    """What the model answers to a few inputs; `ModelError` where the graph does not: torch.export can miss a write to shared memory."""
    few, _ = cut(graph, tuple(x[:_NUM_COMPARED] for x in inputs))[0]
    name = type(model).__name__
    if isinstance(model, ExportedProgram):
        with _quiet():
            witness = Witness.of(as_module(with_own_names(model, {})), few)
        found = witness.confirm(graph)
        if found is None:
            return witness
        raise ModelError(f"The graph of the {name} computes something else than the program itself: {found}.")
    with in_eval_mode(model), _buffers_kept(model), module_values(model) as values:
        witness = Witness.of(model, few)
    found = witness.confirm(graph)
    if found is None:
        return witness
    place = first_that_differs(graph, values, witness.values, witness.allowed)
    raise ModelError(
        f"What torch.export recorded of {name} computes something else than the model itself: {found}, from '{place}' on. Does its forward "
        "draw random numbers, or write into a tensor that is read elsewhere? Make it deterministic, and its operations out of place."
    )


def _export(model: nn.Module, inputs: tuple[Tensor, ...], notes: list[str]) -> tuple[ExportedProgram, int | None]:
    """Record ``model`` in eval mode with a free batch size where it allows that, else with a batch size it accepts."""
    with in_eval_mode(model), torch.no_grad(), _quiet():
        size = _working_batch_size(model, inputs)
        example = tuple(x[:size].clone() for x in inputs)
        if size > 1:  # torch.export takes a batch of one as fixed
            with contextlib.suppress(Exception):  # it raises many kinds; the second attempt decides which one matters
                return torch.export.export(model, example, dynamic_shapes=tuple({0: Dim("batch", min=1)} for _ in inputs)), None
        try:
            program = torch.export.export(model, example)
        except Exception as error:
            raise ModelError(_explain(model, error)) from error
    notes.append(f"The network was recorded for batches of {size} only: its forward fixes the batch size, or torch.export cannot free it.")
    return program, size


def _working_batch_size(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """The first batch size the model itself can be run with; `DataError` where it cannot take the inputs at all."""
    failure: Exception | None = None
    with _buffers_kept(model):
        for size in dict.fromkeys(size for size in (2, 1, 4, 8, 16, 32, len(inputs[0])) if size <= len(inputs[0])):
            try:
                model(*(x[:size].clone() for x in inputs))
            except Exception as error:  # the user's own code
                failure = failure or error
            else:
                return size
    shapes = ", ".join(f"{list(x.shape[1:])} ({str(x.dtype).removeprefix('torch.')})" for x in inputs)
    reason = "there is none." if failure is None else _first_line(failure)
    raise DataError(
        f"{type(model).__name__} cannot take the data: {reason} A sample has the shape {shapes}. "
        "Check the order of the axes (C, H, W), the number of inputs, and the options --size and --crop."
    ) from failure


def _explain(model: nn.Module, error: Exception) -> str:
    return (
        f"torch.export cannot record {type(model).__name__}: {_first_line(error)} "
        "Make its forward free of data-dependent Python control flow, or export it yourself and pass the .pt2 file."
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _batch_size_of(program: ExportedProgram) -> int | None:
    """None if the first axis of the first input is symbolic."""
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in program.graph_signature.user_inputs]
    size = placeholders[0].meta["val"].shape[0] if placeholders and placeholders[0].meta["val"].ndim else None
    return size if isinstance(size, int) else None


def _own_copy(recorded: Recorded) -> GraphModule:
    """The program as a plain GraphModule on cloned tensors: it trains, deep-copies and keeps a ``state_dict``."""
    with _quiet():
        module = functional_module(recorded)
    root = nn.Module()
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and node.users:
            put(root, node.target, _copied(getattr(module, node.target)))
        elif node.op == "get_attr":
            module.graph.erase_node(node)
    graph = GraphModule(root, module.graph)
    graph.meta = {"names": module.meta["names"]}
    return graph


def _describe(graph: GraphModule) -> None:
    """Set what the steps need of each node's value: "shape" (None for a free size) and "dtype" of a tensor, "is_number" of a scalar."""
    kept = ("name", "shape", "dtype", "is_number")
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            node.meta["shape"] = tuple(size if isinstance(size, int) else None for size in value.shape)
            node.meta["dtype"] = value.dtype
        elif value is not None and not isinstance(value, (tuple, list)):
            node.meta["is_number"] = True
        node.meta = {key: node.meta[key] for key in kept if key in node.meta}


def _copied(value: object) -> object:
    """A tensor's copy, its entries in order, without subnormal numbers and infinite masks, as a parameter if it was one; else ``value``."""
    if not isinstance(value, Tensor):
        return value
    copied = without_subnormals(value.detach().clone(memory_format=torch.contiguous_format))
    if isinstance(value, nn.Parameter):
        return nn.Parameter(copied, value.requires_grad)
    return copied.masked_fill_(copied == -torch.inf, MASKED) if copied.dtype is torch.float32 else copied


def _refuse_non_finite(state: dict[str, Tensor | nn.Parameter], names: Mapping[str, str]) -> None:
    """A buffer may hold infinities: a mask for a softmax, bounds of a clamp. names: the user's, where they are not the keys."""
    for path, tensor in state.items():
        name = names.get(path, path)
        if not is_sound(name, tensor):
            raise ModelError(f"The weights of '{name}' hold NaN or infinite values: load a sound checkpoint.")


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block, every module's own mode restored after it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Whatever a forward pass writes into the model's buffers inside the block is undone after it."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch.export's own deprecation warnings and log lines, which a user can do nothing about."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
