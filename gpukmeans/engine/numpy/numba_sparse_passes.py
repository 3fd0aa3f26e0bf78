"""Passes over the entries of sparse rows as loops that numba compiles: what sparse_points.py spells in SciPy's and
NumPy's calls. All that numba_passes.py says holds here.

A row is values and columns from starts[i] to starts[i + 1]. Inner loops run over a row of a table (d, k), one for each
feature, written as two indices: of a flat one numba would ask whether each index is negative, and LLVM would make no
vectors of that.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, float64, from_dtype, int32, int64, njit, types

from gpukmeans.engine.numpy.numba_passes import (
    _ANY_ORDER,
    BLOCK,
    _matrix,
    _two_least,
    _vector,
    _weighed,
    compiled,
)

# ---------------------------------------------------------------- scores


@njit(**_ANY_ORDER)
def _products_of_row(values: Any, columns: Any, first: int, last: int, scale: float, table: Any, products: Any) -> Any:
    """The products (k,) of one row with a table (d, k); returns |y|^2. Four entries at a time, so that products are
    written a quarter as often."""
    norm = np.float32(0)
    for c in range(len(products)):
        products[c] = np.float32(0)
    whole = last - (last - first) % 4
    for e in range(first, whole, 4):
        v, w = np.float32(float64(values[e]) * scale), np.float32(float64(values[e + 1]) * scale)
        x, y = np.float32(float64(values[e + 2]) * scale), np.float32(float64(values[e + 3]) * scale)
        i, j, m, n = columns[e], columns[e + 1], columns[e + 2], columns[e + 3]
        norm += (v * v + w * w) + (x * x + y * y)
        for c in range(len(products)):
            products[c] += (v * table[i, c] + w * table[j, c]) + (x * table[m, c] + y * table[n, c])
    for e in range(whole, last):
        v, j = np.float32(float64(values[e]) * scale), columns[e]
        norm += v * v
        for c in range(len(products)):
            products[c] += v * table[j, c]
    return norm


def _propose(
    values: Any,
    columns: Any,
    starts: Any,
    scale: float,
    table: Any,
    squares: Any,
    slack: Any,
    per_norm: Any,
    rest: Any,
    labels: Any,
    uncertain: Any,
    possible: Any,
) -> int:
    """Labels (m,) by scores, and how many rows they leave in doubt: which, in `uncertain` (m,), and the centers that
    each may be nearest to, in `possible` (m, k). squares: (K,), as in Target."""
    k, found = len(slack), 0
    products, scores = np.empty(k, np.float32), np.zeros((len(squares), BLOCK), np.float32)
    norms, best = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    second, nearest = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for first in range(0, len(labels), BLOCK):
        m = min(BLOCK, len(labels) - first)
        for r in range(m):
            i = first + r
            norms[r] = _products_of_row(values, columns, starts[i], starts[i + 1], scale, table, products)
            for c in range(k):
                scores[c, r] = products[c]
        _two_least(scores, squares, -(-m // 8) * 8, best, second, nearest)
        for r in range(m):
            label = int(nearest[r])
            labels[first + r] = label
            margin = norms[r] * per_norm + rest
            most = best[r] + slack[label]
            if not second[r] - most > margin:  # test_numba_sparse_passes.test_near_ties_are_decided_by_distance
                uncertain[found] = first + r
                most += margin
                for c in range(k):
                    possible[found, c] = scores[c, r] + squares[c] <= most
                found += 1
    return found


@njit(**_ANY_ORDER)
def _place_features(centers: Any, c: int, first: int, last: int, scale: float, columns: Any) -> float:
    """Some features of a center; returns what they add to its norm."""
    norm = 0.0
    for j in range(first, last):
        z = centers[c, j] * scale
        columns[j, c] = np.float32(-2.0 * z)
        norm += z * z
    return norm


@njit(**_ANY_ORDER)
def _place_four(centers: Any, c: int, first: int, last: int, scale: float, columns: Any, norms: Any) -> None:
    """The same of four centers, which lie beside each other in the columns, so that LLVM makes a vector of them."""
    p = q = r = s = 0.0
    for j in range(first, last):
        w, x = centers[c, j] * scale, centers[c + 1, j] * scale
        y, z = centers[c + 2, j] * scale, centers[c + 3, j] * scale
        columns[j, c], columns[j, c + 1] = np.float32(-2.0 * w), np.float32(-2.0 * x)
        columns[j, c + 2], columns[j, c + 3] = np.float32(-2.0 * y), np.float32(-2.0 * z)
        p += w * w
        q += x * x
        r += y * y
        s += z * z
    norms[c] += p
    norms[c + 1] += q
    norms[c + 2] += r
    norms[c + 3] += s


def _place(centers: Any, scale: float, error: float, columns: Any, norms: Any, slack: Any) -> None:
    """Fill in a ScoredCenters' columns (d + 1, k), norms and slack as `Frame.least_scores` has them, about zero. error:
    of a center's score for each unit of its norm. Some features of all centers at a time, so that neither of the two
    tables is walked across lines of memory that are gone when the next center comes."""
    k, d = centers.shape
    norms[:] = 0.0
    for first in range(0, d, BLOCK):
        last = min(first + BLOCK, d)
        for c in range(0, k - 3, 4):
            _place_four(centers, c, first, last, scale, columns, norms)
        for c in range(k - k % 4, k):
            norms[c] += _place_features(centers, c, first, last, scale, columns)
    for c in range(k):
        columns[d, c] = np.float32(norms[c] - norms[c] * error)
        slack[c] = np.float32(2 * (norms[c] * error))


@njit(**_ANY_ORDER)
def _product(values: Any, columns: Any, first: int, last: int, centers: Any, c: int) -> float:
    total = 0.0
    for e in range(first, last):
        total += float64(values[e]) * centers[c, columns[e]]
    return total


def _settle(
    values: Any,
    columns: Any,
    starts: Any,
    centers: Any,
    norms: Any,
    factor: float,
    per_row: float,
    per_center: float,
    rest: float,
    largest: float,
    rows: Any,
    possible: Any,
    labels: Any,
    several: Any,
) -> int:
    """Label `rows` (u,) among their possible centers (u, k) by float64 products, times `factor` those of the frame, as
    `Frame.bounds_of_products` bounds their error; returns how many are left to D, which, in `several`, and among which
    centers, in `possible`. largest: |y|^2 up to which products are exact."""
    k = len(centers)
    low = np.empty(k)
    found = 0
    for u in range(len(rows)):
        i = rows[u]
        square = 0.0
        for e in range(starts[i], starts[i + 1]):
            square += float64(values[e]) * float64(values[e])
        square *= factor
        exact, least = square <= largest, np.inf
        for c in range(k):
            if possible[u, c]:
                product = _product(values, columns, starts[i], starts[i + 1], centers, c) * factor
                distance, error = -2.0 * product + norms[c] + square, 0.0
                if not exact:
                    error = square * per_row + norms[c] * per_center + rest
                low[c] = distance - error
                least = min(least, distance + error)
        label, left = -1, 0
        for c in range(k):
            possible[u, c] = possible[u, c] and low[c] <= least
            if possible[u, c]:
                label = c if label < 0 else label
                left += 1
        labels[i] = label
        if left > 1 and not exact:
            several[found] = u
            found += 1
    return found


# ---------------------------------------------------------------- what exact/ defines


def _expanded(values: Any, columns: Any, starts: Any, table: Any, squares: Any, out: Any) -> None:
    """E of rows to all centers, out (m, k); table: (d, k), squares: N, (k,). Two entries at a time, in order, so that
    sums are written half as often."""
    k = len(squares)
    for i in range(len(starts) - 1):
        first, last = starts[i], starts[i + 1]
        for c in range(k):
            out[i, c] = 0.0
        for e in range(first, last - 1, 2):
            v, w, j, n = float64(values[e]), float64(values[e + 1]), columns[e], columns[e + 1]
            for c in range(k):
                y, z = table[j, c], table[n, c]
                p, q = v - y, w - z
                out[i, c] = (out[i, c] + (p * p - y * y)) + (q * q - z * z)
        if (last - first) % 2:
            v, j = float64(values[last - 1]), columns[last - 1]
            for c in range(k):
                p = v - table[j, c]
                out[i, c] += p * p - table[j, c] * table[j, c]
        for c in range(k):
            out[i, c] = max(out[i, c] + squares[c], 0.0)


def _own_expanded(values: Any, columns: Any, starts: Any, centers: Any, squares: Any, labels: Any, out: Any) -> None:
    """E of rows to their own of the centers (k, d), or to the only one, out (m,)."""
    one = len(centers) == 1
    for i in range(len(starts) - 1):
        n, total = 0 if one else labels[i], 0.0
        for e in range(starts[i], starts[i + 1]):
            z = centers[n, columns[e]]
            w = float64(values[e]) - z
            total += w * w - z * z
        out[i] = max(total + squares[n], 0.0)


def _move(
    values: Any,
    columns: Any,
    starts: Any,
    moved: Any,
    before: Any,
    after: Any,
    offset: Any,
    scale: Any,
    kind: int,
    given: Any,
    counts: Any,
    sums: Any,
) -> None:
    """Rows `moved` (u,) have left a cluster of `before` (u,), unless that is negative, for one of `after` (Rule 3).
    kind, given, counts: of all rows, as in Weighing; sums: (k, d + 1) int64."""
    d = sums.shape[1] - 1
    for u in range(len(moved)):
        i, off, to = moved[u], before[u], after[u]
        count = counts[i] if kind else int64(1)
        sums[to, d] += count
        if off >= 0:
            sums[off, d] -= count
        for e in range(starts[i], starts[i + 1]):
            j = columns[e]
            term = np.rint((float64(values[e]) - offset[j]) * scale[j])
            units = _weighed(term, given[i]) if kind == 2 else int64(term) * count
            sums[to, j] += units
            if off >= 0:
                sums[off, j] -= units


def _ranges(values: Any, columns: Any, starts: Any, labels: Any, place: Any, low: Any, high: Any) -> None:
    """low and high (m, d) of the rows at place[label], if that is not negative; infinity and its negative where there
    are none."""
    m, d = low.shape
    stored, rows = np.zeros((m, d), np.int32), np.zeros(m, np.int64)
    for i in range(len(starts) - 1):
        at = place[labels[i]]
        if at >= 0:
            rows[at] += 1
            for e in range(starts[i], starts[i + 1]):
                v, j = float64(values[e]), columns[e]
                if stored[at, j] == 0:
                    low[at, j] = high[at, j] = v
                elif v < low[at, j]:
                    low[at, j] = v
                elif v > high[at, j]:
                    high[at, j] = v
                stored[at, j] += 1
    for at in range(m):
        for j in range(d):
            if stored[at, j] < rows[at]:  # test_sparse.test_points_on_sparse_rows_answer_as_on_an_array
                low[at, j] = min(low[at, j], 0.0) if stored[at, j] else 0.0
                high[at, j] = max(high[at, j], 0.0) if stored[at, j] else 0.0
            elif rows[at] == 0:
                low[at, j], high[at, j] = np.inf, -np.inf


def _feature_range(values: Any, columns: Any, n: int, low: Any, high: Any, stored: Any) -> None:
    """Widen low and high (d,), also to zero where less than n rows store a feature; stored: zeros (d,), to count in.
    NaN stays, once it is there."""
    for e in range(len(values)):
        v, j = float64(values[e]), columns[e]
        stored[j] += 1
        if v < low[j] or v != v:
            low[j] = v
        if v > high[j] or v != v:
            high[j] = v
    for j in range(len(low)):
        if stored[j] < n:
            low[j] = 0.0 if low[j] > 0 else low[j]
            high[j] = 0.0 if high[j] < 0 else high[j]


def _squares(centers: Any, out: Any) -> None:
    """N of the centers (k, d), four at a time, whose sums wait for no one but themselves."""
    k, d = centers.shape
    for c in range(0, k, 4):
        n0, n1, n2, n3 = c, min(c + 1, k - 1), min(c + 2, k - 1), min(c + 3, k - 1)
        p = q = s = t = 0.0
        for j in range(d):
            p += centers[n0, j] * centers[n0, j]
            q += centers[n1, j] * centers[n1, j]
            s += centers[n2, j] * centers[n2, j]
            t += centers[n3, j] * centers[n3, j]
        out[n3], out[n2], out[n1], out[n0] = t, s, q, p


def _means(sums: Any, weight: Any, inverse: Any, offset: Any, before: Any, centers: Any, shifts: Any) -> None:
    """The centers (k, d) of sums (k, d + 1) whose weights are (k,), inverse being one over the scale, a power of two,
    and D of each to the one before. offset: empty if it is zero."""
    k, d = centers.shape
    for c in range(k):
        w = weight[c]
        if len(offset):
            for j in range(d):
                centers[c, j] = float64(sums[c, j]) / w * inverse[j] + offset[j]
        else:
            for j in range(d):
                centers[c, j] = float64(sums[c, j]) / w * inverse[j]
    for c in range(0, k, 4):
        n0, n1, n2, n3 = c, min(c + 1, k - 1), min(c + 2, k - 1), min(c + 3, k - 1)
        a = b = e = f = 0.0
        for j in range(d):
            p, q = centers[n0, j] - before[n0, j], centers[n1, j] - before[n1, j]
            s, t = centers[n2, j] - before[n2, j], centers[n3, j] - before[n3, j]
            a += p * p
            b += q * q
            e += s * s
            f += t * t
        shifts[n3], shifts[n2], shifts[n1], shifts[n0] = f, e, b, a


# ---------------------------------------------------------------- compiled


class SparsePasses(NamedTuple):
    """The passes for entries of one dtype, and indices of one."""

    propose: Any
    settle: Any
    expanded: Any
    own_expanded: Any
    move: Any
    ranges: Any
    feature_range: Any


@cache
def sparse_passes(dtype: np.dtype, index: np.dtype) -> SparsePasses:
    """The passes for values of float32 or float64, and columns and starts of int32 or int64; compiled and kept as those
    of `numba_passes.passes`."""
    values = types.Array(from_dtype(dtype), 1, "C", readonly=True)
    indices = types.Array(from_dtype(index), 1, "C", readonly=True)
    floats, ints, singles, labels = _vector(float64), _vector(int64), _vector(float32), _vector(int32)
    wide, given = _matrix(float64), types.Array(float64, 2, "C", readonly=True)
    entries = values, indices, indices
    weights = [types.Array(kind, 1, "C", readonly=True) for kind in (float64, int64)]
    propose = (float64, _matrix(float32), singles, singles, float32, float32, labels, ints, _matrix(boolean))
    return SparsePasses(
        propose=compiled(_propose, *entries, *propose, returns=int64),
        settle=compiled(
            _settle, *entries, given, floats, *[float64] * 5, ints, _matrix(boolean), labels, ints, returns=int64
        ),
        expanded=compiled(_expanded, *entries, given, floats, wide),
        own_expanded=compiled(_own_expanded, *entries, given, floats, labels, floats),
        move=compiled(_move, *entries, ints, labels, labels, floats, floats, int64, *weights, _matrix(int64)),
        ranges=compiled(_ranges, *entries, labels, ints, wide, wide),
        feature_range=compiled(_feature_range, values, indices, int64, floats, floats, ints),
    )


class CenterPasses(NamedTuple):
    place: Any
    squares: Any
    means: Any


@cache
def center_passes() -> CenterPasses:
    floats, wide, given = _vector(float64), _matrix(float64), types.Array(float64, 2, "C", readonly=True)
    singles, columns = _vector(float32), _matrix(float32)
    return CenterPasses(
        place=compiled(_place, given, float64, float64, columns, floats, singles),
        squares=compiled(_squares, given, floats),
        means=compiled(_means, _matrix(int64), floats, floats, floats, given, wide, floats),
    )
