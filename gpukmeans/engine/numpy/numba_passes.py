"""Passes over rows as loops that numba compiles (the extra `fast`): what points.py spells in NumPy's calls.

A value read from memory is used for all that it is needed for, where NumPy reads and writes an array for each step. No
loop here defines anything: D, terms and the inertia's units are those of exact/, in single IEEE operations, which numba
fuses or reorders only where told to (`_ANY_ORDER`; test_numba_passes.test_only_scores_are_fused looks at the code). The
certificate holds of scores added up in any order, fused or not.

Arguments are checked by nobody: CompiledPoints (numba_points.py) is the only caller.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, float64, from_dtype, int32, int64, njit, types, uint8, void

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

# For scores and bounds, of which the certificate allows for any order and fusion.
_ANY_ORDER: dict[str, Any] = {**_OPTIONS, "fastmath": {"contract", "nsz", "reassoc"}}

# Rows that are compared with all centers together: 16 registers of eight float32 make LLVM's loops worth their ends.
BLOCK = 128

# Centers and features that a product takes at a time. Fewer read scores more often than features; more do not fit into
# 16 registers.
TILE = 4

# Rows of so many features are not turned around (0.4 ns a value). Their products with more than so few centers are left
# to BLAS, which keeps sums in registers.
_MANY_FEATURES, _FEW_CENTERS = 16, 16

# Rows whose D to all centers is taken together: eight registers of float64.
_ABREAST = 32

_UP, _DOWN = np.float32(1 + 2.0**-22), np.float32(1 - 2.0**-22)
_CLEAR = np.float32(1 + 2.0**-20)  # see hamerly.py
_INFINITE = np.float32(np.inf)


class Weighing(NamedTuple):
    """Weights of rows. kind: 0 none, and the arrays are empty; 1 counts; 2 any. given: (m,) float64. counts: (m,)
    int64, as sums count them. rows: (m,) int64, of how many of the caller's each is made; empty where each is one."""

    kind: int
    given: Any
    counts: Any
    rows: Any


class Target(NamedTuple):
    """Centers of one assignment. centers: (k, d) float64. columns: (K, D) float32, -2 z, and squares: (K,), see
    Frame.least_scores; K and D are k and d brought to multiples of TILE, by centers at infinity and features of zero.
    slack: (k,). offset: (d,), scale: of the frame, in the dtype that features are made in. per_norm, rest: of the
    margin. scored: whether there are scores; without, D decides alone."""

    centers: Any
    columns: Any
    squares: Any
    slack: Any
    offset: Any
    scale: Any
    per_norm: Any
    rest: Any
    scored: bool


class Bounds(NamedTuple):
    """upper, lower: (m,) float32, see HamerlyBounds. state: 0 there are none, 1 they are to be made, 2 they hold of the
    centers before, which moved by own and others, half_gap being that of these; (k,) float32 each. measure: whether a
    row's distance to its own center is measured before it is compared with all; lengths (k,), relative, per_center and
    error are what that may be off by (distance_error_factors)."""

    upper: Any
    lower: Any
    state: int
    own: Any
    others: Any
    half_gap: Any
    measure: bool
    lengths: Any
    relative: Any
    per_center: Any
    error: Any


class Sums(NamedTuple):
    """value: (k, d + 1) int64, what is to be added to the sums of clusters; of no rows if they are not wanted. offset,
    scale: (d,) float64, of Scales."""

    value: Any
    offset: Any
    scale: Any


class Buffers(NamedTuple):
    """What a block of rows needs. y: (D, BLOCK) float32, of many features (BLOCK, D). scores: (K, BLOCK). norms, best,
    second, nearest: (BLOCK,) float32, the last being numbers of centers, which are selected as scores are while they
    are float32 too. index: (BLOCK,), which rows these are."""

    y: Any
    scores: Any
    norms: Any
    best: Any
    second: Any
    nearest: Any
    index: Any


