"""Which edge gets which quantizer, as text: an operand ``x|uint8`` is read through a quantizer of its own, ``x|uint8@y`` through y's.

``w|int8/0`` has a scale for each entry of axis 0.
"""

from __future__ import annotations

import textwrap

import pytest
import torch
from torch.fx import GraphModule, Node

import transformers
import zoo
from halfstep.errors import GraphError
from halfstep.graph.capture import capture
from halfstep.graph.check import check
from halfstep.graph.edges import activation_quantizers, behind_quantizer, quantizer_of
from halfstep.graph.names import operator_name
from halfstep.graph.run import run
from halfstep.graph.statistics import Statistics
from halfstep.quantizers import quantizers
from halfstep.recipes import Recipe
from halfstep.steps import Context, FoldBatchNorm, PlaceQuantizers, Scheme


def text(graph: GraphModule) -> str:
    """One line an operator: its name, its kind and its tensors."""
    owners: dict[str, str] = {}
    for node in graph.graph.nodes:
        if quantizer_of(node) is not None:
            owners.setdefault(str(node.target), str(behind_quantizer(node).meta["name"]))

    def word(node: Node) -> str:
        quantizer = quantizer_of(node)
        if quantizer is None:
            return str(node.meta["name"])
        source, owner = behind_quantizer(node), owners[str(node.target)]
        axis = "" if quantizer.grid.channel_axis is None else f"/{quantizer.grid.channel_axis}"
        return f"{word(source)}|{quantizer.grid.type_name}{axis}{'' if owner == source.meta['name'] else f'@{owner}'}"

    lines = []
    for node in graph.graph.nodes:
        operands = ", ".join(word(operand) for operand in node.all_input_nodes)
        if node.op == "output":
            lines.append(f"return {operands}")
        elif node.op.startswith("call") and quantizer_of(node) is None:
            lines.append(f"{node.meta['name']} = {operator_name(node)}({operands})")
    return "\n".join(lines)


def placed(name: str, scheme: Scheme | None = None) -> GraphModule:
    context = Context(scheme or Scheme(), Statistics("x"), torch.Generator().manual_seed(0))
    graph = FoldBatchNorm().apply(zoo.captured(name), context)
    step = PlaceQuantizers()
    graph = step.apply(graph, context)
    check(graph)
    step.ensures(graph)
    return graph


def before(name: str) -> str:
    return text(FoldBatchNorm().apply(zoo.captured(name), zoo.context()))


