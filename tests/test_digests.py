"""Digests of the files of a folder."""

from __future__ import annotations

import json

from halfstep.digests import DIGESTS_FILE, changed_files, note_written, update_digests, write_digests


def _folder(path):
    for name in ("a.json", "b.bin", ".hidden"):
        (path / name).write_bytes(name.encode())
    write_digests(path)
    return path


def test_untouched(tmp_path):
    assert changed_files(_folder(tmp_path), ["a.json", "never.bin"]) == []
    assert set(json.loads((tmp_path / DIGESTS_FILE).read_bytes())) == {"a.json", "b.bin"}


def test_every_difference_is_named(tmp_path):
    folder = _folder(tmp_path)
    (folder / "a.json").write_bytes(b"A.json")
    (folder / "b.bin").unlink()
    (folder / "c.bin").write_bytes(b"new")
    (folder / "notes.txt").write_bytes(b"the user's own")
    assert changed_files(folder, ["a.json", "c.bin"]) == ["a.json was changed", "b.bin was removed", "c.bin was added"]


def test_an_update_notes_the_named_files_alone(tmp_path):
    folder = _folder(tmp_path)
    for name in ("a.json", "b.bin", "c.bin"):
        (folder / name).write_bytes(b"changed")
    update_digests(folder, ["a.json", "c.bin"])
    assert changed_files(folder, ["c.bin"]) == ["b.bin was changed"]
    (folder / "a.json").unlink()
    update_digests(folder, ["a.json"])
    assert changed_files(folder, []) == ["b.bin was changed"]


def test_a_written_file_is_noted_where_there_are_digests(tmp_path):
    folder = _folder(tmp_path)
    (folder / "model.onnx").write_bytes(b"model")
    note_written(folder / "model.onnx")
    assert changed_files(folder, ["model.onnx"]) == []
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "model.onnx").write_bytes(b"model")
    note_written(tmp_path / "plain" / "model.onnx")
    assert not (tmp_path / "plain" / DIGESTS_FILE).exists()


def test_no_list_or_a_damaged_one_is_a_change(tmp_path):
    folder = _folder(tmp_path)
    for content in (b"[" * 100_000, b"\xff", b"[]", b'{"a.json": 1}'):
        (folder / DIGESTS_FILE).write_bytes(content)
        assert changed_files(folder, []) == [f"{DIGESTS_FILE} is missing or damaged"]
    (folder / DIGESTS_FILE).unlink()
    assert changed_files(folder, []) == [f"{DIGESTS_FILE} is missing or damaged"]
    (folder / DIGESTS_FILE).write_text('{"../a.json": "0", "": "1"}')
    assert changed_files(folder, []) == []
