"""A pool of threads for NumPy, which releases the interpreter lock inside its loops."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from queue import SimpleQueue
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
    if helpers < 1 and _limit.users:  # as within a fit: many small tasks, each a few microseconds
        return [task(item) for item in items]
    with one_blas_thread():
        if helpers < 1:
            return [task(item) for item in items]
        job = _Job(task, items)
        try:
            _workers.ask(job, helpers)
            job.work()
        finally:
            job.close()
    if job.failures:
        raise job.failures[0]
    return job.results


_callers: ContextVar[dict[str, Any] | None] = ContextVar("callers", default=None)


@contextmanager
def unflagged() -> Iterator[None]:
    """The context in which nobody is told of floating-point flags, whatever the caller has NumPy do then.

    What underflows is meant to, what is not finite is looked for, and BLAS now and then raises flags of its own, for
    what happens to be in parts of registers that no number of ours is in.
    """
    token = _callers.set(_callers.get() or dict(np.geterr()))
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _callers.reset(token)


def flagged() -> AbstractContextManager:
    """The context for what is the caller's, within `unflagged`: flags are told of as the caller has it."""
    return np.errstate(**(_callers.get() or {}))


class _Job:
    """Items, and the threads at work on them. Locks and queues are the interpreter's own, in C: those of
    `threading` and `concurrent.futures` can be left locked by a KeyboardInterrupt."""

    def __init__(self, task: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self.task, self.items = task, items
        self.results: list[Any] = [None] * len(items)
        self.failures: list[BaseException] = []
        self.lock = threading.Lock()
        self.next = 0
        self.open = True
        self.helpers = 0
        self.left: SimpleQueue[None] = SimpleQueue()  # one entry for each helper that has finished

    def work(self) -> None:
        while (i := self._take()) is not None:
            self.results[i] = self.task(self.items[i])

    def _take(self) -> int | None:
        with self.lock:
            i = self.next
            if not self.open or i == len(self.items):
                return None
            self.next = i + 1
            return i

    def help(self) -> None:
        """`work` in another thread; nothing if the job is closed by the time a worker comes to it."""
        with self.lock:
            if not self.open:
                return
            self.helpers += 1
        try:
            self.work()
        except BaseException as error:
            self.failures.append(error)
            self.open = False
        finally:
            self.left.put(None)

    def close(self) -> None:
        """No item is started any more; returns when those at hand are done."""
        with self.lock:
            self.open = False
        for _ in range(self.helpers):
            self.left.get()


class _Workers:
    """Threads that help whoever asks. Daemons: they keep no program from ending, and they serve a thread
    that outlives the main one."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.lock = threading.Lock()
        self.count = 0

    def ask(self, job: _Job, helpers: int) -> None:
        with self.lock:
            while self.count < helpers:
                try:
                    threading.Thread(target=self._serve, name="gpukmeans", daemon=True).start()
                except RuntimeError:  # no more threads to be had, or the interpreter ends: the caller works alone
                    break
                self.count += 1
        for _ in range(min(helpers, self.count)):
            self.jobs.put(job)

    def _serve(self) -> None:
        np.seterr(all="ignore")  # as within a fit, see `unflagged`
        while True:
            job = self.jobs.get()
            job.help()
            del job  # a worker at rest must not keep data alive


_workers = _Workers()


class _BlasLimit:
    """Holds BLAS to one thread while any run in this process goes on.

    The limit is the process's, and two overlapping runs would restore each other's: the first to come
    sets it and the last to go lifts it. An interruption anywhere in here leaves a state that the next
    user's coming and going puts right.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users: set[object] = set()
        self.found: list[int] = []  # the libraries' threads before the limit; empty if there is none

    def enter(self, user: object) -> None:
        with self.lock:
            self.users.add(user)
            if not self.found:
                self.found = [library.num_threads for library in _blas()]
                _set_blas([1] * len(self.found))

    def leave(self, user: object) -> None:
        with self.lock:
            self.users.discard(user)
            if not self.users:
                self.lift()

    def lift(self) -> None:
        _set_blas(self.found)
        self.found = []


def _set_blas(threads: list[int]) -> None:
    for library, count in zip(_blas(), threads, strict=False):
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
    10 us, or 1 us inside another such context. A generator, because a KeyboardInterrupt at the very start of an
    __exit__ would leave the limit: a generator is closed when it is forgotten, however it came to that.
    """
    limit, user = _limit, object()  # a child forked in the meantime has another limit
    try:
        limit.enter(user)
        yield
    finally:
        limit.leave(user)


def _after_fork() -> None:
    """A child process has none of its parent's threads, and must not wait for their locks."""
    global _limit, _workers
    _workers = _Workers()
    inherited, _limit = _limit, _BlasLimit()
    inherited.lift()


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
