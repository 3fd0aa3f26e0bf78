"""Rows that are read in pieces, because they may be more than fit memory: the one interface to wherever they are."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Larger pieces make no pass shorter: 64 MB of rows.
_PIECE_BYTES = 2**26

# Copies of a piece that there may be: one at work, one being read, and what reading makes of it on the way.
_COPIES = 4

# What seeding knows of a row of the piece at work, beside its values: D to the candidates, most of all.
_PER_ROW = 200


class _Shaped:
    """What is asked of rows as of an array that is not there; shape and dtype are theirs."""

    ndim = 2
    shape: tuple[int, int]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class RowSource(_Shaped, ABC):
    """n rows of d features, in one of array_interop.DTYPES.

    limit: bytes of memory that whoever reads them may take, the rows at hand included. told: called with the number of
    bytes of each read, by any thread.
    """

    # Whether rows anywhere are read about as fast as those that follow each other.
    at_random = False
    # The caller's own object, for whoever is to see that.
    given: Any = None

    def __init__(self, shape: tuple[int, int], dtype: np.dtype, limit: int) -> None:
        self.shape, self.dtype, self.limit = shape, np.dtype(dtype), limit
        self.told: Callable[[int], None] | None = None
        self._lock = threading.RLock()  # what was sent ahead may be read while drawn rows are asked for

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    def validation_proxy(self) -> Any:
        """What is to be validated in the place of these rows: of their shape, if that is known to be refused by it, and
        of no size of its own."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)

    @property
    def step(self) -> int:
        """How many rows are read at once."""
        return self.step_with(0)

    def step_with(self, more: int) -> int:
        """The same, where each of them takes so many bytes more: half of the limit serves for that."""
        most = self.limit // 2 // (_COPIES * self.row_bytes + _PER_ROW + more)
        return max(1, min(most, _PIECE_BYTES // self.row_bytes))

    def spans(self, more: int = 0) -> list[slice]:
        """All rows, in pieces of `step_with`."""
        step = self.step_with(more)
        return [slice(a, min(a + step, len(self))) for a in range(0, len(self), step)]

    def read(self, rows: slice) -> NDArray[Any]:
        """Some rows, (m, d) in the dtype, which are not to be written to."""
        with self._lock:
            found = self._read(rows.start, rows.stop)
        if self.told is not None:
            self.told(found.nbytes)
        return found

    @abstractmethod
    def _read(self, start: int, stop: int) -> NDArray[Any]:
        """The same; one thread at a time asks for it."""

    def take(self, indices: NDArray[np.integer]) -> NDArray[Any]:
        """The rows of these indices (m,), in that order: (m, d). What lies between them is read where it is little."""
        found = np.empty((len(indices), self.shape[1]), self.dtype)
        order = np.argsort(indices, kind="stable")
        ascending, step = np.asarray(indices)[order], self.step
        i = 0
        while i < len(ascending):
            start = int(ascending[i])
            j = int(np.searchsorted(ascending, start + step))
            x = self.read(slice(start, int(ascending[j - 1]) + 1))
            found[order[i:j]] = x[ascending[i:j] - start]
            i = j
        return found

    def whole(self) -> NDArray[Any]:
        """All rows, where there is memory for them."""
        found = np.empty(self.shape, self.dtype)
        for rows in self.spans():
            found[rows] = self.read(rows)
        return found

    def pieces(self, more: int = 0) -> Iterator[tuple[slice, NDArray[Any]]]:
        """All rows in pieces, of which the next is read while one is worked on. more: see `step_with`."""
        spans = self.spans(more)
        ahead = Reading(self, spans[0])
        for i, rows in enumerate(spans):
            x = ahead.result()
            if i + 1 < len(spans):
                ahead = Reading(self, spans[i + 1])
            yield rows, x

    def __getitem__(self, rows: Any) -> Any:
        """A `Part` of a slice, the rows of indices, or of a mask (n,) a source of those."""
        if isinstance(rows, slice):
            return Part(self, *rows.indices(len(self))[:2])
        rows = np.asarray(rows)
        return Picked(self, rows) if rows.dtype == bool else self.take(rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.whole().astype(dtype or self.dtype, copy=False)


class Part(_Shaped):
    """Rows of a source that are read when somebody asks for them, as of an array."""

    def __init__(self, source: RowSource, start: int, stop: int) -> None:
        self.source, self.start = source, start
        self.shape, self.dtype = (stop - start, source.shape[1]), source.dtype

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(len(self))
        return self.source.read(slice(self.start + start, self.start + stop))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)


class Picked(RowSource):
    """The rows of a source that a mask (n,) has."""

    def __init__(self, source: RowSource, mask: NDArray[np.bool_]) -> None:
        self._source, self._rows = source, np.flatnonzero(mask)
        super().__init__((len(self._rows), source.shape[1]), source.dtype, source.limit)
        self.given, self.at_random = source.given, source.at_random

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        return self._source.take(self._rows[start:stop])

    def take(self, indices: NDArray[np.integer]) -> NDArray[Any]:
        return self._source.take(self._rows[indices])


class Reading:
    """Rows of a source on their way, by a thread of their own from now on."""

    def __init__(self, source: RowSource, rows: slice) -> None:
        self._done: SimpleQueue[Any] = SimpleQueue()

        def read() -> None:
            try:
                found: Any = source.read(rows)
            except BaseException as error:  # raised where it is waited for
                found = error
            self._done.put(found)

        threading.Thread(target=read, name="gpukmeans-reading", daemon=True).start()

    def result(self) -> NDArray[Any]:
        """Once."""
        found = self._done.get()
        if isinstance(found, BaseException):
            raise found
        return found
