"""How well a network does on labelled data: a float model, a simulated one, or an ONNX file, all through one function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from halfstep.data import Data, Preprocessing, as_data
from halfstep.errors import DataError
from halfstep.graph.capture import in_eval_mode
from halfstep.graph.run import run
from halfstep.integer import interpreter
from halfstep.integer.program import IntegerProgram

Metric = Callable[[Any, Tensor], Tensor]
"""Maps a batch of outputs and labels [B] to a score for each sample [B]; `evaluate` returns their mean."""


def top1(outputs: Any, labels: Tensor) -> Tensor:
    """100 where the largest score (last axis of the first output) is the label, else 0: its mean is the accuracy in percent."""
    scores = next(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor))
    return (scores.argmax(-1) == labels).float() * 100


def evaluate(model: Any, data: Any, metric: Metric = top1, batch_size: int = 64) -> float:
    """The mean of ``metric`` over ``data``.

    model: an ``nn.Module``, an ``ExportedProgram``, a `Result` (its simulated network), an `IntegerProgram`, or the path of an ONNX file.
    data: labelled, in any form `as_data` takes. Raises `DataError` where there are no labels or the inputs do not fit.
    """
    prepared = prepare(data, getattr(getattr(model, "recipe", None), "preprocessing", None))
    predict = _predictor(model)
    total, count = 0.0, 0
    for inputs, labels in prepared.batches(batch_size):
        if labels is None:
            raise DataError(f"{_name(prepared)} has no labels, and accuracy cannot be measured without them.")
        scores = metric(predict(inputs), labels)
        total, count = total + float(scores.double().sum()), count + len(scores)
    return total / count


def prepare(data: Any, preprocessing: Preprocessing | None) -> Data:
    """`as_data`, with a recipe's preprocessing for data that bring none of their own."""
    if isinstance(data, Data) and data.preprocessing is not None:
        return data
    return as_data(data, preprocessing)


def _name(data: Data) -> str:
    return data.name[:1].upper() + data.name[1:]


def _predictor(model: Any) -> Callable[[tuple[Tensor, ...]], Any]:
    """A function from inputs to outputs."""
    if isinstance(model, (str, Path)):
        from halfstep.export.session import open_session, run_session  # loads ONNX Runtime: not before it is needed

        session = open_session(Path(model), num_threads=torch.get_num_threads())
        return lambda inputs: [torch.from_numpy(output) for output in run_session(session, inputs).values()]
    if isinstance(model, IntegerProgram):
        return partial(_interpret, model)
    if isinstance(model, ExportedProgram):
        return partial(_predict, model.module())
    network: nn.Module = model if isinstance(model, nn.Module) else model.model
    forward = partial(run, network) if isinstance(network, GraphModule) and "batch_size" in network.meta else partial(_predict, network)

    def predict_in_eval_mode(inputs: tuple[Tensor, ...]) -> Any:
        with in_eval_mode(network):
            return forward(inputs)

    return predict_in_eval_mode


def _interpret(program: IntegerProgram, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The outputs of an integer program as real numbers."""
    return interpreter.dequantize_outputs(program, interpreter.run(program, interpreter.quantize_inputs(program, inputs)))


def _predict(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Outputs without gradients; `DataError` where the network cannot take the inputs."""
    try:
        with torch.no_grad():
            return network(*inputs)
    except (RuntimeError, TypeError, IndexError, ValueError) as error:  # how PyTorch answers a wrong shape or number of inputs
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"The network cannot take inputs of shape {shapes}: {first}") from error
