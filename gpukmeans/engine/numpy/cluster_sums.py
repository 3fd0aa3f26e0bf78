"""The sums of each cluster's terms, kept up while rows move from cluster to cluster (Rule 3).

A change is a product of a matrix of ones and minus ones, a column to a row that moved, with the rows'
terms: several times faster than np.add.at. There are four ways to the same integers. SciPy's sparse
product begins with 20 us of checks, and serves many terms; bins do, where it is not imported. For few,
halves of 32 bits add up exactly in float64, in whatever order BLAS adds. Of small whole numbers the
float32 features themselves add up exactly, and terms are not needed.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.engine.numpy.blas import multiply
from gpukmeans.engine.numpy.rows import Rows
from gpukmeans.exact.certificate import Frame
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.scales import Scales

# Terms at a time: 1 MB.
_PIECE = 2**17

# Up to this many products of a cluster and a term, the dense product is the faster one. It also keeps the
# rows below the 2**21 whose halves may be added
# (test_fixed_point.test_halves_of_terms_are_added_where_float64_holds_their_sum fails without it).
_FEW_PRODUCTS = 2**19

# Up to this many clusters, dense products of features take less time than to make the terms.
_FEW_CLUSTERS = 32

Labels = NDArray[np.integer]


class ClusterSums:
    """value: (k, d + 1) int64, the sums of the terms of the rows that were moved to each cluster.

    Several threads may move different rows at a time. frame: that of the features, if rows have any.
    """

    def __init__(self, k: int, rows: Rows, scales: Scales, frame: Frame | None) -> None:
        self.value = np.zeros((k, rows.d + 1), np.int64)
        self._rows, self._scales, self._frame = rows, scales, frame
        self._lock = threading.Lock()
        self._by_features = frame is not None and k <= _FEW_CLUSTERS and _features_add_up(rows, frame)

    def move(self, rows: NDArray[np.int64], before: Labels, after: Labels) -> None:
        """Rows, ascending, have left clusters `before` for others, `after`; -1 if they had none, then all of them."""
        step = min(max(64, _PIECE // self._rows.d), self._rows.most)
        for a in range(0, len(rows), step):
            piece = slice(a, a + step)
            at = self._rows.span(rows[piece])
            change = self._change(at, after[piece], before[piece] if before[0] >= 0 else None)
            self.add(change)

    def add(self, change: Ints) -> None:
        with self._lock:
            self.value += change

    def _change(self, rows: Any, after: Labels, before: Labels | None) -> Ints:
        k = len(self.value)
        if self._by_features:
            assert self._frame is not None
            y = self._rows.features(rows, self._frame).y
            signs = _signs(k, after, before, np.float32)
            sums = np.empty((k, self._rows.d + 1), np.float32)
            multiply(signs, y, sums[:, :-1])
            np.add.reduce(signs, axis=1, out=sums[:, -1])
            return _terms_of(sums, self._frame, self._scales)
        terms = self._rows.terms(rows, self._scales)
        if k * terms.size > _FEW_PRODUCTS:
            if "scipy.sparse" in sys.modules:
                return _sparse(k, after, before) @ terms
            return _counted(k, terms, after, before)
        return _joined(_signs(k, after, before, np.float64) @ _halves(terms))


def _features_add_up(rows: Rows, frame: Frame) -> bool:
    """Whether float32 sums of features are exact (test_fixed_point.test_sums_follow_rows_that_move fails if other
    features are added, and test_fixed_point.test_sums_are_the_integer_sums if rows have weights).

    In halves, as in `Rows.integral`, the sum of m features is at most m R.
    """
    return rows.weights is None and rows.m * 2.0 ** (1 - frame.exponent) <= 2**24 and rows.integral(frame)


def _terms_of(sums: NDArray[np.float32], frame: Frame, scales: Scales) -> Ints:
    """The sums of terms (k, d + 1) that sums of features stand for, whose last column counts rows.

    Terms may measure from elsewhere (test_fixed_point.test_sums_follow_rows_that_move fails if that does not count).
    They are whole numbers too: with at most 2**18 rows and R below 2**12, every feature that is not constant has a
    scale of 2**31 or more.
    """
    terms = (sums * np.append(scales.scale / frame.scale, 1.0)).astype(np.int64)
    terms[:, :-1] += terms[:, -1:] * ((frame.offset - scales.offset) * scales.scale).astype(np.int64)
    return terms


def _signs(k: int, after: Labels, before: Labels | None, dtype: type) -> NDArray[Any]:
    """(k, m): a column is one where the row arrives and minus one where it leaves."""
    signs: NDArray[Any] = np.zeros((k, len(after)), dtype)
    rows = np.arange(len(after))
    signs[after, rows] = 1
    if before is not None:
        signs[before, rows] = -1
    return signs


def _halves(terms: Ints) -> NDArray[np.float64]:
    """Of terms (m, d) the lower and upper 32 bits, (m, 2 d)."""
    return terms.astype("<i8", copy=False).view("<u4").astype(np.float64)


def _joined(halves: NDArray[np.float64]) -> Ints:
    """Sums of terms, of the sums of their halves. The upper half of a negative term stands for 2**32 more, which leaves
    the sum right modulo 2**64: int64 wraps around, twice."""
    low_high = halves.astype(np.int64)
    return low_high[:, 0::2] + (low_high[:, 1::2] << 32)


def _counted(k: int, terms: Ints, after: Labels, before: Labels | None) -> Ints:
    """`_signs` times terms (m, d), m below 2**21, a column at a time: slower than the sparse product, and yet sooner
    there for a picture, which needs nothing else of SciPy (test_import.test_a_photograph_takes_no_numba)."""
    sums = np.empty((k, 2 * terms.shape[1]))
    for column, half in zip(sums.T, _halves(terms).T, strict=True):
        column[:] = np.bincount(after, half, k)
        if before is not None:
            column -= np.bincount(before, half, k)
    return _joined(sums)


def _sparse(k: int, after: Labels, before: Labels | None) -> Any:
    """`_signs` as a sparse matrix, a csc_array."""
    from scipy.sparse import csc_array  # here, as few rows do without, and it takes as long to import as NumPy

    if before is None:
        return added(k, after)
    m = len(after)
    signs = np.tile(np.array([1, -1]), m)
    places = np.stack([after, before], axis=1, dtype=np.int32, casting="same_kind").reshape(-1)
    return csc_array((signs, places, np.arange(0, 2 * m + 1, 2, dtype=np.int32)), shape=(k, m))


def added(k: int, places: Labels) -> Any:
    """(k, m), a csc_array: the product with terms (m, d + 1) adds up those at the same of k places (m,)."""
    from scipy.sparse import csc_array

    m = len(places)
    return csc_array((np.ones(m, np.int64), places.astype(np.int32), np.arange(m + 1, dtype=np.int32)), shape=(k, m))
