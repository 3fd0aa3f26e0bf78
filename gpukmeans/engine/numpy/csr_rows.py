"""The rows of a CSR matrix as passes on NumPy read them: by their entries, a piece at a time."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats
from gpukmeans.exact.sparse_rows import Entries, normalize_entries, with_zero
from gpukmeans.row_lookup import hashes

# Entries looked at once: 1 MB of float64.
_PIECE = 2**17


class CsrRows:
    """Rows (n, d) of a CSR matrix, or of its Entries, which are never written to.

    normalized: whether rows are brought to length one, which takes 8 bytes for each entry. once: whether few passes
    will read the rows, so that keeping their float32 values is a waste. values, columns, starts: as of Entries.
    """

    def __init__(self, matrix: Any, *, normalized: bool, once: bool) -> None:
        entries = Entries.of(matrix)
        self.shape = entries.shape
        self.values, self.columns, self.starts = entries.values, entries.columns, entries.starts
        self.stored = len(entries.values)
        self.most_entries = entries.most
        self._once = once
        self._singles: NDArray[np.float32] | None = None
        self._spans: dict[tuple[int, int], list[slice]] = {}
        if normalized:
            self.values = np.concatenate([normalize_entries(self.take(span)) for span in self.spans(_PIECE, 1)])

    def __getitem__(self, rows: NDArray[np.int64]) -> Floats:
        """Rows made dense, (m, d)."""
        return self.take(rows).dense().T

    def spans(self, entries: int, width: int) -> list[slice]:
        """All rows in pieces of at most so many entries, and of `entries` / `width` rows; or of one row."""
        n = self.shape[0]
        if self.stored + width * n <= entries:
            return [slice(0, n)]
        if (entries, width) not in self._spans:
            self._spans[entries, width] = self._cut(entries, width)
        return self._spans[entries, width]

    def _cut(self, entries: int, width: int) -> list[slice]:
        n = self.shape[0]
        work = self.starts.astype(np.int64) + width * np.arange(n + 1)
        cuts = np.searchsorted(work, np.arange(entries, work[-1], entries), side="right") - 1
        bounds = np.unique(np.concatenate([[0], cuts, [n]])).tolist()
        return [slice(a, b) for a, b in pairwise(bounds)]

    def take(self, rows: slice | NDArray[np.int64]) -> Entries:
        """Some of the rows: a slice of them, or by their numbers."""
        return Entries(self.values, self.columns, self.starts, self.shape[1]).take(rows)

    @cached_property
    def _hashes(self) -> NDArray[np.uint64]:
        return hashes(self.take(slice(None)))

    def at(self, locations: Floats) -> NDArray[np.bool_]:
        """Which rows lie at one of these (p, d), (n,)."""
        found = np.zeros(self.shape[0], np.bool_)
        for location, number in zip(locations, hashes(locations), strict=True):
            (alike,) = (self._hashes == number).nonzero()
            found[alike[self.take(alike).equal(location)]] = True
        return found

    @cached_property
    def squares(self) -> Floats:
        """|x|^2 of all rows, (n,)."""
        pieces = (self.take(span) for span in self.spans(_PIECE, 1))
        return np.concatenate([entries.add_up(entries.exact * entries.exact) for entries in pieces])

    def singles(self, rows: slice, scale: float) -> Any:
        """Rows in float32, times a scale that is always the same. Their values are kept for the next pass."""
        entries = self.take(rows)
        if self._singles is not None:
            return entries.matrix(self._singles[self.starts[rows.start] : self.starts[rows.stop]])
        return entries.matrix(_single(entries.values, scale))

    def keep_singles(self, scale: float) -> None:
        """Not thread-safe: call it before the passes."""
        if self._singles is None and not self._once:
            self._singles = _single(self.values, scale)

    def feature_range(self) -> tuple[Floats, Floats]:
        """Least and largest value of each feature, (d,) float64 each; NaN if a value is NaN."""
        n, d = self.shape
        low, high, stored = np.full(d, np.inf), np.full(d, -np.inf), np.zeros(d, np.int64)
        for a in range(0, self.stored, _PIECE):
            piece = slice(a, a + _PIECE)
            columns, values = self.columns[piece], self.values[piece].astype(np.float64)
            np.minimum.at(low, columns, values)
            np.maximum.at(high, columns, values)
            stored += np.bincount(columns, minlength=d)
        return with_zero(low, high, stored < n)

    def common_range(self) -> tuple[Floats, Floats]:
        """That of all features together, and zero, for each: in a hundredth of the time."""
        low, high = (float(bound.reduce(self.values, initial=0)) for bound in (np.minimum, np.maximum))
        return np.full(self.shape[1], low), np.full(self.shape[1], high)

    def integral(self) -> bool:
        """Whether all values are whole numbers."""
        if self.values.dtype.kind == "u":
            return True
        if not (self.values[:64] == np.rint(self.values[:64])).all():  # which most data show at once
            return False
        pieces = (self.values[a : a + _PIECE] for a in range(0, self.stored, _PIECE))
        return all(bool((piece == np.rint(piece)).all()) for piece in pieces)


def _single(values: NDArray[Any], scale: float) -> NDArray[np.float32]:
    """Values times a power of two, in float32; themselves where they are that."""
    return (values if scale == 1 else values.astype(np.float64) * scale).astype(np.float32, copy=False)
