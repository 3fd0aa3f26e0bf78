"""A pool of threads for NumPy, which releases the interpreter lock inside its loops."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import joblib
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_count() -> int:
    """How many threads to use: the processors this process may run on, at most OMP_NUM_THREADS.

    Affinity and container quotas count, through joblib.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    available = _processors()
    return max(1, min(int(limit), available)) if limit.isdigit() else available


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return _quota(len(affinity(0)) if affinity else os.cpu_count() or 1)


@cache  # reading the quota costs 0.1 ms, as much as fitting a small data set
def _quota(affinity: int) -> int:
    return int(min(affinity, joblib.cpu_count()))


def run(task: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """``[task(item) for item in items]`` on several threads, the calling one among them.

    An exception in any of them, a KeyboardInterrupt included, keeps the others from starting
    another item, and is raised once they have finished the one at hand.
    """
    helpers = min(threads, len(items)) - 1
    if helpers < 1:
        with one_blas_thread():
            return [task(item) for item in items]
    results: list[Result | None] = [None] * len(items)
    todo = iter(range(len(items)))
    stop = threading.Event()

    def work() -> None:
        # next() on a range iterator is atomic under the interpreter lock.
        while not stop.is_set() and (i := next(todo, None)) is not None:
            try:
                results[i] = task(items[i])
            except BaseException:
                stop.set()
                raise

    with one_blas_thread():
        futures = [_pool(helpers).submit(work) for _ in range(helpers)]
        try:
            work()
        finally:
            stop.set()
            failures = [future.exception() for future in futures if not future.cancel()]
    for failure in failures:
        if failure is not None:
            raise failure
    return results  # type: ignore[return-value]


@cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(helpers, thread_name_prefix="gpukmeans")


class _BlasLimit:
    """Holds BLAS to one thread while any run in this process goes on.

    The limit is the process's, and two overlapping runs would restore each other's: the first to come
    sets it and the last to go lifts it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.found: list[int] = []

    def enter(self) -> None:
        with self.lock:
            if self.users == 0:
                self.found = [library.num_threads for library in _blas()]
                _set_blas([1] * len(self.found))
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                _set_blas(self.found)


def _set_blas(threads: list[int]) -> None:
    for library, count in zip(_blas(), threads, strict=True):
        library.set_num_threads(count)
        # Since version 3.8 threadpoolctl lets only the thread that set OpenBLAS's limit set it again.
        # Ours may be lifted by another than set it, and must not keep anybody else from setting theirs.
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread()


@cache
def _blas() -> list[Any]:
    return ThreadpoolController().select(user_api="blas").lib_controllers


_limit = _BlasLimit()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within this context BLAS uses no threads of its own.

    Where others use the processors too, those wait for each other: a product of 0.1 ms then takes 8. Costs
    10 us, or 1 us inside another such context.
    """
    _limit.enter()
    try:
        yield
    finally:
        _limit.leave()


def _after_fork() -> None:
    """A child process has none of its parent's threads, and must not wait for their locks."""
    global _limit
    _pool.cache_clear()
    _limit = _BlasLimit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_local = threading.local()


def scratch(name: str, size: int, dtype: type) -> NDArray[Any]:
    """This thread's reusable array of that name, 1-D and uninitialised, at least as long as needed.

    Fresh megabyte arrays cost more in page faults than in arithmetic. Valid until the same thread
    asks for the same name again.
    """
    array = getattr(_local, name, None)
    if array is None or len(array) < size or array.dtype != dtype:
        array = np.empty(size, dtype)
        setattr(_local, name, array)
    return array[:size]
