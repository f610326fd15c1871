"""The walk: what it shows at every layer is what the two networks compute, whatever happens on the way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

import halfstep as hs
import zoo
from halfstep.errors import CalibrationError
from halfstep.graph.edges import activation_quantizers
from halfstep.graph.edit import attribute, set_parameter
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import cut, observe
from halfstep.graph.serialize import duplicate
from halfstep.steps.walk import Walk

NETWORKS = ["residual", "shared", "concat", "option_a", "transposed", "two_inputs", "attention", "static_batch", "dropout2d", "conv1d"]


def seen(graph: GraphModule, node_name: str, inputs: tuple[Tensor, ...]) -> Tensor:
    """The tensor that leaves the node of that name, computed in one go."""
    node = next(node for node in graph.graph.nodes if node.name == node_name)
    found = []

    def see(node: Node, tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    for part, num_real in cut(graph, inputs):
        observe(graph, part, {node}, see)
        found[-1] = found[-1][: len(found[-1]) * num_real // len(part[0])]
    return torch.cat(found)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("with_activations", [True, False])
def test_every_layer_sees_what_the_networks_compute(name: str, with_activations: bool) -> None:
    result = zoo.quantized(name)
    inputs = zoo.ZOO[name].inputs(7, 3)
    batches = [tuple(x[:4] for x in inputs), tuple(x[4:] for x in inputs)]
    walk = Walk(result.model, result.float_model, batches, with_activations=with_activations)
    plain = result.model if with_activations else without_activations(result.model)
    layers = {layer.node: layer for layer in weighted_layers(result.model)}
    for node in walk.stops(layers):
        pairs = list(walk.pairs(layers[node].input))
        for side, graph in (("float", result.float_model), ("quantized", plain)):
            want = seen(graph, layers[node].input.name, inputs)
            assert torch.allclose(torch.cat([getattr(pair, side) for pair in pairs]), want, atol=1e-5)


def without_activations(graph: GraphModule) -> GraphModule:
    """A copy whose activations stay in float."""
    copied = duplicate(graph)
    for path in activation_quantizers(copied):
        copied.get_submodule(path).is_enabled = False
    return copied


def test_changes_at_a_stop_are_seen_behind_it() -> None:
    result = zoo.quantized("residual")
    graph = duplicate(result.model)
    layers = {layer.node: layer for layer in weighted_layers(graph)}
    first = next(iter(layers))
    walk = Walk(graph, result.float_model, [zoo.ZOO["residual"].inputs(4, 0)])
    for node in walk.stops(layers):
        if node is first:
            source = layers[node].weight.args[0]
            set_parameter(graph, source, torch.zeros_like(attribute(graph, source)))
        else:
            want = seen(graph, layers[node].input.name, zoo.ZOO["residual"].inputs(4, 0))
            assert torch.equal(next(walk.pairs(layers[node].input)).quantized, want)


def test_equal_values_are_held_once_and_dropped_after_use() -> None:
    result = zoo.quantized("residual")
    inputs = zoo.ZOO["residual"].inputs(4, 0)
    walk = Walk(result.float_model, result.float_model, [inputs])
    for node in walk.stops({layer.node for layer in weighted_layers(result.float_model)}):
        pair = next(walk.pairs(node.all_input_nodes[0]))
        assert pair.float is pair.quantized
    assert walk._shelf.num_bytes <= sum(x.nbytes for x in inputs) + 4 * 64 * 8  # the inputs' last readers, and the output


def test_values_beyond_the_limit_go_to_files_and_stay_the_same() -> None:
    result = zoo.quantized("residual")
    batches = [zoo.ZOO["residual"].inputs(4, seed) for seed in range(3)]
    layers = {layer.node: layer for layer in weighted_layers(result.model)}
    walks = [Walk(result.model, result.float_model, batches, memory=memory) for memory in (1 << 30, 1000)]
    for node, _ in zip(walks[0].stops(layers), walks[1].stops(layers), strict=True):
        for held, filed in zip(*(walk.pairs(layers[node].input) for walk in walks), strict=True):
            assert torch.equal(held.float, filed.float) and torch.equal(held.quantized, filed.quantized)
    assert walks[1].peak_bytes <= 1000 < walks[0].peak_bytes


@pytest.mark.parametrize("name", ["residual", "concat", "attention"])
def test_parts_of_one_sample_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result, inputs = zoo.quantized(name), zoo.ZOO[name].inputs(5, 0)
    layers = {layer.node: layer for layer in weighted_layers(result.model)}
    whole = Walk(result.model, result.float_model, [inputs])
    monkeypatch.setattr("halfstep.steps.walk._PART_BYTES", 1)
    cut_up = Walk(result.model, result.float_model, [inputs])
    assert (cut_up.part_indices, cut_up.groups) == (list(range(5)), [0] * 5)
    for node, _ in zip(whole.stops(layers), cut_up.stops(layers), strict=True):
        for side in ("float", "quantized"):
            found, want = (torch.cat([getattr(pair, side) for pair in walk.pairs(layers[node].input)]) for walk in (cut_up, whole))
            torch.testing.assert_close(found, want, atol=0.02, rtol=0)  # a product in float may tip one code


def test_what_leaves_a_quantizer_is_held_as_bytes() -> None:
    result, inputs = zoo.quantized("residual"), zoo.ZOO["residual"].inputs(4, 0)
    walk = Walk(result.model, result.float_model, [inputs])
    layers = {layer.node: layer for layer in weighted_layers(result.model)}
    for node in walk.stops(layers):
        held = walk._values[layers[node].input][0]
        assert held is not None and held.quantized.codes.dtype is torch.uint8


def test_no_data() -> None:
    result = zoo.quantized("residual")
    with pytest.raises(CalibrationError, match="empty"):
        Walk(result.model, result.float_model, [])


def test_rounding_behind_the_quantized_layers_leaves_the_users_model_alone() -> None:
    model = zoo.ZOO["residual"].model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = hs.Recipe.load("int8")
    hs.quantize(
        model, zoo.calibration_of("residual"), recipe.model_copy(update={"steps": (*recipe.steps[:-1], {"round": {"method": "gptq"}})})
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
