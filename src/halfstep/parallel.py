"""Several processes on one job, started by ``torchrun``: who am I, and what the others found. One process is the usual case.

Sums over processes are sums of integers, so that their result does not depend on how many processes there are (`ExactSum`).

Threads: kernels (matrix products, convolutions, factorizations, sums) that share one call out over threads round otherwise for every number
of them. Within `steady` each kernel has one thread, and the threads there are take one piece of the data each (`each`): the same bytes on
any number of threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

Item = TypeVar("Item")
Found = TypeVar("Found")
_MOST_AT_ONCE = 4  # pieces of the data: each holds the activations of a batch
_steady: list[int] = []  # how many threads there are where kernels use one, once for each `steady` entered
_BITS = 40  # of the largest entry of the first addend: 2^23 more of the same fit into 64 bits, at a relative precision of 1e-12


@contextmanager
def processes() -> Iterator[None]:
    """Join the other processes that ``torchrun`` started, for the length of the block; alone, nothing happens."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch.distributed.is_initialized():
        yield
        return
    is_cuda = torch.cuda.is_available()
    if is_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("nccl" if is_cuda else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def num_processes() -> int:
    """How many processes share the work."""
    return torch.distributed.get_world_size() if _is_joint() else 1


def index() -> int:
    """Which of them this one is; 0 writes the files."""
    return torch.distributed.get_rank() if _is_joint() else 0


def share(count: int) -> range:
    """The part of ``count`` consecutive things that this process does; the parts of all processes, in order, make up the whole."""
    return range(index() * count // num_processes(), (index() + 1) * count // num_processes())


def collect(value: Any) -> list[Any]:
    """What every process passed here, in their order."""
    if not _is_joint():
        return [value]
    found: list[Any] = [None] * num_processes()
    torch.distributed.all_gather_object(found, value)
    return found


def joined(values: Tensor) -> Tensor:
    """The tensors of all processes one behind the other; their first axes may differ in length."""
    parts = collect(values.cpu()) if _is_joint() else [values]
    return torch.cat([part.to(values.device) for part in parts])


def wait() -> None:
    """Go on when all processes are here."""
    if _is_joint():
        torch.distributed.barrier()


@contextmanager
def steady() -> Iterator[None]:
    """Within it results do not depend on the number of threads: every kernel runs on one, and `each` uses the others."""
    before = torch.get_num_threads()
    _steady.append(num_threads())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _steady.pop()


@contextmanager
def all_threads() -> Iterator[None]:
    """Within it kernels use all threads, inside `steady` too: for learning by gradients, whose kernels are most of its time."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def num_threads() -> int:
    """How many threads this process may use."""
    return _steady[-1] if _steady else torch.get_num_threads()


def each(function: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """``function`` of each item, in their order, several at once within `steady`. The items are made here, one after the other."""
    workers = min(num_threads(), _MOST_AT_ONCE)
    if workers == 1 or torch.get_num_threads() > 1:
        yield from map(function, items)
        return
    has_gradients = torch.is_grad_enabled()

    def call(item: Item) -> Found:
        with torch.set_grad_enabled(has_gradients):  # every thread has its own setting
            return function(item)

    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[Found]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) == workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Turns:
    """Something that the pieces of `each` do one after the other, in the order of their numbers from 0: drawing random numbers."""

    def __init__(self) -> None:
        self._condition, self._next, self._done = threading.Condition(), 0, set[int]()

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """The turn of a piece: all before it had theirs."""
        with self._condition:
            self._condition.wait_for(lambda: self._next == number)
            try:
                yield
            finally:
                self.pass_over(number)

    def pass_over(self, number: int) -> None:
        """A piece has had its turn, or gives it up."""
        with self._condition:
            self._done.add(number)
            while self._next in self._done:
                self._next += 1
            self._condition.notify_all()


def _is_joint() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class ExactSum:
    """A sum of tensors that comes out the same, bit for bit, in any order and over any number of processes.

    Addends are rounded to a multiple of 2^-40 of the power of two above the largest entry of the first batch, and added as integers.
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._quantum: float | None = None

    def add(self, addend: Tensor, largest: float) -> None:
        """``largest``: a magnitude that every addend of every process stays near; the same number in all calls and processes."""
        if self._quantum is None:
            self._quantum = 2.0 ** (torch.frexp(torch.tensor(max(largest, 1e-30), dtype=torch.float64)).exponent.item() - _BITS)
        rounded = (addend.double() / self._quantum).round().to(torch.int64)
        self._total = rounded if self._total is None else self._total.add_(rounded)

    def total(self) -> Tensor:
        """The sum over all calls of all processes, float64."""
        assert self._total is not None and self._quantum is not None
        if _is_joint():
            torch.distributed.all_reduce(self._total)
        return self._total.double() * self._quantum
