"""An iteration of small data as two loops that numba compiles (the extra `fast`): what points.py, `lloyd.update` and
`Scales.centers` spell in some hundred of NumPy's calls, which then take longer than the arithmetic.

Nothing here defines anything: operations are those of exact/, each rounded by itself. Arguments are checked by nobody.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import boolean, float64, from_dtype, int32, int64, njit, types

from gpukmeans.engine.numpy.numba_passes import _OPTIONS, SUMS, _move_rows, compiled


def _label(x: Any, centers: Any, labels: Any, sums: Any) -> int:
    """Label rows of weight one by D alone, and move their terms in the sums, of no clusters if these are not
    wanted; returns how many changed. Four centers at a time: their D wait for no one but themselves."""
    k, d = centers.shape
    changed = 0
    moved, left = np.empty(len(x), np.int64), np.empty(len(x), np.int64)
    for i in range(len(x)):
        label, least = 0, np.inf
        for c in range(0, k, 4):
            n1, n2, n3 = min(c + 1, k - 1), min(c + 2, k - 1), min(c + 3, k - 1)
            p = q = r = s = 0.0
            for j in range(d):
                v = float64(x[i, j])
                t, u, w, y = v - centers[c, j], v - centers[n1, j], v - centers[n2, j], v - centers[n3, j]
                p += t * t
                q += u * u
                r += w * w
                s += y * y
            # In order: of equal distances the first center's counts, and one that is repeated wins nothing.
            if p < least:
                label, least = c, p
            if q < least:
                label, least = n1, q
            if r < least:
                label, least = n2, r
            if s < least:
                label, least = n3, s
        before = labels[i]
        if label == before:
            continue
        labels[i] = label
        moved[changed], left[changed] = i, before
        changed += 1
    value = sums.value
    if len(value):
        none, terms = np.empty(0), np.empty(d + 1, np.int64)
        _move_rows(x, moved, left, changed, labels, 0, none, left, value, sums.offset, sums.scale, sums.small, terms)
    return changed


@njit(**_OPTIONS)
def _apart(means: Any, c: int, least: float) -> bool:
    """Whether D from this mean to those before it is that much, as far as need be."""
    for b in range(c):
        total, j = 0.0, 0
        while j < means.shape[1] and not total >= least:
            step = means[c, j] - means[b, j]
            total += step * step
            j += 1
        if not total >= least:
            return False
    return True


def _any_close(means: Any, widest: int, most: float) -> bool:
    """Whether D of two of these means (k, d) is less than that: of two that are apart in the widest feature it is not,
    and most are."""
    along = means[:, widest].copy()
    for c in range(1, len(along)):
        close = 0
        for b in range(c):
            gap = along[c] - along[b]
            close += not gap * gap >= most
        if close and not _apart(means, c, most):
            return True
    return False


_close = njit(**_OPTIONS)(_any_close)


def _next_centers(
    sums: Any,
    unit: float,
    scale: Any,
    offset: Any,
    before: Any,
    limit: float,
    fractions: float,
    widest: int,
    means: Any,
    shifts: Any,
) -> bool:
    """The means (k, d) of sums (k, d + 1), whose weights are in units of `unit`, and D to those before, (k,). offset:
    empty for zero. Returns False where a cluster is empty or a mean may be in doubt, see protocol.Doubt: two that are
    apart in the widest feature alone are not (`cluster_means._none_is_crowded`), nor are others that are apart."""
    k, d = before.shape
    most = 0.0
    for c in range(k):
        weight = float64(sums[c, d]) * unit
        if weight == 0:
            return False
        error = 1 + fractions / weight
        most = max(most, error * error * limit)
        shift = 0.0
        for j in range(d):
            mean = float64(sums[c, j]) / weight / scale[j]
            if len(offset):
                mean += offset[j]
            means[c, j] = mean
            step = mean - before[c, j]
            shift += step * step
        shifts[c] = shift
    # test_numba_passes.test_a_mean_in_doubt_is_left_to_the_driver fails without
    return not (limit > 0 and _close(means, widest, most))


@cache
def label(dtype: np.dtype, contiguous: bool) -> Any:
    """`_label` of rows of one dtype, compiled by whoever asks first, as `numba_passes.passes` are."""
    x = types.Array(from_dtype(dtype), 2, "C" if contiguous else "A", readonly=True)
    return compiled(_label, x, float64[:, ::1], int32[::1], SUMS, returns=int64)


@cache
def next_centers() -> Any:
    """`_next_centers`, compiled likewise."""
    floats, rows = float64[::1], float64[:, ::1]
    arguments = int64[:, ::1], float64, floats, floats, rows, float64, float64, int64, rows, floats
    return compiled(_next_centers, *arguments, returns=boolean)


@cache
def any_close() -> Any:
    """`_any_close`, compiled likewise."""
    return compiled(_any_close, float64[:, ::1], int64, float64, returns=boolean)
