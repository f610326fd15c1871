"""Files as users have them: ours, damaged ones, none at all; and rules that reality contradicts."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quantized_patterns import PATTERNS
from quantized_sketch import Sketch

import halfstep as hs
from halfstep.errors import HalfstepError, ModelError
from halfstep.graph.operators import weighted_layers
from halfstep.runtimes import check, check_onnx
from halfstep.runtimes.rule import Rule


@pytest.fixture
def conv(tmp_path: Path) -> Path:
    onnx.save(PATTERNS["conv"](), tmp_path / "conv.onnx")
    return tmp_path / "conv.onnx"


def test_a_file_of_ours_runs_with_integers(tmp_path: Path) -> None:
    result = hs.quantize(hs.load_model("halfstep.demo.network:digits_network"), hs.load_data("digits:calibration"), samples=16)
    hs.export.onnx(result, tmp_path / "digits.onnx")
    found = hs.check_onnx(tmp_path / "digits.onnx", ("onnxruntime",))
    assert found.is_integer
    (note,) = found.notes
    assert "without VNNI" in note
    heavy = [entry for entry in found.operators if entry.is_heavy]
    assert len(heavy) == len(weighted_layers(result.model))
    assert all(entry.verdicts["onnxruntime"].is_confirmed for entry in heavy)


def test_what_stays_in_float_is_named_with_its_reason(tmp_path: Path) -> None:
    onnx.save(PATTERNS["conv_no_output_grid"](), tmp_path / "m.onnx")
    found = check_onnx(tmp_path / "m.onnx")
    (entry,) = found.left_in_float("onnxruntime")
    assert entry.name == "judged"
    assert "no Q behind it" in entry.verdicts["onnxruntime"].reason
    assert not found.is_integer
    assert json.loads(json.dumps(found.to_json()))["operators"][0]["verdicts"]["openvino"]["is_integer"]


def test_reality_wins_over_a_rule_and_is_told(conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check.RULES, "onnxruntime", (Rule(lambda operator: True, False, "a wrong rule"),))
    found = check_onnx(conv, ("onnxruntime",))
    verdict = found.operators[0].verdicts["onnxruntime"]
    assert verdict.is_integer and verdict.is_confirmed is False
    assert "'judged'" in found.notes[0] and "a wrong rule" in found.notes[0]


def test_nodes_without_names_and_equal_names(tmp_path: Path) -> None:
    model = PATTERNS["conv_int8_branch"]()
    for node in model.graph.node:
        node.name = "" if node.op_type == "Conv" else "same"
    onnx.save(model, tmp_path / "m.onnx")
    found = check_onnx(tmp_path / "m.onnx", ("onnxruntime",))
    assert [entry.name.split("_")[0] for entry in found.operators] == ["Conv", "Conv"]
    assert all(entry.verdicts["onnxruntime"].is_confirmed for entry in found.operators)


def test_weights_in_another_file(tmp_path: Path) -> None:
    onnx.save(PATTERNS["conv"](), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="weights.bin")
    found = check_onnx(tmp_path / "m.onnx", ("onnxruntime", "openvino"))
    assert found.is_integer and found.operators[0].verdicts["onnxruntime"].is_confirmed


def test_an_unknown_runtime(conv: Path) -> None:
    with pytest.raises(ModelError, match=r"Unknown runtime 'onnxrutime'\. Did you mean 'onnxruntime'\?"):
        check_onnx(conv, ("onnxrutime",))


def test_files_that_are_none(tmp_path: Path, conv: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is no protobuf, and never was")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("text.onnx", "empty.onnx", "missing.onnx"):
        with pytest.raises(ModelError, match=name):
            check_onnx(tmp_path / name)


@given(share=st.floats(0.01, 0.99))
def test_a_truncated_file_is_one_clear_error(share: float) -> None:
    whole = PATTERNS["conv_int8_branch"]().SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(HalfstepError, match=r"truncated|damaged"):
            check_onnx(path, ("onnxruntime",))


def test_a_tensor_that_nobody_computes(tmp_path: Path) -> None:
    s = Sketch()
    model = s.finish(s.conv("nowhere"))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="reads 'nowhere', which nothing before it computes"):
        check_onnx(tmp_path / "m.onnx")


def test_a_float_file(tmp_path: Path) -> None:
    s = Sketch()
    onnx.save(s.finish(s.conv("x", form="float")), tmp_path / "m.onnx")
    found = check_onnx(tmp_path / "m.onnx")
    assert [entry.verdicts["onnxruntime"].reason for entry in found.operators] == ["an input is a float"]
    assert not np.any([verdict.is_integer for entry in found.operators for verdict in entry.verdicts.values()])
