"""k-means++ as loops that numba compiles (the extra `fast`), for the small problems that numba_fits.py fits whole.

`seeding.greedy` in its order, over the same integers. Nothing here defines anything, and arguments are checked by
nobody.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import int64, njit

from gpukmeans.engine.numpy.numba_passes import _OPTIONS, _weighed
from gpukmeans.exact.fixed_point import SUM_BITS

# Rows whose D to a center is taken together: eight registers of float64.
_ABREAST = 32


@njit(**_OPTIONS)
def _ceil_log2(value: float) -> int:
    """`fixed_point.ceil_log2`."""
    mantissa, exponent = math.frexp(value)
    return exponent - 1 if mantissa == 0.5 else exponent


@njit(**_OPTIONS)
def _index(uniform: float, total: int) -> Any:
    """`seeding.inverse_cdf_indices` of one draw."""
    u, all_ = np.uint64(uniform * 2.0**53), np.uint64(total)
    a, b = u >> np.uint64(27), u & np.uint64(2**27 - 1)
    c, e = all_ >> np.uint64(32), all_ & np.uint64(2**32 - 1)
    rest = a * e + ((b * c) << np.uint64(5)) + ((b * e) >> np.uint64(27))
    return int64(((a * c) << np.uint64(6)) + (rest >> np.uint64(26)))


@njit(**_OPTIONS)
def _by_weight(weights: Any, n: int, index: int) -> int:
    """The first row whose prefix sum of weights exceeds the index."""
    if weights.kind == 0:
        return index
    total = int64(0)
    for i in range(n):
        total += weights.counts[i]
        if total > index:
            return i
    return n - 1


@njit(**_OPTIONS)
def _mass(distance: float, scale: float, weights: Any, i: int) -> Any:
    """`fixed_point.sampling_weights` of row i."""
    term = np.rint(distance * scale)
    if weights.kind == 0:
        return int64(term)
    if weights.kind == 1:
        return int64(term) * weights.counts[i]
    return _weighed(term, weights.given[i])


@njit(**_OPTIONS)
def _four_distances(y: Any, c0: Any, c1: Any, c2: Any, c3: Any, sums: Any) -> None:
    """D of each column of y (d, _ABREAST) to four centers, (4, _ABREAST). Two features at a time, in order, so that
    sums are written half as often."""
    d = y.shape[0]
    s0, s1, s2, s3 = sums[0], sums[1], sums[2], sums[3]
    for r in range(_ABREAST):
        s0[r] = s1[r] = s2[r] = s3[r] = 0.0
    for j in range(0, d - 1, 2):
        t, u = y[j], y[j + 1]
        a0, a1, a2, a3 = c0[j], c1[j], c2[j], c3[j]
        b0, b1, b2, b3 = c0[j + 1], c1[j + 1], c2[j + 1], c3[j + 1]
        for r in range(_ABREAST):
            v, w = t[r], u[r]
            p, q, e, f = v - a0, v - a1, v - a2, v - a3
            s0[r] = (s0[r] + p * p) + (w - b0) * (w - b0)
            s1[r] = (s1[r] + q * q) + (w - b1) * (w - b1)
            s2[r] = (s2[r] + e * e) + (w - b2) * (w - b2)
            s3[r] = (s3[r] + f * f) + (w - b3) * (w - b3)
    if d % 2:
        t = y[d - 1]
        for r in range(_ABREAST):
            p, q, e, f = t[r] - c0[d - 1], t[r] - c1[d - 1], t[r] - c2[d - 1], t[r] - c3[d - 1]
            s0[r] += p * p
            s1[r] += q * q
            s2[r] += e * e
            s3[r] += f * f


@njit(**_OPTIONS)
def _measure(columns: Any, n: int, x: Any, rows: Any, m: int, closest: Any, proposed: Any) -> None:
    """D of all rows to the first m of these rows, or what is closest if that is less, in proposed (m, n)."""
    d = x.shape[1]
    centers = np.empty((4, d))
    sums = np.empty((4, _ABREAST))
    for first in range(0, m, 4):
        for t in range(4):
            for j in range(d):
                centers[t, j] = x[rows[min(first + t, m - 1)], j]
        for block in range(len(columns)):
            start = block * _ABREAST
            width = min(_ABREAST, n - start)
            _four_distances(columns[block], centers[0], centers[1], centers[2], centers[3], sums)
            for t in range(min(4, m - first)):
                own, to = sums[t], proposed[first + t, start : start + width]
                near = closest[start : start + width]
                for r in range(width):
                    to[r] = own[r] if own[r] < near[r] else near[r]


@njit(**_OPTIONS)
def _seed(x: Any, weights: Any, rules: Any, first: float, draws: Any, centers: Any) -> None:
    """`seeding.greedy`: centers (k, d)."""
    n, d = x.shape
    k, trials = len(centers), draws.shape[1]
    columns = np.empty((-(-n // _ABREAST), d, _ABREAST))
    for block in range(len(columns)):
        for r in range(_ABREAST):
            i = min(block * _ABREAST + r, n - 1)
            for j in range(d):
                columns[block, j, r] = x[i, j]
    closest, proposed = np.full(n, np.inf), np.empty((trials, n))
    prefix, rows = np.empty(n, np.int64), np.zeros(trials, np.int64)
    chosen = np.empty(k, np.int64)
    chosen[0] = rows[0] = _by_weight(weights, n, _index(first, rules.total))
    _measure(columns, n, x, rows, int64(1), closest, proposed)
    closest[:] = proposed[0]
    for c in range(1, k):
        farthest = 0.0
        for i in range(n):
            farthest = max(farthest, closest[i])
        total, scale = int64(0), 1.0
        if farthest > 0:
            scale = math.ldexp(1.0, min(1000, SUM_BITS - rules.weight_bits - _ceil_log2(farthest)))
            for i in range(n):
                total += _mass(closest[i], scale, weights, i)
                prefix[i] = total
        if total == 0:
            chosen[c] = _by_weight(weights, n, _index(draws[c - 1, 0], rules.total))
            continue
        for t in range(trials):
            index, low, high = _index(draws[c - 1, t], total), 0, n - 1
            while low < high:  # the first row whose prefix sum exceeds the index
                middle = (low + high) // 2
                if prefix[middle] > index:
                    high = middle
                else:
                    low = middle + 1
            rows[t] = low
        _measure(columns, n, x, rows, int64(trials), closest, proposed)
        # A row drawn twice leaves as much twice, and the first counts.
        best, least = 0, int64(0)
        for t in range(trials):
            left, own = int64(0), proposed[t]
            for i in range(n):
                left += _mass(own[i], scale, weights, i)
            if t == 0 or left < least:
                best, least = t, left
        chosen[c] = rows[best]
        closest[:] = proposed[best]
    for c in range(k):
        for j in range(d):
            centers[c, j] = x[chosen[c], j] + 0.0
