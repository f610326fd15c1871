"""ONNX's own node tests (`onnx.backend.test`), run through the front end: each passes, or stands in a list here with its reason.

Inputs that the front end must know beforehand (shapes, axes, a number of outputs) are constants of the model here; the test models feed
them like data. The models of operators older than opset 11 are read as opset 11, which has the same operators.
"""

from __future__ import annotations

import fnmatch
import functools
import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from halfstep.errors import HalfstepError
from halfstep.graph.capture import capture
from halfstep.onnx_import.model import OnnxGraph, from_proto
from halfstep.onnx_import.network import network
from halfstep.onnx_import.simplify import simplify
from halfstep.onnx_import.table import OPERATORS
from halfstep.onnx_import.tensors import to_numpy, to_torch

NO_FORM = {
    "quantized already: refused, or stripped on request": (
        "QuantizeLinear DequantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger DynamicQuantizeLinear"
    ),
    "training: losses, optimizers, random numbers": (
        "SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss Adagrad Adam Momentum Bernoulli RandomUniformLike"
    ),
    "control flow that depends on data": "If Loop Scan SequenceMap",
    "sequences and optional values": (
        "SequenceInsert SplitToSequence OptionalHasElement OptionalGetElement SequenceAt SequenceConstruct SequenceEmpty ConcatFromSequence"
    ),
    "text": "StringNormalizer StringConcat StringSplit RegexFullMatch TfIdfVectorizer LabelEncoder",
    "classical machine learning (ai.onnx.ml)": "ArrayFeatureExtractor Binarizer TreeEnsemble",
    "the size of the result depends on data": "NonZero Unique Compress NonMaxSuppression",
    "recurrent networks": "LSTM GRU RNN",
    "signals and image files": "DFT STFT MelWeightMatrix ImageDecoder BlackmanWindow HammingWindow HannWindow",
    "geometry of detection and warping": (
        "GridSample RoiAlign DeformConv AffineGrid CenterCropPad Col2Im MaxUnpool ReverseSequence Det Upsample"
    ),
    "newer fused operators of language models; their written-out forms are read": (
        "LinearAttention FlexAttention CausalConvWithState RotaryEmbedding TensorScatter SwiGLU"
    ),
    "bits of another type": "BitCast",
}
"""Why -> operators that are not translated."""

EXCLUDED = {
    "test_*FLOAT8*": "PyTorch has no arithmetic on the type",
    "test_*FLOAT4*": "PyTorch has no arithmetic on the type",
    "test_*INT4*": "PyTorch has no arithmetic on the type",
    "test_*INT2*": "PyTorch has no arithmetic on the type",
    "test_*FLOAT8*_expanded": "PyTorch has no arithmetic on the type",
    "test_*FLOAT4*_expanded": "PyTorch has no arithmetic on the type",
    "test_*INT4*_expanded": "PyTorch has no arithmetic on the type",
    "test_*INT2*_expanded": "PyTorch has no arithmetic on the type",
    "test_*_equal_uint*_expanded": "PyTorch has no arithmetic on the type",
    "test_attention_*bf16_expanded": "bfloat16 sums in another order",
    "test_attention_4d_causal_fp16_expanded": "float16 sums in another order",
    "test_*_uint16": "PyTorch has no arithmetic on the type",
    "test_*_uint32": "PyTorch has no arithmetic on the type",
    "test_*_uint64": "PyTorch has no arithmetic on the type",
    "test_bitwise_not_3d": "PyTorch has no arithmetic on the type",
    "test_sequence_*": "inputs are sequences",
    "test_identity_sequence": "inputs are sequences",
    "test_identity_opt": "inputs are optional values",
    "test_optional_*": "inputs are optional values",
    "test_equal_string*": "text",
    "test_batchnorm_*_training_mode": "a training step",
    "test_training_dropout*": "a training step",
    "test_maxpool_with_argmax_*": "the places of the maxima are not read",
    "test_resize_*cubic*": "cubic interpolation is not read",
    "test_resize_*antialias*": "antialiasing is not read",
    "test_resize_tf_crop_and_resize*": "crops given by data are not read",
    "test_resize_downsample_scales_linear_align_corners": "divides by the unrounded size; ONNX Runtime and PyTorch do not",
    "test_attention_*bf16*": "bfloat16 sums in another order",
    "test_attention_4d_causal_fp16*": "float16 sums in another order",
    "test_attention_*nan_robustness": "rows that hide everything are NaN here, as in PyTorch's softmax",
    "test_attention_*with_qk_matmul*": "the scores as an output are not read",
    "test_attention_*present_qk_matmul*": "the scores as an output are not read",
    "test_attention_*output_mode3*": "the scores as an output are not read",
    "test_attention_*padded_kv*": "lengths of padded keys are not read",
    "test_attention_*nonpad*": "lengths of padded keys are not read",
    "test_attention_*window*": "windows are not read",
    "test_*window*_expanded": "the size of the result is data",
    "test_center_crop_pad_*_expanded": "the size of the result is data",
}
"""Pattern of names -> why these cases do not pass though their operators are translated."""

FROZEN = [
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "BatchNormalization",
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "PRelu",
    "Gather",
    "Where",
    "Add",
    "Mul",
    "Sub",
    "Div",
    "Pow",
    "Clip",
    "Min",
    "Max",
    "Equal",
    "Einsum",
]
"""Operators whose cases are run a second time, with all inputs but the first as constants: weights rather than activations."""


