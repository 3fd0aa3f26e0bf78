"""A batch's step as loops that numba compiles (the extra `fast`): what `minibatch_step.moved` makes of the means that
`cluster_means.of_result` certifies, in a dozen passes over tables (k, d), without a table but the result.

Nothing here defines anything: operations are those of exact/ and of the driver, each rounded by itself. Arguments are
checked by nobody.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float64, from_dtype, int32, int64, njit, types

from gpukmeans.engine.numpy.numba_passes import _OPTIONS, _WHOLE, _WHOLE_BITS, _whole, compiled
from gpukmeans.engine.numpy.numba_tiles import bits
from gpukmeans.engine.numpy.rows import read_only
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.metric import Metric
from gpukmeans.exact.scales import Scales


class Step(NamedTuple):
    """A batch's step. offset, scale, low, high: of the Scales, (d,). part: of a cluster's range, that its mean may err
    by. before: the centers (k, d). counts: the weight that each has seen, (k,). Results: the centers (k, d), and what
    they have seen."""

    offset: Any
    scale: Any
    low: Any
    high: Any
    part: float
    before: Any
    counts: Any
    centers: Any
    seen: Any


@njit(**_OPTIONS)
def _inverse_and_steps(s: Any) -> Any:
    """One over the scale, a power of two, and `Scales.step`: (d,) each."""
    inverse, steps = np.empty(len(s.scale)), np.empty(len(s.scale))
    for j in range(len(s.scale)):
        half = max(s.high[j] - s.offset[j], s.offset[j] - s.low[j])
        inverse[j] = 1 / s.scale[j]
        steps[j] = inverse[j] + 2.0**-51 * half if half > 0 else 0.0
    return inverse, steps


@njit(**_OPTIONS)
def _share(s: Any, c: int, weight: float) -> float:
    """Count a cluster's weight; returns its part of all that the center has seen. Of none the center stays."""
    s.seen[c] = s.counts[c] + weight
    if weight == 0:
        for j in range(s.before.shape[1]):
            s.centers[c, j] = s.before[c, j]
    return weight / s.seen[c] if weight > 0 else 0.0


@njit(**_OPTIONS)
def _held(mean: float, least: float, most: float) -> float:
    """A mean within the range of its rows, and no negative zero: `Metric.mean_within`."""
    mean = mean if mean > least else least
    return (mean if mean < most else most) + 0.0


@njit(**_OPTIONS)
def _too_coarse(step: float, least: float, most: float, part: float) -> bool:
    """test_numba_batches.test_a_mean_in_doubt_is_left_to_the_driver fails if nobody asks."""
    width = most - least
    return (width > 0) & (step > width * part)


def _moved(s: Any, sums: Any, low: Any, high: Any, some: bool) -> bool:
    """Of clusters with these sums (k, d + 1) whose rows, or some of them, lie within [low, high] (k, d); False if that
    leaves a mean in doubt. Of some rows' ranges it does where these say nothing: `known` in cluster_means.certify."""
    k, d = s.before.shape
    inverse, steps = _inverse_and_steps(s)
    for c in range(k):
        weight, doubts = float64(sums[c, d]), 0
        share = _share(s, c, weight)
        if weight == 0:
            continue
        for j in range(d):
            mean = float64(sums[c, j]) / weight * inverse[j] + s.offset[j]
            least, most, before = low[c, j], high[c, j], s.before[c, j]
            if some:
                inside = (least <= mean) & (mean <= most)
                doubts += not (inside & ((least < most) | (steps[j] == 0)))
            doubts += _too_coarse(steps[j], least, most, s.part)
            mean = _held(mean, least, most)
            s.centers[c, j] = mean if share == 1 else (mean - before) * share + before
        if doubts:
            return False
    return True


@njit(**_OPTIONS)
def _by_cluster(labels: Any, k: int) -> Any:
    """The rows in the order of their labels, and where each cluster's begin and end in it, (k + 1,)."""
    ends, order = np.zeros(k + 1, np.int64), np.empty(len(labels), np.int64)
    for i in range(len(labels)):
        ends[labels[i] + 1] += 1
    for c in range(k):
        ends[c + 1] += ends[c]
    place = ends[:k].copy()
    for i in range(len(labels)):
        order[place[labels[i]]] = i
        place[labels[i]] += 1
    return order, ends


