"""``result.json`` and ``report.html`` on disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from report_example import EMPTY, full, layer, with_layers

from halfstep.errors import HalfstepError
from halfstep.report import html
from halfstep.report.write import write_html, write_json


def test_json_has_the_fields_in_their_order(tmp_path: Path) -> None:
    record, _ = full()
    write_json(record, tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    read = json.loads(text)
    assert text.endswith("}\n")
    assert text.startswith('{\n  "model"')
    assert list(read) == [field.name for field in dataclasses.fields(record)]
    assert read["float"] == 92.6
    assert read["export_check"]["top1_agreement"] == 0.998
    assert read["layers"][0]["weight"]["scale"] == [0.001, 0.01]
    assert len(read["layers"]) == len(record.layers)


def test_json_never_holds_nan_or_infinity(tmp_path: Path) -> None:
    bad = dataclasses.replace(
        with_layers(EMPTY, layer("conv", sqnr_db=math.inf, weight_db=-math.inf)),
        float=math.nan,
        seconds={"phases": {"fit": {"wall": math.nan}}},
    )
    write_json(bad, tmp_path / "result.json")

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    read = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert read["float"] is None
    assert read["seconds"]["phases"]["fit"]["wall"] is None
    assert read["layers"][0]["sqnr_db"] is None
    assert read["layers"][0]["weight"]["sqnr_db"] is None


def test_html_on_disk_is_the_rendered_page(tmp_path: Path) -> None:
    record, figures = full()
    write_html(record, figures, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == html.render(record, figures).encode("utf-8")


def test_names_that_are_no_unicode_are_written_all_the_same(tmp_path: Path) -> None:
    record = dataclasses.replace(EMPTY, model="caf\udce9/modèle.py:net")
    write_html(record, {}, tmp_path / "report.html")
    write_json(record, tmp_path / "result.json")
    assert "modèle" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["model"] == record.model


@pytest.mark.parametrize("write", [lambda path: write_html(EMPTY, {}, path), lambda path: write_json(EMPTY, path)])
def test_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(HalfstepError, match="disk is full"):
        write(target)
    assert target.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