@functools.cache
def cases() -> dict[str, list[Any]]:
    """All node tests, by their operator, or "several"."""
    from onnx.backend.test.loader import load_model_tests

    found: dict[str, list[Any]] = defaultdict(list)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for case in load_model_tests(kind="node"):
            kinds = {node.op_type for node in case.model.graph.node}
            found[kinds.pop() if len(kinds) == 1 else "several"].append(case)
    return found


def why_not(case: Any) -> str | None:
    """Why a case is not expected to pass; None where it is."""
    for node in case.model.graph.node:
        for reason, operators in NO_FORM.items():
            if node.op_type in operators.split():
                return reason
    return next((reason for pattern, reason in EXCLUDED.items() if matches(case, pattern)), None)


def matches(case: Any, pattern: str) -> bool:
    """Operators written out in others ("..._expanded") only match a pattern that says so."""
    return fnmatch.fnmatchcase(case.name, pattern) and (pattern.endswith("_expanded") or not case.name.endswith("_expanded"))


def as_arrays(values: list[Any]) -> list[Any]:
    """Types that NumPy lacks come as messages."""
    return [onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value for value in values]


def read(case: Any, arrays: list[Any], is_frozen: bool) -> tuple[OnnxGraph, list[torch.Tensor]]:
    """The case's graph and the data that is left to feed."""
    proto = onnx.ModelProto.FromString(case.model.SerializeToString())
    for entry in proto.opset_import:
        entry.version = max(entry.version, 11) if entry.domain == "" else entry.version
    graph = from_proto(proto, None, case.name)
    data, inputs = [], []
    for index, (value, array) in enumerate(zip(graph.inputs, arrays, strict=True)):
        if (is_frozen and index) or must_be_known(graph, value.name):
            graph.constants[value.name] = np.asarray(array)
        else:
            inputs.append(value)
            data.append(to_torch(np.asarray(array)))
    graph.inputs = inputs
    return graph, data


def must_be_known(graph: OnnxGraph, name: str) -> bool:
    return any(
        name == read_name and operation.op_type in OPERATORS and index in OPERATORS[operation.op_type].values
        for operation in graph.operations
        for index, read_name in enumerate(operation.inputs)
    )


def failure(case: Any, is_frozen: bool = False) -> str | None:
    """What goes wrong with a case; None where it passes."""
    try:
        for arrays, wanted in (tuple(map(as_arrays, pair)) for pair in case.data_sets):
            graph, data = read(case, arrays, is_frozen)
            found = network(simplify(graph), case.name)(*data)
            compare(found if isinstance(found, tuple) else (found,), wanted, case)
    except (HalfstepError, AssertionError) as error:
        return f"{case.name}: {str(error).strip().splitlines()[0]}"
    return None


def compare(found: tuple[torch.Tensor, ...], wanted: list[Any], case: Any) -> None:
    for tensor, expected in zip(found, wanted, strict=True):
        array = to_numpy(tensor)
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        np.testing.assert_allclose(array.astype(np.float64), expected.astype(np.float64), rtol=case.rtol, atol=case.atol)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("op_type", sorted(OPERATORS))
def test_operator(op_type: str) -> None:
    chosen = [case for case in cases()[op_type] if why_not(case) is None]
    failures = [failure(case) for case in chosen]
    failures += [failure(case, is_frozen=True) for case in chosen if op_type in FROZEN]
    assert [text for text in failures if text] == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_operators_together() -> None:
    """Most of them are operators written out in simpler ones."""
    failures = [failure(case) for case in cases()["several"] if why_not(case) is None]
    assert [text for text in failures if text] == []


def test_every_case_is_run_or_listed() -> None:
    unlisted = [
        case.name
        for op_type, found in cases().items()
        for case in found
        if op_type not in OPERATORS and op_type != "several" and why_not(case) is None
    ]
    assert unlisted == []
    assert sum(why_not(case) is None for found in cases().values() for case in found) >= 1150


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("pattern", EXCLUDED)
def test_what_is_excluded_does_fail(pattern: str) -> None:
    """A pattern that every case of it passes has no reason to be there."""
    found = [case for group in cases().values() for case in group if matches(case, pattern)]
    translated = [case for case in found if not any(node.op_type not in OPERATORS for node in case.model.graph.node)]
    assert any(failure(case) for case in translated or found)


CAPTURED = [
    "Conv", "ConvTranspose", "Gemm", "MatMul", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization", "LayerNormalization",
    "InstanceNormalization", "Softmax", "Resize", "PRelu", "HardSwish", "Gelu", "Clip", "Relu", "Sigmoid", "DepthToSpace", "LRN",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("op_type", CAPTURED)
def test_captured(op_type: str) -> None:
    """The graph that steps work on computes the same, for the batch size it was recorded with."""
    for case in cases()[op_type]:
        if why_not(case) is not None:
            continue
        graph, data = read(case, as_arrays(case.data_sets[0][0]), is_frozen=True)
        if data[0].ndim and data[0].is_floating_point():
            model = network(simplify(graph), case.name)
            captured = capture(model, tuple(data))
            size = captured.meta["batch_size"] or len(data[0])
            found, expected = (torch.utils._pytree.tree_leaves(net(data[0][:size])) for net in (captured, model))
            torch.testing.assert_close(found, expected)
