"""The rows of a Dask array, computed a chunk at a time in this process: where there is no cluster, or on one of its
workers, which has no memory for all of its part."""

from __future__ import annotations

import pickle
import zlib
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.errors import DeviceError
from gpukmeans.row_sources.base import RowSource
from gpukmeans.row_sources.choice import held
from gpukmeans.row_sources.memory import in_bytes


class ChunkedRows(RowSource):
    """x: (n, d) as `collections.rows_of` makes it, of known lengths. scheduler: Dask's, by which chunks are computed;
    None for whichever is set. A chunk that comes out otherwise than before is a DeviceError
    (test_dask_streaming.test_chunks_that_come_out_otherwise_are_an_error)."""

    def __init__(self, x: Any, limit: int, scheduler: str | None = None) -> None:
        super().__init__(x.shape, x.dtype, limit)
        self._x = self.given = x
        self._scheduler = scheduler
        self._starts = list(accumulate(x.chunks[0], initial=0))
        self._at, self._chunk = -1, None  # the last one computed, which the next piece is likely to begin in
        self._digests: dict[int, int] = {}  # of each chunk that was

    def chunk(self, i: int) -> Any:
        """Of whatever kind the collection has."""
        if i != self._at:
            self._chunk = None
            self._at, self._chunk = i, self._x.blocks[i].compute(scheduler=self._scheduler)
            if isinstance(self._chunk, np.ndarray) and self._chunk.size:
                found = zlib.crc32(np.ascontiguousarray(self._chunk).data.cast("B"))
                if self._digests.setdefault(i, found) != found:
                    raise DeviceError(
                        "Rows that are read again in each pass came out otherwise, or in another order, than before. "
                        "They have to be the same each time, as those of a file or of a seeded generator; what was "
                        "shuffled may not be: keep it in a file first."
                    )
        return self._chunk

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        found = np.empty((stop - start, self.shape[1]), self.dtype)
        i = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            first, end = self._starts[i], min(self._starts[i + 1], stop)
            if end > start:
                found[start - stop : end - stop or None] = self.chunk(i)[start - first : end - first]
            start, i = end, i + 1
        return found

    def whole(self) -> NDArray[Any]:
        """All chunks at once, by all threads, where there is room for them and the array that they become."""
        if len(self._x.chunks[0]) == 1:  # which `rows_here` has computed
            return self.chunk(0)
        return (
            np.asarray(self._x.compute(scheduler=self._scheduler)) if 2 * self.nbytes <= self.limit else super().whole()
        )


def rows_here(x: Any, memory_limit: int | str | None, scheduler: str | None = None) -> Any:
    """The rows of a Dask array of known lengths in this process: in memory, or a RowSource where they are too many for
    the limit; computed as they are if chunks are sparse, or on a GPU, which nobody knows before."""
    rows = ChunkedRows(x, in_bytes(memory_limit), scheduler)
    filled = next((i for i, size in enumerate(x.chunks[0]) if size), 0)
    chunk = rows.chunk(filled)
    if not isinstance(chunk, np.ndarray):
        return chunk if len(x.chunks[0]) == 1 else x.compute(scheduler=scheduler)
    return held(rows)


@dataclass(frozen=True)
class StreamedRows:
    """What makes a part's n rows, on its way to a worker. graph: a Dask array with no more than that, pickled, so that
    nobody looks for more in it. chunk: the bytes of its largest."""

    graph: bytes
    n: int
    chunk: int

    @staticmethod
    def of(x: Any, chunk: int) -> StreamedRows:
        import cloudpickle
        from dask import optimize

        return StreamedRows(cloudpickle.dumps(optimize(x)[0]), len(x), chunk)

    @property
    def size(self) -> int:
        return len(self.graph)

    def rows(self, memory_limit: int) -> Any:
        """See `rows_here`. By the thread that asks: others of the worker's may wait for this part."""
        return rows_here(pickle.loads(self.graph), memory_limit, "synchronous")
