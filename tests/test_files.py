"""Files and directories appear whole or not at all, and a failure names the path and the way out."""
# ruff: noqa: PT012 (what is tested is what becomes of a block of several statements)

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from halfstep import files
from halfstep.errors import HalfstepError
from halfstep.files import atomic_directory, atomic_path


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


@contextlib.contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """The nearest a test comes to a full disk: the system refuses to let any file grow beyond ``num_bytes``."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


# One file


def test_file_appears_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".onnx"
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["model.onnx"]


def test_file_is_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda source, target: (order.append("replace"), replace(source, target)))
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_bytes(b"new")
    assert order[:2] == ["fsync", "replace"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, RuntimeError])
def test_old_file_survives_any_exception(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_full_disk_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with (
        file_size_limit(4096),
        pytest.raises(HalfstepError, match=r"Cannot write '.*result\.json'.*ulimit -f"),
        atomic_path(target) as temporary,
    ):
        temporary.write_bytes(bytes(100_000))
    assert target.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_full_disk_met_by_a_native_writer_reads_the_same(tmp_path: Path, suffix: str) -> None:
    values = torch.zeros(100_000)
    with file_size_limit(4096), pytest.raises(HalfstepError, match="Cannot write"), atomic_path(tmp_path / f"a{suffix}") as temporary:
        if suffix == ".pt":
            torch.save(values, temporary)
        else:
            safetensors.torch.save_file({"values": values}, temporary)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("call", "code", "way_out"),
    [("fsync", errno.ENOSPC, "free some space"), ("replace", errno.EACCES, "change its permissions"), ("fsync", errno.EIO, "broke off")],
)
def test_failure_at_the_very_end_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, way_out: str
) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")

    def fail(*arguments: object) -> None:
        places = [str(place) for place in arguments if isinstance(place, Path)]
        raise OSError(code, os.strerror(code), *places[:1])

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(HalfstepError, match=way_out) as raised, atomic_path(target) as temporary:
            temporary.write_text("new")
    assert str(target) in str(raised.value)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_missing_folder_and_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, way_out in (
        (tmp_path / "nowhere" / "a.json", "does not exist: create it"),
        (tmp_path / "file" / "a.json", "is a file, not a folder"),
        (tmp_path, "A folder has that name"),
    ):
        with pytest.raises(HalfstepError, match=way_out), atomic_path(path):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["file"]


def test_other_failures_inside_the_block_keep_their_own_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="images"), atomic_path(tmp_path / "a.json"):
        (tmp_path / "images").read_bytes()
    with pytest.raises(ConnectionResetError), atomic_path(tmp_path / "a.json"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    with pytest.raises(HalfstepError, match="mine"), atomic_path(tmp_path / "a.json"):
        raise HalfstepError("mine")
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links and pipes of Unix")
def test_link_is_followed_and_pipe_written_directly(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    with atomic_path(os.devnull) as temporary:
        temporary.write_text("gone")
    assert not Path(os.devnull).is_file()


# A directory


def fill(folder: Path, text: str = "new") -> None:
    (folder / "exports").mkdir()
    (folder / "exports" / "model.onnx").write_text(text)
    (folder / "result.json").write_text(text)


def test_directory_appears_at_the_end_only_with_its_parents(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "today" / "resnet"
    with atomic_directory(target) as temporary:
        fill(temporary)
        assert not target.exists()
    assert names(target) == ["exports", "result.json"]
    assert names(target.parent) == ["resnet"]


def test_empty_directory_is_taken_without_force(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with atomic_directory(target) as temporary:
        fill(temporary)
    assert names(target) == ["exports", "result.json"]
    assert names(tmp_path) == ["out"]


def test_filled_directory_needs_force(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(HalfstepError, match=r"Output directory '.*out' is not empty: pass --force"), atomic_directory(target):
        pytest.fail("the block must not run")
    assert names(target) == ["old"]


def test_force_replaces_at_the_very_end(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    with atomic_directory(target, force=True) as temporary:
        fill(temporary)
        assert names(target) == ["old"]
    assert names(target) == ["exports", "result.json"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(errno.ENOSPC, "No space left on device")])
def test_old_directory_survives_any_exception(tmp_path: Path, error: BaseException | type[BaseException]) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    expected = HalfstepError if isinstance(error, OSError) else error
    with pytest.raises(expected), atomic_directory(target, force=True) as temporary:  # type: ignore[arg-type]
        fill(temporary)
        raise error
    assert names(target) == ["old"]
    assert names(tmp_path) == ["out"]


def test_nothing_is_left_of_new_parents(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "runs" / "today" / "resnet") as temporary:
        fill(temporary)
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EACCES, "denied")])
def test_old_directory_comes_back_when_the_swap_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    rename, calls = os.rename, []

    def fail_once_between(source: Path, destination: Path) -> None:
        calls.append(destination)
        if len(calls) == 2:  # the old directory is aside, the new one not yet in place
            assert not target.exists()
            if isinstance(error, OSError):
                error.filename = str(source)
            raise error
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fail_once_between)
    with pytest.raises((KeyboardInterrupt, HalfstepError)), atomic_directory(target, force=True) as temporary:
        fill(temporary)
    assert (target / "old").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_directory_that_was_moved_aside_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames: the old one is put back. Killed behind them: it is removed."""
    target = tmp_path / "out"
    for content in ("old", "older"):
        (tmp_path / ".out.replaced").mkdir()
        (tmp_path / ".out.replaced" / content).touch()
        with pytest.raises(HalfstepError, match="is not empty"), atomic_directory(target):
            pytest.fail("the block must not run")
        assert names(target) == ["old"] and names(tmp_path) == ["out"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_full_disk_leaves_no_directory(tmp_path: Path) -> None:
    with (
        file_size_limit(4096),
        pytest.raises(HalfstepError, match=r"Cannot write '.*out'"),
        atomic_directory(tmp_path / "out") as temporary,
    ):
        (temporary / "weights").write_bytes(bytes(100_000))
    assert names(tmp_path) == []


def test_what_must_not_be_replaced_is_refused_even_with_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "project" / "inside"
    here.mkdir(parents=True)
    (tmp_path / "file").touch()
    monkeypatch.chdir(here)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "volume")
    (tmp_path / "volume").mkdir()
    for path, way_out in (
        (".", "Name a folder inside it"),
        (tmp_path / "project", "current or the home folder"),
        (tmp_path / "volume", "mount point"),
        (tmp_path / "file", "is a file"),
    ):
        with pytest.raises(HalfstepError, match=way_out), atomic_directory(path, force=True):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["file", "project", "volume"]


def test_every_file_of_a_directory_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    flush = files._flush
    monkeypatch.setattr(files, "_flush", lambda path: (flushed.append(path.name), flush(path)))
    with atomic_directory(tmp_path / "out") as temporary:
        fill(temporary)
    assert sorted(flushed) == ["model.onnx", "result.json"]
