"""Timing in turn, inputs made for a file, and memory of a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from halfstep.errors import DataError
from halfstep.workflow.benchmark import Spread, benchmark, feeds
from halfstep.workflow.latency import alternate


def product(path: Path, sizes: tuple[int | str, ...], width: int = 64) -> Path:
    """A file that multiplies a float input of ``sizes`` with a matrix."""
    weight = onnx.numpy_helper.from_array(np.zeros((int(sizes[-1]) if isinstance(sizes[-1], int) else 8, width), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def test_runs_take_turns() -> None:
    calls: list[str] = []
    spent = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, num_rounds=7)
    assert "".join(calls) == "ab" * (len(calls) // 2)
    assert len(spent["a"]) == len(spent["b"]) == 7


def test_time_is_limited_but_some_rounds_are_always_counted() -> None:
    spent = alternate({"slow": lambda: time.sleep(0.02)}, seconds=0.0)
    assert len(spent["slow"]) == 5
    assert min(spent["slow"]) >= 20.0


def test_a_spread() -> None:
    assert Spread.of([float(value) for value in range(101)]) == Spread(50.0, 10.0, 90.0)


def test_a_large_file_is_slower_and_takes_more_memory(tmp_path: Path) -> None:
    large, small = product(tmp_path / "large.onnx", ("n", 2048), 2048), product(tmp_path / "small.onnx", ("n", 2048), 16)
    found = benchmark(small, large, batch_sizes=(1,), num_threads=(1,), seconds=0.2)
    row = found.speeds[0]
    assert row.ratio is not None and row.ratio.median > 2.0
    assert row.per_second["model"] == pytest.approx(1e3 / row.milliseconds["model"].median)
    memory = found.memory["onnxruntime"]
    assert memory["against"]["peak"] - memory["model"]["peak"] > 8 << 20  # of the 16 MB of its weight
    assert found.bytes["against"] > 16 << 20


def test_inputs_of_free_size(tmp_path: Path) -> None:
    path = product(tmp_path / "free.onnx", ("n", "length", 8))
    with pytest.raises(DataError, match="leaves 'length' free: give --shape"):
        feeds(path, 2)
    assert feeds(path, 2, (5, 8))["x"].shape == (2, 5, 8)


def test_a_fixed_batch_is_noted(tmp_path: Path) -> None:
    path = product(tmp_path / "fixed.onnx", (1, 8))
    found = benchmark(path, batch_sizes=(1, 8), num_threads=(1,), seconds=0.1)
    assert {row.batch_size for row in found.speeds} == {1}
    assert "takes batches of 1 only: batch 8 is left out" in found.notes[0]
