"""What becomes of a file: names, batch size, layers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx_texts import CONV, CONV_BODY, Write, captured, names, real, runtime, weights
from torch import nn

import halfstep as hs
import zoo
from halfstep.graph.operators import weighted_layers
from halfstep.onnx_import.model import from_proto


def test_names_of_nodes_and_initializers_stay(write: Write) -> None:
    graph = captured(write(CONV + CONV_BODY, **weights()), torch.randn(4, 3, 8, 8))
    found = names(graph)
    assert {"image", "stem.weight", "head.weight", "head.bias", "/stem/Conv", "/stem/bn", "/stem/act", "pool", "flat", "head"} == set(found)
    assert graph.meta["batch_size"] is None and graph.meta["notes"] == []
    assert [node.meta["shape"] for node in graph.graph.nodes if node.meta["name"] == "/stem/Conv"] == [(None, 8, 8, 8)]


def test_a_batch_norm_is_a_module_that_can_be_folded(write: Write) -> None:
    path = write(CONV + CONV_BODY, **weights())
    graph = captured(path, torch.randn(4, 3, 8, 8))
    assert isinstance(zoo.module_named(graph, "/stem/bn"), nn.BatchNorm2d)
    result = hs.quantize(hs.load_onnx(path), torch.randn(32, 3, 8, 8))
    assert [layer.name for layer in weighted_layers(result.model)] == ["/stem/Conv", "head"]
    assert "/stem/bn" not in names(result.model)


def test_a_batch_norm_above_other_names(write: Write) -> None:
    """Its module does not push out what lies below a name like its own."""
    text = (CONV + CONV_BODY).replace("[___stem___bn]", "[stem]")
    path, x = write(text, **weights()), torch.randn(4, 3, 8, 8)
    graph = captured(path, x)
    assert isinstance(zoo.module_named(graph, "stem"), nn.BatchNorm2d)
    torch.testing.assert_close(graph(x), runtime(path, x)[0], rtol=1e-4, atol=1e-5)


def test_it_computes_what_onnx_runtime_does(write: Write) -> None:
    path, x = write(CONV + CONV_BODY, **weights()), torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(hs.load_onnx(path)(x), runtime(path, x)[0], rtol=1e-4, atol=1e-5)


def test_awkward_names(write: Write) -> None:
    """Names that PyTorch keeps for itself, that are no identifiers, or that stand above one another."""
    text = """g (float[N,4] x) => (float[N,4] y) {
        [forward] a = Add(x, training)
        [b] e = Mul(a, b__c)
        [b__c] c = Sub(e, graph__code)
        [model___Relu] d = Relu(c)
        [model___Relu__] y = Add(d, b)
    }"""
    path = write(text, training=real(4), b__c=real(4), graph__code=real(4), b=real(4))
    x = torch.randn(3, 4)
    graph = captured(path, x)
    torch.testing.assert_close(graph(x), runtime(path, x)[0])
    assert {"model/Relu", "b", "b.c"} <= set(names(graph))
    hs.quantize(hs.load_onnx(path), torch.randn(8, 4))


def test_a_fixed_batch_stays_fixed(write: Write) -> None:
    path = write(CONV.replace("N", "2") + CONV_BODY, **weights())
    graph = captured(path, torch.randn(4, 3, 8, 8))
    assert graph.meta["batch_size"] == 2
    assert "batches of 2" in graph.meta["notes"][0]


def test_sizes_left_free_come_from_the_data(write: Write) -> None:
    path = write(CONV.replace("8,8", "H,W") + CONV_BODY, **weights())
    for size in (8, 11):
        x = torch.randn(4, 3, size, size)
        torch.testing.assert_close(captured(path, x)(x), runtime(path, x)[0], rtol=1e-4, atol=1e-5)


def test_arithmetic_on_the_batch_size_leaves_no_trace(write: Write) -> None:
    text = """g (float[N,6] x) => (float[N,2] y) {
        s = Shape(x)
        zero = Constant<value = int64 {0}>()
        n = Gather(s, zero)
        axes = Constant<value = int64[1] {0}>()
        one = Unsqueeze(n, axes)
        rest = Constant<value = int64[2] {2, 3}>()
        wanted = Concat<axis=0>(one, rest)
        parts = Reshape(x, wanted)
        last = Constant<value = int64[1] {2}>()
        y = ReduceSum<keepdims=0>(parts, last)
    }"""
    x = torch.randn(4, 6)
    graph = captured(write(text), x)
    assert torch.allclose(graph(x), x.reshape(4, 2, 3).sum(2))
    assert torch.allclose(graph(x[:3]), x[:3].reshape(3, 2, 3).sum(2))
    assert [str(node.target) for node in graph.graph.nodes if node.op == "call_function" and not node.meta.get("is_number")] == [
        "aten.reshape.default", "aten.sum.dim_IntList"
    ]  # fmt: skip


def test_a_stored_matrix_makes_a_linear_layer_with_its_bias(write: Write) -> None:
    text = """g (float[N,5,6] x) => (float[N,5,4] y) {
        [product] a = MatMul(x, layer__weight)
        [sum] y = Add(layer__bias, a)
    }"""
    path = write(text, layer__weight=real(6, 4), layer__bias=real(4))
    x = torch.randn(3, 5, 6)
    graph = captured(path, x)
    (layer,) = weighted_layers(graph)
    assert (layer.name, layer.weight.meta["name"], layer.weight.meta["shape"]) == ("product", "layer.weight", (4, 6))
    assert layer.bias is not None and layer.bias.meta["name"] == "layer.bias"
    torch.testing.assert_close(graph(x), runtime(path, x)[0])


def test_a_matrix_with_another_reader_is_kept(write: Write) -> None:
    text = """g (float[N,4] x) => (float[N,4] y) {
        a = MatMul(x, w)
        b = MatMul(a, w)
        c = Add(b, row)
        rows = ReduceSum<keepdims=0>(w, axis)
        y = Mul(c, rows)
    }"""
    path, x = write(text, w=real(4, 4), row=real(4), axis=np.array([0])), torch.randn(3, 4)
    torch.testing.assert_close(captured(path, x)(x), runtime(path, x)[0])


def test_an_einsum_of_two_tensors_is_a_product(write: Write) -> None:
    text = 'g (float[N,3,4] x, float[N,5,4] z) => (float[N,5,3] y) { y = Einsum<equation="bic,bjc->bji">(x, z) }'
    path, inputs = write(text), (torch.randn(2, 3, 4), torch.randn(2, 5, 4))
    graph = captured(path, *inputs)
    assert "aten.matmul.default" in [str(node.target) for node in graph.graph.nodes]
    torch.testing.assert_close(graph(*inputs), runtime(path, *inputs)[0])


def test_softmax_before_opset_13_goes_over_all_later_axes(write: Write) -> None:
    text = "g (float[N,3,4] x) => (float[N,3,4] y) { y = Softmax<axis=1>(x) }"
    x = torch.randn(2, 3, 4)
    for opset in (11, 13):
        path = write(text, opset)
        torch.testing.assert_close(hs.load_onnx(path)(x), runtime(path, x)[0])


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_axes_as_attribute_and_as_input(write: Write, opset: int) -> None:
    squeeze = "a = Unsqueeze<axes=[1]>(x) b = Squeeze<axes=[1]>(a)" if opset < 13 else "a = Unsqueeze(x, one) b = Squeeze(a, one)"
    mean = "y = ReduceMean<axes=[1]>(b)" if opset < 18 else "y = ReduceMean(b, one)"
    constants = {} if opset < 13 else {"one": np.array([1])}
    path, x = write(f"g (float[N,6] x) => (float[N,1] y) {{ {squeeze} {mean} }}", opset, **constants), torch.randn(3, 6)
    torch.testing.assert_close(hs.load_onnx(path)(x), runtime(path, x)[0])


def test_the_class_has_the_name_of_the_file(write: Write) -> None:
    path = write("g (float[N,6] x) => (float[N,6] y) { y = Relu(x) }", 18)
    named = path.rename(path.with_name("my-net.v2.onnx"))
    assert type(hs.load_onnx(named)).__name__ == "my-net.v2"


def test_names_without_a_folder_and_shared_statistics(write: Write) -> None:
    """Each layer gets a bias of its own when the batch norm behind it is folded, and two norms may read the same tensors."""
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
        [first] a = Conv<kernel_shape=[1,1]>(x, w1)
        [norm] b = BatchNormalization(a, gain, shift, mean, variance)
        [second] c = Conv<kernel_shape=[1,1]>(b, w2)
        [norm2] d = BatchNormalization(c, gain, shift, mean, variance)
        [third] e = Conv<kernel_shape=[1,1]>(d, w1)
        y = BatchNormalization(e, gain, shift, mean, variance)
    }"""
    statistics = {"gain": real(3), "shift": real(3), "mean": real(3), "variance": np.abs(real(3)) + 1}
    path = write(text, w1=real(3, 3, 1, 1), w2=real(3, 3, 1, 1), **statistics)
    x = torch.randn(16, 3, 8, 8)
    torch.testing.assert_close(captured(path, x)(x), runtime(path, x)[0], rtol=1e-4, atol=1e-5)
    result = hs.quantize(hs.load_onnx(path), x)
    assert [layer.name for layer in weighted_layers(result.model)] == ["first", "second", "third"]
    assert "second.bias" in result.named_state()
    assert zoo.relative(result.float_model(x), runtime(path, x)[0]) <= 1e-4


def test_ten_thousand_equal_names_take_no_time() -> None:
    nodes = [onnx.helper.make_node("Relu", [f"v{index}"], [f"v{index + 1}"], name="same") for index in range(10_000)]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "g", [value("v0", 1, [1])], [value("v10000", 1, [1])])
    read = from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), None, "net.onnx")
    assert len({operation.name for operation in read.operations}) == 10_000
