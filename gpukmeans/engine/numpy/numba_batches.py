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

from gpukmeans.engine.numpy.numba_passes import _OPTIONS, compiled
from gpukmeans.engine.numpy.rows import read_only
from gpukmeans.exact.distance import Floats
from gpukmeans.exact.fixed_point import Ints
from gpukmeans.exact.metric import Metric
from gpukmeans.exact.scales import Scales


class Step(NamedTuple):
    """A batch's step. sums: (k, d + 1). offset, inverse, step: of the scales, (d,), inverse being one over the scale, a
    power of two. part: of a cluster's range, that its mean may err by. before: the centers (k, d). counts: the weight
    that each has seen, (k,). Results: the centers (k, d), and what they have seen."""

    sums: Any
    offset: Any
    inverse: Any
    step: Any
    part: float
    before: Any
    counts: Any
    centers: Any
    seen: Any


@njit(**_OPTIONS)
def _stay(s: Any, c: int) -> None:
    s.seen[c] = s.counts[c]
    for j in range(s.before.shape[1]):
        s.centers[c, j] = s.before[c, j]


@njit(**_OPTIONS)
def _move(s: Any, c: int, low: Any, high: Any) -> int:
    """Move a center whose cluster has rows, within [low, high] (d,). Returns in how many features its mean may be off
    by too much; test_numba_batches.test_a_mean_in_doubt_is_left_to_the_driver fails if nobody asks."""
    d = s.before.shape[1]
    weight = float64(s.sums[c, d])
    s.seen[c] = s.counts[c] + weight
    share, coarse = weight / s.seen[c], 0
    whole = share == 1
    for j in range(d):
        mean = float64(s.sums[c, j]) / weight * s.inverse[j] + s.offset[j]
        least, most, before = low[j], high[j], s.before[c, j]
        mean = mean if mean > least else least
        mean = (mean if mean < most else most) + 0.0
        width = most - least
        coarse += (width > 0) & (s.step[j] > width * s.part)
        after = (mean - before) * share + before
        s.centers[c, j] = mean if whole else after
    return coarse


@njit(**_OPTIONS)
def _outside(s: Any, c: int, low: Any, high: Any) -> int:
    """In how many features a mean is beyond these ranges, or they say nothing: `known` of cluster_means.certify."""
    d = s.before.shape[1]
    weight, found = float64(s.sums[c, d]), 0
    for j in range(d):
        mean = float64(s.sums[c, j]) / weight * s.inverse[j] + s.offset[j]
        found += not ((low[j] <= mean) & (mean <= high[j]) & ((low[j] < high[j]) | (s.step[j] == 0)))
    return found


def _moved(s: Any, low: Any, high: Any, some: bool) -> bool:
    """Of clusters whose rows, or some of them, lie within [low, high] (k, d); False if that leaves a mean in doubt."""
    k, d = s.before.shape
    for c in range(k):
        if s.sums[c, d] == 0:
            _stay(s, c)
        elif (some and _outside(s, c, low[c], high[c])) or _move(s, c, low[c], high[c]):
            return False
    return True


def _moved_by_entries(s: Any, values: Any, columns: Any, starts: Any, labels: Any) -> bool:
    """Of sparse rows with these labels (m,), cluster by cluster, so that ranges are vectors that caches hold: zero,
    but in the features that a row stores."""
    k, d = s.before.shape
    ends, order = np.zeros(k + 1, np.int64), np.empty(len(labels), np.int64)
    for i in range(len(labels)):
        ends[labels[i] + 1] += 1
    for c in range(k):
        ends[c + 1] += ends[c]
    next_place = ends[:k].copy()
    for i in range(len(labels)):
        order[next_place[labels[i]]] = i
        next_place[labels[i]] += 1
    low, high, stored, features = np.zeros(d), np.zeros(d), np.zeros(d, np.int64), np.empty(d, np.int64)
    for c in range(k):
        rows = ends[c + 1] - ends[c]
        if rows == 0:
            _stay(s, c)
            continue
        found = 0
        for p in range(ends[c], ends[c + 1]):
            i = order[p]
            for e in range(starts[i], starts[i + 1]):
                v, j = float64(values[e]), columns[e]
                if stored[j] == 0:
                    features[found] = j
                    found += 1
                    low[j] = high[j] = v
                low[j], high[j] = min(low[j], v), max(high[j], v)
                stored[j] += 1
        for f in range(found):
            j = features[f]
            if stored[j] < rows:  # test_sparse.test_points_on_sparse_rows_answer_as_on_an_array
                low[j], high[j] = min(low[j], 0.0), max(high[j], 0.0)
        if _move(s, c, low, high):
            return False
        for f in range(found):
            j = features[f]
            low[j] = high[j] = 0.0
            stored[j] = 0
    return True


def step_of(scales: Scales, metric: Metric, sums: Ints, centers: Floats, counts: Floats, part: float) -> Step | None:
    """What both of the passes below take; None where they would not do what the driver does: of weights that are no
    counts, or scaled, and of normalized rows."""
    if metric.normalizes or scales.weights.fractions or scales.weights.shift:
        return None
    before = np.ascontiguousarray(centers)
    results = np.empty(before.shape), np.empty(len(before))
    return Step(sums, scales.offset, 1 / scales.scale, scales.step, part, read_only(before), counts, *results)


# ---------------------------------------------------------------- compiled

_FLOATS, _GIVEN = types.Array(float64, 1, "C"), types.Array(float64, 2, "C", readonly=True)
_TABLE = types.Array(float64, 2, "C")
_STEP = types.NamedTuple(
    (types.Array(int64, 2, "C"), _FLOATS, _FLOATS, _FLOATS, float64, _GIVEN, _FLOATS, _TABLE, _FLOATS), Step
)


@cache
def moved() -> Any:
    """`_moved`, compiled by whoever asks first, as `numba_passes.passes` are."""
    return compiled(_moved, _STEP, _TABLE, _TABLE, boolean, returns=boolean)


@cache
def moved_by_entries(dtype: np.dtype, index: np.dtype) -> Any:
    """`_moved_by_entries` for values of one dtype and indices of one, compiled likewise."""
    values = types.Array(from_dtype(dtype), 1, "C", readonly=True)
    indices = types.Array(from_dtype(index), 1, "C", readonly=True)
    return compiled(_moved_by_entries, _STEP, values, indices, indices, int32[::1], returns=boolean)
