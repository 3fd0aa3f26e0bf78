"""How often each color occurs: counts that come in parts, added up in memory that does not grow with the parts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.levels import Codes

Ints = NDArray[np.int64]

# Colors of up to three bytes are looked up in a table of all 2**24, larger codes by bisection.
TABLE_BYTES = 3

# Colors of parts that wait to be added up: 24 MB of codes and counts.
_PENDING = 2**21


class Histogram:
    """Adds up counts of colors that come in parts. Colors of up to TABLE_BYTES take 128 MB at most.

    code_bytes: of a color's levels.
    """

    def __init__(self, code_bytes: int) -> None:
        self._bytes = code_bytes
        self._parts: list[tuple[Codes, Ints]] = []
        self._table: Ints | None = None
        self._pending = 0

    def add(self, codes: Codes, counts: Ints) -> None:
        """Add a part: distinct codes (m,), ascending, and their counts (m,)."""
        if self._table is not None:
            self._table[codes] += counts
            return
        self._parts.append((codes, counts))
        self._pending += len(codes)
        if len(self._parts) > 1 and self._pending > _PENDING:
            if self._bytes <= TABLE_BYTES:
                self._table = np.zeros(2 ** (8 * self._bytes), np.int64)
                for part in self._parts:
                    self._table[part[0]] += part[1]
                self._parts = []
            elif self._pending > 2 * len(self._parts[0][0]):  # merge once the new ones are as many as the merged
                self._parts = [_merged(self._parts)]
                self._pending = len(self._parts[0][0])

    @property
    def empty(self) -> bool:
        return self._table is None and not self._parts

    def result(self) -> tuple[Codes, Ints]:
        """The distinct codes, ascending, and their counts."""
        if self._table is not None:
            codes = np.flatnonzero(self._table).astype(np.uint32)
            return codes, self._table[codes]
        return self._parts[0] if len(self._parts) == 1 else _merged(self._parts)


def count_runs(codes: Codes) -> tuple[Codes, Ints]:
    """The distinct ones of ascending codes (n,), and their counts."""
    starts = _run_starts(codes)
    return codes[starts], np.diff(starts, append=len(codes))


def merge_equal(codes: Codes, counts: Ints) -> tuple[Codes, Ints]:
    """The distinct ones of codes (n,) in any order, ascending, and the sums of their counts."""
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    starts = _run_starts(codes)
    return codes[starts], np.add.reduceat(counts[order], starts)


def _merged(parts: list[tuple[Codes, Ints]]) -> tuple[Codes, Ints]:
    codes, counts = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    return merge_equal(codes, counts)


def _run_starts(codes: Codes) -> Ints:
    """Where each run of equal codes begins."""
    new = np.empty(len(codes), bool)
    new[0] = True
    np.not_equal(codes[1:], codes[:-1], out=new[1:])
    return np.flatnonzero(new)
