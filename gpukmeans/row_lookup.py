"""Where given rows stand among all: which row a drawn center is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.array_interop import issparse
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.sparse_rows import Entries

# Rows hashed at once, and features that tell most rows apart; and odd numbers that mix bits (those of SplitMix64).
_ROWS, _FEATURES = 2**14, 4
_MIX, _STEP = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x9E3779B97F4A7C15)


def first_rows(x: Any, wanted: Floats) -> NDArray[np.int64]:
    """The index of the first row of x (n, d), an array, a RowSource or a CSR matrix on the host, that equals each of
    wanted (m, d), both zeros being equal; there is one for each.

    One pass makes a number of each row, of a few features if it has many, so only rows of the same number are compared;
    that these may be other rows, test_functions.test_rows_are_found_where_their_hashes_agree has it so.
    """
    x, wanted_numbers = Entries.of(x) if issparse(x) else x, hashes(wanted)
    if not isinstance(x, np.ndarray) or x.shape[1] <= 2 * _FEATURES:
        numbers = hashes(x)
        alike = _among(numbers, wanted_numbers)
        numbers = numbers[alike]
    else:
        some = np.linspace(0, x.shape[1] - 1, _FEATURES, dtype=np.int64)
        alike = _among(hashes(x[:, some]), hashes(wanted[:, some]))
        numbers = np.concatenate([hashes(x[alike[i : i + _ROWS]]) for i in range(0, len(alike), _ROWS)])
        wanted_too = _among(numbers, wanted_numbers)
        alike, numbers = alike[wanted_too], numbers[wanted_too]
    distinct, first = np.unique(numbers, return_index=True)
    found = alike[first[np.searchsorted(distinct, wanted_numbers)]]
    for i in np.flatnonzero((_dense(x, found) != wanted).any(axis=1)).tolist():
        same = alike[numbers == wanted_numbers[i]]
        found[i] = same[(_dense(x, same) == wanted[i]).all(axis=1)][0]
    return found


def _among(numbers: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where those are that are wanted."""
    known = np.unique(wanted)
    return np.flatnonzero(known[np.minimum(np.searchsorted(known, numbers), len(known) - 1)] == numbers)


def hashes(x: Any) -> NDArray[np.uint64]:
    """A number for each row of an array or of Entries, (n,): the same for equal rows, whatever holds them."""
    if isinstance(x, Entries):
        ends = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(x.values, x.columns), dtype=np.uint64)])
        return ends[x.starts[1:]] - ends[x.starts[:-1]]
    columns = np.arange(x.shape[1])
    pieces = (np.asarray(x[i : i + _ROWS]) for i in range(0, len(x), _ROWS))
    return np.concatenate([_mixed(rows, columns).sum(axis=1, dtype=np.uint64) for rows in pieces])


def _mixed(values: NDArray[Any], columns: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Of each value in its column: nothing for a zero, stored or not."""
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)
    mixed = (bits ^ (columns.astype(np.uint64) + np.uint64(1)) * _STEP) * _MIX
    mixed ^= mixed >> np.uint64(32)
    mixed *= _STEP
    mixed[bits == 0] = 0
    return mixed


def _dense(x: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    return x.take(rows).dense().T if isinstance(x, Entries) else x[rows]