AFTER = {
    # conv + relu: one grid behind the pair; the average has its own; flatten shares it; the last linear layer leaves in float
    "conv_bn_relu": """
        0 = conv2d(input|uint8, 0.weight|int8/0, 0.bias|int32/0)
        2 = relu(0)
        3 = conv2d(2|uint8, 3.weight|int8/0, 3.bias|int32/0)
        5 = relu(3)
        6 = adaptive_avg_pool2d(5|uint8)
        7 = flatten(6|uint8)
        8 = linear(7|uint8@6, 8.weight|int8/0, 8.bias|int32/0)
        return 8
    """,
    # a convolution without a clip has a grid of its own; both operands of the sum; the sum's grid stands behind its relu
    "residual": """
        conv1 = conv2d(x|uint8, conv1.weight|int8/0, conv1.bias|int32/0)
        relu = relu(conv1)
        conv2 = conv2d(relu|uint8, conv2.weight|int8/0, conv2.bias|int32/0)
        relu#2 = relu(conv2)
        conv3 = conv2d(relu#2|uint8, conv3.weight|int8/0, conv3.bias|int32/0)
        add = add(relu|uint8, conv3|uint8)
        relu#3 = relu(add)
        pool = adaptive_avg_pool2d(relu#3|uint8)
        flatten = flatten(pool|uint8)
        fc = linear(flatten|uint8@pool, fc.weight|int8/0, fc.bias|int32/0)
        return fc
    """,
    # a module called twice: one weight with one quantizer, a bias with one for each of the two inputs
    "shared": """
        conv = conv2d(x|uint8, conv.weight|int8/0, conv.bias|int32/0)
        relu = relu(conv)
        conv#2 = conv2d(relu|uint8, conv.weight|int8/0, conv.bias|int32/0)
        relu#2 = relu(conv#2)
        mean = mean(relu#2|uint8)
        fc = linear(mean|uint8, fc.weight|int8/0, fc.bias|int32/0)
        fc#2 = linear(fc|uint8, fc.weight|int8/0, fc.bias|int32/0)
        return fc#2
    """,
    # ReLU6 is a clip too
    "depthwise": """
        0 = conv2d(input|uint8, 0.weight|int8/0, 0.bias|int32/0)
        2 = hardtanh(0)
        3 = conv2d(2|uint8, 3.weight|int8/0, 3.bias|int32/0)
        5 = hardtanh(3)
        6 = conv2d(5|uint8, 6.weight|int8/0, 6.bias|int32/0)
        8 = adaptive_avg_pool2d(6|uint8)
        9 = flatten(8|uint8)
        10 = linear(9|uint8@8, 10.weight|int8/0, 10.bias|int32/0)
        return 10
    """,
    # the axis of output channels is 1; with groups it is no axis of the weight: one scale for all
    "transposed": """
        0 = conv_transpose2d(input|uint8, 0.weight|int8/1, 0.bias|int32/0)
        2 = relu(0)
        3 = conv_transpose2d(2|uint8, 3.weight|int8, 3.bias|int32)
        5 = relu(3)
        6 = conv2d(5|uint8, 6.weight|int8/0, 6.bias|int32/0)
        return 6|uint8
    """,
    # slices, zero padding: their input's grid
    "option_a": """
        stem = conv2d(x|uint8, stem.weight|int8/0, stem.bias|int32/0)
        relu = relu(stem)
        conv = conv2d(relu|uint8, conv.weight|int8/0, conv.bias|int32/0)
        slice = slice(relu|uint8)
        slice#2 = slice(slice|uint8@relu)
        pad = pad(slice#2|uint8@relu)
        add = add(conv|uint8, pad|uint8@relu)
        relu#2 = relu(add)
        pool = adaptive_avg_pool2d(relu#2|uint8)
        flatten = flatten(pool|uint8)
        fc = linear(flatten|uint8@pool, fc.weight|int8/0, fc.bias|int32/0)
        return fc
    """,
    # every operand of a concat on a grid; a product with a number is in float; max pooling shares
    "concat": """
        stem = conv2d(x|uint8, stem.weight|int8/0, stem.bias|int32/0)
        relu = relu(stem)
        left = conv2d(relu|uint8, left.weight|int8/0, left.bias|int32/0)
        relu#2 = relu(left)
        right = conv2d(relu|uint8, right.weight|int8/0, right.bias|int32/0)
        relu#3 = relu(right)
        mul = mul(relu#3|uint8)
        pool = max_pool2d(relu|uint8)
        cat = cat(relu#2|uint8, mul|uint8, pool|uint8@relu)
        fuse = conv2d(cat|uint8, fuse.weight|int8/0, fuse.bias|int32/0)
        relu#4 = relu(fuse)
        mean = mean(relu#4|uint8)
        fc = linear(mean|uint8, fc.weight|int8/0, fc.bias|int32/0)
        return fc
    """,
    # products of two activations; functions between a dequantize and a quantize
    "attention": """
        query = linear(x|uint8, query.weight|int8/0, query.bias|int32/0)
        key = linear(x|uint8, key.weight|int8/0, key.bias|int32/0)
        transpose = transpose(key|uint8)
        matmul = matmul(query|uint8, transpose|uint8@key)
        div = div(matmul|uint8)
        softmax = softmax(div)
        value = linear(x|uint8, value.weight|int8/0, value.bias|int32/0)
        matmul#2 = matmul(softmax|uint8, value|uint8)
        add = add(matmul#2|uint8, x|uint8)
        out = linear(add|uint8, out.weight|int8/0, out.bias|int32/0)
        mean = mean(out|uint8)
        return mean
    """,
    "float_operators": """
        first = linear(x|uint8, first.weight|int8/0, first.bias|int32/0)
        norm = layer_norm(first|uint8, norm.weight, norm.bias)
        gelu = gelu(norm)
        cumsum = cumsum(gelu)
        last = linear(cumsum|uint8, last.weight|int8/0, last.bias|int32/0)
        return last
    """,
    # a convolution keeps its grid at the network's output, an average does not
    "ends_in_conv": """
        0 = conv2d(input|uint8, 0.weight|int8/0, 0.bias|int32/0)
        1 = relu(0)
        2 = conv2d(1|uint8, 2.weight|int8/0, 2.bias|int32/0)
        return 2|uint8
    """,
    "ends_in_average": """
        0 = conv2d(input|uint8, 0.weight|int8/0, 0.bias|int32/0)
        1 = relu(0)
        2 = conv2d(1|uint8, 2.weight|int8/0, 2.bias|int32/0)
        3 = relu(2)
        4 = avg_pool2d(3|uint8)
        5 = flatten(4)
        return 5
    """,
    "squeeze_excite": """
        conv = conv2d(x|uint8, conv.weight|int8/0, conv.bias|int32/0)
        relu = relu(conv)
        pool = adaptive_avg_pool2d(relu|uint8)
        squeeze = conv2d(pool|uint8, squeeze.weight|int8/0, squeeze.bias|int32/0)
        relu#2 = relu(squeeze)
        excite = conv2d(relu#2|uint8, excite.weight|int8/0, excite.bias|int32/0)
        sigmoid = sigmoid(excite|uint8)
        mul = mul(relu|uint8, sigmoid|uint8)
        pool#2 = adaptive_avg_pool2d(mul|uint8)
        flatten = flatten(pool#2|uint8)
        fc = linear(flatten|uint8@pool#2, fc.weight|int8/0, fc.bias|int32/0)
        return fc
    """,
    # a batch norm that stays: in float, a grid behind it
    "bn_first": """
        0 = BatchNorm2d(input)
        1 = conv2d(0|uint8, 1.weight|int8/0, 1.bias|int32/0)
        2 = relu(1)
        3 = BatchNorm2d(2|uint8)
        4 = conv2d(3|uint8, 4.weight|int8/0, 4.bias|int32/0)
        return 4|uint8
    """,
    "dict_output": """
        conv = conv2d(x|uint8, conv.weight|int8/0, conv.bias|int32/0)
        relu = relu(conv)
        mean = mean(relu|uint8)
        fc = linear(mean|uint8, fc.weight|int8/0, fc.bias|int32/0)
        return fc, relu|uint8
    """,
}


