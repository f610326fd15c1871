"""Wall and CPU seconds of phases."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from halfstep.stopwatch import Stopwatch, peak_rss_bytes


def test_sleeping_costs_wall_time_and_working_costs_both() -> None:
    watch = Stopwatch()
    with watch.phase("sleep"):
        time.sleep(0.05)
    with watch.phase("work"):
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
    assert watch.phases["sleep"]["wall"] >= 0.05
    assert watch.phases["sleep"]["cpu"] < 0.05
    assert watch.phases["work"]["cpu"] >= 0.05
    # one busy thread: its CPU time cannot pass wall time by more than the resolution of the two clocks
    assert watch.phases["work"]["wall"] >= watch.phases["work"]["cpu"] - 0.01


def test_phases_of_one_name_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 2.0, 10.0, 13.0, 20.0, 21.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    spent = iter([0.0, 1.5, 5.0, 6.0, 7.0, 7.25])
    monkeypatch.setattr(time, "process_time", lambda: next(spent))
    watch = Stopwatch()
    for name in ("a", "a", "b"):
        with watch.phase(name):
            pass
    assert watch.phases == {"a": {"wall": 5.0, "cpu": 2.5}, "b": {"wall": 1.0, "cpu": 0.25}}
    assert watch.total() == {"wall": 6.0, "cpu": 2.75, "phases": watch.phases}
    assert json.loads(json.dumps(watch.total())) == watch.total()


def test_a_phase_that_fails_is_counted_and_its_error_passes() -> None:
    watch = Stopwatch()
    with pytest.raises(KeyError), watch.phase("broken"):
        raise KeyError
    assert watch.phases["broken"]["wall"] >= 0
    assert list(watch.phases) == ["broken"]


def test_an_unused_stopwatch_is_empty() -> None:
    assert Stopwatch().total() == {"wall": 0, "cpu": 0, "phases": {}}
    assert Stopwatch().phases is not Stopwatch().phases


def test_peak_memory_is_in_bytes_and_never_shrinks() -> None:
    before = peak_rss_bytes()
    block = np.ones(4_000_000)  # 32 MB, every page touched
    after = peak_rss_bytes()
    del block
    assert 20e6 < before <= after <= peak_rss_bytes()  # an interpreter with PyTorch and NumPy takes more than 20 MB
    assert after >= 32_000_000
