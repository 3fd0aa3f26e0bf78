"""A pool of threads for NumPy, which releases the interpreter lock inside its loops."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpukmeans.thread_limits import blas_is_held, hold_blas_of_worker, one_blas_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(task: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """``[task(item) for item in items]`` on several threads, the calling one among them.

    An exception in any of them, a KeyboardInterrupt included, keeps the others from starting
    another item, and is raised once they have finished the one at hand.
    """
    helpers = min(threads, len(items)) - 1
    if helpers < 1 and blas_is_held():  # as within a fit: many small tasks, each a few microseconds
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
    results, job.results = job.results, []
    return results


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
        self.affinity = _affinity()
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
            hold_blas_of_worker()
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
        # A helper may hold the job for a while yet, but no data
        # (test_threads.test_helpers_that_are_slow_to_rest_keep_no_data_alive fails without).
        del self.task, self.items


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
        affinity = None
        while True:
            job = self.jobs.get()
            if job.affinity != affinity:  # test_thread_limits.test_helpers_run_where_their_caller_may
                with suppress(OSError):  # some processors may be gone
                    os.sched_setaffinity(0, job.affinity)
                affinity = job.affinity
            job.help()
            del job  # a worker at rest must not keep data alive


_workers = _Workers()


def _affinity() -> Any:
    """The processors that this thread may run on, None if the system does not say."""
    found = getattr(os, "sched_getaffinity", None)
    return found and found(0)


def _after_fork() -> None:
    """A child process has none of its parent's threads, and must not wait for their locks."""
    global _workers
    _workers = _Workers()


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