@pytest.mark.parametrize("name", AFTER)
def test_after(name: str) -> None:
    assert text(placed(name)) == textwrap.dedent(AFTER[name]).strip()


@pytest.mark.parametrize("name", zoo.NAMES)
def test_before_is_after_without_the_quantizers(name: str) -> None:
    """No operator appears, disappears or changes its operands; and switched off, quantizers change nothing at all."""
    graph = placed(name)
    assert [line.split(" = ")[0] for line in text(graph).splitlines()[:-1]] == [
        line.split(" = ")[0] for line in before(name).splitlines()[:-1]
    ]
    inputs = zoo.ZOO[name].inputs()
    for output, expected in zip(zoo.leaves(run(graph, inputs)), zoo.eager(name, inputs), strict=True):
        assert zoo.relative(output, expected) <= 1e-5  # folded batch norms, see test_fold_batch_norm.py
    assert not any(quantizer.is_enabled for _, quantizer in quantizers(graph))


@pytest.mark.parametrize("name", zoo.NAMES)
def test_no_quantizer_reads_a_quantizer(name: str) -> None:
    graph = placed(name)
    nodes = [node for node in graph.graph.nodes if quantizer_of(node) is not None]
    assert nodes and not [node.meta["name"] for node in nodes if quantizer_of(behind_quantizer(node)) is not None]


