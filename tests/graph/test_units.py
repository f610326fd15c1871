"""Units: where a network can be cut, and that each stretch computes on its own what the network computes there."""

from __future__ import annotations

import pytest
import torch

import zoo
from halfstep.graph.edges import behind_quantizer
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import cut, observe
from halfstep.graph.units import MOST_LAYERS, UnitKind, data_nodes, find_units, part_of_graph

KINDS: tuple[UnitKind, ...] = ("block", "layer")


def names(network: str, kind: UnitKind) -> list[str]:
    return [unit.name for unit in find_units(zoo.quantized(network).model, kind)]


def test_a_residual_block_is_one_unit() -> None:
    graph = zoo.quantized("residual").model
    units = find_units(graph, "block")
    assert max(len(unit.layers) for unit in units) > 1
    block = max(units, key=lambda unit: len(unit.layers))
    assert any("add" in node.name for node in block.nodes)
    assert all(len(unit.layers) == 1 for unit in find_units(graph, "layer"))


def test_parallel_branches_are_one_unit() -> None:
    assert any(" to " in name for name in names("concat", "block"))


def test_a_chain_falls_into_layers() -> None:
    for unit in find_units(zoo.quantized("conv_bn_relu").model, "block"):
        assert len(unit.layers) == 1


def test_a_network_of_fixed_batch_size_is_taken_layer_by_layer() -> None:
    assert names("static_batch", "block") == names("static_batch", "layer")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", sorted(zoo.ZOO))
def test_units_compute_what_the_network_computes(network: str, kind: UnitKind) -> None:
    """Bit for bit; every layer is in one unit, and no node in two."""
    graph, member = zoo.quantized(network).model, zoo.ZOO[network]
    units = find_units(graph, kind)
    inside = [node for unit in units for node in unit.nodes]
    assert len(set(inside)) == len(inside)
    with_data = set(data_nodes(graph))
    assert [layer.node for unit in units for layer in unit.layers] == [
        layer.node for layer in weighted_layers(graph) if layer.node in with_data
    ]
    nodes = {unit.source for unit in units} | {unit.output for unit in units}
    nodes |= {constant for unit in units for constant in unit.constants}
    seen: dict[torch.fx.Node, torch.Tensor] = {}
    part, _ = cut(graph, member.inputs())[0]
    observe(graph, part, nodes, seen.setdefault)
    for unit in units:
        assert len(unit.layers) <= MOST_LAYERS
        module = part_of_graph(unit.source, unit.nodes, unit.constants, {})
        with torch.no_grad():
            found = module(seen[unit.source], *(seen[constant] for constant in unit.constants))
        assert torch.equal(found, seen[unit.output])


def test_modules_are_replaced_by_their_path() -> None:
    graph = zoo.quantized("residual").model
    unit = next(unit for unit in find_units(graph, "block") if any(node.op == "call_module" for node in unit.nodes))
    path = next(str(node.target) for node in unit.nodes if node.op == "call_module")
    mark = torch.nn.Identity()
    module = part_of_graph(unit.source, unit.nodes, unit.constants, {path: mark})
    assert module.get_submodule(path) is mark
    assert graph.get_submodule(path) is not mark


def test_weights_are_constants_of_their_unit() -> None:
    for unit in find_units(zoo.quantized("residual").model, "block"):
        for layer in unit.layers:
            assert layer.weight in unit.constants
            assert behind_quantizer(layer.weight).op == "get_attr"