# ---------------------------------------------------------------- scores


@njit(**_ANY_ORDER)
def _place(x: Any, index: Any, m: int, offset: Any, scale: Any, y: Any, norms: Any) -> None:
    """Rows of x by index (m,), m a multiple of 8, as columns of features y, and their |y|^2. Eight rows at a time fill
    a register; one at a time, each store would touch another line."""
    d = x.shape[1]
    for r in range(0, m, 8):
        a, b, c, e = index[r], index[r + 1], index[r + 2], index[r + 3]
        f, g, h, i = index[r + 4], index[r + 5], index[r + 6], index[r + 7]
        for j in range(d):
            o = offset[j]
            t = y[j]
            t[r] = np.float32((x[a, j] - o) * scale)
            t[r + 1] = np.float32((x[b, j] - o) * scale)
            t[r + 2] = np.float32((x[c, j] - o) * scale)
            t[r + 3] = np.float32((x[e, j] - o) * scale)
            t[r + 4] = np.float32((x[f, j] - o) * scale)
            t[r + 5] = np.float32((x[g, j] - o) * scale)
            t[r + 6] = np.float32((x[h, j] - o) * scale)
            t[r + 7] = np.float32((x[i, j] - o) * scale)
    for r in range(m):
        norms[r] = np.float32(0)
    for j in range(d):
        t = y[j]
        for r in range(m):
            norms[r] += t[r] * t[r]


@njit(**_ANY_ORDER)
def _place_rows(x: Any, index: Any, m: int, offset: Any, scale: Any, rows: Any, norms: Any) -> None:
    """`_place`, each row as it is."""
    for r in range(m):
        i, total = index[r], np.float32(0)
        for j in range(x.shape[1]):
            v = np.float32((x[i, j] - offset[j]) * scale)
            rows[r, j] = v
            total += v * v
        norms[r] = total


@njit(**_ANY_ORDER)
def _products_of_rows(rows: Any, columns: Any, m: int, scores: Any) -> None:
    """`_products` of rows as they are, two at a time: a register holds features of one, and its sum is added up at the
    end, which few centers and many features make up for."""
    for r in range(0, m, 2):
        for c in range(0, columns.shape[0], 4):
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
            for j in range(columns.shape[1]):
                v, w = rows[r, j], rows[r + 1, j]
                z0, z1, z2, z3 = columns[c, j], columns[c + 1, j], columns[c + 2, j], columns[c + 3, j]
                a0 += v * z0
                a1 += v * z1
                a2 += v * z2
                a3 += v * z3
                b0 += w * z0
                b1 += w * z1
                b2 += w * z2
                b3 += w * z3
            scores[c, r], scores[c + 1, r], scores[c + 2, r], scores[c + 3, r] = a0, a1, a2, a3
            scores[c, r + 1], scores[c + 1, r + 1], scores[c + 2, r + 1], scores[c + 3, r + 1] = b0, b1, b2, b3


@njit(**_ANY_ORDER)
def _products(y: Any, columns: Any, m: int, scores: Any) -> None:
    """scores (K, m): of each center's column with each row's features."""
    for c in range(0, columns.shape[0], 4):
        s0, s1, s2, s3 = scores[c], scores[c + 1], scores[c + 2], scores[c + 3]
        z0, z1, z2, z3 = columns[c], columns[c + 1], columns[c + 2], columns[c + 3]
        for r in range(m):
            s0[r] = np.float32(0)
            s1[r] = np.float32(0)
            s2[r] = np.float32(0)
            s3[r] = np.float32(0)
        for j in range(0, columns.shape[1], 4):
            y0, y1, y2, y3 = y[j], y[j + 1], y[j + 2], y[j + 3]
            a0, a1, a2, a3 = z0[j], z0[j + 1], z0[j + 2], z0[j + 3]
            b0, b1, b2, b3 = z1[j], z1[j + 1], z1[j + 2], z1[j + 3]
            c0, c1, c2, c3 = z2[j], z2[j + 1], z2[j + 2], z2[j + 3]
            e0, e1, e2, e3 = z3[j], z3[j + 1], z3[j + 2], z3[j + 3]
            for r in range(m):
                v0, v1, v2, v3 = y0[r], y1[r], y2[r], y3[r]
                s0[r] += v0 * a0 + v1 * a1 + v2 * a2 + v3 * a3
                s1[r] += v0 * b0 + v1 * b1 + v2 * b2 + v3 * b3
                s2[r] += v0 * c0 + v1 * c1 + v2 * c2 + v3 * c3
                s3[r] += v0 * e0 + v1 * e1 + v2 * e2 + v3 * e3


