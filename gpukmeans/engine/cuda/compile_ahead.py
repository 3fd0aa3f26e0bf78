"""What threads of their own make before it is asked for; whoever asks for what none has begun makes it himself."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress

from gpukmeans.thread_limits import thread_count

Make = Callable[[], bytes]


class _Task:
    """What one thread makes, and another takes; not made by the former any more once somebody has asked for it."""

    def __init__(self, make: Make) -> None:
        self._make: Make | None = make
        self._lock = threading.Lock()  # held while anybody makes it
        self._made: bytes | None = None

    def make(self) -> None:
        with self._lock:
            make, self._make = self._make, None
            if make is not None:
                with suppress(Exception):  # whoever needs it makes it again, and is told
                    self._made = make()

    def taken(self, make: Make) -> bytes:
        with self._lock:
            made, self._make, self._made = self._made, None, None
            return make() if made is None else made


_tasks: dict[Hashable, _Task] = {}


def begun(key: Hashable) -> bool:
    """Whether `begin` was ever called with it."""
    return key in _tasks


def begin(wanted: Mapping[Hashable, Make]) -> None:
    """Have threads make what is wanted, in that order, as many as are free to be used; none if there is one alone."""
    if thread_count() == 1:
        return
    tasks = deque(_tasks.setdefault(key, _Task(make)) for key, make in wanted.items())
    for _ in range(min(len(tasks), thread_count())):
        with suppress(RuntimeError):  # no more threads to be had
            # No daemon: libraries must not be at work when the process ends.
            threading.Thread(target=_work, args=(tasks,), name="gpukmeans-ahead").start()


def _work(tasks: deque[_Task]) -> None:
    while threading.main_thread().is_alive():
        try:
            task = tasks.popleft()
        except IndexError:
            return
        task.make()


def taken(key: Hashable, make: Make) -> bytes:
    """What was made, when it is; what `make` does, if nobody has begun, or somebody has taken it."""
    task = _tasks.get(key)
    return make() if task is None else task.taken(make)
