"""The sure way to ONNX: PyTorch's own exporter, which knows every ATen operator (``torch.onnx.export(dynamo=True)``)."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import onnx_ir as ir
import torch
from onnxscript import values
from torch import Tensor
from torch.export import Dim
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from halfstep.errors import ExportError
from halfstep.export.mark import DOMAIN
from halfstep.export.translate import output_name
from halfstep.export.translation.writer import OPSET


def translate_with_torch(graph: GraphModule, samples: tuple[Tensor, ...]) -> ir.Model:
    """``graph``, marked by `mark`, as an ONNX model with ``halfstep::Edge`` nodes; `ExportError` where the exporter gives up."""
    size = graph.meta["batch_size"]
    example = tuple(x[: size or 2].clone() for x in samples)
    if size is None and len(example[0]) < 2:
        example = tuple(torch.cat([x, x]) for x in example)  # a batch of one would be recorded as fixed
    shapes = None if size is not None else tuple({0: Dim("batch", min=1)} for _ in example)
    names = [str(node.target) for node in graph.graph.nodes if node.op == "placeholder"]
    leaves = pytree.tree_leaves(next(node for node in graph.graph.nodes if node.op == "output").args[0])
    outputs = [output_name(index) for index in range(len(leaves))]
    try:
        with _quiet(), torch.no_grad(), _told_apart(graph) as originals:
            program = torch.onnx.export(
                graph, example, dynamo=True, opset_version=OPSET, custom_translation_table=_translation(),  # type: ignore[arg-type]
                dynamic_shapes=shapes, input_names=names, output_names=outputs, verbose=False, optimize=True,
            )  # fmt: skip
    except Exception as error:  # the exporter raises many kinds
        raise ExportError(f"PyTorch's ONNX exporter cannot translate the network: {_cause(error)}") from error
    assert program is not None
    for name, tensor in originals.items():
        if name in program.model.graph.initializers:
            program.model.graph.initializers[name].const_value = ir.tensor(tensor.numpy(), name=name)
    return program.model


@contextlib.contextmanager
def _told_apart(graph: GraphModule) -> Iterator[dict[str, Tensor]]:
    """Parameters that equal another are different inside the block: the exporter would store one of them, each has its own codes.

    What is yielded are their own values, by name.
    """
    originals: dict[str, Tensor] = {}
    seen: set[tuple[tuple[int, ...], bytes]] = set()
    for name, parameter in graph.named_parameters():
        key = tuple(parameter.shape), parameter.detach().numpy().tobytes()
        if key in seen:
            originals[name] = parameter.detach().clone()
            parameter.data.add_(len(originals))
        seen.add(key)
    try:
        yield originals
    finally:
        for name, tensor in originals.items():
            graph.get_parameter(name).data.copy_(tensor)


def _translation() -> dict[object, object]:
    """The exporter's translation table: marker operator -> ONNX node ``halfstep::Edge`` with the attribute ``edge``."""
    if not onnx.defs.has("Edge", DOMAIN):
        tensor = [("T", ["tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)"], "")]
        x, y = onnx.defs.OpSchema.FormalParameter("x", "T"), onnx.defs.OpSchema.FormalParameter("y", "T")
        name = onnx.defs.OpSchema.Attribute("edge", onnx.defs.OpSchema.AttrType.STRING)
        onnx.defs.register_schema(
            onnx.defs.OpSchema("Edge", DOMAIN, 1, inputs=[x], outputs=[y], type_constraints=tensor, attributes=[name])
        )
    opset = values.Opset(DOMAIN, 1)

    def translate(x: object, name: str) -> object:
        return opset.Edge(x, edge=name)

    return {torch.ops.halfstep.edge.default: translate}


def _cause(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress lines, and the warnings of its own code that a user can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
