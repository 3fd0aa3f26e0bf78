"""Streams and events of HostCuda, which let work wait for as long as CUDA may.

The default stream does what it is given at once, but for copies to and from pinned memory: those are done when
something after them on the stream is, or when they are waited for. Another stream does nothing at all until somebody
waits for it. So whoever forgets to wait, or overwrites pinned memory too early, finds bytes that are not there yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .worker import kept


class Pinned(bytearray):
    """cupy.cuda.PinnedMemoryPointer: memory that copies read and write while the host goes on."""


def is_pinned(array: NDArray[Any]) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, memoryview) and isinstance(base.obj, Pinned)


class Stream:
    """cupy.cuda.Stream; number 0 is the default one."""

    def __init__(self, streams: Streams, number: int) -> None:
        self._streams, self.number = streams, number
        self.waiting: deque[Callable[[], None]] = deque()
        self.given = self._done = 0

    def give(self, what: str, action: Callable[[], None], later: bool = False) -> None:
        """action is to be done after all that was given before. later: no sooner than something else asks for it."""
        self._streams.record.append((what, self.number))
        self.waiting.append(action)
        self.given += 1
        if self.number == 0 and not later:
            self.do(self.given)

    def do(self, given: int) -> None:
        """The first so many actions that were given."""
        with kept:
            while self.waiting and self._done < given:
                self._done += 1
                self.waiting.popleft()()

    def synchronize(self) -> None:
        self._streams.waits += 1
        self.do(self.given)

    def wait_event(self, event: Event) -> None:
        stream, given = event.place or (self, 0)
        self.give("wait", lambda: stream.do(given))

    def __enter__(self) -> Stream:
        self._streams.current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._streams.current.pop() is self


class Event:
    """cupy.cuda.Event"""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.place: tuple[Stream, int] | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self._streams.current[-1]
        self._streams.record.append(("event", stream.number))
        self.place = (stream, stream.given)

    def synchronize(self) -> None:
        if self.place is not None:
            self._streams.waits += 1
            self.place[0].do(self.place[1])


class Streams:
    """Those of a device, and the record of what each was given of late, in this order: (a kernel's name, "up", "down",
    "fill", "event" or "wait", the stream's number). waits: how often the host waited for one."""

    def __init__(self) -> None:
        self.waits = 0
        self.record: deque[tuple[str, int]] = deque(maxlen=10**5)
        self._all = [Stream(self, 0)]
        self.current = [self._all[0]]

    def stream(self, null: bool = False, non_blocking: bool = False) -> Stream:
        if null or not non_blocking:
            raise ValueError("a stream that the default stream waits for is of no use here")
        self._all.append(Stream(self, len(self._all)))
        return self._all[-1]

    def event(self) -> Event:
        return Event(self)

    def synchronize(self) -> None:
        for stream in self._all:
            stream.synchronize()
