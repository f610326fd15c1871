"""Statistics: gathered in one pass, saved and read back, tied to one network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

import zoo
from halfstep.errors import CalibrationError
from halfstep.graph.edit import tensor_named
from halfstep.graph.statistics import Statistics, collect, fingerprint
from halfstep.ranges import Histogram


def gather(graph: GraphModule, batches: list[tuple[Tensor, ...]], names: set[str] | None = None) -> Statistics:
    statistics = Statistics(fingerprint(graph))
    nodes = {
        node
        for node in graph.graph.nodes
        if (names is None and node.meta.get("dtype") == torch.float32) or node.meta["name"] in (names or ())
    }
    list(collect(graph, nodes, batches, statistics))
    return statistics


def test_one_pass_counts_everything() -> None:
    graph, passes = zoo.captured("residual"), 0

    def batches() -> Iterator[tuple[Tensor, ...]]:
        nonlocal passes
        passes += 1
        for seed in range(3):
            yield zoo.ZOO["residual"].inputs(5, seed)

    statistics = Statistics("x")
    nodes = {node for node in graph.graph.nodes if node.meta["name"] in ("x", "relu", "add", "conv1")}
    assert list(collect(graph, nodes, batches(), statistics)) == [5, 10, 15]
    assert passes == 1 and statistics.num_samples == 15
    assert set(statistics.histograms) == {"x", "relu", "add", "conv1"}
    assert statistics.histograms["x"].num_values == 15 * 3 * 8 * 8
    assert statistics.histograms["relu"].num_values == 15 * 8 * 8 * 8
    assert statistics.histograms["relu"].minimum == 0


def test_the_extremes_are_those_of_the_tensors() -> None:
    graph, inputs = zoo.captured("conv_bn_relu"), zoo.ZOO["conv_bn_relu"].inputs(8)
    statistics = gather(graph, [inputs])
    with torch.no_grad():
        x = zoo.ZOO["conv_bn_relu"].model()[:2](*inputs)
    assert statistics.histograms["1"].minimum == pytest.approx(float(x.min()), rel=1e-5)
    assert statistics.histograms["1"].maximum == pytest.approx(float(x.max()), rel=1e-5)


def test_batches_do_not_matter() -> None:
    """Bins are aligned at 0 and only merge in pairs. The input is used: the sums of a layer may differ with the size of a batch."""
    graph, (x,) = zoo.captured("residual"), zoo.ZOO["residual"].inputs(12)
    whole, parts = gather(graph, [(x,)], {"x"}), gather(graph, [(part,) for part in x.split(5)], {"x"})
    assert torch.equal(whole.histograms["x"].to_tensor(), parts.histograms["x"].to_tensor())


def test_samples_that_fill_up_a_fixed_batch_are_not_counted() -> None:
    graph, (x,) = zoo.captured("static_batch"), zoo.ZOO["static_batch"].inputs(5)
    statistics = gather(graph, [(x,)], {"x"})
    assert statistics.num_samples == 5
    assert statistics.histograms["x"].num_values == x.numel()


def test_saved_and_read_back(tmp_path: Path) -> None:
    graph = zoo.captured("residual")
    statistics = gather(graph, [zoo.ZOO["residual"].inputs()])
    statistics.save(tmp_path / "statistics.safetensors")
    read = Statistics.load(tmp_path / "statistics.safetensors")
    assert (read.fingerprint, read.num_samples) == (statistics.fingerprint, 4)
    assert set(read.histograms) == set(statistics.histograms)
    for name, histogram in statistics.histograms.items():
        assert torch.equal(read.histograms[name].to_tensor(), histogram.to_tensor())
    statistics.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "statistics.safetensors").read_bytes()


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_without_statistics(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "statistics.safetensors"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match="holds no statistics of halfstep"):
        Statistics.load(path)
    with pytest.raises(CalibrationError, match="holds no statistics of halfstep"):
        Statistics.load(tmp_path / "missing.safetensors")


def test_the_fingerprint_is_of_operators_and_weights() -> None:
    graph = zoo.captured("residual")
    own = fingerprint(graph)
    assert own == fingerprint(zoo.captured("residual"))
    assert own != fingerprint(zoo.captured("in_place"))
    with torch.no_grad():
        tensor_named(graph, "conv2.weight")[0, 0, 0, 0] += 1e-6
    assert fingerprint(graph) != own


def test_the_fingerprint_sees_options_of_modules() -> None:
    first, second = zoo.captured("residual"), zoo.captured("residual")
    zoo.module_named(second, "bn2").eps = 0.1
    assert fingerprint(first) != fingerprint(second)


def test_activations_that_are_not_finite_are_named() -> None:
    class Log(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.log(x))

    from halfstep.graph.capture import capture

    graph = capture(Log(), (torch.ones(2, 4),))
    with pytest.raises(CalibrationError, match=r"output of 'log' is NaN or infinite on the calibration data"):
        gather(graph, [(torch.ones(2, 4),), (-torch.ones(2, 4),)])


def test_any_name_can_be_saved(tmp_path: Path) -> None:
    """One of them is a word of the file's format."""
    histogram = Histogram()
    histogram.observe(torch.randn(50))
    Statistics("x", 1, {"__metadata__": histogram, 'a"\n': histogram}).save(tmp_path / "s.safetensors")
    assert list(Statistics.load(tmp_path / "s.safetensors").histograms) == ["__metadata__", 'a"\n']