@njit(**_OPTIONS)
def _two_least(scores: Any, squares: Any, m: int, best: Any, second: Any, nearest: Any) -> None:
    """The least score of each row, whose it is, the smallest if several, and the next; by selections, four centers at
    a time, which LLVM turns into a handful of operations on eight rows each."""
    for r in range(m):
        best[r] = _INFINITE
        second[r] = _INFINITE
        nearest[r] = np.float32(0)
    for c in range(0, scores.shape[0], 4):
        s0, s1, s2, s3 = scores[c], scores[c + 1], scores[c + 2], scores[c + 3]
        q0, q1, q2, q3 = squares[c], squares[c + 1], squares[c + 2], squares[c + 3]
        n0, n1, n2, n3 = np.float32(c), np.float32(c + 1), np.float32(c + 2), np.float32(c + 3)
        for r in range(m):
            b, t, n = best[r], second[r], nearest[r]
            v = s0[r] + q0
            w = v if v > b else b
            t = w if w < t else t
            n = n0 if v < b else n
            b = v if v < b else b
            v = s1[r] + q1
            w = v if v > b else b
            t = w if w < t else t
            n = n1 if v < b else n
            b = v if v < b else b
            v = s2[r] + q2
            w = v if v > b else b
            t = w if w < t else t
            n = n2 if v < b else n
            b = v if v < b else b
            v = s3[r] + q3
            w = v if v > b else b
            t = w if w < t else t
            n = n3 if v < b else n
            b = v if v < b else b
            best[r], second[r], nearest[r] = b, t, n


@njit(**_ANY_ORDER)
def _own_square(x: Any, i: int, offset: Any, scale: Any, column: Any) -> Any:
    """|y - z|^2 of row i and a center's column, float32."""
    total = np.float32(0)
    for j in range(x.shape[1]):
        step = np.float32((x[i, j] - offset[j]) * scale) + np.float32(0.5) * column[j]
        total += step * step
    return total


# ---------------------------------------------------------------- what exact/ defines


@njit(**_OPTIONS)
def _nearest_by_distance(x: Any, i: int, target: Any, scores: Any, r: int, most: Any) -> int:
    """The label of row i by D (Rule 1) among the centers whose score is no more than `most`. Four at a time: their sums
    wait for no one but themselves."""
    centers, squares, scored = target.centers, target.squares, target.scored
    k, d = centers.shape
    nearest, least, c = -1, np.inf, 0
    while c < k:
        found = 0
        n0 = n1 = n2 = n3 = 0
        while c < k and found < 4:
            if not scored or scores[c, r] + squares[c] <= most:
                if found == 0:
                    n0 = n1 = n2 = n3 = c
                elif found == 1:
                    n1 = c
                elif found == 2:
                    n2 = c
                else:
                    n3 = c
                found += 1
            c += 1
        if found == 0:
            break
        a = b = e = f = 0.0
        for j in range(d):
            v = float64(x[i, j])
            p, q, s, t = v - centers[n0, j], v - centers[n1, j], v - centers[n2, j], v - centers[n3, j]
            a += p * p
            b += q * q
            e += s * s
            f += t * t
        # In order: of equal distances the first center's counts. Numbers beyond `found` repeat n0 and win nothing.
        if a < least or nearest < 0:
            nearest, least = n0, a
        if b < least:
            nearest, least = n1, b
        if e < least:
            nearest, least = n2, e
        if f < least:
            nearest, least = n3, f
    return nearest


