"""The rows of a CSR matrix as passes on NumPy read them: by their entries, a piece at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats
from gpukmeans.exact.sparse_rows import Entries, normalize_entries, with_zero

# Entries looked at once: 1 MB of float64.
_PIECE = 2**17


class CsrRows:
    """Rows (n, d) of a CSR matrix, or of its Entries, which are never written to.

    normalized: whether rows are brought to length one, which takes 8 bytes for each entry.
    """

    def __init__(self, matrix: Any, *, normalized: bool) -> None:
        entries = Entries.of(matrix)
        self.shape = entries.shape
        self._values, self._columns, self._starts = entries.values, entries.columns, entries.starts
        self.stored = len(entries.values)
        self.most_entries = entries.most
        if normalized:
            self._values = np.concatenate([normalize_entries(self.take(span)) for span in self.spans(_PIECE, 1)])

    def __getitem__(self, rows: NDArray[np.int64]) -> Floats:
        """Rows made dense, (m, d)."""
        return self.take(rows).dense().T

    def spans(self, entries: int, width: int) -> list[slice]:
        """All rows in pieces of at most so many entries, and of `entries` / `width` rows; or of one row."""
        n = self.shape[0]
        work = self._starts.astype(np.int64) + width * np.arange(n + 1)
        cuts = np.searchsorted(work, np.arange(entries, work[-1], entries), side="right") - 1
        bounds = np.unique(np.concatenate([[0], cuts, [n]])).tolist()
        return [slice(a, b) for a, b in pairwise(bounds)]

    def take(self, rows: slice | NDArray[np.int64]) -> Entries:
        """Some of the rows: a slice of them, or by their numbers."""
        return Entries(self._values, self._columns, self._starts, self.shape[1]).take(rows)

    def feature_range(self) -> tuple[Floats, Floats]:
        """Least and largest value of each feature, (d,) float64 each; NaN if a value is NaN."""
        n, d = self.shape
        low, high, stored = np.full(d, np.inf), np.full(d, -np.inf), np.zeros(d, np.int64)
        for a in range(0, self.stored, _PIECE):
            piece = slice(a, a + _PIECE)
            columns, values = self._columns[piece], self._values[piece].astype(np.float64)
            np.minimum.at(low, columns, values)
            np.maximum.at(high, columns, values)
            stored += np.bincount(columns, minlength=d)
        return with_zero(low, high, stored < n)

    def integral(self) -> bool:
        """Whether all values are whole numbers."""
        if self._values.dtype.kind == "u":
            return True
        pieces = (self._values[a : a + _PIECE] for a in range(0, self.stored, _PIECE))
        return all(bool((piece == np.rint(piece)).all()) for piece in pieces)
