"""Putting rows in a better order, and equal rows into one.

A photograph has far fewer colors than pixels, and neighbours in color prune together. One sort gives
both: rows are keyed by their place on the Morton curve (few features) or by a hash (many), and runs of
equal rows merge. The key only has to bring equal rows together; rows are compared before they merge,
so a poor key costs time, never an answer (test_distance.test_fit_is_brute_force_at_sizes_that_sort_and_merge fails if
a feature is not compared). Merged rows add their weights, which is exact, because only integer weights are merged
(test_fixed_point.test_sums_are_the_integer_sums fails if others are).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints

# Up to this many features, keys follow the Morton curve with at least 8 bits a feature, the depth of a
# photograph.
CURVE_FEATURES = 4

# Below this many rows a sort costs more than it saves (measured on subsets of china.jpg).
FEWEST_ROWS = 4096

# Values hashed or compared at once: 0.25 MB, which a cache holds.
_VALUES = 2**15

# Merging has to leave at most this share of the rows to be worth its gathers.
_WORTH_MERGING = 0.5


class Arrangement(NamedTuple):
    """x: (m, d) rows in their new order, feature-major in memory. weights: theirs, or None for ones.
    position: (n,) where each of the caller's rows went."""

    x: NDArray[Any]
    weights: Ints | Floats | None
    position: NDArray[Any]


def arrange(
    x: NDArray[Any], weights: Ints | Floats | None, low: Floats, high: Floats, *, merge: bool = True, sort: bool = True
) -> Arrangement | None:
    """Sort the rows of x (n, d) and merge equal ones; None if that would not pay. sort: whether the order alone does,
    where it is a curve."""
    n, d = x.shape
    merge = merge and (weights is None or weights.dtype == np.int64)
    curve = d <= CURVE_FEATURES
    if n >= 2**31 or not ((curve and sort) or (merge and _has_duplicates(x))):
        return None
    keys = _morton(x, low, high) if curve else _hash(x)
    order = order_of(keys)
    new = np.ones(n, bool)
    if merge:
        new[1:] = (keys[1:] >> np.uint64(32)) != (keys[:-1] >> np.uint64(32))
    del keys
    if np.count_nonzero(new) <= _WORTH_MERGING * n:
        position = _positions(new, order)
        if _tell_apart(x, order, new, position):
            position = _positions(new, order)
    if np.count_nonzero(new) <= _WORTH_MERGING * n:
        starts = np.flatnonzero(new)
        counts = np.diff(starts, append=n) if weights is None else np.add.reduceat(weights[order], starts)
        return Arrangement(_columns(x, order[starts]), counts.astype(np.int64, copy=False), position)
    if not (curve and sort):
        return None
    del new
    return Arrangement(_columns(x, order), None if weights is None else weights[order], inverse(order))


def _positions(new: NDArray[np.bool_], order: NDArray[np.int32]) -> NDArray[np.int32]:
    """Of each of the caller's rows, to which of those that are new in this order it belongs, (n,)."""
    place = np.cumsum(new, dtype=np.int32)
    place -= 1
    return take(place, inverse(order))