@njit(**_OPTIONS)
def _widen(x: Any, i: int, low: Any, high: Any) -> None:
    """To hold row i."""
    for j in range(x.shape[1]):
        v, least, most = x[i, j], low[j], high[j]
        low[j] = v if v < least else least
        high[j] = v if v > most else most


@njit(**_OPTIONS)
def _halves(term: float) -> Any:
    """A term of 62 bits at most as whole numbers of 2**32 and of one, each with _WHOLE_BITS added: see `_whole`."""
    high = term * 2.0**-32 + _WHOLE
    return bits(high), bits(term - (high - _WHOLE) * 2.0**32 + _WHOLE)


@njit(**_OPTIONS)
def _take_four(x: Any, order: Any, p: int, offset: Any, scale: Any, sums: Any, low: Any, high: Any) -> None:
    """Rows order[p] to order[p + 3], of weight one. For each row by itself to begin a loop over the features takes as
    long as thirty of them. Integers may pass 2**63 on their way: what they add up to does not."""
    m, n, q, r = order[p], order[p + 1], order[p + 2], order[p + 3]
    for j in range(x.shape[1]):
        a, b, c, d = x[m, j], x[n, j], x[q, j], x[r, j]
        e, f, least = a if a < b else b, c if c < d else d, low[j]
        e = e if e < f else f
        low[j] = e if e < least else least
        e, f, most = a if a > b else b, c if c > d else d, high[j]
        e = e if e > f else f
        high[j] = e if e > most else most
        o, s = offset[j], scale[j]
        t, u = _halves((float64(a) - o) * s)
        v, w = _halves((float64(b) - o) * s)
        t, u = t + v, u + w
        v, w = _halves((float64(c) - o) * s)
        t, u = t + v, u + w
        v, w = _halves((float64(d) - o) * s)
        t, u = t + v - 4 * _WHOLE_BITS, u + w - 4 * _WHOLE_BITS
        sums[0, j] += (t << 32) + u
    sums[0, x.shape[1]] += 4


def _moved_by_rows(s: Any, x: Any, labels: Any, kind: int, counts: Any) -> bool:
    """Of dense rows with these labels (m,), cluster by cluster, so that sums and ranges are vectors that caches hold.
    kind, counts: as in Weighing."""
    k, d = s.before.shape
    inverse, steps = _inverse_and_steps(s)
    order, ends = _by_cluster(labels, k)
    sums, low, high = np.zeros((1, d + 1), np.int64), np.empty(d, x.dtype), np.empty(d, x.dtype)
    offset, scale = s.offset, s.scale
    for c in range(k):
        doubts = 0
        sums[:] = 0
        low[:] = np.inf
        high[:] = -np.inf
        p = ends[c]
        while kind == 0 and p + 4 <= ends[c + 1]:
            _take_four(x, order, p, offset, scale, sums, low, high)
            p += 4
        while p < ends[c + 1]:
            i = order[p]
            _widen(x, i, low, high)
            count = counts[i] if kind else int64(1)
            for j in range(d):
                sums[0, j] += _whole((float64(x[i, j]) - offset[j]) * scale[j]) * count
            sums[0, d] += count
            p += 1
        weight = float64(sums[0, d])
        share = _share(s, c, weight)
        if weight == 0:
            continue
        for j in range(d):
            least, most, before = float64(low[j]), float64(high[j]), s.before[c, j]
            doubts += _too_coarse(steps[j], least, most, s.part)
            mean = _held(float64(sums[0, j]) / weight * inverse[j] + offset[j], least, most)
            s.centers[c, j] = mean if share == 1 else (mean - before) * share + before
        if doubts:
            return False
    return True


