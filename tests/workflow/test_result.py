"""Run directories: everything is there again after a round trip, and a damaged one gives one clear error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import halfstep as hs
import zoo
from halfstep.errors import HalfstepError, ModelError
from halfstep.graph.run import run


@pytest.mark.parametrize("name", ["residual", "float_operators", "dict_output", "static_batch", "bn_twice", "dropout", "two_inputs"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    result = zoo.quantized(name)
    result.save(tmp_path / "run")
    loaded, inputs = hs.load(tmp_path / "run"), zoo.ZOO[name].inputs(seed=4)
    for model in ("model", "float_model"):
        outputs = [zoo.leaves(run(getattr(r, model), inputs)) for r in (result, loaded)]
        assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True)), model
    assert loaded.recipe.to_yaml() == result.recipe.to_yaml()
    assert loaded.record.layers == result.record.layers and loaded.record.float_operators == result.record.float_operators
    assert loaded.figures == result.figures
    assert all(torch.equal(a, b) for a, b in zip(loaded.samples, result.samples, strict=True))
    assert loaded.statistics.fingerprint == result.statistics.fingerprint
    loaded.save(tmp_path / "again")
    for file in ("model.json", "model.safetensors", "float.safetensors", "statistics.safetensors", "recipe.yaml", "figures.json"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_a_weight_that_is_no_parameter(tmp_path: Path) -> None:
    """A stored matrix, whose columns a step splits: it is one afterwards."""
    matrix = torch.randn(4, 6)

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("matrix", matrix)
            self.first, self.last = nn.Linear(8, 4), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) @ self.matrix)

    x = torch.randn(32, 8)
    result = hs.quantize(Product(), x, "ocs-w4")
    result.save(tmp_path / "run")
    assert torch.equal(run(hs.load(tmp_path / "run").model, (x,)), run(result.model, (x,)))


def test_the_content_of_result_json(tmp_path: Path) -> None:
    zoo.quantized("residual").save(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    for path in (
        "float", "simulated", "onnx", "bytes.float", "bytes.quantized", "seconds.wall", "seconds.cpu", "peak_rss_bytes", "export_check",
        "versions", "seed", "layers",
    ):  # fmt: skip
        value = record
        for part in path.split("."):
            assert part in value, path
            value = value[part]
    assert record["float"] is None and record["bytes"]["quantized"] < record["bytes"]["float"]
    layers = {layer["name"]: layer for layer in record["layers"]}
    assert layers["conv2"]["weight"]["grid"] == "int8" and layers["conv2"]["output"]["grid"] == "uint8"
    assert layers["conv2"]["num_macs"] == 8 * 8 * 8 * 8 * 9
    assert layers["conv2"]["sqnr_db"] > 20  # 8 bits give some 40 dB; 20 dB would be 3 bits


def test_an_existing_directory_needs_force(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    with pytest.raises(HalfstepError, match="run"):
        zoo.quantized("bias_free").save(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]
    zoo.quantized("bias_free").save(tmp_path / "run", force=True)
    assert hs.load(tmp_path / "run")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path: Path) -> None:
    path.unlink()


def empty_list(path: Path) -> None:
    path.write_text("[]")


def garbage(path: Path) -> None:
    path.write_bytes(b"\x80\x04garbage\xff\xfe")


FILES = (
    "model.json",
    "model.safetensors",
    "float.safetensors",
    "samples.safetensors",
    "statistics.safetensors",
    "figures.json",
    "result.json",
    "recipe.yaml",
)


@pytest.mark.parametrize("damage", [truncate, remove, empty_list, garbage])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_directory_gives_one_clear_error(file: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    zoo.quantized("bias_free").save(tmp_path / "run")
    damage(tmp_path / "run" / file)
    for allow_changed in (False, True):
        with pytest.raises(HalfstepError) as caught:
            hs.load(tmp_path / "run", allow_changed)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_weights_of_another_network(tmp_path: Path) -> None:
    zoo.quantized("bias_free").save(tmp_path / "run")
    zoo.quantized("linear_bn").save(tmp_path / "other")
    (tmp_path / "run" / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"model\.safetensors was changed"):
        hs.load(tmp_path / "run")
    with pytest.raises(ModelError, match="is damaged"):
        hs.load(tmp_path / "run", allow_changed=True)


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    zoo.quantized("bias_free").save(tmp_path / "run")
    record = tmp_path / "run" / "result.json"
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 7'))
    (tmp_path / "run" / "model.onnx").write_bytes(b"from elsewhere")
    (tmp_path / "run" / "notes.txt").write_text("the user's own")
    with pytest.raises(ModelError, match=r"model.onnx was added, result.json was changed. .*--allow-changed"):
        hs.load(tmp_path / "run")
    assert hs.load(tmp_path / "run", allow_changed=True).record.seed == 7
    (tmp_path / "run" / "digests.json").unlink()
    with pytest.raises(ModelError, match=r"digests\.json is missing"):
        hs.load(tmp_path / "run")


def test_what_halfstep_writes_into_a_run_is_no_change(tmp_path: Path) -> None:
    result = zoo.quantized("bias_free")
    result.save(tmp_path / "run")
    result = hs.load(tmp_path / "run")
    hs.export.onnx(result, tmp_path / "run" / "model.onnx")
    hs.lower(result).save(tmp_path / "run" / "program.safetensors")
    result.report().json(tmp_path / "run" / "result.json")
    result.report().html(tmp_path / "run" / "report.html")
    assert hs.load(tmp_path / "run").onnx_path == tmp_path / "run" / "model.onnx"


@pytest.mark.parametrize(
    ("pattern", "value", "message"),
    [
        (r".*\.scale", 0.0, "scale"),
        (r".*\.scale", float("nan"), "scale"),
        (r".*\.zero_point", 999, "zero point"),
        (r"p_\d+", float("inf"), "NaN or infinite"),
    ],
)
def test_values_that_no_network_has(pattern: str, value: float, message: str, tmp_path: Path) -> None:
    zoo.quantized("residual").save(tmp_path / "run")
    tensors = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    name = next(name for name in tensors if re.fullmatch(pattern, name))
    tensors[name] = torch.full_like(tensors[name], value)
    safetensors.torch.save_file(tensors, tmp_path / "run" / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        hs.load(tmp_path / "run", allow_changed=True)


def test_something_else(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a run directory of halfstep"):
        hs.load(tmp_path)
    with pytest.raises(ModelError, match="is not a run directory of halfstep"):
        hs.load(tmp_path / "missing")


def test_the_report_with_a_metric() -> None:
    result = hs.quantize(zoo.ZOO["residual"].model(), zoo.calibration_of("residual"))
    (x,) = zoo.ZOO["residual"].inputs(40)
    labels = zoo.eager("residual", (x,))[0].argmax(1)
    report = result.report(evaluate=hs.top1, data=(x, labels))
    assert result.record.float == 100.0 and result.record.onnx is None and result.record.metric == "top1"
    assert 80 <= result.record.simulated <= 100
    assert "100" in str(report)