@njit(**_OPTIONS)
def _four_own_distances(x: Any, i: int, centers: Any, labels: Any, one: bool, out: Any) -> None:
    """D of rows i to i + 3 to their own centers, or to the only one."""
    n0 = n1 = n2 = n3 = 0
    if not one:  # otherwise there may be no labels
        n0, n1, n2, n3 = labels[i], labels[i + 1], labels[i + 2], labels[i + 3]
    a = b = e = f = 0.0
    for j in range(x.shape[1]):
        p = float64(x[i, j]) - centers[n0, j]
        q = float64(x[i + 1, j]) - centers[n1, j]
        s = float64(x[i + 2, j]) - centers[n2, j]
        t = float64(x[i + 3, j]) - centers[n3, j]
        a += p * p
        b += q * q
        e += s * s
        f += t * t
    out[0], out[1], out[2], out[3] = a, b, e, f


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
def _own_distance(x: Any, i: int, center: Any) -> float:
    total = 0.0
    for j in range(x.shape[1]):
        step = float64(x[i, j]) - center[j]
        total += step * step
    return total


@njit(**_OPTIONS)
def _weighed(term: Any, weight: Any) -> Any:
    """`fixed_point.weigh` of weights that are no counts."""
    if weight == np.rint(weight):
        return int64(term) * int64(weight)
    return int64(np.rint(term * weight))


@njit(**_OPTIONS)
def _move(
    x: Any, i: int, offset: Any, scale: Any, kind: int, weight: Any, count: Any, off: int, to: int, value: Any
) -> None:
    """Row i has left a cluster, unless that is negative, for another (Rule 3)."""
    d = x.shape[1]
    value[to, d] += count
    if off >= 0:
        value[off, d] -= count
    for j in range(d):
        term = np.rint((float64(x[i, j]) - offset[j]) * scale[j])
        units = _weighed(term, weight) if kind == 2 else int64(term) * count
        value[to, j] += units
        if off >= 0:
            value[off, j] -= units


# ---------------------------------------------------------------- passes


def _assign(x: Any, groups: Any, g: int, weights: Any, target: Any, bounds: Any, sums: Any, labels: Any) -> Any:
    """Label the rows of group g, or all where groups (m,) are empty; returns how many of the caller's rows changed, how
    many were skipped by their bounds, and how many the scores left to D."""
    wide, deep = target.columns.shape
    if not target.scored:
        wide = deep = 0
    buffers = Buffers(
        np.zeros((BLOCK, deep) if deep >= _MANY_FEATURES else (deep, BLOCK), np.float32),
        np.empty((wide, BLOCK), np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.int64),
    )
    found = np.zeros(3, np.int64)
    filled = 0
    for i in range(len(x)):
        if len(groups) and groups[i] != g:
            continue
        if bounds.state == 2:
            n = labels[i]
            upper = (bounds.upper[i] + bounds.own[n]) * _UP
            lower = max(bounds.lower[i] - bounds.others[n], np.float32(0)) * _DOWN
            clear = max(lower, bounds.half_gap[n])
            if bounds.measure and upper * _CLEAR >= clear:
                upper = np.sqrt(_own_square(x, i, target.offset, target.scale, target.columns[n])) * bounds.relative
                upper += bounds.per_center * bounds.lengths[n] + bounds.error
            bounds.upper[i], bounds.lower[i] = upper, lower
            if upper * _CLEAR < clear:
                found[1] += 1
                continue
        buffers.index[filled] = i
        filled += 1
        if filled == BLOCK:
            _assign_block(x, weights, target, bounds, sums, labels, filled, buffers, found)
            filled = 0
    if filled:
        _assign_block(x, weights, target, bounds, sums, labels, filled, buffers, found)
    return found


