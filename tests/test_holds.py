"""One process at a time at one place, and nothing that a killed process leaves keeps the next one out."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halfstep import holds
from halfstep.errors import HalfstepError
from halfstep.files import atomic_directory, atomic_path, claimed
from halfstep.holds import Hold
from halfstep.steps.checkpoint import Checkpoint

HOLDING = """
import sys, time
from halfstep.files import atomic_directory, atomic_path
from halfstep.holds import Hold

with {what} as temporary:
    {fill}
    print("held", flush=True)
    time.sleep(60)
"""


def other_process(what: str, fill: str = "pass") -> subprocess.Popen[str]:
    """Another process at the moment in which it is inside ``with what``."""
    process = subprocess.Popen([sys.executable, "-c", HOLDING.format(what=what, fill=fill)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_one_process_holds_a_place_as_often_as_it_likes(tmp_path: Path) -> None:
    first, second = Hold(tmp_path / "run"), Hold(tmp_path / "run")
    assert names(tmp_path) == [".run.lock"] and first.is_exclusive
    first.release()
    first.release()
    assert names(tmp_path) == [".run.lock"]
    second.release()
    assert names(tmp_path) == []


def test_a_hold_ends_with_its_object(tmp_path: Path) -> None:
    held = Hold(tmp_path / "run")
    del held
    gc.collect()
    assert names(tmp_path) == []


def test_a_second_process_is_told_and_a_killed_one_keeps_nobody_out(tmp_path: Path) -> None:
    target = tmp_path / "run"
    process = other_process(f"atomic_directory({str(target)!r})", "(temporary / 'half').touch()")
    try:
        live = names(tmp_path)
        assert len(live) == 2 and live[-1] == ".run.lock"
        with pytest.raises(HalfstepError, match=r"Another process is at work on '.*run'. Wait until it has ended"):
            atomic_directory(target).__enter__()
        with pytest.raises(HalfstepError, match="Another process"):
            Checkpoint.start(target, {}, resume=True)
        assert names(tmp_path) == live
    finally:
        kill(process)
    assert names(tmp_path) == live  # the killed one left a lock file that locks nothing, and a folder
    (tmp_path / ".run.mine.partial").touch()
    (tmp_path / ".running.0123abcd.partial").touch()
    with claimed(target):
        assert names(tmp_path) == [".run.lock", ".run.mine.partial", ".running.0123abcd.partial"]
    assert names(tmp_path) == [".run.mine.partial", ".running.0123abcd.partial"]  # not of this name: they are left alone


def test_a_file_waits_for_the_process_that_writes_it(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    process = other_process(f"atomic_path({str(target)!r})", "temporary.write_text('half')")
    started = time.monotonic()
    subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(0.5); os.kill({process.pid}, {int(signal.SIGKILL)})"]).wait()
    process.communicate()
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
    assert time.monotonic() - started >= 0.5
    assert names(tmp_path) == ["a.json"] and target.read_text() == "whole"


def test_what_this_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first" and names(tmp_path) == ["a"]


def test_a_lock_file_that_went_between_opening_and_locking_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, calls = holds.lock_descriptor, []

    def lock_late(descriptor: int, blocking: bool) -> bool:
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / ".run.lock").unlink()  # what the process does that lets go of it
        return lock(descriptor, blocking=blocking)

    monkeypatch.setattr(holds, "lock_descriptor", lock_late)
    held = Hold(tmp_path / "run")
    assert len(calls) == 2 and names(tmp_path) == [".run.lock"]
    held.release()


def test_without_locks_nobody_is_kept_out_and_nothing_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, blocking: bool) -> bool:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(holds, "lock_descriptor", refuse)
    (tmp_path / ".run.0123abcd.partial").mkdir()
    with claimed(tmp_path / "run"):
        assert names(tmp_path) == [".run.0123abcd.partial"]