def grids(name: str, **scheme: object) -> str:
    return text(placed(name, Scheme(**scheme)))


def test_the_outputs_too() -> None:
    assert grids("residual", outputs=True).endswith("return fc|uint8")
    assert grids("ends_in_average", outputs=True).endswith("5 = flatten(4|uint8)\nreturn 5|uint8@4")


def test_types_of_the_first_and_last_layer() -> None:
    lines = grids(
        "residual", weights={"type": "int4", "per_channel": True}, first_layer={"weights": "int8"}, last_layer={"weights": "int6"}
    )
    assert "conv1.weight|int8/0" in lines and "fc.weight|int6/0" in lines
    assert "conv2.weight|int4/0" in lines and "conv3.weight|int4/0" in lines


def test_the_shipped_w4a8() -> None:
    lines = text(placed("residual", Recipe.load("w4a8").scheme))
    assert "conv1.weight|int8/0" in lines and "conv2.weight|int4/0" in lines and "fc.weight|int8/0" in lines


def test_one_scale_for_the_whole_tensor() -> None:
    assert "conv1.weight|int8, conv1.bias|int32)" in text(placed("residual", Recipe.load("int8-per-tensor").scheme))


def test_overrides_by_name_the_last_one_wins() -> None:
    overrides = (
        {"pattern": "conv*", "weights": "int6"},
        {"pattern": "conv2", "weights": "int3"},
        {"pattern": "relu*", "activations": "uint4"},
    )
    lines = grids("residual", overrides=overrides)
    assert "conv1.weight|int6/0" in lines and "conv2.weight|int3/0" in lines and "fc.weight|int8/0" in lines
    assert "conv2d(relu|uint4," in lines and "conv2d(x|uint8," in lines


def test_the_name_of_a_layer_is_that_of_its_fused_output_too() -> None:
    """'activations: of the output of the layer': a user says conv2, and its relu holds the grid."""
    assert "conv2d(relu#2|uint4," in grids("residual", overrides=({"pattern": "conv2", "activations": "uint4"},))


def test_weights_left_in_float() -> None:
    lines = grids("residual", overrides=({"pattern": "conv2", "weights": "float"},)).splitlines()
    assert "relu#2 = relu(conv2)" in lines
    (conv2,) = [line for line in lines if line.startswith("conv2 =")]
    assert conv2 == "conv2 = conv2d(relu|uint8, conv2.weight, conv2.bias)"  # relu has a grid because the sum asks for one


def test_activations_left_in_float() -> None:
    lines = grids("residual", overrides=({"pattern": "relu#2", "activations": "float"},))
    assert "conv3 = conv2d(relu#2, conv3.weight|int8/0, conv3.bias)" in lines


def test_everything_in_float() -> None:
    graph = placed("residual", Scheme(weights={"type": "float"}, activations={"type": "float"}))
    assert text(graph) == before("residual") and not list(quantizers(graph))


def test_two_names_that_differ_in_punctuation_alone() -> None:
    from torch import nn

    from halfstep.graph.capture import capture

    model = nn.Sequential()
    model.add_module("a_b", nn.Linear(4, 4))
    model.add_module("a", nn.Sequential())
    model.a.add_module("b", nn.Linear(4, 4))
    graph = capture(model.eval(), (torch.randn(2, 4),))
    graph = PlaceQuantizers().apply(graph, zoo.context())
    paths = [path for path, _ in quantizers(graph)]
    assert len(set(paths)) == len(paths) == 6  # two inputs, two weights, two biases


