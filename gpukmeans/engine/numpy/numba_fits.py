"""Whole fits of small problems as two loops that numba compiles (the extra `fast`): k-means++, the iteration and its
end, for one problem after another, without a word of Python in between.

A fit of a thousand rows is some hundred passes of a few microseconds, and `lloyd.fit` and `seeding.greedy` spend more
than that between them. Here both stand once more, in their order, over the same integers; what they decide by more than
float64 can tell for certain, and every case that is seldom (an empty cluster, means that are crowded or coarse), is not
decided: the problem is then left to them (test_batched.test_what_compiled_fits_leave_open_is_left_to_the_driver).

Nothing here defines anything: operations are those of exact/, each rounded by itself. Arguments are checked by nobody:
stacks.py is the only caller.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import float64, int32, int64, njit, types

from gpukmeans.engine.numpy.numba_means import _next_centers
from gpukmeans.engine.numpy.numba_passes import (
    _INFINITE,
    _OPTIONS,
    BLOCK,
    PANEL,
    STRIP,
    TILE,
    Target,
    Weighing,
    _inertia,
    _move_rows,
    _nearest_by_distance,
    _place,
    _products,
    _two_least,
    address,
    compiled,
)
from gpukmeans.engine.numpy.numba_seeding import _ceil_log2, _seed
from gpukmeans.exact.certificate import TOO_FAR, U32
from gpukmeans.exact.fixed_point import SUM_BITS

# Of what float64 sums say of a shift and a tolerance: far more than they can be off by.
_CERTAIN = 2.0**-30

# What a mean may be off by at the end, a part of its cluster's range: cluster_means.FINE.
_FINE = 2.0**-30


class Rules(NamedTuple):
    """What is the same of all problems of a stack. weight_bits, copies_bits: `ceil_log2` of the total weight and of
    Weights.copies; unit: the weight of one unit of the sums; fractions: of Weights; total: the weight, in such units.
    tol, max_iter: as for lloyd.fit."""

    weight_bits: int
    copies_bits: int
    unit: float
    fractions: float
    total: int
    tol: float
    max_iter: int


class Measures(NamedTuple):
    """Of each of b problems, or of one, with a dimension less. low, high, offset, scale, step: (b, d) float64, of
    Scales; limit (b,), widest (b,): of Doubt; most: (b,), no less than the variance; about: (b, d), the offset of
    scores, factor: (b,), their scale, zero where scores cannot serve."""

    low: Any
    high: Any
    offset: Any
    scale: Any
    step: Any
    limit: Any
    widest: Any
    most: Any
    about: Any
    factor: Any


_means = njit(**_OPTIONS)(_next_centers)
_sum_inertia = njit(**_OPTIONS)(_inertia)


# ---------------------------------------------------------------- what exact/ defines


@njit(**_OPTIONS)
def _farthest_bits(low: Any, high: Any, centers: Any, weight_bits: int) -> int:
    """The coarse bits of `Inertia.of`, by `Scales.farthest`."""
    farthest = 0.0
    for c in range(len(centers)):
        total = 0.0
        for j in range(centers.shape[1]):
            reach = max(high[j] - centers[c, j], centers[c, j] - low[j])
            total += reach * reach
        farthest = max(farthest, total)
    return min(1000, SUM_BITS - weight_bits - _ceil_log2(farthest)) if farthest > 0 else 0


# ---------------------------------------------------------------- the iteration


@njit(**_OPTIONS)
def _place_centers(centers: Any, about: Any, factor: Any, panels: Any, squares: Any, slack: Any) -> bool:
    """`Frame.least_scores`, as CompiledPoints has it of them; False for centers too far."""
    k, d = centers.shape
    part = 1.07 * U32 * (2.03 * d + 14.1)
    for c in range(k):
        norm = 0.0
        for j in range(d):
            z = (centers[c, j] - about[j]) * factor
            panels[c // PANEL, j, c % PANEL] = np.float32(-2.0 * z)
            norm += z * z
        if not norm < TOO_FAR:
            return False
        error = norm * part
        squares[c], slack[c] = np.float32(norm - error), np.float32(2 * error)
    return True


@njit(**_OPTIONS)
def _room(x: Any, k: int, own: Any) -> Any:
    """What `_label` works in: scores' panels and squares, in which centers that pad a tile are at infinity, slack, a
    block's scores, and so on, as `numba_passes.Buffers` has them; and the features of all rows, which are made once."""
    n, d = x.shape
    panels, padded = -(-k // PANEL), -(-n // 8) * 8 if own.factor > 0 else 0
    scored = (
        np.zeros((panels, d, PANEL), np.float32),
        np.full(k + -k % TILE, _INFINITE, np.float32),
        np.zeros(k, np.float32),
        np.empty((panels * PANEL, BLOCK), np.float32),
    )
    y, norms = np.empty((padded, d), np.float32), np.empty(padded, np.float32)
    for r in range(padded):
        norms[r] = _place(x, min(r, n - 1), own.about, own.factor, y, r)
    return scored, (y, norms, np.arange(padded)), np.empty((3, BLOCK), np.float32)


@njit(**_OPTIONS)
def _label(x: Any, weights: Any, centers: Any, own: Any, room: Any, sums: Any, labels: Any) -> int:
    """`Points.assign`, as numba_passes has it without bounds: returns how many rows changed. sums: (k, d + 1), of no
    rows if they are not wanted."""
    (panels, squares, slack, scores), (y, norms, order), rows = room
    best, second, nearest = rows[0], rows[1], rows[2]
    about, factor = own.about, own.factor
    n, d = x.shape
    moved, left, terms = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64), np.empty(d + 1, np.int64)
    scored = factor > 0 and _place_centers(centers, about, factor, panels, squares, slack)
    per_norm, rest = np.float32(1.07 * U32 * (2.04 * d + 24.2)), np.float32((d + 4) * 2.0**-118)
    target = Target(centers, panels, squares, slack, about, factor, per_norm, rest, scored)
    changed = 0
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        if scored:
            width = -(-m // STRIP) * STRIP
            _products(address(y), order[start : start + width], width, panels, scores)
            _two_least(scores, squares, width, best, second, nearest)
        moves = 0
        for r in range(m):
            i, label, most = start + r, 0, _INFINITE
            sure = False
            if scored:
                label = int(nearest[r])
                margin = norms[i] * per_norm + rest
                most = best[r] + slack[label]
                sure = second[r] - most > margin  # test_batched.test_near_ties_are_decided_by_distance fails without
                most += margin
            if not sure:
                label = _nearest_by_distance(x, i, target, scores, r, most)
            before = labels[i]
            if label != before:
                labels[i] = label
                moved[moves], left[moves] = i, before
                moves += 1
        changed += moves
        if moves and len(sums):
            kind, given, counts = weights.kind, weights.given, weights.counts
            _move_rows(x, moved, left, moves, labels, kind, given, counts, sums, own.offset, own.scale, False, terms)
    return changed


@njit(**_OPTIONS)
def _variance(x: Any, weights: Any, labels: Any, own: Any, sums: Any, rules: Any) -> float:
    """What `lloyd.Tolerance.shift` multiplies tol by, but for its last roundings."""
    k, d = sums.shape[0], x.shape[1]
    mean, units = np.empty((1, d)), int64(0)
    for c in range(k):
        units += sums[c, d]
    weight = float64(units) * rules.unit
    for j in range(d):
        total = int64(0)
        for c in range(k):
            total += sums[c, j]
        mean[0, j] = float64(total) / weight / own.scale[j] + own.offset[j]
    coarse_bits = _farthest_bits(own.low, own.high, mean, rules.weight_bits)
    coarse, fine = math.ldexp(1.0, coarse_bits), math.ldexp(1.0, SUM_BITS - rules.copies_bits)
    found = _sum_inertia(x, weights, labels, mean, coarse, fine)
    return (float64(found[0]) + float64(found[1]) / fine) / coarse / (float64(rules.total) * rules.unit) / d


@njit(inline="always", **_OPTIONS)
def _iterate(x: Any, weights: Any, rules: Any, own: Any, labels: Any, sums: Any, centers: Any, log: Any) -> int:
    """`lloyd.fit` from centers (k, d), in whose place stand those that followed; returns how many iterations it took, 0
    where something is left open. log: changed (room,) and shifts (room, k), of protocol.StackLog."""
    offset, scale = own.offset, own.scale
    k, d = centers.shape
    room, means, shifts = _room(x, k, own), np.empty((k, d)), np.empty(k)
    measured, variance = False, 0.0
    changes, moves = log
    for i in range(rules.max_iter):
        # test_whole_fits.test_more_iterations_than_can_be_told_of_are_left_to_the_driver fails without
        if 0 < len(changes) == i:
            return 0
        changed = _label(x, weights, centers, own, room, sums, labels)
        if len(changes):
            changes[i], moves[i] = changed, 0.0
        if i > 0 and changed == 0:
            return i + 1
        fractions = 2.0 * rules.fractions
        if not _means(sums, rules.unit, scale, offset, centers, own.limit, fractions, own.widest, means, shifts):
            return 0
        centers[:] = means
        if len(changes):
            moves[i] = shifts
        shift = 0.0
        for c in range(k):
            shift += shifts[c]
        if shift == 0:
            return i + 1
        if rules.tol > 0 and shift <= rules.tol * own.most * (1 + _CERTAIN):
            if not measured:
                variance, measured = _variance(x, weights, labels, own, sums, rules), True
            ends = rules.tol * variance
            # test_batched.test_a_shift_next_to_the_tolerance_is_left_to_the_driver fails without
            if abs(shift - ends) <= _CERTAIN * ends or not ends > 2.0**-1000:
                return 0
            if shift < ends:
                return i + 1
    return rules.max_iter


@njit(**_OPTIONS)
def _certify(x: Any, rules: Any, step: Any, labels: Any, sums: Any, centers: Any) -> bool:
    """`lloyd.published_centers`: hold each center to the range of its rows; False where one is too coarse."""
    n, d = x.shape
    k = len(centers)
    low, high = np.full((k, d), np.inf), np.full((k, d), -np.inf)
    for i in range(n):
        least, most = low[labels[i]], high[labels[i]]
        for j in range(d):
            v = x[i, j]
            least[j] = v if v < least[j] else least[j]
            most[j] = v if v > most[j] else most[j]
    for c in range(k):
        weight = float64(sums[c, d]) * rules.unit
        error = 1 + 2.0 * rules.fractions / weight if rules.fractions > 0 else 1.0
        if rules.fractions > 0 and rules.fractions * rules.unit > _FINE * weight:
            return False
        for j in range(d):
            width = high[c, j] - low[c, j]
            # test_batched.test_what_compiled_fits_leave_open_is_left_to_the_driver fails without
            if width > 0 and error * step[j] > width * _FINE:
                return False
            centers[c, j] = min(max(centers[c, j], low[c, j]), high[c, j]) + 0.0
    return True


# ---------------------------------------------------------------- problems


@njit(inline="always", **_OPTIONS)
def _fit_problem(
    x: Any, weights: Any, rules: Any, own: Any, seeds: Any, labels: Any, sums: Any, centers: Any, log: Any
) -> int:
    """Centers (k, d) as they are to be published, but not rounded yet; returns how many iterations it took, 0 where
    something is left open. seeds: the draws (k - 1, trials), and that of the first; without draws centers are given."""
    first, draws, drawn = seeds
    if drawn:
        _seed(x, weights, rules, first, draws, centers)
    labels[:] = -1
    sums[:] = 0
    n_iter = _iterate(x, weights, rules, own, labels, sums, centers, log)
    return n_iter if n_iter and _certify(x, rules, own.step, labels, sums, centers) else 0


@njit(inline="always", **_OPTIONS)
def _publish_problem(x: Any, weights: Any, rules: Any, own: Any, labels: Any, centers: Any, found: Any) -> None:
    """Label by centers as they are published; found (4,): coarse and fine of the inertia, its coarse bits, and how many
    clusters have rows."""
    k = len(centers)
    _label(x, weights, centers, own, _room(x, k, own), np.empty((0, 0), np.int64), labels)
    bits = _farthest_bits(own.low, own.high, centers, rules.weight_bits)
    coarse, fine = math.ldexp(1.0, bits), math.ldexp(1.0, SUM_BITS - rules.copies_bits)
    found[:2] = _sum_inertia(x, weights, labels, centers, coarse, fine)
    occupied = np.zeros(k, np.bool_)
    for i in range(len(labels)):
        occupied[labels[i]] = True
    found[2], found[3] = bits, np.count_nonzero(occupied)


def _fit_stack(
    x: Any,
    weights: Any,
    rules: Any,
    measures: Any,
    first: Any,
    draws: Any,
    centers: Any,
    labels: Any,
    n_iter: Any,
    found: Any,
    changed: Any,
    shifts: Any,
) -> None:
    """`_fit_problem` of each of b problems x (b, n, d), with centers (b, k, d), labels (b, n), n_iter (b,) and a log,
    changed (b, room) and shifts (b, room, k), empty for none; or, where found is (b, 4) and not empty,
    `_publish_problem`. One function, so that what both have is compiled once. x (1, n, d): all have the same rows."""
    k, d = centers.shape[1], x.shape[2]
    sums, none = np.empty((k, d + 1), np.int64), np.empty((0, 0))
    untold = (np.empty(0, np.int64), none)
    for p in range(len(centers)):
        q = p % len(x)
        own = Measures(
            measures.low[q],
            measures.high[q],
            measures.offset[q],
            measures.scale[q],
            measures.step[q],
            measures.limit[q],
            measures.widest[q],
            measures.most[q],
            measures.about[q],
            measures.factor[q],
        )
        if len(found):
            _publish_problem(x[q], weights, rules, own, labels[p], centers[p], found[p])
            continue
        seeds = (first[p], draws[p], True) if len(draws) else (0.0, none, False)
        log = (changed[p], shifts[p]) if len(changed) else untold
        n_iter[p] = _fit_problem(x[q], weights, rules, own, seeds, labels[p], sums, centers[p], log)


@cache
def fit_stack() -> Any:
    """`_fit_stack` of C-contiguous rows of float64, compiled by whoever asks first, as `numba_passes.passes` are. Other
    dtypes are converted, without loss: rows are few, and one compilation takes as long as a fit of thousands."""
    x = types.Array(float64, 3, "C", readonly=True)
    floats, rows, stacks = float64[::1], float64[:, ::1], float64[:, :, ::1]
    own, units = (types.Array(kind, 1, "C", readonly=True) for kind in (float64, int64))
    weights = types.NamedTuple((int64, own, units, units), Weighing)
    rules = types.NamedTuple((int64, int64, float64, float64, int64, float64, int64), Rules)
    measures = types.NamedTuple((rows, rows, rows, rows, rows, floats, int64[::1], floats, rows, floats), Measures)
    given = x, weights, rules, measures, floats, stacks
    return compiled(_fit_stack, *given, stacks, int32[:, ::1], int64[::1], int64[:, ::1], int64[:, ::1], stacks)