def _moved_by_entries(s: Any, values: Any, columns: Any, starts: Any, labels: Any, kind: int, counts: Any) -> bool:
    """Of sparse rows likewise. The mean of a feature that no row of a cluster stores is zero."""
    k, d = s.before.shape
    inverse, steps = _inverse_and_steps(s)
    order, ends = _by_cluster(labels, k)
    sums, low, high = np.zeros(d, np.int64), np.zeros(d), np.zeros(d)
    stored, features = np.zeros(d, np.int64), np.empty(d, np.int64)
    for c in range(k):
        units, found, doubts = int64(0), 0, 0
        for p in range(ends[c], ends[c + 1]):
            i = order[p]
            count = counts[i] if kind else int64(1)
            units += count
            for e in range(starts[i], starts[i + 1]):
                v, j = float64(values[e]), columns[e]
                if stored[j] == 0:
                    features[found] = j
                    found += 1
                    low[j] = high[j] = v
                low[j] = v if v < low[j] else low[j]
                high[j] = v if v > high[j] else high[j]
                stored[j] += 1
                sums[j] += int64(np.rint((v - s.offset[j]) * s.scale[j])) * count
        weight = float64(units)
        share = _share(s, c, weight)
        if weight == 0:
            continue
        for j in range(d):
            s.centers[c, j] = 0.0 if share == 1 else (0.0 - s.before[c, j]) * share + s.before[c, j]
        for f in range(found):
            j = features[f]
            least, most, before = low[j], high[j], s.before[c, j]
            if stored[j] < ends[c + 1] - ends[c]:  # test_sparse.test_points_on_sparse_rows_answer_as_on_an_array
                least, most = min(least, 0.0), max(most, 0.0)
            doubts += _too_coarse(steps[j], least, most, s.part)
            mean = _held(float64(sums[j]) / weight * inverse[j] + s.offset[j], least, most)
            s.centers[c, j] = mean if share == 1 else (mean - before) * share + before
            sums[j] = stored[j] = 0
        if doubts:
            return False
    return True


def step_of(scales: Scales, metric: Metric, centers: Floats, counts: Floats, part: float) -> Step | None:
    """What these passes take; None where they would not do what the driver does: of weights that are no
    counts, or scaled, and of normalized rows."""
    if metric.normalizes or scales.weights.fractions or scales.weights.shift:
        return None
    before = np.ascontiguousarray(centers)
    results = np.empty(before.shape), np.empty(len(before))
    given = read_only(before), read_only(np.ascontiguousarray(counts))  # of a model that is mapped from a file, too
    return Step(scales.offset, scales.scale, scales.low, scales.high, part, *given, *results)


# ---------------------------------------------------------------- compiled

_FLOATS, _GIVEN = types.Array(float64, 1, "C"), types.Array(float64, 2, "C", readonly=True)
_ONCE = types.Array(float64, 1, "C", readonly=True)
_TABLE, _SUMS, _COUNTS = float64[:, ::1], int64[:, ::1], types.Array(int64, 1, "C", readonly=True)
_STEP = types.NamedTuple((*[_FLOATS] * 4, float64, _GIVEN, _ONCE, _TABLE, _FLOATS), Step)


@cache
def moved() -> Any:
    """`_moved`, compiled by whoever asks first, as `numba_passes.passes` are."""
    return compiled(_moved, _STEP, _SUMS, _TABLE, _TABLE, boolean, returns=boolean)


@cache
def moved_by_rows(dtype: np.dtype) -> Any:
    """`_moved_by_rows` for rows of float32 or float64, compiled likewise."""
    x = types.Array(from_dtype(dtype), 2, "C", readonly=True)
    return compiled(_moved_by_rows, _STEP, x, int32[::1], int64, _COUNTS, returns=boolean)


@cache
def moved_by_entries(dtype: np.dtype, index: np.dtype) -> Any:
    """`_moved_by_entries` for values of one dtype and indices of one, compiled likewise."""
    values = types.Array(from_dtype(dtype), 1, "C", readonly=True)
    indices = types.Array(from_dtype(index), 1, "C", readonly=True)
    return compiled(_moved_by_entries, _STEP, values, indices, indices, int32[::1], int64, _COUNTS, returns=boolean)