def test_a_promise_that_is_not_kept() -> None:
    graph = placed("residual")
    bias = next(n for n in graph.graph.nodes if quantizer_of(n) is not None and behind_quantizer(n).meta["name"] == "conv2.bias")
    weight = next(n for n in graph.graph.nodes if quantizer_of(n) is not None and behind_quantizer(n).meta["name"] == "conv2.weight")
    assert bias is not weight
    weight.replace_all_uses_with(behind_quantizer(weight))
    with pytest.raises(GraphError, match="bias of 'conv2' has a grid, its input or weight has none"):
        PlaceQuantizers().ensures(graph)


def _types(scheme: Scheme) -> dict[str, str]:
    """Of the activations of a small ViT, by name."""
    graph = capture(transformers.ViT(size=8, depth=1), (torch.randn(4, 1, 8, 8),))
    graph = PlaceQuantizers().apply(graph, Context(scheme, Statistics("x"), torch.Generator().manual_seed(0)))
    return {str(node.meta["name"]): graph.get_submodule(path).grid.type_name for path, node in activation_quantizers(graph).items()}


def test_types_in_front_of_norms_and_behind_softmaxes() -> None:
    types = _types(Scheme(norm_inputs="uint16", softmax="uint12"))
    wide = {name for name, kind in types.items() if kind == "uint16"}
    assert wide == {"add", "blocks.0:add", "blocks.0:add#2"}  # the sums: norms read them, and other sums
    assert {name for name, kind in types.items() if kind == "uint12"} == {"blocks.0:softmax"}
    assert set(_types(Scheme()).values()) == {"uint8"}
    chosen = Scheme(norm_inputs="uint16", overrides=({"pattern": "blocks.0:add", "activations": "uint10"},))
    assert _types(chosen)["blocks.0:add"] == "uint10"


def test_every_norm_reads_a_grid_and_no_mask_has_one() -> None:
    tokens, mask = torch.randint(0, 50, (4, 12)), torch.ones(4, 12, dtype=torch.long)
    graph = capture(transformers.Bert(depth=1), (tokens, mask))
    graph = PlaceQuantizers().apply(graph, zoo.context())
    norms = [node for node in graph.graph.nodes if operator_name(node) == "layer_norm"]
    assert len(norms) == 3 and all(quantizer_of(norm.args[0]) is not None for norm in norms)
    owners = {str(node.meta["name"]) for node in activation_quantizers(graph).values()}
    assert {"layers.0:matmul", "layers.0.dropout"} <= owners and not {"layers.0:add", "mul", "sub"} & owners


def test_a_shortcut_is_added_on_its_own_grid_and_multiplied_on_the_default_one() -> None:
    scheme = Scheme.model_validate({"activations": {"type": "uint4", "symmetric": False}, "addends": "uint8", "shortcuts": "uint8"})
    lines = text(placed("residual", scheme)).splitlines()
    assert "conv2 = conv2d(relu|uint8|uint4, conv2.weight|int8/0, conv2.bias|int32/0)" in lines
    assert "add = add(relu|uint8, conv3|uint8)" in lines
    assert "pool = adaptive_avg_pool2d(relu#3|uint4)" in lines


def test_a_shortcut_that_is_moved_keeps_its_grid() -> None:
    scheme = Scheme.model_validate({"activations": {"type": "uint4", "symmetric": False}, "addends": "uint8", "shortcuts": "uint8"})
    lines = text(placed("option_a", scheme)).splitlines()
    assert "conv = conv2d(relu|uint8|uint4, conv.weight|int8/0, conv.bias|int32/0)" in lines
    assert "slice = slice(relu|uint8)" in lines


def test_a_shortcut_with_the_default_grid_is_rounded_once() -> None:
    assert text(placed("residual", Scheme(shortcuts="uint8"))) == text(placed("residual"))


def test_the_last_layer_may_read_another_grid() -> None:
    scheme = Scheme.model_validate({"activations": {"type": "uint4", "symmetric": False}, "last_input": "uint8"})
    assert "fc = linear(flatten|uint8@pool, fc.weight|int8/0, fc.bias|int32/0)" in text(placed("residual", scheme)).splitlines()