def _tell_apart(x: NDArray[Any], order: NDArray[np.int32], new: NDArray[np.bool_], position: NDArray[np.int32]) -> bool:
    """Whether rows have a key in common alone; those that differ from the row before in this order are new then.

    Each row is compared with the first of its key, as memory has them: where merging pays these are few, and rows one
    after another in order would both be far apart.
    """
    first, mixed = order[new], np.zeros(np.count_nonzero(new), bool)
    step = max(1, _VALUES // x.shape[1])
    for a in range(0, len(x), step):
        to, rows = position[a : a + step], x[a : a + step]
        # `take` is sooner done than indexing, but of rows that do not lie one after another copies all first.
        off = rows != (x.take(first.take(to), axis=0) if x.flags.c_contiguous else x[first[to]])
        if off.any():
            mixed[to[off.any(axis=1)]] = True
    if not mixed.any():
        return False
    same = np.flatnonzero(~new & mixed[position[order]])
    for a in range(0, len(same), step):
        piece = same[a : a + step]
        new[piece] = (x[order[piece]] != x[order[piece - 1]]).any(axis=1)
    return True


def _columns(x: NDArray[Any], rows: NDArray[np.int32]) -> NDArray[Any]:
    result = np.empty((x.shape[1], len(rows)), x.dtype)
    for j in range(x.shape[1]):
        take(x[:, j], rows, out=result[j])
    return result.T


def order_of(keys: NDArray[np.uint64]) -> NDArray[np.int32]:
    """The rows by their keys, and of equal keys by their number. Keys, below 2**32, become multiples of 2**32 in order,
    with the numbers of their rows below."""
    keys <<= np.uint64(32)
    keys |= np.arange(len(keys), dtype=np.uint32)
    keys.sort()
    return keys.astype(np.uint32).view(np.int32)


# Indices at a time: NumPy first makes 64-bit ones of them, 8 bytes each, which for all rows together
# would be as much as the data.
_INDICES = 2**17


def take(x: NDArray[Any], rows: NDArray[np.int32], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """``x[rows]`` for x (n,), in less memory."""
    out = np.empty(len(rows), x.dtype) if out is None else out
    for a in range(0, len(rows), _INDICES):
        piece = slice(a, a + _INDICES)
        out[piece] = x[rows[piece]]
    return out


def inverse(order: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where each row went: ``result[order[i]] = i``."""
    result = np.empty_like(order)
    for a in range(0, len(order), _INDICES):
        piece = order[a : a + _INDICES]
        result[piece] = np.arange(a, a + len(piece), dtype=np.int32)
    return result


def _morton(x: NDArray[Any], low: Floats, high: Floats) -> NDArray[np.uint64]:
    """Each feature cut to 32 // d (at most 16) bits, the bits interleaved, as uint64."""
    n, d = x.shape
    bits = min(16, 32 // d)
    # A feature narrower than the least normal number has one cell: its scale would overflow
    # (test_distance.test_fit_is_brute_force_on_hard_data fails without it).
    span = high - low
    wide = span >= 2.0**-1000
    scale = np.where(wide, (2.0**bits - 1) / np.where(wide, span, 1.0), 0.0)
    spread = _spread_table(bits, d)
    keys = np.zeros(n, np.uint64)
    step = 2**16
    for a in range(0, n, step):
        rows = slice(a, a + step)
        for j in range(d):
            cell = np.subtract(x[rows, j], low[j], dtype=np.float64)
            cell *= scale[j]
            keys[rows] |= spread.take(cell.astype(np.uint16)) << np.uint64(d - 1 - j)
    return keys


def _spread_table(bits: int, d: int) -> NDArray[np.uint64]:
    """For each number of that many bits: its bits, d apart."""
    numbers = np.arange(2**bits, dtype=np.uint64)
    table = np.zeros(2**bits, np.uint64)
    for b in range(bits):
        table |= (numbers >> np.uint64(b) & np.uint64(1)) << np.uint64(b * d)
    return table


def _hash(x: NDArray[Any]) -> NDArray[np.uint64]:
    """32 bits of each row's values, as uint64: a sum of multiples by odd constants (Knuth, TAOCP 3, 6.4)."""
    n, d = x.shape
    keys, factors = np.empty(n, np.uint64), [0x9E3779B97F4A7C15]
    for _ in range(d - 1):
        factors.append(factors[-1] * 0xD1342543DE82EF95 % 2**64)
    step = max(1, _VALUES // d)
    for a in range(0, n, step):
        bits = np.add(x[a : a + step], 0.0, dtype=np.float64).view(np.uint64)  # no negative zeros
        bits ^= bits >> np.uint64(29)
        np.einsum("ij,j->i", bits, np.array(factors, np.uint64), out=keys[a : a + step])
    keys >>= np.uint64(32)
    return keys


def _has_duplicates(x: NDArray[Any]) -> bool:
    """Whether a sample suggests that merging would leave at most half of the rows.

    Among s = 16 sqrt(n) rows of n that each occur c times, s^2 (c - 1) / (2 n) = 128 (c - 1) pairs are
    equal on average: 128 for c = 2.
    """
    n = len(x)
    rows = np.sort(np.random.default_rng(0).choice(n, min(n, int(16 * n**0.5)), replace=False))
    return len(rows) - len(np.unique(_hash(x[rows]))) >= 128
