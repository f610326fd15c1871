"""The kernels for CPU tensors: compiled by Numba at first use, kept on disk, shared out over threads.

Numba is imported at the first call. What it compiled lies in ``__pycache__`` beside the kernels, in NUMBA_CACHE_DIR if that is set, or in
the user's cache folder if the installation cannot be written to; later runs load it in a fraction of a second. Threads are as many as
`parallel.num_threads` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from halfstep import parallel
from halfstep.solvers import kernels


@cache
def _compiled(kernel: Callable[..., None]) -> Callable[..., None]:
    import numba

    njit: Any = numba.njit
    options = {"nogil": True, "fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy"}
    ready: Callable[..., None]
    try:
        ready = njit(cache=True, **options)(kernel)
    except RuntimeError:  # no folder to keep it in
        ready = njit(**options)(kernel)
    return ready


def _run(kernel: Callable[..., None], num_rows: int, *arguments: Any) -> None:
    """Call the compiled ``kernel`` for rows 0 to ``num_rows`` - 1, a share of them on each thread."""
    ready = _compiled(kernel)
    plain = [argument.numpy() if isinstance(argument, Tensor) else argument for argument in arguments]
    num_parts = min(parallel.num_threads(), num_rows)
    if num_parts <= 1:
        ready(0, num_rows, *plain)
        return
    bounds = [num_rows * part // num_parts for part in range(num_parts + 1)]
    with ThreadPoolExecutor(num_parts) as pool:
        list(pool.map(lambda part: ready(bounds[part], bounds[part + 1], *plain), range(num_parts)))


def decide_block(
    factor: Tensor, known: Tensor, cost: Tensor, target: Tensor, step: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `halfstep.solvers.kernels.decide_block`; returns codes, residual and parent."""
    codes, residual = torch.empty_like(known), torch.empty_like(known)
    parent = torch.empty(cost.shape, dtype=torch.int64)
    num_rows = len(cost) // len(factor)
    _run(kernels.decide_block, len(cost), num_rows, factor, known, cost, target, step, low, high, codes, residual, parent)
    return codes, residual, parent


def sweep_rows(gram: Tensor, slope: Tensor, codes: Tensor, step: Tensor, low: Tensor, high: Tensor, num_sweeps: int) -> None:
    """See `halfstep.solvers.kernels.sweep_rows`."""
    _run(kernels.sweep_rows, len(codes), len(codes) // len(gram), gram, slope, codes, step, low, high, num_sweeps)


def kick_rows(gram: Tensor, slope: Tensor, codes: Tensor, step: Tensor, low: Tensor, high: Tensor, kicks: Tensor, num_replies: int) -> None:
    """See `halfstep.solvers.kernels.kick_rows`."""
    _run(kernels.kick_rows, len(codes), len(codes) // len(gram), gram, slope, codes, step, low, high, kicks, num_replies)


def warm_up() -> float:
    """Compile every kernel, or load what is kept of it; seconds it took. The first rounding does it by itself."""
    start = time.perf_counter()
    row, matrix = torch.ones(1, 1), torch.ones(1, 1, 1)
    decide_block(matrix, matrix.clone(), torch.zeros(1, 1), row, row, row, row)
    sweep_rows(matrix, row.clone(), row.clone(), row, row, row, 1)
    kick_rows(matrix, row.clone(), row.clone(), row, row, row, torch.zeros(1, 1, dtype=torch.int64), 1)
    return time.perf_counter() - start
