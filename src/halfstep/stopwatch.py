"""Wall and CPU seconds of each phase of a run, and the peak memory of the process."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """phases: name -> {"wall": seconds, "cpu": seconds}, summed over repeated phases of one name."""

    phases: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block; CPU time is of all threads of this process."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            spent = self.phases.setdefault(name, {"wall": 0.0, "cpu": 0.0})
            spent["wall"] += time.perf_counter() - wall
            spent["cpu"] += time.process_time() - cpu

    def total(self) -> dict[str, object]:
        """{"wall", "cpu", "phases"} as ``result.json`` holds them."""
        sums = {kind: sum(spent[kind] for spent in self.phases.values()) for kind in ("wall", "cpu")}
        return {**sums, "phases": self.phases}


def peak_rss_bytes() -> int:
    """The most memory this process has had resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
