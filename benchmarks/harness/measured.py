"""Run one command in a fresh process and measure it from outside: CPU seconds, wall seconds, peak memory.

The figures come from the kernel's account of the finished process and of the children it waited for, so that a tool cannot
flatter itself. A new process inherits its parent's peak memory between fork and exec: the process that calls this must stay
small (no torch, no ONNX Runtime in it), or ``peak_rss_bytes`` would be the parent's.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
LOG_TAIL_LINES = 12


@dataclass(frozen=True)
class Measured:
    """What one process cost. Seconds and bytes; ``load_average`` (1 minute, at the start) tells how far to trust ``wall_seconds``."""

    return_code: int
    cpu_seconds: float
    wall_seconds: float
    peak_rss_bytes: int
    load_average: float
    log_tail: str

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with one thread for every numeric library, and ``extra`` on top."""
    return {**os.environ, **ONE_THREAD, **extra}


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])


def _end_group(process_id: int) -> None:
    try:
        os.killpg(process_id, signal.SIGKILL)
    except ProcessLookupError:
        return


def run_measured(command: Sequence[str], log: Path, extra_env: Mapping[str, str], limit_seconds: float) -> Measured:
    """Run ``command`` to its end (or to ``limit_seconds``, then it is killed and its return code is -9); output goes to ``log``."""
    load = os.getloadavg()[0]
    start = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(
            list(command), stdout=stream, stderr=subprocess.STDOUT, env=environment(extra_env), start_new_session=True
        )
        timer = threading.Timer(limit_seconds, _end_group, [process.pid])
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _end_group(process.pid)
            raise
        finally:
            timer.cancel()
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    return Measured(
        return_code=process.returncode,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        wall_seconds=wall,
        peak_rss_bytes=usage.ru_maxrss * 1024,
        load_average=load,
        log_tail=_tail(log),
    )
