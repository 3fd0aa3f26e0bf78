"""The rows of a Dask array, computed a chunk at a time in this process where there is no cluster."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.row_sources.base import RowSource
from gpukmeans.row_sources.choice import held
from gpukmeans.row_sources.memory import in_bytes


class ChunkedRows(RowSource):
    """x: (n, d) as `collections.rows_of` makes it, of known lengths."""

    def __init__(self, x: Any, limit: int) -> None:
        super().__init__(x.shape, x.dtype, limit)
        self._x = self.given = x
        self._starts = list(accumulate(x.chunks[0], initial=0))
        self._at, self._chunk = -1, None  # the last one computed, which the next piece is likely to begin in

    def chunk(self, i: int) -> Any:
        """Of whatever kind the collection has."""
        if i != self._at:
            self._chunk = None
            self._at, self._chunk = i, self._x.blocks[i].compute()
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
        return np.asarray(self._x.compute()) if 2 * self.nbytes <= self.limit else super().whole()


def rows_here(x: Any, memory_limit: int | str | None) -> Any:
    """The rows of a Dask array of known lengths in this process: in memory, or a RowSource where they are too many for
    the limit; computed as they are if chunks are sparse, or on a GPU, which nobody knows before."""
    rows = ChunkedRows(x, in_bytes(memory_limit))
    filled = next((i for i, size in enumerate(x.chunks[0]) if size), 0)
    chunk = rows.chunk(filled)
    if not isinstance(chunk, np.ndarray):
        return chunk if len(x.chunks[0]) == 1 else x.compute()
    return held(rows)