@njit(**_OPTIONS)
def _assign_block(
    x: Any, weights: Any, target: Any, bounds: Any, sums: Any, labels: Any, m: int, buffers: Any, found: Any
) -> None:
    index, norms, best, second = buffers.index, buffers.norms, buffers.best, buffers.second
    scores, nearest, kind = buffers.scores, buffers.nearest, weights.kind
    if target.scored:
        width = -(-m // 8) * 8
        for r in range(m, width):
            index[r] = index[m - 1]
        shape = target.columns.shape
        if shape[1] >= _MANY_FEATURES:
            _place_rows(x, index, width, target.offset, target.scale, buffers.y, norms)
            if shape[0] > _FEW_CENTERS:
                np.dot(target.columns, buffers.y.T, scores)
            else:
                _products_of_rows(buffers.y, target.columns, width, scores)
        else:
            _place(x, index, width, target.offset, target.scale, buffers.y, norms)
            _products(buffers.y, target.columns, width, scores)
        _two_least(scores, target.squares, width, best, second, nearest)
    for r in range(m):
        i = index[r]
        label = 0
        if target.scored:
            label = int(nearest[r])
            margin = norms[r] * target.per_norm + target.rest
            most = best[r] + target.slack[label]
            if not second[r] - most > margin:  # test_certificate.test_near_ties_are_decided_by_distance
                found[2] += 1
                most += margin
                label = _nearest_by_distance(x, i, target, scores, r, most)
                second[r] = best[r]  # all that is known of the others, see assign.nearest
            if bounds.state:
                upper = np.sqrt(max(most + norms[r] + margin, np.float32(0)))
                lower = np.sqrt(max(second[r] + norms[r] - margin, np.float32(0)))
                bounds.upper[i], bounds.lower[i] = upper * _UP, lower * _DOWN
        else:
            label = _nearest_by_distance(x, i, target, scores, r, _INFINITE)
        before = labels[i]
        if label != before:
            labels[i] = label
            found[0] += weights.rows[i] if len(weights.rows) else 1
            if len(sums.value):
                weight = weights.given[i] if kind == 2 else 1.0
                count = weights.counts[i] if kind else int64(1)
                _move(x, i, sums.offset, sums.scale, kind, weight, count, before, label, sums.value)


def _inertia(x: Any, weights: Any, labels: Any, centers: Any, coarse: float, fine: float) -> Any:
    """The two sums of Inertia; coarse, fine: the scales."""
    one = len(centers) == 1
    distances = np.empty(4)
    total = np.zeros(2, np.int64)
    for first in range(0, len(x), 4):
        last = min(first + 4, len(x))
        if last - first == 4:
            _four_own_distances(x, first, centers, labels, one, distances)
        else:
            for i in range(first, last):
                distances[i - first] = _own_distance(x, i, centers[0 if one else labels[i]])
        for i in range(first, last):
            scaled, copies = distances[i - first] * coarse, int64(1)
            if weights.kind == 1:
                copies = weights.counts[i]
            elif weights.kind == 2:
                weight = weights.given[i]
                if weight == np.rint(weight):
                    copies = int64(weight)
                else:
                    scaled *= weight
            whole = np.rint(scaled)
            total[0] += int64(whole) * copies
            total[1] += int64(np.rint((scaled - whole) * fine)) * copies
    return total


def _own_distances(x: Any, labels: Any, centers: Any, out: Any) -> None:
    """D of rows to their own centers, or to the only one, in out (m,)."""
    one = len(centers) == 1
    first = 0
    while first + 4 <= len(x):
        _four_own_distances(x, first, centers, labels, one, out[first : first + 4])
        first += 4
    for i in range(first, len(x)):
        out[i] = _own_distance(x, i, centers[0 if one else labels[i]])


def _cluster_ranges(x: Any, labels: Any, place: Any, low: Any, high: Any, step: int) -> None:
    """Widen low and high (m, d), of x's dtype or one that has infinities, to hold one of each so many rows:
    those at place[label], if that is not negative."""
    for i in range(0, len(x), step):
        at = place[labels[i]]
        if at >= 0:
            for j in range(x.shape[1]):
                v, least, most = x[i, j], low[at, j], high[at, j]
                low[at, j] = v if v < least else least
                high[at, j] = v if v > most else most


def _distances(x: Any, centers: Any, out: Any) -> None:
    """D of rows to all centers, out (m, k). Rows side by side, since the sum of each has an order."""
    k, d = centers.shape
    y = np.empty((d, _ABREAST))
    sums = np.empty((4, _ABREAST))
    for first in range(0, len(x), _ABREAST):
        m = min(_ABREAST, len(x) - first)
        for r in range(m):
            for j in range(d):
                y[j, r] = x[first + r, j]
        for c in range(0, k, 4):
            n0, n1, n2, n3 = c, min(c + 1, k - 1), min(c + 2, k - 1), min(c + 3, k - 1)
            _four_distances(y, centers[n0], centers[n1], centers[n2], centers[n3], sums)
            for i in range(min(4, k - c)):
                for r in range(m):
                    out[first + r, c + i] = sums[i, r]


# ---------------------------------------------------------------- compiled


class Passes(NamedTuple):
    """The passes for rows of one dtype."""

    assign: Any
    inertia: Any
    own_distances: Any
    cluster_ranges: Any
    distances: Any


def _vector(dtype: Any) -> Any:
    return types.Array(dtype, 1, "C")


def _matrix(dtype: Any) -> Any:
    return types.Array(dtype, 2, "C")


def compiled(function: Any, *arguments: Any, returns: Any = void) -> Any:
    """The function compiled for arguments of these types, or as it was compiled and kept before."""
    signature = returns(*arguments)
    try:
        return njit(signature, cache=True, **_OPTIONS)(function)
    except RuntimeError:  # nowhere to keep the code
        return njit(signature, **_OPTIONS)(function)


@cache
def passes(dtype: np.dtype, contiguous: bool) -> Passes:
    """The passes for rows of float32, float64 or uint8, C-contiguous or of any strides.

    The first process to ask compiles them, which takes some seconds, and keeps the code where numba keeps it
    (NUMBA_CACHE_DIR); others read it.
    """
    value = from_dtype(dtype)
    placed = float64 if dtype == np.float64 else float32
    wide = value if dtype.kind == "f" else float64  # which has infinities
    x = types.Array(value, 2, "C" if contiguous else "A", readonly=True)
    floats, ints, singles = _vector(float64), _vector(int64), _vector(float32)
    own, units = (types.Array(kind, 1, "C", readonly=True) for kind in (float64, int64))
    weights = types.NamedTuple((int64, own, units, units), Weighing)
    target = types.NamedTuple(
        (_matrix(float64), _matrix(float32), singles, singles, _vector(placed), placed, float32, float32, boolean),
        Target,
    )
    bounds = types.NamedTuple(
        (singles, singles, int64, singles, singles, singles, boolean, singles, float32, float32, float32), Bounds
    )
    sums = types.NamedTuple((_matrix(int64), floats, floats), Sums)
    labels, groups = types.Array(int32, 1, "C"), types.Array(uint8, 1, "C")

    return Passes(
        assign=compiled(_assign, x, groups, int64, weights, target, bounds, sums, labels, returns=ints),
        inertia=compiled(_inertia, x, weights, labels, _matrix(float64), float64, float64, returns=ints),
        own_distances=compiled(_own_distances, x, labels, _matrix(float64), floats),
        cluster_ranges=compiled(_cluster_ranges, x, labels, ints, _matrix(wide), _matrix(wide), int64),
        distances=compiled(_distances, x, _matrix(float64), _matrix(float64)),
    )
