"""The pipeline: one pass over the data for everything, promises checked, data that are empty or broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

import halfstep as hs
import zoo
from halfstep.errors import CalibrationError, GraphError, OutOfMemoryError
from halfstep.graph.capture import capture
from halfstep.graph.edges import unquantized
from halfstep.graph.edit import attribute, set_parameter
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import run
from halfstep.graph.statistics import Statistics
from halfstep.graph.witness import Witness
from halfstep.steps import AbstractStep, Calibrate, Context, FoldBatchNorm, PlaceQuantizers, Round, Scheme
from halfstep.steps.pipeline import Outcome, run_steps
from halfstep.stopwatch import Stopwatch


class Passes:
    """Calibration data that count how often they are passed over."""

    def __init__(self, name: str = "residual", num_batches: int = 3) -> None:
        self.name, self.num_batches, self.count = name, num_batches, 0

    def __call__(self) -> Iterator[tuple[Tensor, ...]]:
        self.count += 1
        return (zoo.ZOO[self.name].inputs(5, seed) for seed in range(self.num_batches))


def run_all(steps: list[AbstractStep], batches: Passes, statistics: Statistics | None = None, seen: list[object] | None = None) -> Outcome:
    def progress(phase: str, done: float, total: int | None) -> None:
        if seen is not None:
            seen.append((phase, done, total))

    generator = torch.Generator().manual_seed(0)
    context = Context(Scheme(), statistics or Statistics("x"), generator, batches=batches, num_samples=15, progress=progress)
    return run_steps(zoo.captured(batches.name), steps, context, Stopwatch())


STEPS = [FoldBatchNorm(), PlaceQuantizers(), Calibrate(), Round()]


class Needing(AbstractStep):
    """A step that needs statistics of its own and keeps what was there when it ran."""

    names: tuple[str, ...]

    def needs(self, graph: GraphModule) -> set[str]:
        return set(self.names)

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        assert set(self.names) <= set(context.statistics.histograms)
        return graph


def test_the_data_are_passed_once() -> None:
    batches, statistics = Passes(), Statistics("x")
    run_all(STEPS, batches, statistics)
    assert batches.count == 1 and statistics.num_samples == 15


def test_once_for_all_steps_that_need_something() -> None:
    batches, statistics = Passes(), Statistics("x")
    run_all(
        [FoldBatchNorm(), PlaceQuantizers(), Needing(names=("add", "conv2")), Calibrate(), Needing(names=("flatten",))], batches, statistics
    )
    assert batches.count == 1
    assert {"add", "conv2", "flatten", "x"} <= set(statistics.histograms)


def test_not_at_all_without_need_or_with_statistics_at_hand() -> None:
    batches = Passes()
    run_all([FoldBatchNorm(), PlaceQuantizers()], batches)
    assert batches.count == 0
    statistics = Statistics("x")
    first = run_all(STEPS, batches, statistics)
    second = run_all(STEPS, batches, statistics)
    assert batches.count == 1
    inputs = zoo.ZOO["residual"].inputs()
    assert torch.equal(run(first.graph, inputs), run(second.graph, inputs))


def test_statistics_are_of_the_float_network() -> None:
    """A step that asks after calibration does not see quantized activations."""
    statistics = Statistics("x")
    run_all([*STEPS, Needing(names=("fc",))], Passes(), statistics)
    reference = Statistics("x")
    run_all([FoldBatchNorm(), PlaceQuantizers(), Needing(names=("fc",))], Passes(), reference)
    assert torch.equal(statistics.histograms["fc"].to_tensor(), reference.histograms["fc"].to_tensor())


def test_the_reference_is_the_float_network() -> None:
    outcome, inputs = run_all(STEPS, Passes()), zoo.ZOO["residual"].inputs()
    assert zoo.relative(run(outcome.reference, inputs), zoo.eager("residual", inputs)[0]) <= 1e-5  # folded, see test_fold_batch_norm.py
    assert not torch.equal(run(outcome.graph, inputs), run(outcome.reference, inputs))
    assert [n.meta["name"] for n in outcome.graph.graph.nodes] == [n.meta["name"] for n in outcome.reference.graph.nodes]


def test_progress_is_told() -> None:
    seen: list[object] = []
    run_all(STEPS, Passes(), seen=seen)
    assert [entry for entry in seen if entry[0] == "statistics"] == [("statistics", 5, 15), ("statistics", 10, 15), ("statistics", 15, 15)]
    assert [entry[0] for entry in seen if entry[0] != "statistics"] == ["fold_batch_norm", "place_quantizers", "calibrate", "round"]


def test_empty_data() -> None:
    with pytest.raises(CalibrationError, match="calibration data are empty: give at least one batch"):
        run_all(STEPS, Passes(num_batches=0))


def test_a_step_that_breaks_its_promise() -> None:
    class Broken(AbstractStep):
        def apply(self, graph: GraphModule, context: Context) -> GraphModule:
            return graph

        def ensures(self, graph: GraphModule) -> None:
            raise GraphError("It does not hold.")

    with pytest.raises(GraphError, match="It does not hold"):
        run_all([FoldBatchNorm(), Broken(), PlaceQuantizers()], Passes())


def test_a_step_that_breaks_the_graph() -> None:
    class Breaking(AbstractStep):
        def apply(self, graph: GraphModule, context: Context) -> GraphModule:
            next(node for node in graph.graph.nodes if node.meta["name"] == "relu").meta["name"] = "add"
            return graph

    with pytest.raises(GraphError, match="2 nodes are called 'add'"):
        run_all([Breaking()], Passes())


def test_a_step_that_needs_a_tensor_that_does_not_exist() -> None:
    with pytest.raises((CalibrationError, GraphError), match="nowhere"):
        run_all([Needing(names=("nowhere",))], Passes())


class Scaling(AbstractStep):
    """Multiplies the weight of the first layer by ``factor``."""

    name: ClassVar[str] = "scaling"
    factor: float
    is_admitted: bool = False

    @property
    def is_exact(self) -> bool:
        return not self.is_admitted

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        weight = unquantized(weighted_layers(graph)[0].weight)
        set_parameter(graph, weight, self.factor * attribute(graph, weight))
        return graph


def run_witnessed(steps: list[AbstractStep]) -> Witness:
    graph = capture(zoo.ZOO["residual"].model(), zoo.ZOO["residual"].inputs())
    context = Context(Scheme(), Statistics("x"), torch.Generator().manual_seed(0), batches=Passes(), witness=graph.meta["witness"])
    run_steps(graph, steps, context, Stopwatch())
    assert context.witness is not None
    return context.witness


def test_a_step_that_changes_the_float_network_is_named_with_the_place() -> None:
    with pytest.raises(GraphError, match=r"step 'scaling' changed what the float network computes: .* from 'conv1' on"):
        run_witnessed([FoldBatchNorm(), Scaling(factor=1.01)])


def test_what_a_step_changes_on_purpose_is_noted() -> None:
    witness = run_witnessed([Scaling(factor=1.01, is_admitted=True), *STEPS])
    assert witness.changes["scaling"] > 1e-4 and witness.difference < 1e-5


def test_nothing_is_compared_behind_the_first_step_that_quantizes() -> None:
    assert run_witnessed([*STEPS, Scaling(factor=1.01)]).changes == {}


def test_a_step_that_runs_out_of_memory_says_which_and_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(*_: object, **__: object) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9."
        )

    monkeypatch.setattr("halfstep.steps.round.gather_moments", starve)
    with pytest.raises(
        OutOfMemoryError, match=r"not enough memory for step 'round'. Lower its option memory .*\(now 4 GB\). Take fewer samples"
    ):
        hs.quantize(zoo.ZOO["residual"].model(), zoo.calibration_of("residual"), "lattice-w4")
